"""What every index answers, whatever its kind, and how the exact ones are asked."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

import numpy as np

from .. import _scan
from ..codes import Codes, check_same_model, common_model
from ..parallel import n_processors
from ..types import Bools, Distances, Floats, Ids, Mask, Neighbors, Words
from .reranking import DEFAULT_DEPTH, Reranking

MAX_THREADS = 1024
Rows: TypeAlias = tuple[Ids, Ids, Distances]  # offsets int64 [q + 1]; rows and distances [hits], as in Neighbors


class Index(Protocol):
    """Search over codes that stand in row order under ascending ids."""

    is_exact: ClassVar[bool]  # answers equal FlatIndex's, bit for bit

    @property
    def bits(self) -> int:
        """Length of a code."""
        ...

    @property
    def n_codes(self) -> int:
        """How many codes are searched."""
        ...

    @property
    def ids(self) -> Ids:
        """int64 [n_codes], ascending."""
        ...

    def search(
        self,
        queries: Codes,
        k: int = 10,
        mask: Mask | Bools | None = None,
        threads: int | None = None,
        count_ties: bool = False,
        *,
        logits: Floats | None = None,
        rerank: str | None = None,
        depth: int = DEFAULT_DEPTH,
    ) -> Neighbors:
        """At most k neighbours of each query, ordered by (distance, id), or re-ranked."""
        ...

    def within(
        self, queries: Codes, radius: int, mask: Mask | Bools | None = None, threads: int | None = None
    ) -> Neighbors:
        """All neighbours at a distance of at most `radius`, ordered by (distance, id)."""
        ...


@dataclass(frozen=True)
class Plan:
    """Which kind was chosen, and what it rests on.

    costs: of each kind that was weighed, about how many words a scan compares in the time of one query.
    """

    kind: str
    reason: str
    costs: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


class CheckedIndex:
    """What our indexes share: they check what they are given and what is asked, re-rank, and give rows their ids.

    codes: Codes, or segments of them that count as one after the other. ids: int64 [n_codes], strictly ascending (a
    ValueError otherwise), or None for the row numbers 0, 1, 2, ...
    """

    is_exact: ClassVar[bool] = True

    def __init__(self, codes: Codes | Sequence[Codes], ids: Ids | None = None) -> None:
        segments = checked_segments(codes)
        self._like = Codes.trusted(segments[0].words[:0].copy(), segments[0].bits, common_model(segments))
        self._n_codes = sum(segment.n_codes for segment in segments)
        self._ids = None if ids is None else checked_ids(ids, self._n_codes)

    @property
    def bits(self) -> int:
        """Length of a code."""
        return self._like.bits

    @property
    def n_codes(self) -> int:
        """How many codes are searched."""
        return self._n_codes

    @property
    def ids(self) -> Ids:
        """int64 [n_codes], ascending."""
        return np.arange(self._n_codes) if self._ids is None else self._ids

    def search(
        self,
        queries: Codes,
        k: int = 10,
        mask: Mask | Bools | None = None,
        threads: int | None = None,
        count_ties: bool = False,
        *,
        logits: Floats | None = None,
        rerank: str | None = None,
        depth: int = DEFAULT_DEPTH,
    ) -> Neighbors:
        """At most k neighbours of each query, ordered by (distance, id); k > n_codes returns them all.

        queries: Codes [q] of the same length. mask: a Mask, or bool [n_codes], of the rows that may be returned.
        threads: at most so many (None: the processors this process may use); the answer does not depend on it.
        count_ties fills `Neighbors.ties`. The GIL is released during the scan.

        rerank="asymmetric": the first max(k, depth) are ordered anew, by the query's logits (float32 [q, bits])
        against the stored bits, and the first k of these are returned, by (score descending, distance, id). With a
        query's logits u as int16, w = round(u * (32767 / max |u|)), a score is the sum over bits of w where the stored
        bit is 1 and of -w where it is 0: an integer, the same on every machine, and in the order of the distance
        between u and the stored bits as +1 and -1 (Gordo, Perronnin, Gong, Lazebnik, Asymmetric distances for binary
        embeddings, IEEE TPAMI 36, 2014). It parts codes at the same distance by how sure the query is of the bits in
        which they differ. Ties are not counted then.

        Raises ModelMismatch when queries are of another length or model, ValueError for k < 1, a mask of another size,
        an unknown `rerank`, logits that do not fit or are not finite, KernelUnavailable when ATHSEARCH_KERNEL names a
        kernel that cannot run here.
        """
        k = operator.index(k)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        check_type(queries)
        check_same_model(self._like, queries)
        reranking = Reranking.checked(rerank, logits, depth, queries, count_ties)
        allowed, n = self._checked_mask(mask), n_threads(threads)

        def nearest(queries: Codes, k: int) -> tuple[Neighbors, Words]:
            k = min(k, max(self._n_codes, 1))
            (offsets, rows, distances), ties, codes = self._nearest(
                queries, k, allowed, n, count_ties, reranking is not None
            )
            return Neighbors(offsets, self._to_ids(rows), distances, ties), codes

        return nearest(queries, k)[0] if reranking is None else reranking.search(nearest, queries, k, self._n_codes, n)

    def within(
        self, queries: Codes, radius: int, mask: Mask | Bools | None = None, threads: int | None = None
    ) -> Neighbors:
        """All neighbours at a distance of at most `radius` (inclusive), ordered by (distance, id).

        Parameters and errors as for `search`; a negative radius is a ValueError.
        """
        radius = operator.index(radius)
        if radius < 0:
            raise ValueError(f"radius must not be negative, got {radius}")
        check_type(queries)
        check_same_model(self._like, queries)
        allowed = self._checked_mask(mask)
        offsets, rows, distances = self._within(queries, min(radius, self.bits), allowed, n_threads(threads))
        return Neighbors(offsets, self._to_ids(rows), distances)

    def _nearest(
        self, queries: Codes, k: int, mask: Mask | None, threads: int, count_ties: bool, with_codes: bool
    ) -> tuple[Rows, Ids | None, Words]:
        """Hits, ties if they are to be counted, and uint64 [hits, n_words], the hits' codes, or [0, n_words]."""
        raise NotImplementedError

    def _within(self, queries: Codes, radius: int, mask: Mask | None, threads: int) -> Rows:
        raise NotImplementedError

    def _to_ids(self, rows: Ids) -> Ids:
        return rows if self._ids is None else self._ids[rows]

    def _checked_mask(self, mask: Mask | Bools | None) -> Mask | None:
        if mask is not None and not isinstance(mask, Mask):
            mask = Mask.from_bools(np.asarray(mask))
        if mask is not None and mask.n_rows != self._n_codes:
            raise ValueError(f"the mask is for {mask.n_rows} rows, the index has {self._n_codes}")
        return mask


class ExactIndex(CheckedIndex):
    """An index that _scan searches, without the GIL."""

    plan: Plan | None = None
    """Why this kind was chosen, where it was not chosen by name."""

    _searched: _scan.Segments | _scan.Sorted

    def __init__(self, codes: Codes | Sequence[Codes], ids: Ids | None = None) -> None:
        segments = checked_segments(codes)
        super().__init__(segments, ids)
        self._searched = _scan.Segments([segment.words for segment in segments], self.bits)

    def _nearest(
        self, queries: Codes, k: int, mask: Mask | None, threads: int, count_ties: bool, with_codes: bool
    ) -> tuple[Rows, Ids | None, Words]:
        words = None if mask is None else mask.words
        return _scan.top_k(self._searched, queries.words, k, words, threads, "", count_ties, with_codes)

    def _within(self, queries: Codes, radius: int, mask: Mask | None, threads: int) -> Rows:
        words = None if mask is None else mask.words
        return _scan.within(self._searched, queries.words, radius, words, threads, "")


def checked_segments(codes: Codes | Sequence[Codes]) -> list[Codes]:
    """One or several segments as a list. Raises TypeError for what is no Codes, ValueError for none."""
    segments = [codes] if isinstance(codes, Codes) else list(codes)
    if not segments:
        raise ValueError("an index needs at least one segment of codes; it may hold no code")
    for segment in segments:
        check_type(segment)
    return segments


def grown_ids(ids: Ids | None, more: Ids | None) -> Ids | None:
    """The ids of an index and of the rows added to it. Raises ValueError where only one of them has ids."""
    if (ids is None) != (more is None):
        has, lacks = ("codes added", "index") if ids is None else ("index", "codes added")
        raise ValueError(f"the {has} have ids and the {lacks} has none: give both, or neither")
    return None if ids is None or more is None else np.concatenate([ids, more])


def checked_ids(ids: Ids, n_codes: int) -> Ids:
    """ids as int64 [n_codes], strictly ascending. Raises TypeError or ValueError otherwise."""
    ids = np.ascontiguousarray(ids)
    if ids.dtype != np.int64:
        raise TypeError(f"ids must be int64, got {ids.dtype}")
    if ids.shape != (n_codes,):
        raise ValueError(f"ids must be [{n_codes}], one a code, got {list(ids.shape)}")
    falls = np.flatnonzero(ids[1:] <= ids[:-1])
    if len(falls):
        row = int(falls[0]) + 1
        raise ValueError(f"ids must ascend strictly; row {row} has {ids[row]} after {ids[row - 1]}")
    return ids


def n_threads(threads: int | None) -> int:
    """How many threads to use at most; None: the processors this process may use."""
    if threads is None:
        return n_processors()
    threads = operator.index(threads)
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    return min(threads, MAX_THREADS)


def check_type(codes: object) -> None:
    """Raises TypeError for what is no Codes."""
    if not isinstance(codes, Codes):
        raise TypeError(f"expected Codes, got {type(codes).__name__}; Codes.from_bytes and its siblings make them")
