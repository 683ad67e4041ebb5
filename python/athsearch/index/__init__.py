"""Indexes by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..codes import Codes
from ..types import Ids
from .auto import auto_index
from .base import Index, Plan
from .distinct import DistinctIndex, MihIndex
from .faiss_adapters import FaissFlat, FaissGpuFlat, FaissHash, FaissHnsw, FaissIvf, FaissMultiHash
from .faiss_codes import read_faiss, write_faiss
from .flat import FlatIndex
from .gpu import GpuIndex

__all__ = [
    "INDEXES",
    "DistinctIndex",
    "FlatIndex",
    "GpuIndex",
    "Index",
    "MihIndex",
    "Plan",
    "open_index",
    "read_faiss",
    "write_faiss",
]

INDEXES: dict[str, Callable[..., Index]] = {
    "flat": FlatIndex,
    "distinct": DistinctIndex,
    "mih": MihIndex,
    "auto": auto_index,
    "gpu": GpuIndex,
    "faiss-flat": FaissFlat,
    "faiss-ivf": FaissIvf,
    "faiss-hnsw": FaissHnsw,
    "faiss-hash": FaissHash,
    "faiss-multihash": FaissMultiHash,
    "faiss-gpu-flat": FaissGpuFlat,
}


def open_index(name: str, codes: Codes | Sequence[Codes], ids: Ids | None = None, **options: Any) -> Index:
    """An index of the named kind over `codes`, or segments of them; "auto" chooses the exact one that answers fastest.

    options: the kind's own, such as threads or nprobe.
    Raises ValueError, naming the kinds, for another name; TypeError for an option that the kind does not know.
    """
    if name not in INDEXES:
        raise ValueError(f"unknown index kind {name!r}; known: {', '.join(INDEXES)}")
    return INDEXES[name](codes, ids, **options)
