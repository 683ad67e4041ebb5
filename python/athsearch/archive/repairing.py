"""Repair: a new archive of all that is sound in a damaged one, which stays as it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..codes import Codes
from ..errors import ArchiveError, ModelError
from ..files import sha256_of, sync
from ..types import Bools, Ids
from .cases import record_name
from .catalogue import WEIGHTS, Catalogue
from .contents import Contents, read_contents
from .pseudonym import PatientKey
from .query_log import HEAD, LOG
from .salvage import CATALOGUE, NO_CHECKS, Problem
from .schema import TABLES
from .segment import Segment, map_segment, runs_of, write_segment
from .verifying import check_files, problems_of_log
from .writing import appearing

_PATIENT, _STUDY = TABLES["cases"].index("patient"), TABLES["cases"].index("study")


@dataclass(frozen=True)
class RepairReport:
    """What came of a repair. n_cases: kept, deleted ones too; n_codes_alone: codes without a case, kept. problems: what
    was wrong. lost: the ids of codes that were not kept, as ranges (first, last), ascending, as far as is known.
    """

    n_cases: int
    n_codes_alone: int
    problems: tuple[Problem, ...]
    lost: tuple[tuple[int, int], ...]


def repair(
    path: Path, into: Path, key_path: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> RepairReport:
    """Makes a new archive at `into` of what is sound in the one at `path`: cases whose row, root and code are as they
    were written, under the ids they had. Whole or not at all.

    Of a segment whose SHA-256 does not fit no code is kept, for none can be told from a wrong one; codes without cases
    only where it is known which of them were deleted. A kept index is not taken over: it is built anew from the codes.
    Needs memory for the records. The query log is copied as it is, broken or not, for it is evidence; what is wrong
    with its chain, or that there is no key at `key_path` to check it with, is one of the problems. The patients' key
    stays where it is. key_path: None for `path`.key. progress: called with (segments done, in all).
    Raises ArchiveError where `into` exists or lies in `path`, or nothing says what the archive is made of;
    CatalogueError where SQLite can read nothing of the catalogue; FormatVersion; OSError where writing is impossible.
    """
    path, into = Path(os.path.abspath(path)), Path(os.path.abspath(into))
    if into.exists():
        raise ArchiveError(f"{into}: exists already")
    if path in into.parents:
        raise ArchiveError(f"{into}: lies in the archive that is to be repaired")
    if not (path / CATALOGUE).is_file():
        raise ArchiveError(f"{path}: not an archive: it has no {CATALOGUE}")
    cases: dict[int, tuple[Any, ...]] = {}
    contents = read_contents(path, lambda part: cases.update((row[0], row[2:]) for row in part))
    problems = contents.problems
    properties = contents.properties
    wrong = check_files(path, contents.files())
    problems += wrong
    if not {"bits", "model_id"} <= properties.keys() and all(problem.file != WEIGHTS for problem in wrong):
        properties |= _told_by_weights(path / WEIGHTS)
    if not properties.get("bits", "").isdigit() or "model_id" not in properties:
        raise ArchiveError(f"{path}: cannot be repaired: nothing says how long its codes are and which model made them")
    key_path = key_path or path.with_name(f"{path.name}.key")
    problems += problems_of_log(path, contents, key_path)
    if (path / LOG).is_file():
        properties.setdefault("query_log", "on")  # where that was lost: better a line too many than an answer without
    has_pseudonyms = any(row[_PATIENT] or row[_STUDY] for row in cases.values()) or contents.rows["forgotten"]
    if has_pseudonyms and "key_fingerprint" not in properties:
        properties["key_fingerprint"], problem = _fingerprint(key_path)
        problems.append(problem)
    if contents.segments:  # the ids of what is lost at the end must not come again
        properties["next_id"] = str(max(contents.segments[-1].next_id, int(properties.get("next_id", "0"))))
    with appearing(into) as unfinished:
        properties.pop("weights_sha256", None)
        if (path / WEIGHTS).is_file() and all(problem.file != WEIGHTS for problem in wrong):
            _copy(path / WEIGHTS, unfinished / WEIGHTS)
            properties["weights_sha256"] = sha256_of(unfinished / WEIGHTS)
        for name in (HEAD, LOG):  # in this order: lines that come meanwhile are more than it counts, and no harm
            if (path / name).is_file():
                _copy(path / name, unfinished / name)
        Catalogue.create(unfinished / CATALOGUE, properties)
        writer = _Writer(
            path, unfinished, int(properties["bits"]), contents, cases, {problem.file for problem in wrong}
        )
        try:
            with writer.catalogue.transaction("IMMEDIATE"):
                writer.write(progress or (lambda n_done, n_all: None))
        finally:
            writer.catalogue.close()
        sync(unfinished)
    return RepairReport(writer.n_cases, writer.n_alone, tuple(problems), tuple(writer.lost))


class _Writer:
    """What is sound, on its way into a new archive."""

    def __init__(
        self, path: Path, into: Path, bits: int, contents: Contents, cases: dict[int, tuple[Any, ...]], wrong: set[str]
    ) -> None:
        self._path, self._into, self._bits, self._contents, self._wrong = path, into, bits, contents, wrong
        self._roots = {number for number, *_ in contents.rows["root"]}
        self._cases = {id: row for id, row in cases.items() if row[1] in self._roots}
        self.catalogue = Catalogue(into / CATALOGUE, writable=True)
        self.n_cases, self.n_alone = 0, 0
        self.lost: list[tuple[int, int]] = []

    def write(self, progress: Callable[[int, int], None]) -> None:
        """All tables and segments, in the transaction of the caller."""
        names = {name for _, name in self._contents.rows["record_column"]}
        segments = self._contents.segments
        for place, segment in enumerate(segments):
            kept = self._keep(segment)
            if self._contents.format in NO_CHECKS:
                kept = [_renamed(row) for row in kept]
            names.update(name for row in kept for name in json.loads(row[8]))
            self.catalogue.restore("cases", kept)
            self.n_cases += len(kept)
            progress(place + 1, len(segments))
        if self._contents.format in NO_CHECKS:
            names = {record_name(name) if name.casefold() == "study" else name for name in names}
        self.catalogue.restore("record_column", [(name,) for name in sorted(names)])
        self.catalogue.restore("root", [row[1:] for row in self._contents.rows["root"]])
        self.catalogue.restore("deleted_code", [row[1:] for row in self._contents.rows["deleted_code"]])
        unreadable = [row[1:] for row in self._contents.rows["unreadable"] if row[1] in self._roots]
        self.catalogue.restore("unreadable", unreadable)
        self.catalogue.restore("forgotten", [row[1:] for row in self._contents.rows["forgotten"]])

    def _keep(self, segment: Segment) -> list[tuple[Any, ...]]:
        """Writes a segment's sound codes as one; returns their cases, and notes the others as lost."""
        ids = segment.ids
        is_sound = self._are_sound(segment, ids)
        kept, lost = ids[is_sound], ids[~is_sound]
        if len(lost):
            self.lost += [(first, first + n_ids - 1) for first, n_ids in runs_of([lost]).tolist()]
        if not len(kept):
            return []
        like = Codes.from_bits(np.zeros((0, self._bits), np.bool_))
        codes = map_segment(self._path / "segments", segment, like)
        parts = [codes[is_sound] if len(lost) else codes]
        folder, first_id = self._into / "segments", int(kept[0])
        written = write_segment(folder, parts, len(kept), like.bits, first_id, segment.has_cases, runs=runs_of([kept]))
        self.catalogue.list_segment(written)
        if not segment.has_cases:
            self.n_alone += len(kept)
            return []
        return [self._cases[id] for id in kept.tolist()]

    def _are_sound(self, segment: Segment, ids: Ids) -> Bools:
        if f"segments/{segment.file}" in self._wrong:
            return np.zeros(len(ids), np.bool_)
        if segment.has_cases:
            return np.array([id in self._cases for id in ids.tolist()], np.bool_)
        is_told = all(problem.table != "deleted_code" for problem in self._contents.problems)
        return np.full(len(ids), is_told)


def _told_by_weights(path: Path) -> dict[str, str]:
    """What a weights file says of the codes that it makes, nothing where there is none or it cannot be used."""
    from ..encoder import Encoder

    try:
        encoder = Encoder.load(path, "cpu")
    except (ModelError, OSError):
        return {}
    return {"bits": str(encoder.bits), "model_id": encoder.model_id}


def _fingerprint(key_path: Path) -> tuple[str, Problem]:
    """That of the key there, which nothing contradicts; or one that no key has, lest patients be taken for unknown."""
    try:
        fingerprint, what = PatientKey.read(key_path).fingerprint, f"that of {key_path} was taken"
    except (ArchiveError, OSError):
        fingerprint, what = "0" * 16, "no key fits the new archive; repair again with the key"
    return fingerprint, Problem(CATALOGUE, f"does not say which key made its pseudonyms: {what}", "property")


def _renamed(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A case of an earlier format: its record's column that was called study is so no more."""
    record = json.loads(row[8])
    if not any(name.casefold() == "study" for name in record):
        return row
    renamed = {record_name(name) if name.casefold() == "study" else name: value for name, value in record.items()}
    return (*row[:8], json.dumps(renamed, ensure_ascii=False), *row[9:])


def _copy(path: Path, to: Path) -> None:
    shutil.copyfile(path, to)
    sync(to)
