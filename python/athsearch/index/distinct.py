"""The distinct index: compares every query with every distinct code, however many cases carry it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from .. import _scan
from ..codes import Codes
from ..types import Ids
from .base import ExactIndex, n_threads


class DistinctIndex(ExactIndex):
    """Exact search by comparing distinct codes only; the same answers as FlatIndex, ties and masks included.

    Worth its building where many cases share a code, as learned codes do. Codes are grouped once, in memory: a distinct
    code takes 8 n_words + 8 bytes, a case 4; while it is built, a case takes 8 n_words more and a distinct code as much
    again. The codes given are not kept. codes, ids: as for FlatIndex; fewer than 2**32 codes (a ValueError otherwise).
    threads: at most so many while building.
    """

    def __init__(self, codes: Codes | Sequence[Codes], ids: Ids | None = None, threads: int | None = None) -> None:
        super().__init__(codes, ids)
        words, offsets, rows = _scan.group(cast(_scan.Segments, self._searched), n_threads(threads))
        self._searched = _scan.Distinct(words, offsets, rows, self.bits)
        self._n_distinct = len(words)

    @property
    def n_distinct(self) -> int:
        """How many different codes there are."""
        return self._n_distinct
