"""Checks of the catalogue's rows: each row carries the CRC-32 of what it says, each table the sum of its rows' checks.

A row's check tells of a bit that flipped in it, for certain, and of anything else with odds of 4 billion to one; the
sum tells of rows that went, came or went back to what they were.

A writer's statements need not think of checks. Triggers that exist for its connection alone mark the rows it changes:
a check that was c is ~c, below zero, until `seal` takes it anew before the commit; a new row begins with ~0. Rows that
another program changes keep a check that does not fit.
"""

from __future__ import annotations

import sqlite3
import zlib
from typing import Any

from .. import _checks
from .schema import TABLES

PART_ROWS = 10_000


def row_checks(table: str, rows: list[tuple[Any, ...]], first: int = 0) -> list[int]:
    """The check of each row: CRC-32 of the table's name and columns, as "root(number,path)", and the values in the
    columns' order, each a letter and bytes:

        NULL n      integer i and int64      real r and float64      text t, or blob b, uint64 length, and the bytes

    Numbers are little-endian, text is UTF-8. rows: values as SQLite's module takes and gives them, in the order of
    TABLES[table], from the column `first` of each row on. Takes about 0.3 us a row.
    """
    return _checks.row_checks(_begin(table), rows, first)


def find_misfits(table: str, rows: list[tuple[Any, ...]]) -> tuple[list[int], int]:
    """Of rows (rowid, check, *values): the places of those whose check is another, and the sum of the others' checks.

    Text that is not UTF-8 is none that was written, and has no check.
    """
    return _checks.find_misfits(_begin(table), rows)


def _begin(table: str) -> int:
    return zlib.crc32(f"{table}({','.join(TABLES[table])})".encode())


def insert(connection: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    """New rows with their checks, quicker than `seal` would take those of many. rows: as for `row_checks`."""
    columns = TABLES[table]
    checks = row_checks(table, rows)
    connection.executemany(
        f"INSERT INTO {table} ({', '.join(columns)}, check_sum) VALUES ({'?, ' * len(columns)}?)",
        [(*row, check) for row, check in zip(rows, checks, strict=True)],
    )
    connection.execute("UPDATE table_total SET total = total + ? WHERE name = ?", [sum(checks), table])


def schema_check(connection: sqlite3.Connection) -> int:
    """The check of the tables' and indexes' own definitions, the sum over them."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    return sum(_checks.row_checks(zlib.crc32(b"sqlite_schema(type,name,tbl_name,sql)"), rows, 0))


def note_schema(connection: sqlite3.Connection) -> None:
    """Writes down the check of the definitions, when they were made or changed."""
    row = ["sqlite_schema", schema_check(connection)]
    connection.execute("INSERT OR REPLACE INTO table_total (name, total) VALUES (?, ?)", row)


def watch(connection: sqlite3.Connection) -> None:
    """Has the connection mark the rows that it changes from now on, to be called in each transaction that writes."""
    for table, columns in TABLES.items():
        connection.execute(
            f"CREATE TEMP TRIGGER IF NOT EXISTS {table}_changed AFTER UPDATE OF {', '.join(columns)} ON main.{table} "
            f"BEGIN UPDATE {table} SET check_sum = min(check_sum, ~check_sum) WHERE rowid = NEW.rowid; END"
        )
        connection.execute(
            f"CREATE TEMP TRIGGER IF NOT EXISTS {table}_removed AFTER DELETE ON main.{table} BEGIN UPDATE table_total "
            f"SET total = total - max(OLD.check_sum, ~OLD.check_sum) WHERE name = '{table}'; END"
        )


def seal(connection: sqlite3.Connection) -> None:
    """Takes the checks of all rows that are marked, the last thing before a commit."""
    for table, columns in TABLES.items():
        marked = f"SELECT rowid, check_sum, {', '.join(columns)} FROM {table} WHERE check_sum < 0 LIMIT {PART_ROWS}"
        while rows := connection.execute(marked).fetchall():
            checks = row_checks(table, rows, first=2)
            connection.executemany(
                f"UPDATE {table} SET check_sum = ? WHERE rowid = ?",
                ((check, row[0]) for check, row in zip(checks, rows, strict=True)),
            )
            change = sum(checks) - sum(~row[1] for row in rows)
            connection.execute("UPDATE table_total SET total = total + ? WHERE name = ?", [change, table])
