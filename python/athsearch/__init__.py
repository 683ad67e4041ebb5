"""athsearch: case-based medical image retrieval by attention-based triplet hashing and exact Hamming search."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import errors

if TYPE_CHECKING:
    from .archive.archive import Archive
    from .archive.cases import Case
    from .archive.intake import AddReport
    from .archive.searching import Hit
    from .codes import Codes
    from .data import Item, Source, open_source
    from .encoder import Encoder
    from .evaluation import ArchiveEvaluation, Evaluation, evaluate, evaluate_archive
    from .evaluation.near import find_near_duplicates
    from .index import DistinctIndex, FlatIndex, Index, MihIndex, Plan, open_index, read_faiss, write_faiss
    from .preprocessing import Preprocessing
    from .recipes import TrainingSettings, recipe_settings
    from .training import train
    from .types import Mask, Neighbors, Neighbour

__all__ = [
    "AddReport",
    "Archive",
    "ArchiveEvaluation",
    "Case",
    "Codes",
    "DistinctIndex",
    "Encoder",
    "Evaluation",
    "FlatIndex",
    "Hit",
    "Index",
    "Item",
    "Mask",
    "MihIndex",
    "Neighbors",
    "Neighbour",
    "Plan",
    "Preprocessing",
    "Source",
    "TrainingSettings",
    "errors",
    "evaluate",
    "evaluate_archive",
    "find_near_duplicates",
    "open_index",
    "open_source",
    "read_faiss",
    "recipe_settings",
    "train",
    "write_faiss",
]

# Where each public name lives: imported when first used, so that a search by code loads neither torch nor Pillow.
_HOME = {
    "AddReport": "archive.intake",
    "Archive": "archive.archive",
    "ArchiveEvaluation": "evaluation",
    "Case": "archive.cases",
    "Codes": "codes",
    "DistinctIndex": "index",
    "Encoder": "encoder",
    "Evaluation": "evaluation",
    "FlatIndex": "index",
    "Hit": "archive.searching",
    "Index": "index",
    "Item": "data",
    "Mask": "types",
    "MihIndex": "index",
    "Neighbors": "types",
    "Neighbour": "types",
    "Plan": "index",
    "Preprocessing": "preprocessing",
    "Source": "data",
    "TrainingSettings": "recipes",
    "evaluate": "evaluation",
    "evaluate_archive": "evaluation",
    "find_near_duplicates": "evaluation.near",
    "open_index": "index",
    "open_source": "data",
    "read_faiss": "index",
    "recipe_settings": "recipes",
    "train": "training",
    "write_faiss": "index",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
