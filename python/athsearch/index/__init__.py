"""Indexes by name."""

from __future__ import annotations

from collections.abc import Callable

from ..codes import Codes
from ..types import Ids
from .base import Index
from .distinct import DistinctIndex
from .flat import FlatIndex

__all__ = ["INDEXES", "DistinctIndex", "FlatIndex", "Index", "open_index"]

INDEXES: dict[str, Callable[[Codes, Ids | None], Index]] = {
    "flat": FlatIndex,
    "distinct": DistinctIndex,
}


def open_index(name: str, codes: Codes, ids: Ids | None = None) -> Index:
    """An index of the named kind over `codes`. Raises ValueError, naming the kinds, for another name."""
    if name not in INDEXES:
        raise ValueError(f"unknown index kind {name!r}; known: {', '.join(INDEXES)}")
    return INDEXES[name](codes, ids)
