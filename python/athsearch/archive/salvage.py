"""A catalogue's rows read with suspicion: whatever bytes they are, sound rows come and the others are named."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArchiveLocked, CatalogueError, FormatVersion
from .catalogue import BUSY_TIMEOUT_S, CACHE_BYTES, explained
from .checks import PART_ROWS, find_misfits, row_checks
from .schema import FORMAT, TABLES, UPGRADES

CATALOGUE = "catalogue.sqlite"
NO_CHECKS = (1, 2)  # formats whose rows have none
# What SQLite raises over damage; the latter where a message would name damaged text.
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
MOST_ATTEMPTS = 100_000  # to read around damage
_FIRST, _LAST = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Problem:
    """What is wrong. file: its path in the archive. table, row: of the catalogue; a case's row is its id."""

    file: str
    reason: str
    table: str | None = None
    row: int | None = None

    def __str__(self) -> str:
        place = "" if self.table is None else f", {self.table}" + ("" if self.row is None else f" row {self.row}")
        return f"{self.file}{place}: {self.reason}"


@contextmanager
def reading(path: Path) -> Iterator[tuple[sqlite3.Connection, int]]:
    """A connection to the catalogue at `path`, one commit of it, and its format, whatever else is wrong with it.

    Raises CatalogueError where SQLite can read nothing of it, FormatVersion where a newer version wrote it,
    ArchiveLocked where another process has it to itself for BUSY_TIMEOUT_S seconds.
    """
    # Writable, so that a commit that a crash left half-done is undone; where it cannot be written, it is read.
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None,
            check_same_thread=False,
        )  # fmt: skip
    except sqlite3.OperationalError as error:
        raise CatalogueError(f"{path}: cannot be read ({error})") from error
    try:
        try:
            connection.execute(f"PRAGMA cache_size = -{CACHE_BYTES >> 10}")
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            format = int(connection.execute("PRAGMA user_version").fetchone()[0])
        except UNREADABLE as error:
            if "is locked" in str(error):
                raise ArchiveLocked(f"{path}: another process keeps it busy; try again when it is done") from error
            raise CatalogueError(f"{path}: SQLite can read nothing of it ({explained(error, path)})") from error
        if format > FORMAT:
            raise FormatVersion(
                f"{path}: catalogue format {format}, this version reads up to {FORMAT}: upgrade athsearch"
            )
        if format != FORMAT and format not in UPGRADES:
            raise CatalogueError(f"{path}: damaged: format {format}, which there never was")
        yield connection, format
    finally:
        connection.close()


class TableReader:
    """One table's rows in parts: (rowid, check, *the columns of TABLES) of those that fit their checks; problems: the
    rest.

    n_rows: how many could be read. stated_total, taken_total: the sums of the checks that stand in them and of those
    that would fit them. In formats without checks every row that can be read is sound; later columns are None.
    """

    def __init__(self, connection: sqlite3.Connection, format: int, table: str) -> None:
        self._connection, self._table = connection, table
        self._has_checks = format not in NO_CHECKS
        self.problems: list[Problem] = []
        self.n_rows = 0
        self.n_unread = 0
        self.stated_total, self.taken_total = 0, 0
        try:
            there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        except UNREADABLE as error:
            self._refuse(None, f"cannot be read ({error})")
            there = set()
        self._columns = [name if name in there else "NULL" for name in TABLES[table]]
        self.exists = bool(there)

    def parts(self) -> Iterator[list[tuple[Any, ...]]]:
        """The sound rows, ascending, PART_ROWS at a time."""
        begin = _FIRST
        while self.exists:
            rows = self._read(begin, _LAST)
            if rows is None:  # somewhere in what follows is damage: nearer and nearer to it
                yield self._checked(self._around_damage(begin))
                return
            if rows:
                yield self._checked(rows)
            if len(rows) < PART_ROWS or rows[-1][0] == _LAST:
                return
            begin = max(begin, rows[-1][0]) + 1  # a damaged tree may not ascend

    def _read(self, begin: int, end: int) -> list[tuple[Any, ...]] | None:
        """(rowid, check_sum, values) of the next rows; None where SQLite cannot read one of them."""
        check_sum = "check_sum" if self._has_checks else "NULL"
        statement = (
            f"SELECT rowid, {check_sum}, {', '.join(self._columns)} FROM {self._table} "
            f"WHERE rowid BETWEEN ? AND ? ORDER BY rowid LIMIT {PART_ROWS}"
        )
        try:
            try:
                return self._connection.execute(statement, [begin, end]).fetchall()
            except sqlite3.OperationalError as error:
                if "decode" not in str(error):
                    raise
                self._connection.text_factory = _decode
                return self._connection.execute(statement, [begin, end]).fetchall()
        except UNREADABLE:
            return None
        finally:
            self._connection.text_factory = str

    def _around_damage(self, begin: int) -> list[tuple[Any, ...]]:
        """All rows that can be read from `begin` on. Ranges that cannot are halved."""
        found: list[tuple[Any, ...]] = []
        ranges, n_left = [(max(begin, 0), self._last_id(begin))], MOST_ATTEMPTS
        unread: list[tuple[int, int]] = []
        while ranges:
            first, last = ranges.pop()
            rows = self._read(first, last)
            if rows is not None:
                found += rows
                if len(rows) == PART_ROWS and rows[-1][0] < last:
                    ranges.append((rows[-1][0] + 1, last))
            elif first == last or (n_left := n_left - 1) < 0:
                unread.append((first, last))
            else:
                middle = (first + last) // 2
                ranges += [(middle + 1, last), (first, middle)]
        n_unread = sum(last - first + 1 for first, last in unread)
        self.n_unread += n_unread
        if unread:
            self._refuse(None, f"rows from {unread[0][0]} to {unread[-1][1]} cannot be read: {n_unread:,} in all")
        return found

    def _last_id(self, begin: int) -> int:
        """The largest rowid there can be, as the segments say: a damaged tree does not tell."""
        first = max(begin, 0)
        try:
            if self._table in ("cases", "deleted_code", "segment"):
                last = self._connection.execute("SELECT max(first_id + n_codes) FROM segment").fetchone()[0]
            else:
                last = self._connection.execute(f"SELECT max(rowid) FROM {self._table}").fetchone()[0]
        except UNREADABLE:
            last = None
        return max(first, last) if isinstance(last, int) and last < 2**40 else first + PART_ROWS

    def _checked(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        self.n_rows += len(rows)
        if not self._has_checks:
            return [row for row in rows if self._is_text(row)]
        misfits, total = find_misfits(self._table, rows)
        self.taken_total += total
        self.stated_total += total
        for place in misfits:
            row = rows[place]
            self.taken_total += self._check(row) or 0
            self.stated_total += row[1] if isinstance(row[1], int) else 0
            self._refuse(row[0], "is not what was written: its check does not fit")
        wrong = set(misfits)
        return [row for place, row in enumerate(rows) if place not in wrong] if wrong else rows

    def _is_text(self, row: tuple[Any, ...]) -> bool:
        if self._check(row) is None:
            self._refuse(row[0], "its text is not UTF-8")
            return False
        return True

    def _check(self, row: tuple[Any, ...]) -> int | None:
        try:
            return row_checks(self._table, [row], first=2)[0]
        except UnicodeEncodeError:  # what was written was text
            return None

    def _refuse(self, row: int | None, reason: str) -> None:
        self.problems.append(Problem(CATALOGUE, reason, self._table, row))


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")
