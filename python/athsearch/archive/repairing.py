"""Repair: a new archive of all that is sound in a damaged one, which stays as it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..codes import Codes, n_words_for
from ..errors import ArchiveError, ModelError
from ..files import sha256_of, sync
from ..types import Bools, Ids
from .cases import record_name
from .catalogue import WEIGHTS, Catalogue
from .contents import Contents, read_contents
from .kept_index import FOLDER
from .pseudonym import HIDDEN, PatientKey, default_key
from .query_log import HEAD, LOG
from .salvage import CATALOGUE, NO_CHECKS, Problem
from .schema import TABLES
from .segment import Segment, map_segment, next_id_of_file, runs_of, write_segment
from .verifying import check_files, check_readable, problems_of_log
from .writing import appearing, without_writers

_SOURCE, _CONTENT, _PATIENT, _STUDY, _IS_DELETED, _RETIRED_BY = map(
    TABLES["cases"].index, ("source", "content", "patient", "study", "is_deleted", "retired_by")
)


@dataclass(frozen=True)
class RepairReport:
    """What came of a repair. n_cases: kept, deleted ones too; n_codes_alone: codes without a case, kept. problems: what
    was wrong. lost: the ids of codes that were not kept, as ranges (first, last), ascending. Where rows of segments are
    damaged, all that no sound one tells of, among them perhaps ids that were compacted away.
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
    stays where it is.
    Deleted images whose codes are not kept stay deleted: digests of them are kept, as by a compaction, under the key,
    which is made at `key_path` if the archive has none. Of a damaged row nobody knows whether it was a deleted one's.
    key_path: None for `path`.key. progress: called with (segments done, in all). Nobody can write to `path` meanwhile.
    Raises ArchiveError where `into` exists or lies in `path`, nothing says what the archive is made of, or deleted
    images are to be noted and the key is missing; ArchiveLocked where another process is writing; CatalogueError where
    SQLite can read nothing of the catalogue; FormatVersion; OSError where writing is impossible, PermissionError where
    a file may not be read.
    """
    path, into = Path(os.path.abspath(path)), Path(os.path.abspath(into))
    if into.exists():
        raise ArchiveError(f"{into}: exists already")
    if path in into.parents:
        raise ArchiveError(f"{into}: lies in the archive that is to be repaired")
    if not (path / CATALOGUE).is_file():
        raise ArchiveError(f"{path}: not an archive: it has no {CATALOGUE}")
    check_readable(path, (CATALOGUE, WEIGHTS, LOG, HEAD))
    with without_writers(path):  # or what is read would be of several commits
        return _repair(path, into, key_path or default_key(path), progress or (lambda n_done, n_all: None))


def _repair(path: Path, into: Path, key_path: Path, progress: Callable[[int, int], None]) -> RepairReport:
    cases: dict[int, tuple[Any, ...]] = {}
    contents = read_contents(path, lambda part: cases.update((row[0], row[2:]) for row in part))
    problems = contents.problems
    properties = contents.properties
    copied = {name: sha256 for name, sha256 in contents.files().items() if not name.startswith(f"{FOLDER}/")}
    wrong = check_files(path, copied)
    problems += wrong
    if not {"bits", "model_id"} <= properties.keys() and all(problem.file != WEIGHTS for problem in wrong):
        properties |= _told_by_weights(path / WEIGHTS)
    if not properties.get("bits", "").isdigit() or "model_id" not in properties:
        raise ArchiveError(f"{path}: cannot be repaired: nothing says how long its codes are and which model made them")
    problems += problems_of_log(path, contents, key_path)
    if (path / LOG).is_file() and (path / LOG).stat().st_size > 0:
        properties.setdefault("query_log", "on")  # where that was lost: better a line too many than an answer without
    has_pseudonyms = contents.rows["forgotten"] or any(
        row[_PATIENT] or row[_STUDY] or row[_SOURCE].startswith(HIDDEN) for row in cases.values()
    )
    if has_pseudonyms and "key_fingerprint" not in properties:
        properties["key_fingerprint"], problem = _fingerprint(key_path)
        problems.append(problem)
    writer = _Writer(path, int(properties["bits"]), contents, cases, {problem.file for problem in wrong})
    digests = []
    if images := writer.lost_deletions():
        try:
            key = PatientKey.of_archive(key_path, path, properties.get("key_fingerprint"), create=True)
        except ArchiveError as error:
            raise ArchiveError(f"{error}; without it {len(images):,} deleted images could come back") from error
        properties["key_fingerprint"] = key.fingerprint
        digests = [key.deletion_digest(source, content) for source, content in images]
    next_id = max(writer.next_id(), int(properties.get("next_id", "0")))
    properties["next_id"] = str(next_id)
    with appearing(into) as unfinished:
        properties.pop("weights_sha256", None)
        if (path / WEIGHTS).is_file() and all(problem.file != WEIGHTS for problem in wrong):
            _copy(path / WEIGHTS, unfinished / WEIGHTS)
            properties["weights_sha256"] = sha256_of(unfinished / WEIGHTS)
        for name in (HEAD, LOG):  # in this order: lines that come meanwhile are more than it counts, and no harm
            if (path / name).is_file():
                _copy(path / name, unfinished / name)
        Catalogue.create(unfinished / CATALOGUE, properties)
        writer.write(unfinished, digests, progress)
        sync(unfinished)
    lost = sorted(writer.lost + writer.unlisted(next_id))
    return RepairReport(writer.n_cases, writer.n_alone, tuple(problems), tuple(lost))


class _Writer:
    """What is sound, on its way into a new archive."""

    def __init__(
        self, path: Path, bits: int, contents: Contents, cases: dict[int, tuple[Any, ...]], wrong: set[str]
    ) -> None:
        """cases: the sound rows by id. wrong: the files that are not what was written."""
        self._path, self._bits, self._contents = path, bits, contents
        self._roots = {number for number, *_ in contents.rows["root"]}
        self._all_cases = cases
        self._cases = {id: row for id, row in cases.items() if row[1] in self._roots}
        is_told = all(problem.table != "deleted_code" for problem in contents.problems)
        self._sound = {
            segment
            for segment in contents.segments
            if f"segments/{segment.file}" not in wrong and (segment.has_cases or is_told)
        }
        self.n_cases, self.n_alone = 0, 0
        self.lost: list[tuple[int, int]] = []

    def lost_deletions(self) -> list[tuple[str, bytes]]:
        """(source, content) of the deleted images whose codes are not kept, and which would come back unless noted."""
        deleted = [
            id for id, row in self._all_cases.items() if row[_IS_DELETED] and row[_RETIRED_BY] is None and row[_CONTENT]
        ]
        have_codes = self._have_sound_codes(np.array(deleted, np.int64)).tolist()
        return [
            (self._all_cases[id][_SOURCE], self._all_cases[id][_CONTENT])
            for id, has_code in zip(deleted, have_codes, strict=True)
            if not has_code or id not in self._cases
        ]

    def _have_sound_codes(self, ids: Ids) -> Bools:
        runs: Ids = np.concatenate(
            [[[0, 0]], *(part.id_runs for part in self._contents.segments if part in self._sound)]
        )
        run = np.searchsorted(runs[:, 0], ids, side="right") - 1
        ends: Ids = runs.sum(axis=1)
        return ids < ends[run]

    def next_id(self) -> int:
        """One past every id that anything tells of: those of what is lost must not come again."""
        contents = self._contents
        told = [1, *(segment.next_id for segment in contents.segments[-1:])]
        if contents.lacks_segments:
            told += [id + 1 for id in self._all_cases]
            told += [id + 1 for _, id in contents.rows["deleted_code"]]
            listed = {segment.file for segment in contents.segments}
            unlisted = (file for file in (self._path / "segments").glob("*") if file.name not in listed)
            told += [next_id_of_file(file, n_words_for(self._bits)) for file in unlisted]
        return max(told)

    def unlisted(self, next_id: int) -> list[tuple[int, int]]:
        """The ids below next_id that no sound row of a segment tells of, where there are others. Some may have been
        compacted away.
        """
        if not self._contents.lacks_segments:
            return []
        segments = self._contents.segments
        ends = [1, *(segment.next_id for segment in segments)]
        begins = [*(segment.first_id for segment in segments), next_id]
        return [(end, begin - 1) for end, begin in zip(ends, begins, strict=True) if end < begin]

    def write(self, into: Path, digests: Sequence[bytes], progress: Callable[[int, int], None]) -> None:
        """All tables and segments, into the archive without cases at `into`. digests: of lost deletions."""
        catalogue = Catalogue(into / CATALOGUE, writable=True)
        with closing(catalogue), catalogue.transaction("IMMEDIATE"):
            names = {name for _, name in self._contents.rows["record_column"]}
            segments = self._contents.segments
            for place, segment in enumerate(segments):
                kept = self._keep(segment, catalogue, into / "segments")
                if self._contents.format in NO_CHECKS:
                    kept = [_renamed(row) for row in kept]
                names.update(name for row in kept for name in json.loads(row[8]))
                catalogue.restore("cases", kept)
                self.n_cases += len(kept)
                progress(place + 1, len(segments))
            if self._contents.format in NO_CHECKS:
                names = {record_name(name) if name.casefold() == "study" else name for name in names}
            catalogue.restore("record_column", [(name,) for name in sorted(names)])
            catalogue.restore("root", [row[1:] for row in self._contents.rows["root"]])
            deleted = np.array([id for _, id in self._contents.rows["deleted_code"]], np.int64)
            deleted = deleted[self._have_sound_codes(deleted)]  # others would hide codes that come later
            catalogue.restore("deleted_code", [(id,) for id in deleted.tolist()])
            unreadable = [row[1:] for row in self._contents.rows["unreadable"] if row[1] in self._roots]
            catalogue.restore("unreadable", unreadable)
            forgotten = {digest for _, digest in self._contents.rows["forgotten"]}.union(digests)
            catalogue.restore("forgotten", [(digest,) for digest in sorted(forgotten)])

    def _keep(self, segment: Segment, catalogue: Catalogue, folder: Path) -> list[tuple[Any, ...]]:
        """Writes a segment's sound codes as one; returns their cases, and notes the others as lost."""
        if segment not in self._sound:
            self.lost += _ranges(segment.id_runs)
            return []
        ids = segment.ids
        is_sound = np.ones(len(ids), np.bool_)
        if segment.has_cases:
            is_sound = np.array([id in self._cases for id in ids.tolist()], np.bool_)
        kept, lost = ids[is_sound], ids[~is_sound]
        self.lost += _ranges(runs_of([lost]))
        if not len(kept):
            return []
        like = Codes.from_bits(np.zeros((0, self._bits), np.bool_))
        codes = map_segment(self._path / "segments", segment, like)
        parts = [codes[is_sound] if len(lost) else codes]
        runs, first_id = runs_of([kept]), int(kept[0])
        catalogue.list_segment(
            write_segment(folder, parts, len(kept), self._bits, first_id, segment.has_cases, runs=runs)
        )
        if not segment.has_cases:
            self.n_alone += len(kept)
            return []
        return [self._cases[id] for id in kept.tolist()]


def _ranges(runs: Ids) -> list[tuple[int, int]]:
    """Runs of ids as (first, last)."""
    return [(first, first + n_ids - 1) for first, n_ids in runs.tolist()]


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
