"""Cases read in bulk: to be scored, or to be taken elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..codes import Codes
from ..data import split_frame
from ..errors import CatalogueError
from ..types import Ids
from .catalogue import Catalogue
from .snapshot import Snapshot


@dataclass(frozen=True)
class Part:
    """Some of an archive's cases. Row r is case ids[r].

    columns: by name, a value for each row; None where the case has none.
    """

    ids: Ids
    codes: Codes
    columns: Mapping[str, list[Any]]


@dataclass(frozen=True)
class Database:
    """Everything that can be found in an archive, for evaluation. Row r is case ids[r].

    patients, studies: pseudonyms, None where they are not known. files: of frames of a file of many, its path, as the
    archive has it. contents: SHA-256 of the image, hexadecimal, None where there was none but a ready-made code.
    """

    codes: Codes
    ids: Ids
    labels: tuple[str | None, ...]
    patients: tuple[str | None, ...]
    studies: tuple[str | None, ...]
    files: tuple[str | None, ...]
    contents: tuple[str | None, ...]


def read_part(snapshot: Snapshot, catalogue: Catalogue, columns: Sequence[str], begin: int, end: int) -> Part:
    """The rows from begin to end of a snapshot, without those deleted. The catalogue may have gone on since.

    Raises ValueError for an unknown column, CatalogueError where a code should have a case and has none.
    """
    ids, codes = snapshot.part(begin, end)
    known = {}
    if columns and len(ids):
        known = {id: row for id, *row in catalogue.values(columns, int(ids[0]), int(ids[-1]))}
        wanted = snapshot.have_cases(ids)
        missing = wanted & ~np.isin(ids, np.fromiter(known, np.int64, len(known)))
        if missing.any() and catalogue.data_version == snapshot.data_version:
            id = ids[missing.argmax()]
            raise CatalogueError(f"{snapshot.path}: damaged: there is a code of case {id}, but no such case")
        ids, codes = ids[~missing], codes[~missing]  # compacted away meanwhile
    values = {
        name: [known[id][place] if id in known else None for id in ids.tolist()] for place, name in enumerate(columns)
    }
    return Part(ids, codes, values)


def read_database(snapshot: Snapshot, catalogue: Catalogue) -> Database:
    """All rows of a snapshot without those deleted. Raises CatalogueError."""
    columns = ("label", "patient", "study", "content", "root", "source")
    part = read_part(snapshot, catalogue, columns, 0, snapshot.n_codes)
    labels, patients, studies, contents, roots, sources = (tuple(part.columns[name]) for name in columns)
    files = tuple(map(file_of_frame, roots, sources))
    return Database(part.codes, part.ids, labels, patients, studies, files, contents)


def file_of_frame(root: str | None, source: str | None) -> str | None:
    """The path of the file whose frame the source names; None where it names none."""
    if root is None or source is None:
        return None
    path, frame = split_frame(source)
    return None if frame is None else os.path.join(root, path)
