"""The catalogue: one SQLite file that says which segments and cases an archive has.

It keeps a rollback journal, not a write-ahead log: the archive stays a plain folder that opens on read-only media.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CatalogueError, FormatVersion
from ..files import sha256_of
from ..types import Ids
from .cases import COLUMNS, Case, NewCase, Value
from .checks import insert, note_schema, seal, watch
from .kept_index import KeptIndex
from .schema import FORMAT, INDEXED_BY_RANGE, PAGE_BYTES, RANGE_BITS, RANGES, SCHEMA, UPGRADES
from .segment import Segment
from .where import Parameters, record_value, select_ids, value_of

CONTENT = "nullif(lower(hex(content)), '')"  # the SQL for the SHA-256 of a case's image; NULL where there was none
BUSY_TIMEOUT_S = 30
WEIGHTS = "weights.safetensors"  # beside the catalogue
CACHE_BYTES = 64 << 20  # for who writes, and for who reads everything
INSERTED_AT_ONCE = 256  # rows: so few stay in the processor's cache on their way, and the garbage collector rests


# Not escaped: SQLite compares a path's key with the bytes that stand here.
to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_to_lines = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",\n", ": ")).encode


def records_to_json(records: Sequence[Mapping[str, Value]]) -> list[str]:
    """`to_json` of each, all in one call, which is three times as fast: JSON's own text has no line breaks."""
    between = "},\n{"
    texts = _to_lines([dict(record) for record in records])[2:-2].split(between) if records else []
    return ["{" + text.replace("\n", " ") + "}" for text in texts]


def explained(error: Exception, path: Path) -> str:
    """What an error of SQLite's over the catalogue at `path` means."""
    if "readonly" in str(error) and path.with_name(f"{path.name}-journal").exists():
        return (
            "a crash broke off a commit, which must be undone first: open the archive once where it can be written to"
        )
    return str(error)


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
        """Writes a new, empty catalogue. Raises CatalogueError where that fails; then, what is there is not one."""
        # Without a journal: there is nothing to go back to, and the folder is not an archive before it is renamed.
        pragmas = f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = OFF; PRAGMA synchronous = FULL"
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.executescript(f"{pragmas}; BEGIN; {SCHEMA}")
                connection.executemany("INSERT INTO property (name, value) VALUES (?, ?)", properties.items())
                note_schema(connection)
                seal(connection)
                connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise CatalogueError(f"{path}: {error}") from error

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
        # EXTRA: a commit is the removal of the journal, and FULL would not flush the folder after it. A power cut could
        # then bring the journal back, and with it the archive as it was before a commit that was told to be done.
        connection.execute("PRAGMA synchronous = EXTRA" if writable else "PRAGMA query_only = ON")
        if writable:  # pseudonyms fall anywhere into their index: pages that do not fit are written more than once
            connection.execute(f"PRAGMA cache_size = -{CACHE_BYTES >> 10}")
        connection.execute("PRAGMA recursive_triggers = ON")  # a row that is replaced counts as removed
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CatalogueError(f"{self._path}: {explained(error, self._path)}") from error

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
                        if version == 2:
                            self._note_weights()
                            note_schema(self._connection)
                    watch(self._connection)
                yield
                if mode != "DEFERRED":
                    seal(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _note_weights(self) -> None:
        """Formats before 3 did not know the bytes of their weights' file."""
        weights = self._path.parent / WEIGHTS
        if weights.is_file():
            row = ["weights_sha256", sha256_of(weights)]
            self._connection.execute("INSERT INTO property (name, value) VALUES (?, ?)", row)

    def _format(self) -> int:
        """Asked for each time: another connection may have made the format a later one."""
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    @property
    def format(self) -> int:
        """The format now: the first transaction that writes makes it FORMAT."""
        with self._errors():
            return self._format()

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
            runs = "runs" if self._format() > 2 else "NULL"
            rows = self._connection.execute(
                f"SELECT file, first_id, n_codes, sha256, {has_cases} != 0, {runs} FROM segment ORDER BY first_id"
            )
            segments = [Segment(*row) for row in rows]
        next_id = 1
        for part in segments:
            if not isinstance(part.file, str) or "/" in part.file or not part.has_sound_ids or part.first_id < next_id:
                raise CatalogueError(f"{self._path}: damaged: segment {part.file!r} has impossible ids or name")
            next_id = part.next_id
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
            self.list_index(index)

    def list_index(self, index: KeptIndex | None) -> None:
        """The same, in a transaction that writes."""
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
        return self._ids(f"SELECT id FROM {self._cases_with(column)} = ? ORDER BY id", value)

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
        values = f"SELECT {value} FROM cases WHERE id IN (SELECT value FROM json_each(?)) AND {value} IS NOT NULL"
        # One text instead of a tuple for each: a label's cases may be half of all.
        statement = f"SELECT group_concat(id) FROM {self._cases_with(column)} IN ({values})"
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
        if not all(isinstance(name, str) for name in names):
            raise CatalogueError(f"{self._path}: damaged: a record's column has no name")
        known = {name.casefold() for name in names}  # until format 2 a record might have a column called study
        return [*(name for name in COLUMNS if name not in known), *names]

    def _value_of(self, column: str) -> str:
        return record_value(column) if column == "study" and self._format() < 3 else value_of(column)

    def _cases_with(self, column: str) -> str:
        """The SQL that a test of the column's value may follow, for the tables that it is a test of."""
        if column in INDEXED_BY_RANGE and self._format() > 2:
            return f"{RANGES} CROSS JOIN cases ON id >> {RANGE_BITS} = id_range AND {column}"
        return f"cases WHERE {self._value_of(column)}"

    def _own_study(self) -> str:
        return "study" if self._format() > 2 else "NULL"

    def _check_columns(self, names: Iterable[str]) -> None:
        columns = self.columns()
        for name in names:
            if name not in columns:
                raise ValueError(f"no column {name!r}; columns: {', '.join(columns)}")

    def cases(self, ids: Sequence[int], alone: Iterable[int] = ()) -> list[Case]:
        """Cases by id, in the order asked for. alone: ids of codes without a case, see `Snapshot.alone`.

        Raises KeyError for an id that is not there, or was deleted.
        """
        found = {id: Case(id) for id in alone}
        with self._errors():
            study = self._own_study()
            for begin in range(0, len(ids), 500):  # SQLite's smallest limit of parameters is 999
                part = list(ids[begin : begin + 500])
                rows = self._connection.execute(
                    f"SELECT id, root.path, source, label, patient, split, record, {study}, {CONTENT} "
                    "FROM cases JOIN root ON root.number = cases.root "
                    f"WHERE NOT is_deleted AND id IN ({','.join('?' * len(part))})",
                    part,
                )
                for id, root, source, label, patient, split, record, of_study, content in rows:
                    found[id] = Case(id, root, source, label, patient, split, json.loads(record), of_study, content)
        return [found[id] for id in ids]

    def values(self, columns: Sequence[str], first_id: int, last_id: int) -> list[tuple[Any, ...]]:
        """(id, value, ...) of the cases from first_id to last_id, deleted ones too, ids ascending.

        columns: what `where` may name; "content": the SHA-256 of the image, hexadecimal, None where there was none;
        "root": the folder the source is relative to. Raises ValueError for others.
        """
        own = {
            "content": CONTENT,
            "root": "(SELECT path FROM root WHERE number = cases.root)",
        }
        self._check_columns([name for name in columns if name not in own])
        with self._errors():
            selected = [own.get(name) or self._value_of(name) for name in columns]
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

    def next_id(self) -> int:
        """The id of the first case of the next segment. Ids start at 1 and never return."""
        with self._errors():
            # A compaction leaves gaps, and notes what came next: the last segment may be gone, its ids must not return.
            noted = "SELECT CAST(value AS INTEGER) FROM property WHERE name = 'next_id'"
            after = "SELECT coalesce(max(first_id + n_codes), 1) FROM segment"
            statement = f"SELECT max(({after}), coalesce(({noted}), 1))"
            return int(self._connection.execute(statement).fetchone()[0])

    def add(
        self,
        root: str,
        segment: Segment,
        cases: Iterable[NewCase],
        index: KeptIndex | None = None,
        outdated: Sequence[tuple[int, int]] = (),
    ) -> int:
        """Lists a segment and its cases, one a row of the segment, and what `add_codes` lists, in one transaction.

        A case of the same root and source, whose file was changed since, is retired by its new one; so are the
        `outdated` ones, (id, id of the new case). Returns how many of the new ones retire others.
        """
        with self.transaction("IMMEDIATE"):
            number = self.root_number(root)
            self.list_segment(segment)
            numbered = enumerate(cases, segment.first_id)
            while part := list(islice(numbered, INSERTED_AT_ONCE)):
                records = records_to_json([case.record for _, case in part])
                rows: list[tuple[Any, ...]] = [
                    (
                        *(id, number, case.source, case.content, case.label, case.patient, case.study, case.split),
                        *(record, 0, None, case.stamp),
                    )
                    for (id, case), record in zip(part, records, strict=True)
                ]
                insert(self._connection, "cases", rows)
                self._name_columns(case for _, case in part)
            # Codes that were given have no content, and nothing tells that their images changed.
            newer = "FROM cases AS newer WHERE newer.id >= ? AND newer.content != x''"
            retired = self.execute(
                f"UPDATE cases SET is_deleted = 1, retired_by = (SELECT id {newer} AND newer.source = cases.source) "
                f"WHERE source IN (SELECT source {newer}) AND root = {number} AND id < ? AND NOT is_deleted "
                "AND content != x''",
                *[segment.first_id] * 3,
            )
            if index is not None:
                self.list_index(index)
            if not outdated:
                return retired.rowcount
            self.execute_many(
                "UPDATE cases SET is_deleted = 1, retired_by = ?2 WHERE id = ?1 AND NOT is_deleted", outdated
            )
            retiring = "SELECT count(DISTINCT retired_by) FROM cases WHERE is_deleted AND retired_by >= ?"
            return int(self.execute(retiring, segment.first_id).fetchone()[0])

    def update(self, cases: Sequence[tuple[int, NewCase]]) -> None:
        """Gives cases, by id, the label, patient, study, split and record that they now come with. What is not said now
        stays as it was: a patient who is not named this time must be found all the same on withdrawal.
        """
        with self.transaction("IMMEDIATE"):
            self.execute_many(
                "UPDATE cases SET label = coalesce(?, label), patient = coalesce(?, patient), "
                "study = coalesce(?, study), split = coalesce(?, split), record = coalesce(?, record) WHERE id = ?",
                (
                    (*(case.label, case.patient, case.study, case.split), record, id)
                    for id, case in cases
                    for record in [to_json(dict(case.record)) if case.record else None]
                ),
            )
            self._name_columns(case for _, case in cases)

    def root_number(self, root: str) -> int:
        """The number of a root, which is listed if it is not there yet. In a transaction that writes."""
        self.execute("INSERT OR IGNORE INTO root (path) VALUES (?)", root)
        return int(self.execute("SELECT number FROM root WHERE path = ?", root).fetchone()[0])

    def _name_columns(self, cases: Iterable[NewCase]) -> None:
        names = sorted({name for case in cases for name in case.record})
        self.execute_many("INSERT OR IGNORE INTO record_column (name) VALUES (?)", ((name,) for name in names))

    def add_codes(self, segment: Segment, index: KeptIndex | None = None) -> None:
        """Lists a segment of codes without cases and, if one is given, an index in the place of the one there was."""
        with self.transaction("IMMEDIATE"):
            self.list_segment(segment)
            if index is not None:
                self.list_index(index)

    def list_segment(self, segment: Segment) -> None:
        """Lists a segment. In a transaction that writes."""
        self._connection.execute(
            "INSERT INTO segment (first_id, n_codes, file, sha256, has_cases, runs) VALUES (?, ?, ?, ?, ?, ?)",
            [segment.first_id, segment.n_codes, segment.file, segment.sha256, segment.has_cases, segment.runs],
        )

    def restore(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        """Rows of another catalogue, with all the columns of TABLES; to be called in a transaction."""
        with self._errors():
            insert(self._connection, table, rows)

    def set_property(self, name: str, value: str) -> None:
        """Notes a fact of the whole archive."""
        with self.transaction("IMMEDIATE"):
            self._connection.execute("INSERT OR REPLACE INTO property (name, value) VALUES (?, ?)", [name, value])

    def delete(self, ids: Iterable[int], alone: Iterable[int]) -> int:
        """Marks cases as deleted, all or none. Returns how many. alone: those of the ids that are codes without a case.

        Raises KeyError for an id that is not there.
        """
        codes = set(alone)
        wanted = sorted(set(ids) - codes)
        with self.transaction("IMMEDIATE"):
            for id in wanted:
                if not self.execute("UPDATE cases SET is_deleted = 1 WHERE id = ? AND NOT is_deleted", id).rowcount:
                    raise KeyError(id)
            self.execute_many("INSERT INTO deleted_code (id) VALUES (?)", ((id,) for id in sorted(codes)))
        return len(wanted) + len(codes)

    def unreadable(self) -> list[tuple[str, str, str]]:
        """(root, source, reason) of the images that could not be used when they were last looked at."""
        with self._errors():
            if self._format() < 3:
                return []
            return self.execute(
                "SELECT path, source, reason FROM unreadable JOIN root ON number = root ORDER BY path, source"
            ).fetchall()

    def upgrade(self) -> None:
        """Makes the catalogue one of today's format, for who needs what earlier ones do not have."""
        if self._format() < FORMAT:
            with self.transaction("IMMEDIATE"):
                pass

    def execute(self, statement: str, *parameters: Value | bytes | None) -> sqlite3.Cursor:
        """Runs a statement, in a transaction, for the modules of this room that look after parts of the catalogue."""
        return self._connection.execute(statement, parameters)

    def execute_many(self, statement: str, rows: Iterable[Sequence[Value | bytes | None]]) -> None:
        """The same with each of the rows as parameters."""
        self._connection.executemany(statement, rows)

    def vacuum(self) -> None:
        """Writes the file anew: no byte of former rows is left between those of today's."""
        with self._errors():
            self._connection.execute("VACUUM")

    def read(self, statement: str) -> list[tuple[Any, ...]]:
        """All rows of a statement, for the audit, which looks at everything."""
        with self._errors():
            return self._connection.execute(statement).fetchall()

    def _ids(self, statement: str, *parameters: Value) -> Ids:
        with self._errors():
            rows = self._connection.execute(statement, parameters).fetchall()
        return np.array([row[0] for row in rows], np.int64)
