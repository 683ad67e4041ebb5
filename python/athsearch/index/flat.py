"""The flat index: compares every query with every code. The truth that other kinds are held against."""

from __future__ import annotations

from collections.abc import Sequence

from ..codes import Codes
from ..types import Ids
from .base import ExactIndex, checked_segments, grown_ids


class FlatIndex(ExactIndex):
    """Exact search by comparing all codes; nothing is built, copied or written.

    codes: Codes, or segments of them that count as one after the other. ids: int64 [n_codes], strictly ascending (a
    ValueError otherwise), or None for the row numbers 0, 1, 2, ...
    """

    def __init__(self, codes: Codes | Sequence[Codes], ids: Ids | None = None) -> None:
        self._segments = checked_segments(codes)
        super().__init__(self._segments, ids)

    def grown(self, codes: Codes | Sequence[Codes], ids: Ids | None = None) -> FlatIndex:
        """An index of these rows and, after them, those of `codes`; this one stays as it is, for searches under way.

        ids: of the rows added, above all there are; needed where the index has ids (a ValueError otherwise).
        """
        return FlatIndex([*self._segments, *checked_segments(codes)], grown_ids(self._ids, ids))
