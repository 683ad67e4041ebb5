"""Indexes by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..codes import Codes
from ..types import Ids
from .auto import auto_index
from .base import Index, Plan
from .distinct import DistinctIndex, MihIndex
from .flat import FlatIndex

__all__ = ["INDEXES", "DistinctIndex", "FlatIndex", "Index", "MihIndex", "Plan", "open_index"]

INDEXES: dict[str, Callable[[Codes | Sequence[Codes], Ids | None], Index]] = {
    "flat": FlatIndex,
    "distinct": DistinctIndex,
    "mih": MihIndex,
    "auto": auto_index,
}


def open_index(name: str, codes: Codes | Sequence[Codes], ids: Ids | None = None) -> Index:
    """An index of the named kind over `codes`, or segments of them; "auto" chooses the fastest exact one.

    Raises ValueError, naming the kinds, for another name.
    """
    if name not in INDEXES:
        raise ValueError(f"unknown index kind {name!r}; known: {', '.join(INDEXES)}")
    return INDEXES[name](codes, ids)
