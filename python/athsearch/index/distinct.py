"""The indexes that compare a query with few of the codes: `distinct` and `mih`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar, TypeVar

from .. import _scan
from ..codes import Codes, common_model
from ..types import Ids
from .base import ExactIndex, checked_ids, checked_segments, grown_ids, n_threads
from .sorted import SortedForm, sort

MAX_ADDED_SHARE = 1 / 16  # of the sorted rows may have been added since; more are sorted anew
Self = TypeVar("Self", bound="SortedIndex")


class SortedIndex(ExactIndex):
    """What `DistinctIndex` and `MihIndex` share: a sorted form of codes, and rows added since, which are scanned."""

    kind: ClassVar[str]

    def __init__(
        self,
        codes: Codes | Sequence[Codes],
        ids: Ids | None = None,
        threads: int | None = None,
        form: SortedForm | None = None,
    ) -> None:
        segments = checked_segments(codes)
        super().__init__(segments, ids)
        if form is None:
            form = self.sort(segments, threads)
        if form.postings is not None and len(form.postings.rows) != form.n_rows:
            raise ValueError(f"the sorted form is of {form.n_rows} rows and names {len(form.postings.rows)}")
        n_before, at = 0, 0
        while n_before < form.n_rows and at < len(segments):
            n_before += segments[at].n_codes
            at += 1
        if n_before != form.n_rows:
            raise ValueError(
                f"the sorted form is of {form.n_rows} rows, which is not where a segment of the codes ends"
            )
        self._take(form, segments[:at], segments[at:])

    @classmethod
    def sort(cls, codes: Codes | Sequence[Codes], threads: int | None = None) -> SortedForm:
        """The sorted form of codes, which takes seconds for a hundred million and may be kept in files."""
        return sort(cls.kind, checked_segments(codes), n_threads(threads))

    @property
    def form(self) -> SortedForm:
        """The sorted form of the first `form.n_rows` codes; the others are scanned."""
        return self._form

    @property
    def n_distinct(self) -> int:
        """How many codes the sorted form has: the different ones, or one a row where rows were not grouped."""
        return self._form.n_codes

    def grown(self: Self, codes: Codes | Sequence[Codes], ids: Ids | None = None, threads: int | None = None) -> Self:
        """An index of these rows and, after them, those of `codes`; this one stays as it is, for searches under way.

        Few rows are scanned beside the sorted form, which both indexes share; once they are more than a sixteenth of
        its rows, all are sorted anew. ids: of the rows added, above all there are; needed where the index has ids.
        Raises ModelMismatch for codes of another length or model, TypeError and ValueError as FlatIndex does.
        """
        more = checked_segments(codes)
        model_id = common_model([self._like, *more])
        all_ids = grown_ids(self._ids, ids)
        added = [*self._added, *more]
        n_codes = self.n_codes + sum(segment.n_codes for segment in more)
        if n_codes - self._form.n_rows > MAX_ADDED_SHARE * self._form.n_rows:
            return type(self)([*self._sorted_segments(), *added], all_ids, threads)
        index = copy.copy(self)
        index._like = Codes.trusted(self._like.words, self.bits, model_id)
        index._n_codes = n_codes
        index._ids = None if all_ids is None else checked_ids(all_ids, n_codes)
        index._take(self._form, self._kept, added)
        return index

    def _take(self, form: SortedForm, segments: Sequence[Codes], added: Sequence[Codes]) -> None:
        self._form = form
        self._kept = segments if form.postings is None else []
        self._added = added
        codes = [segment.words for segment in segments] if form.postings is None else [form.postings.words]
        offsets, rows = (None, None) if form.postings is None else (form.postings.offsets, form.postings.rows)
        tables = [(table.n_bits, table.begins, table.words, table.numbers) for table in form.tables]
        scanned = _scan.Segments([segment.words for segment in added], self.bits) if added else None
        self._searched = _scan.Sorted(_scan.Segments(codes, self.bits), offsets, rows, tables, scanned)

    def _sorted_segments(self) -> Sequence[Codes]:
        if self._form.postings is None:
            return self._kept
        return [Codes.trusted(self._form.postings.expanded(), self.bits, self._like.model_id)]


class DistinctIndex(SortedIndex):
    """Exact search by comparing distinct codes only; the same answers as FlatIndex, ties and masks included.

    Worth its building where many cases share a code, as learned codes do. Codes are grouped once, in memory: a distinct
    code takes 8 n_words + 8 bytes, a case 4; while it is built, a case takes 8 n_words more, and 8 besides where most
    have one code. The codes given are not kept. codes, ids: as for FlatIndex; fewer than 2**32 codes (a ValueError
    otherwise). threads: at most so many while building. form: what `sort` gave for the first segments of codes, the
    others having been added since.
    """

    kind = "distinct"


class MihIndex(SortedIndex):
    """Exact search by multi-index hashing over distinct codes; the same answers as FlatIndex, ties and masks included.

    Codes are kept in the order of each of m substrings of about log2(n_distinct) bits, and a query is compared only
    with those of which one substring is near its own: growing the distance until the k nearest must have been seen
    (Norouzi, Punjani, Fleet, IEEE TPAMI 36, 2014). Worth its building for millions of codes of up to about 64 bits; a
    query for which looking into buckets would take longer than a scan is answered by a scan.

    Codes so long, or so few, that they had more than 16 substrings are scanned, too.

    A distinct code takes (8 n_words + 4) m bytes besides what DistinctIndex takes; where more than half of the codes
    are different, they are not grouped and the codes given are kept and scanned where they lie. codes, ids, threads,
    form: as for DistinctIndex.
    """

    kind = "mih"


# Kinds whose sorted form may be built ahead and kept in files.
SORTED_KINDS: dict[str, type[SortedIndex]] = {"distinct": DistinctIndex, "mih": MihIndex}
