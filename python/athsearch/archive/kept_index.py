"""The index that an archive keeps beside its segments: a sorted form of its codes, built once and mapped when opened.

It can always be built anew from the segments, so nothing is lost with it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..codes import Codes
from ..errors import SegmentCorrupt
from ..files import naming, sha256_of, sync
from ..index import Plan
from ..index.auto import choose
from ..index.distinct import SORTED_KINDS, SortedIndex
from ..index.sorted import SortedForm, sort, sort_grouped
from ..parallel import n_processors
from ..types import AnyArray
from .mapping import map_npy

FOLDER = "indexes"
_FOLDER_NAME = re.compile(r"(?:distinct|mih)-[0-9a-f]{8}")
_FILE_NAME = re.compile(r"[a-z0-9_]+\.npy")
KINDS = ("auto", "flat", *SORTED_KINDS)


@dataclass(frozen=True)
class KeptIndex:
    """An index as the catalogue knows it: over the first n_rows codes, in files of a folder of its own.

    reason: why this kind. files: (name, SHA-256) of each.
    """

    kind: str
    folder: str
    n_rows: int
    reason: str
    files: tuple[tuple[str, str], ...]

    @classmethod
    def of_row(cls, kind: str, folder: str, n_rows: int, reason: str, files: str) -> KeptIndex:
        """Of the catalogue's row. One that makes no sense is an index that is not usable."""
        try:
            return cls(
                kind, folder, n_rows, reason, tuple((str(name), str(sha)) for name, sha in json.loads(files).items())
            )
        except (ValueError, TypeError, AttributeError):
            return cls(str(kind), str(folder), 0, str(reason), ())

    @property
    def is_usable(self) -> bool:
        """Whether what the catalogue says of it can be true."""
        texts = isinstance(self.kind, str) and isinstance(self.folder, str) and isinstance(self.n_rows, int)
        is_ours = texts and self.kind in SORTED_KINDS and _FOLDER_NAME.fullmatch(self.folder) is not None
        return bool(is_ours and self.files and all(_FILE_NAME.fullmatch(name) for name, _ in self.files))


def write_index(
    archive: Path, codes: Sequence[Codes], kind: str, progress: Callable[[str], None]
) -> tuple[KeptIndex | None, Plan]:
    """Writes the sorted form of codes to a folder that nobody lists yet; "flat" needs none. Whole or not at all.

    kind: one of KINDS; "auto" chooses. progress: told what is being done. Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"an archive keeps no index of kind {kind!r}; known: {', '.join(KINDS)}")
    threads = n_processors()
    plan = Plan(kind, "chosen by name", {})
    if kind == "auto":
        progress("weighing")
        plan, postings = choose(codes, threads)
    if plan.kind == "flat":
        return None, plan
    parent = archive / FOLDER
    parent.mkdir(exist_ok=True)  # its name is flushed with that of the journal, before the catalogue lists the index
    name = f"{plan.kind}-{secrets.token_hex(4)}"
    unfinished = parent / f".{name}.tmp"
    unfinished.mkdir()
    try:
        n_rows = sum(map(len, codes))
        progress("sorting")
        with naming(unfinished):
            new_array = partial(_new_array, unfinished)
            if kind == "auto":
                form = sort_grouped(plan.kind, codes, postings, threads, new_array)
            else:
                form = sort(kind, codes, threads, new_array)
            progress("writing")
            for array_name, array in form.arrays():
                if not isinstance(array, np.memmap):
                    _new_array(unfinished, array_name, array.shape, array.dtype)[:] = array
            del form
            with ThreadPoolExecutor(n_processors()) as pool:
                paths = sorted(unfinished.iterdir())
                files = tuple(zip([path.name for path in paths], pool.map(_synced_digest, paths), strict=True))
            if not files:
                unfinished.rmdir()
                return None, Plan("flat", f"{codes[0].bits} bits are too many for substrings", {})
            sync(unfinished)
            os.rename(unfinished, parent / name)
            sync(parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return KeptIndex(plan.kind, name, n_rows, plan.reason, files), plan


def open_index(archive: Path, kept: KeptIndex, codes: Sequence[Codes]) -> SortedIndex:
    """The index over `codes`, those past the kept ones scanned. Raises SegmentCorrupt where it cannot be used."""
    if not kept.is_usable:
        raise SegmentCorrupt(f"what the catalogue says of its {kept.kind} index makes no sense")
    folder = archive / FOLDER / kept.folder
    try:
        arrays = {Path(name).stem: map_npy(folder / name) for name, _ in kept.files}
        parts = list(_cut(codes, kept.n_rows))
        index = SORTED_KINDS[kept.kind](parts, form=SortedForm.from_arrays(kept.n_rows, arrays))
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise SegmentCorrupt(f"the index in {folder} cannot be used ({error})") from error
    index.plan = Plan(kept.kind, kept.reason, {})
    return index


def _cut(codes: Sequence[Codes], n_rows: int) -> Iterator[Codes]:
    """The codes, cut after the first n_rows: a compaction may have merged the last of these with what came later."""
    for part in codes:
        if 0 < n_rows < len(part):
            yield from (part[:n_rows], part[n_rows:])
        else:
            yield part
        n_rows -= len(part)


def remove_unlisted(archive: Path, kept: KeptIndex | None) -> None:
    """Removes the folders of indexes that the catalogue does not list: replaced ones, and those of killed writers. What
    cannot be removed, or is not an index's, stays.
    """
    for folder in (archive / FOLDER).glob("*"):
        name = folder.name.removeprefix(".").removesuffix(".tmp")
        if _FOLDER_NAME.fullmatch(name) and (kept is None or folder.name != kept.folder):
            shutil.rmtree(folder, ignore_errors=True)


def _new_array(folder: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> AnyArray:
    """Mapped from a new file, whose place on the disk is taken at once: a map has no error to tell when it is full."""
    path = folder / f"{name}.npy"
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
    return array


def _synced_digest(path: Path) -> str:
    sync(path)
    return sha256_of(path)
