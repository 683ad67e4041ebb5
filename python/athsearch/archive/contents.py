"""All that a catalogue says, in one commit, and what is wrong with it: its rows alone and beside each other."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .catalogue import WEIGHTS
from .checks import schema_check
from .kept_index import FOLDER, KeptIndex
from .salvage import CATALOGUE, NO_CHECKS, UNREADABLE, Problem, TableReader, reading
from .schema import TABLES
from .segment import Segment

_MOST_PROBLEMS = 100  # of one kind that are told of


@dataclass
class Contents:
    """What a catalogue says that is sound, and what is wrong with it.

    rows: (rowid, *the columns of TABLES) by table, without those of `cases`. n_rows: how many were held against their
    checks, sound or not. n_cases: sound ones.
    """

    format: int
    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    n_rows: int = 0
    n_cases: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def properties(self) -> dict[str, str]:
        """Facts of the whole archive, by name."""
        return {str(name): str(value) for _, name, value in self.rows["property"]}

    @property
    def n_codes_alone(self) -> int:
        """How many codes of `segments` have no case."""
        return sum(segment.n_codes for segment in self.segments if not segment.has_cases)

    @property
    def kept_index(self) -> KeptIndex | None:
        """The index that is kept, where its row is sound."""
        return KeptIndex.of_row(*self.rows["kept_index"][0][1:]) if self.rows["kept_index"] else None

    @property
    def lacks_segments(self) -> bool:
        """Whether there may be segments that are not among these: something is wrong with their table."""
        return any(problem.table == "segment" for problem in self.problems)

    def files(self) -> dict[str, str]:
        """Path in the archive -> SHA-256 of every file that is listed with one."""
        listed = {f"segments/{segment.file}": segment.sha256 for segment in self.segments}
        if index := self.kept_index:
            listed |= {f"{FOLDER}/{index.folder}/{name}": sha256 for name, sha256 in index.files}
        if sha256 := self.properties.get("weights_sha256"):
            listed[WEIGHTS] = sha256
        return listed


def read_contents(path: Path, each_part: Callable[[list[tuple[Any, ...]]], None]) -> Contents:
    """All of the catalogue of the archive at `path`. each_part: given the sound rows of `cases` as
    (rowid, check, *columns), some at a time.

    Raises CatalogueError where SQLite can read nothing of it, FormatVersion where a newer version wrote it.
    """
    with ExitStack() as stack:
        connection, format = stack.enter_context(reading(path / CATALOGUE))
        other, _ = stack.enter_context(reading(path / CATALOGUE))  # of the same commit: readers keep writers out
        pool = stack.enter_context(ThreadPoolExecutor(1))
        structure = pool.submit(_problems_of_structure, other)
        stack.callback(other.interrupt)
        contents = Contents(format)
        totals = {}
        with suppress(*UNREADABLE):
            totals = dict(connection.execute("SELECT name, total FROM table_total"))
        for table in TABLES:
            reader = TableReader(connection, format, table)
            if table == "cases":
                coverage = _Coverage(contents)
                for part in reader.parts():
                    coverage.add(part)
                    each_part(part)
                lost = {problem.row for problem in reader.problems}
                contents.problems += coverage.problems(reader.n_unread + len(lost))
            else:
                contents.rows[table] = [(row[0], *row[2:]) for part in reader.parts() for row in part]
                if table == "segment":
                    contents.segments = _segments(contents)
            contents.n_rows += 0 if format in NO_CHECKS else reader.n_rows
            contents.problems += reader.problems
            has_total = format in NO_CHECKS or totals.get(table) in (reader.stated_total, reader.taken_total)
            if not reader.exists and format not in NO_CHECKS:
                contents.problems.append(Problem(CATALOGUE, "the table is missing", table))
            elif not has_total and not reader.n_unread:
                reason = "rows went, came, or are not the last that were written: their sum does not fit"
                contents.problems.append(Problem(CATALOGUE, reason, table))
        for name in ("bits", "model_id"):
            if name not in contents.properties:
                contents.problems.append(Problem(CATALOGUE, f"does not say the archive's {name}", "property"))
        if format not in NO_CHECKS:
            contents.problems += _problems_of_schema(connection, totals)
        elif totals:
            contents.problems.append(
                Problem(CATALOGUE, f"says that it is of format {format}, and has tables of a later")
            )
        contents.problems += _problems_of_header(path)
        contents.problems += structure.result()
        return contents


class _Coverage:
    """Whether the cases are those that the segments have codes of. Ids ascend over all parts."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        segments = contents.segments
        runs = np.concatenate([np.empty((0, 2), np.int64), *(segment.id_runs for segment in segments)])
        self._first_ids, self._ends = runs[:, 0], runs.sum(axis=1)
        self._segment_of_run = np.repeat(np.arange(len(segments)), [len(segment.id_runs) for segment in segments])
        self._has_cases = np.array([segment.has_cases for segment in segments], np.bool_)
        self._counts = np.zeros(len(segments), np.int64)
        self._stray: list[int] = []

    def add(self, rows: list[tuple[Any, ...]]) -> None:
        ids = np.array([row[0] for row in rows], np.int64)
        self._contents.n_cases += len(ids)
        run = np.searchsorted(self._first_ids, ids, side="right") - 1
        belongs = run >= 0
        run = run[belongs]
        belongs[belongs] = (ids[belongs] < self._ends[run]) & self._has_cases[self._segment_of_run[run]]
        place = self._segment_of_run[np.searchsorted(self._first_ids, ids[belongs], side="right") - 1]
        self._counts += np.bincount(place, minlength=len(self._counts))
        self._stray += ids[~belongs].tolist()

    def problems(self, n_known: int) -> Iterator[Problem]:
        """n_known: how many cases are told of already."""
        wanted = np.array([segment.n_codes if segment.has_cases else 0 for segment in self._contents.segments])
        if int((wanted - self._counts).sum()) != n_known:
            for place in np.flatnonzero(self._counts != wanted).tolist():
                segment, n_missing = self._contents.segments[place], int(wanted[place] - self._counts[place])
                yield Problem(CATALOGUE, f"segment {segment.file} has {n_missing} codes without a sound case", "cases")
        for id in self._stray[:_MOST_PROBLEMS]:
            yield Problem(CATALOGUE, "is a case without a code", "cases", id)


def _segments(contents: Contents) -> list[Segment]:
    """The segments whose rows are sound and make sense beside each other."""
    segments: list[Segment] = []
    next_id = 1
    for row, first_id, n_codes, file, sha256, has_cases, runs in contents.rows["segment"]:
        is_with_cases = has_cases is None or bool(has_cases)  # format 1 knew no other
        segment = Segment(file, first_id, n_codes, sha256, is_with_cases, runs)
        is_named = isinstance(file, str) and isinstance(sha256, str) and "/" not in file
        if not is_named or not segment.has_sound_ids or first_id < next_id:
            contents.problems.append(Problem(CATALOGUE, "has impossible ids or name", "segment", row))
            continue
        segments.append(segment)
        next_id = segment.next_id
    return segments


def _problems_of_schema(connection: sqlite3.Connection, totals: dict[str, int]) -> list[Problem]:
    """Whether the tables' definitions are those that were written."""
    try:
        is_same = totals.get("sqlite_schema") == schema_check(connection)
    except (*UNREADABLE, UnicodeEncodeError):
        is_same = False
    reason = "the definitions of its tables are not those that were written"
    return [] if is_same else [Problem(CATALOGUE, reason, "sqlite_schema")]


def _problems_of_header(path: Path) -> list[Problem]:
    """What SQLite itself would take as it comes: the fields of its header that are the same in every catalogue.

    The others are its counters (bytes 24 to 27, 40 to 43 and 92 to 99), or `integrity_check` and the format judge them.
    """
    with (path / CATALOGUE).open("rb") as file:
        header = file.read(100)
    expected = {
        (18, 21): b"\1\1\0",
        (44, 48): b"\0\0\0\4",
        (48, 56): bytes(8),
        (56, 60): b"\0\0\0\1",
        (64, 92): bytes(28),
    }
    return [
        Problem(CATALOGUE, f"SQLite's header is damaged from byte {begin} to {end - 1}")
        for (begin, end), content in expected.items()
        if header[begin:end] != content
    ]


def _problems_of_structure(connection: sqlite3.Connection) -> list[Problem]:
    """What SQLite finds wrong with its trees, indexes and free pages."""
    try:
        rows = connection.execute(f"PRAGMA integrity_check({_MOST_PROBLEMS})").fetchall()
    except UNREADABLE as error:
        return [Problem(CATALOGUE, f"SQLite: {error}")]
    return [Problem(CATALOGUE, f"SQLite: {' '.join(str(text).split())}") for (text,) in rows if text != "ok"]
