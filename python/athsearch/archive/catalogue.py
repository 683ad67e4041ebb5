"""The catalogue: one SQLite file that says which segments and cases an archive has.

It keeps a rollback journal, not a write-ahead log: the archive stays a plain folder that opens on read-only media.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from ..errors import CatalogueError, FormatVersion
from ..types import Ids
from .segment import Segment

FORMAT = 1
BUSY_TIMEOUT_S = 30
Value: TypeAlias = str | int | float

_SCHEMA = """
CREATE TABLE property (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE segment (
    first_id INTEGER PRIMARY KEY, n_codes INTEGER NOT NULL, file TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL
);
CREATE TABLE root (number INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE);
CREATE TABLE record_column (name TEXT PRIMARY KEY);
CREATE TABLE cases (
    id INTEGER PRIMARY KEY,
    root INTEGER NOT NULL REFERENCES root (number),
    source TEXT NOT NULL,
    content BLOB NOT NULL,
    label TEXT,
    patient TEXT,
    split TEXT,
    record TEXT NOT NULL,
    is_deleted INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX cases_source ON cases (source);
CREATE INDEX cases_patient ON cases (patient) WHERE patient IS NOT NULL;
CREATE INDEX cases_deleted ON cases (id) WHERE is_deleted;
"""

COLUMNS = ("id", "source", "label", "patient", "split")  # what `where` sees, beside the record's columns

# Functions a `where` expression may call: they read nothing but their arguments.
_FUNCTIONS = {
    *("abs", "coalesce", "date", "glob", "ifnull", "iif", "instr", "json_extract", "length", "like", "lower"),
    *("ltrim", "max", "min", "nullif", "replace", "round", "rtrim", "strftime", "substr", "trim", "typeof", "upper"),
}


_VISIBLE = {*COLUMNS, "record", ""}  # "": SQLite's word for a table of which no column is named


def record_name(column: str) -> str:
    """What a record's column is called in the catalogue: "record_id" for "id", so as not to hide the case's own.

    SQL does not tell capitals apart, so neither does this.
    """
    taken = (*COLUMNS, "root", "content", "record", "is_deleted")
    return f"record_{column}" if column.casefold() in taken else column


@dataclass(frozen=True)
class NewCase:
    """A case to be added. content: SHA-256 of the image's bytes. patient: a pseudonym."""

    source: str
    content: bytes
    label: str | None = None
    patient: str | None = None
    split: str | None = None
    record: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One image of an archive with its record. root: the folder its source is relative to. patient: a pseudonym."""

    id: int
    root: str
    source: str
    label: str | None
    patient: str | None
    split: str | None
    record: Mapping[str, Value]

    def value(self, column: str) -> Value | None:
        """What `where` sees under that name; None when the case has no such value."""
        own: Value | None = getattr(self, column) if column in COLUMNS else self.record.get(column)
        return own


class KnownCase(NamedTuple):
    """What the catalogue has for a source and content. patient: a pseudonym."""

    is_deleted: bool
    label: str | None
    patient: str | None
    split: str | None
    record: Mapping[str, Value]


class Catalogue:
    """A connection to an archive's catalogue, for reading unless `writable`.

    Raises CatalogueError when the file is missing, damaged or cannot be read, FormatVersion when another version of
    athsearch wrote it.
    """

    def __init__(self, path: Path, writable: bool = False) -> None:
        self._path = path
        with self._errors():
            self._connection = self._connect(writable)
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version != FORMAT:
            self.close()
            advice = "upgrade athsearch" if version > FORMAT else "it is not an archive's catalogue"
            raise FormatVersion(f"{path}: catalogue format {version}, this version reads {FORMAT}: {advice}")

    @staticmethod
    def create(path: Path, properties: Mapping[str, str]) -> None:
        """Writes a new, empty catalogue."""
        connection = sqlite3.connect(path)
        try:
            connection.executescript(
                f"PRAGMA synchronous = FULL; BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;"
            )
            with connection:
                connection.executemany("INSERT INTO property VALUES (?, ?)", properties.items())
        finally:
            connection.close()

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def _connect(self, writable: bool) -> sqlite3.Connection:
        # "rw" for readers too: whoever comes first after a crash must be able to undo a half-finished commit. Where the
        # file is write-protected SQLite opens it for reading.
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA synchronous = FULL" if writable else "PRAGMA query_only = ON")
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CatalogueError(f"{self._path}: {error}") from error

    @contextmanager
    def transaction(self, mode: str = "DEFERRED") -> Iterator[None]:
        """What is read inside belongs to one commit. "IMMEDIATE" for writing: all of it happens, or nothing."""
        with self._errors():
            try:
                self._connection.execute(f"BEGIN {mode}")
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @property
    def data_version(self) -> int:
        """A number that changes whenever another connection has committed."""
        with self._errors():
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def properties(self) -> dict[str, str]:
        """Facts of the whole archive, by name."""
        with self._errors():
            return {
                str(name): str(value) for name, value in self._connection.execute("SELECT name, value FROM property")
            }

    def segments(self) -> list[Segment]:
        """All segments, ids ascending. Raises CatalogueError when their ids make no sense."""
        with self._errors():
            rows = self._connection.execute("SELECT file, first_id, n_codes, sha256 FROM segment ORDER BY first_id")
            segments = [Segment(*row) for row in rows]
        next_id = 1
        for part in segments:
            is_sound = isinstance(part.first_id, int) and isinstance(part.n_codes, int) and isinstance(part.file, str)
            if not is_sound or part.first_id < next_id or part.n_codes < 1 or "/" in part.file:
                raise CatalogueError(f"{self._path}: damaged: segment {part.file!r} has impossible ids or name")
            next_id = part.first_id + part.n_codes
        return segments

    def deleted_ids(self) -> Ids:
        """int64, ascending."""
        return self._ids("SELECT id FROM cases WHERE is_deleted ORDER BY id")

    def ids_of(self, column: str, value: Value) -> Ids:
        """int64, ascending: cases, deleted ones too, that have this value. Raises ValueError for an unknown column."""
        if column in COLUMNS:
            return self._ids(f"SELECT id FROM cases WHERE {column} = ? ORDER BY id", value)
        if column not in self.columns():
            raise ValueError(f"no column {column!r}; columns: {', '.join(self.columns())}")
        return self._ids("SELECT id FROM cases WHERE json_extract(record, ?) = ? ORDER BY id", f'$."{column}"', value)

    def ids_where(self, where: str) -> Ids:
        """int64, ascending: cases, deleted ones too, for which an SQL expression is true.

        The expression sees the columns id, source, label, patient (a pseudonym), split and those of the records, and
        may call simple functions. It cannot write, and cannot read anything else. Raises ValueError, with the columns
        there are, when it is not a valid expression.
        """
        columns = [*COLUMNS]
        for name in self.columns()[len(COLUMNS) :]:
            path = "'" + f'$."{name}"'.replace("'", "''") + "'"
            columns.append(f'json_extract(record, {path}) AS "{name}"')
        # The line break ends a comment that would swallow the bracket.
        statement = (
            f"WITH visible_cases AS (SELECT {', '.join(columns)} FROM cases) "
            f"SELECT id FROM visible_cases WHERE (\n{where}\n) ORDER BY id"
        )
        # On this connection, not on one of its own: that would wait for a writer that waits for us.
        self._connection.set_authorizer(_authorize)
        try:
            rows = self._connection.execute(statement).fetchall()
        except (sqlite3.Error, sqlite3.Warning, UnicodeError) as error:
            reason = str(error)
            is_ours = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.ProgrammingError)
            if is_ours and any(words in reason for words in ("malformed", "not a database", "I/O error", "locked")):
                raise CatalogueError(f"{self._path}: {reason}") from error
        else:
            return np.array([row[0] for row in rows], np.int64)
        finally:
            self._connection.set_authorizer(_allow)
        raise ValueError(f"where={where!r}: {reason}; columns: {', '.join(self.columns())}")

    def columns(self) -> list[str]:
        """What `where` and `exclude_same` may name."""
        with self._errors():
            names = self._connection.execute("SELECT name FROM record_column ORDER BY name")
            return [*COLUMNS, *(name for (name,) in names)]

    def cases(self, ids: Sequence[int]) -> list[Case]:
        """Cases by id, in the order asked for. Raises KeyError for an id that is not there, or was deleted."""
        found: dict[int, Case] = {}
        with self._errors():
            for begin in range(0, len(ids), 500):  # SQLite's smallest limit of parameters is 999
                part = list(ids[begin : begin + 500])
                rows = self._connection.execute(
                    "SELECT id, root.path, source, label, patient, split, record FROM cases JOIN root "
                    f"ON root.number = cases.root WHERE NOT is_deleted AND id IN ({','.join('?' * len(part))})",
                    part,
                )
                for id, root, source, label, patient, split, record in rows:
                    found[id] = Case(id, root, source, label, patient, split, json.loads(record))
        return [found[id] for id in ids]

    def evaluation_rows(self) -> list[tuple[str | None, str | None, str]]:
        """Label, patient and content (hexadecimal) of all cases that are not deleted, ids ascending."""
        with self._errors():
            return self._connection.execute(
                "SELECT label, patient, lower(hex(content)) FROM cases WHERE NOT is_deleted ORDER BY id"
            ).fetchall()

    def counts(self) -> dict[str | None, int]:
        """How many cases, deleted ones aside, each label has."""
        with self._errors():
            return dict(
                self._connection.execute(
                    "SELECT label, count(*) FROM cases WHERE NOT is_deleted GROUP BY label ORDER BY 1"
                )
            )

    def known(self, sources: Sequence[str]) -> dict[tuple[str, bytes], KnownCase]:
        """What there is of these sources, by source and content; a deleted case only where none is alive."""
        with self._errors():
            rows = self._connection.execute(
                "SELECT source, content, is_deleted, label, patient, split, record FROM cases "
                "WHERE source IN (SELECT value FROM json_each(?)) ORDER BY is_deleted DESC, id",
                [json.dumps(list(sources))],
            )
            return {
                (source, content): KnownCase(bool(is_deleted), label, patient, split, json.loads(record))
                for source, content, is_deleted, label, patient, split, record in rows
            }

    def next_id(self) -> int:
        """The id of the first case of the next segment. Ids start at 1 and never return."""
        with self._errors():
            return int(
                self._connection.execute("SELECT coalesce(max(first_id + n_codes), 1) FROM segment").fetchone()[0]
            )

    def add(self, root: str, segment: Segment, cases: Sequence[NewCase]) -> None:
        """Lists a segment and its cases, one a row of the segment, in one transaction."""
        with self.transaction("IMMEDIATE"):
            execute, many = self._connection.execute, self._connection.executemany
            execute("INSERT OR IGNORE INTO root (path) VALUES (?)", [root])
            number = execute("SELECT number FROM root WHERE path = ?", [root]).fetchone()[0]
            execute(
                "INSERT INTO segment (first_id, n_codes, file, sha256) VALUES (?, ?, ?, ?)",
                [segment.first_id, segment.n_codes, segment.file, segment.sha256],
            )
            columns = "id, root, source, content, label, patient, split, record"
            many(
                f"INSERT INTO cases ({columns}) VALUES (?, {number}, ?, ?, ?, ?, ?, ?)",
                (
                    (id, case.source, case.content, case.label, case.patient, case.split, _to_json(case.record))
                    for id, case in enumerate(cases, segment.first_id)
                ),
            )
            names = sorted({name for case in cases for name in case.record})
            many("INSERT OR IGNORE INTO record_column VALUES (?)", [(name,) for name in names])

    def set_property(self, name: str, value: str) -> None:
        """Notes a fact of the whole archive."""
        with self.transaction("IMMEDIATE"):
            self._connection.execute("INSERT OR REPLACE INTO property VALUES (?, ?)", [name, value])

    def delete(self, ids: Iterable[int]) -> int:
        """Marks cases as deleted, all or none. Returns how many. Raises KeyError for an id that is not there."""
        wanted = sorted(set(ids))
        with self.transaction("IMMEDIATE"):
            for id in wanted:
                changed = self._connection.execute(
                    "UPDATE cases SET is_deleted = 1 WHERE id = ? AND NOT is_deleted", [id]
                )
                if changed.rowcount != 1:
                    raise KeyError(id)
        return len(wanted)

    def _ids(self, statement: str, *parameters: Value) -> Ids:
        with self._errors():
            rows = self._connection.execute(statement, parameters).fetchall()
        return np.array([row[0] for row in rows], np.int64)


def _to_json(record: Mapping[str, Value]) -> str:
    # Not escaped: SQLite compares a path's key with the bytes that stand here.
    return json.dumps(dict(record), ensure_ascii=False, allow_nan=False)


def _authorize(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
    """Lets a `where` expression read what a case shows and call simple functions, and nothing else."""
    if action == sqlite3.SQLITE_SELECT:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_READ:
        is_visible = first == "visible_cases" or (first == "cases" and second in _VISIBLE)
        return sqlite3.SQLITE_OK if is_visible else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_OK if second in _FUNCTIONS else sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_DENY


def _allow(*_: object) -> int:
    """The authorizer between `where` expressions; Python 3.10 cannot take one away."""
    return sqlite3.SQLITE_OK
