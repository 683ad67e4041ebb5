"""The catalogue: one SQLite file that says which segments and cases an archive has.

It keeps a rollback journal, not a write-ahead log: the archive stays a plain folder that opens on read-only media.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CatalogueError, FormatVersion
from ..types import Ids
from .cases import COLUMNS, Case, KnownCase, NewCase, Value
from .checks import seal, watch
from .kept_index import KeptIndex
from .schema import FORMAT, SCHEMA, UPGRADES
from .segment import Segment
from .where import Parameters, record_value, select_ids, value_of

BUSY_TIMEOUT_S = 30


class Catalogue:
    """A connection to an archive's catalogue, for reading unless `writable`.

    Earlier formats are read as they are; the first transaction that writes makes them today's.
    Raises CatalogueError when the file is missing, damaged or cannot be read, FormatVersion when another version of
    athsearch wrote it.
    """

    def __init__(self, path: Path, writable: bool = False) -> None:
        self._path = path
        with self._errors():
            self._connection = self._connect(writable)
            version = self._format()
        if version != FORMAT and version not in UPGRADES:
            self.close()
            advice = "upgrade athsearch" if version > FORMAT else "it is not an archive's catalogue"
            raise FormatVersion(f"{path}: catalogue format {version}, this version reads up to {FORMAT}: {advice}")

    @staticmethod
    def create(path: Path, properties: Mapping[str, str]) -> None:
        """Writes a new, empty catalogue."""
        connection = sqlite3.connect(path)
        try:
            connection.executescript(f"PRAGMA synchronous = FULL; BEGIN; {SCHEMA} COMMIT;")
            with connection:
                connection.executemany("INSERT INTO property (name, value) VALUES (?, ?)", properties.items())
                seal(connection)
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
        connection.execute("PRAGMA recursive_triggers = ON")  # a row that is replaced counts as removed
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CatalogueError(f"{self._path}: {error}") from error

    @contextmanager
    def transaction(self, mode: str = "DEFERRED") -> Iterator[None]:
        """What is read inside belongs to one commit. "IMMEDIATE" for writing: all of it happens, or nothing;
        the rows that it changes are given their checks at its end.
        """
        with self._errors():
            try:
                self._connection.execute(f"BEGIN {mode}")
                if mode != "DEFERRED":
                    while (version := self._format()) < FORMAT:
                        for statement in UPGRADES[version]:
                            self._connection.execute(statement)
                    watch(self._connection)
                yield
                if mode != "DEFERRED":
                    seal(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _format(self) -> int:
        """Asked for each time: another connection may have made the format a later one."""
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

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
            has_cases = "has_cases" if self._format() > 1 else "1"
            rows = self._connection.execute(
                f"SELECT file, first_id, n_codes, sha256, {has_cases} != 0 FROM segment ORDER BY first_id"
            )
            segments = [Segment(*row) for row in rows]
        next_id = 1
        for part in segments:
            is_sound = isinstance(part.first_id, int) and isinstance(part.n_codes, int) and isinstance(part.file, str)
            if not is_sound or part.first_id < next_id or part.n_codes < 1 or "/" in part.file:
                raise CatalogueError(f"{self._path}: damaged: segment {part.file!r} has impossible ids or name")
            next_id = part.first_id + part.n_codes
        return segments

    def kept_index(self) -> KeptIndex | None:
        """The index that is kept beside the segments, if there is one."""
        if self._format() == 1:
            return None
        with self._errors():
            row = self._connection.execute("SELECT kind, folder, n_rows, reason, files FROM kept_index").fetchone()
            return None if row is None else KeptIndex.of_row(*row)

    def keep_index(self, index: KeptIndex | None) -> None:
        """Lists an index in the place of the one there was, or none."""
        with self.transaction("IMMEDIATE"):
            self._keep(index)

    def _keep(self, index: KeptIndex | None) -> None:
        self._connection.execute("DELETE FROM kept_index")
        if index is not None:
            row = [index.kind, index.folder, index.n_rows, index.reason, json.dumps(dict(index.files))]
            self._connection.execute(
                "INSERT INTO kept_index (kind, folder, n_rows, reason, files) VALUES (?, ?, ?, ?, ?)", row
            )

    def deleted_ids(self) -> Ids:
        """int64, ascending."""
        codes = "UNION ALL SELECT id FROM deleted_code" if self._format() > 1 else ""
        return self._ids(f"SELECT id FROM cases WHERE is_deleted {codes} ORDER BY id")

    def ids_of(self, column: str, value: Value) -> Ids:
        """int64, ascending: cases, deleted ones too, that have this value. Raises ValueError for an unknown column."""
        if column == "id":  # of any case or code, and there need be none
            return np.array([value], np.int64)
        self._check_columns([column])
        return self._ids(f"SELECT id FROM cases WHERE {self._value_of(column)} = ? ORDER BY id", value)

    def value_by_id(self, column: str, ids: Sequence[int]) -> dict[int, Value]:
        """The value in a column of those of some cases that have one. Raises ValueError for an unknown column."""
        self._check_columns([column])
        wanted = f"SELECT id, {self._value_of(column)} FROM cases WHERE id IN (SELECT value FROM json_each(?))"
        with self._errors():
            rows = self._connection.execute(wanted, [json.dumps(list(ids))])
            return {id: value for id, value in rows if value is not None}

    def ids_sharing(self, column: str, ids: Sequence[int]) -> Ids:
        """int64, ascending: cases, deleted ones too, that have the value of one of these in a column."""
        self._check_columns([column])
        value = self._value_of(column)
        values = f"SELECT {value} FROM cases WHERE id IN (SELECT value FROM json_each(?))"
        # One text instead of a tuple for each: a label's cases may be half of all.
        statement = f"SELECT group_concat(id) FROM cases WHERE {value} IN ({values}) AND {value} IS NOT NULL"
        with self._errors():
            text = self._connection.execute(statement, [json.dumps(list(ids))]).fetchone()[0]
        return np.sort(np.fromstring(text, np.int64, sep=",")) if text else np.empty(0, np.int64)

    def ids_where(self, where: str, parameters: Parameters = ()) -> Ids:
        """int64, ascending: cases, deleted ones too, for which an SQL expression is true.

        The expression sees the columns id, source, label, patient and study (pseudonyms), split and those of the
        records, and may call simple functions; parameters are the values of its ? or :names. It cannot write, and
        cannot read anything else, see `where`. Codes without a case meet none.
        Raises ValueError, with the columns there are, when it is not a valid expression or takes too long; TypeError
        for parameters of another kind.
        """
        # On this connection, not on one of its own: that would wait for a writer that waits for us.
        if not self._connection.in_transaction:
            with self.transaction():
                return self.ids_where(where, parameters)
        columns = {name: self._value_of(name) for name in self.columns()}
        try:
            return select_ids(self._connection, where, parameters, columns)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            reason = str(error)
            is_ours = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.ProgrammingError)
            if is_ours and any(words in reason for words in ("is malformed", "not a database", "I/O error", "locked")):
                raise CatalogueError(f"{self._path}: {reason}") from error
            if reason == "malformed JSON" and self._holds_no_json():
                raise CatalogueError(f"{self._path}: damaged: a record is not JSON") from error
        shown = where if len(where) <= 1000 else f"{where[:1000]}..."
        raise ValueError(f"where={shown!r}: {reason}; columns: {', '.join(columns)}")

    def _holds_no_json(self) -> bool:
        exists = "SELECT EXISTS (SELECT 1 FROM cases WHERE NOT json_valid(record))"
        with self._errors():
            return bool(self._connection.execute(exists).fetchone()[0])

    def columns(self) -> list[str]:
        """What `where` and `exclude_same` may name."""
        with self._errors():
            names = [name for (name,) in self._connection.execute("SELECT name FROM record_column ORDER BY name")]
        known = {name.casefold() for name in names}  # until format 2 a record might have a column called study
        return [*(name for name in COLUMNS if name not in known), *names]

    def _value_of(self, column: str) -> str:
        return record_value(column) if column == "study" and self._format() < 3 else value_of(column)

    def _own_study(self) -> str:
        return "study" if self._format() > 2 else "NULL"

    def _check_columns(self, names: Iterable[str]) -> None:
        columns = self.columns()
        for name in names:
            if name not in columns:
                raise ValueError(f"no column {name!r}; columns: {', '.join(columns)}")

    def cases(self, ids: Sequence[int]) -> list[Case]:
        """Cases by id, in the order asked for. Raises KeyError for an id that is not there, or was deleted."""
        found: dict[int, Case] = {}
        with self._errors():
            study = self._own_study()
            for begin in range(0, len(ids), 500):  # SQLite's smallest limit of parameters is 999
                part = list(ids[begin : begin + 500])
                rows = self._connection.execute(
                    f"SELECT id, root.path, source, label, patient, split, record, {study} FROM cases JOIN root "
                    f"ON root.number = cases.root WHERE NOT is_deleted AND id IN ({','.join('?' * len(part))})",
                    part,
                )
                for id, root, source, label, patient, split, record, of_study in rows:
                    found[id] = Case(id, root, source, label, patient, split, json.loads(record), of_study)
            if len(found) < len(ids):
                found.update((id, Case(id)) for id in self._codes_alone([id for id in ids if id not in found]))
        return [found[id] for id in ids]

    def _codes_alone(self, ids: Sequence[int]) -> list[int]:
        """Which of these are ids of codes without a case that were not deleted."""
        if self._format() == 1:
            return []
        rows = self._connection.execute(
            "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT id FROM deleted_code) AND EXISTS (SELECT 1 FROM "
            "segment WHERE first_id = (SELECT max(first_id) FROM segment WHERE first_id <= value) "
            "AND first_id + n_codes > value AND NOT has_cases)",
            [json.dumps(list(ids))],
        )
        return [id for (id,) in rows]

    def values(self, columns: Sequence[str], first_id: int, last_id: int) -> list[tuple[Any, ...]]:
        """(id, value, ...) of the cases from first_id to last_id, deleted ones too, ids ascending.

        columns: what `where` may name, or "content": the SHA-256 of the image, hexadecimal. Raises ValueError.
        """
        self._check_columns([name for name in columns if name != "content"])
        with self._errors():
            selected = ["lower(hex(content))" if name == "content" else self._value_of(name) for name in columns]
            return self._connection.execute(
                f"SELECT {', '.join(['id', *selected])} FROM cases WHERE id BETWEEN ? AND ? ORDER BY id",
                [first_id, last_id],
            ).fetchall()

    def kind_of(self, column: str) -> type[Value]:
        """int, float or str: what can hold all values of a column. Raises ValueError for an unknown one."""
        self._check_columns([column])
        with self._errors():
            rows = self._connection.execute(f"SELECT DISTINCT typeof({self._value_of(column)}) FROM cases")
            kinds = {kind for (kind,) in rows}
        if kinds - {"integer", "real", "null"} or kinds <= {"null"}:
            return str
        return float if "real" in kinds else int

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
                f"SELECT source, content, is_deleted, label, patient, split, record, {self._own_study()} FROM cases "
                "WHERE source IN (SELECT value FROM json_each(?)) ORDER BY is_deleted DESC, id",
                [json.dumps(list(sources))],
            )
            return {
                (source, content): KnownCase(bool(is_deleted), label, patient, split, json.loads(record), study)
                for source, content, is_deleted, label, patient, split, record, study in rows
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
            self._list(segment)
            columns = "id, root, source, content, label, patient, study, split, record"
            many(
                f"INSERT INTO cases ({columns}) VALUES (?, {number}, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        *(id, case.source, case.content, case.label, case.patient, case.study, case.split),
                        _to_json(case.record),
                    )
                    for id, case in enumerate(cases, segment.first_id)
                ),
            )
            names = sorted({name for case in cases for name in case.record})
            many("INSERT OR IGNORE INTO record_column (name) VALUES (?)", [(name,) for name in names])

    def add_codes(self, segment: Segment, index: KeptIndex | None = None) -> None:
        """Lists a segment of codes without cases and, if one is given, an index in the place of the one there was."""
        with self.transaction("IMMEDIATE"):
            self._list(segment)
            if index is not None:
                self._keep(index)

    def _list(self, segment: Segment) -> None:
        self._connection.execute(
            "INSERT INTO segment (first_id, n_codes, file, sha256, has_cases) VALUES (?, ?, ?, ?, ?)",
            [segment.first_id, segment.n_codes, segment.file, segment.sha256, segment.has_cases],
        )

    def set_property(self, name: str, value: str) -> None:
        """Notes a fact of the whole archive."""
        with self.transaction("IMMEDIATE"):
            self._connection.execute("INSERT OR REPLACE INTO property (name, value) VALUES (?, ?)", [name, value])

    def delete(self, ids: Iterable[int]) -> int:
        """Marks cases as deleted, all or none. Returns how many. Raises KeyError for an id that is not there."""
        wanted = sorted(set(ids))
        with self.transaction("IMMEDIATE"):
            mark = "UPDATE cases SET is_deleted = 1 WHERE id = ? AND NOT is_deleted"
            others = [id for id in wanted if not self._connection.execute(mark, [id]).rowcount]
            codes = self._codes_alone(others)
            if len(codes) < len(others):
                raise KeyError(min(set(others) - set(codes)))
            self._connection.executemany("INSERT INTO deleted_code (id) VALUES (?)", [(id,) for id in codes])
        return len(wanted)

    def read(self, statement: str) -> list[tuple[Any, ...]]:
        """All rows of a statement, for the audit, which looks at everything."""
        with self._errors():
            return self._connection.execute(statement).fetchall()

    def _ids(self, statement: str, *parameters: Value) -> Ids:
        with self._errors():
            rows = self._connection.execute(statement, parameters).fetchall()
        return np.array([row[0] for row in rows], np.int64)


def _to_json(record: Mapping[str, Value]) -> str:
    # Not escaped: SQLite compares a path's key with the bytes that stand here.
    return json.dumps(dict(record), ensure_ascii=False, allow_nan=False)
