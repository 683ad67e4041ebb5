"""The index that an archive keeps beside its segments: a sorted form of its codes, built once and mapped when opened.

It can always be built anew from the segments, so nothing is lost with it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..codes import Codes
from ..errors import SegmentCorrupt
from ..files import sync_folder
from ..index import Plan
from ..index.auto import choose
from ..index.distinct import SORTED_KINDS, SortedIndex
from ..index.sorted import SortedForm, sort
from ..parallel import n_processors
from ..types import AnyArray

FOLDER = "indexes"
KINDS = ("auto", "flat", *SORTED_KINDS)


@dataclass(frozen=True)
class KeptIndex:
    """An index as the catalogue knows it: over the first n_rows codes, in files of a folder of its own.

    reason: why this kind. files: name -> SHA-256.
    """

    kind: str
    folder: str
    n_rows: int
    reason: str
    files: Mapping[str, str]


def write_index(
    archive: Path, codes: Sequence[Codes], kind: str, progress: Callable[[str], None]
) -> tuple[KeptIndex | None, Plan]:
    """Writes the sorted form of codes to a folder that nobody lists yet; "flat" needs none. Whole or not at all.

    kind: one of KINDS; "auto" chooses. progress: told what is being done. Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"an archive keeps no index of kind {kind!r}; known: {', '.join(KINDS)}")
    threads, postings = n_processors(), None
    plan = Plan(kind, "chosen by name", {})
    if kind == "auto":
        progress("weighing")
        plan, postings = choose(codes, threads)
    if plan.kind == "flat":
        return None, plan
    parent = archive / FOLDER
    parent.mkdir(exist_ok=True)
    name = f"{plan.kind}-{secrets.token_hex(4)}"
    unfinished = parent / f".{name}.tmp"
    unfinished.mkdir()
    try:
        n_rows = sum(map(len, codes))
        progress("sorting")
        form = sort(plan.kind, codes, threads, postings, lambda *array: _new_array(unfinished, *array))
        progress("writing")
        for array_name, array in form.arrays():
            if not isinstance(array, np.memmap):
                np.save(unfinished / f"{array_name}.npy", array)
        del form
        with ThreadPoolExecutor(n_processors()) as pool:
            paths = sorted(unfinished.iterdir())
            files = dict(zip([path.name for path in paths], pool.map(_synced_digest, paths), strict=True))
        os.rename(unfinished, parent / name)
        sync_folder(parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return KeptIndex(plan.kind, name, n_rows, plan.reason, files), plan


def open_index(archive: Path, kept: KeptIndex, codes: Sequence[Codes]) -> SortedIndex:
    """The index over `codes`, those past the kept ones scanned. Raises SegmentCorrupt where it cannot be used."""
    folder = archive / FOLDER / kept.folder
    try:
        arrays = {Path(name).stem: np.load(folder / name, mmap_mode="r") for name in kept.files}
        form = SortedForm.from_arrays(kept.n_rows, arrays)
        index = SORTED_KINDS[kept.kind](codes, form=form)
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise SegmentCorrupt(
            f"{folder}: the index kept there cannot be used ({error}); no case is lost, "
            "`athsearch index ARCHIVE --kind auto` builds it anew"
        ) from error
    index.plan = Plan(kept.kind, kept.reason, {})
    return index


def remove_unlisted(archive: Path, kept: KeptIndex | None) -> None:
    """Removes the folders of indexes that the catalogue does not list: replaced ones, and those of killed writers."""
    for folder in (archive / FOLDER).glob("*"):
        if kept is None or folder.name != kept.folder:
            shutil.rmtree(folder)
    for unfinished in (archive / FOLDER).glob(".*.tmp"):
        shutil.rmtree(unfinished)


def _new_array(folder: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> AnyArray:
    return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)


def _synced_digest(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.sha256()
        while part := file.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()
