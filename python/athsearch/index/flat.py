"""The flat index: compares every query with every code. The truth that other kinds are held against."""

from __future__ import annotations

from .base import ExactIndex


class FlatIndex(ExactIndex):
    """Exact search by comparing all codes; nothing is built, copied or written.

    codes: Codes, or segments of them that count as one after the other. ids: int64 [n_codes], strictly ascending (a
    ValueError otherwise), or None for the row numbers 0, 1, 2, ...
    """
