"""Checks of the catalogue's rows: each row carries the CRC-32 of what it says, each table the sum of its rows' checks.

A row's check tells of a bit that flipped in it, for certain, and of anything else with odds of 4 billion to one; the
sum tells of rows that went, came or went back to what they were.

A writer's statements need not think of checks. Triggers that exist for its connection alone mark the rows it changes:
a check that was c is ~c, below zero, until `seal` takes it anew before the commit; a new row begins with ~0. Rows that
another program changes keep a check that does not fit.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from .schema import TABLES

PART_ROWS = 10_000


def row_checks(table: str, rows: Sequence[tuple[Any, ...]]) -> list[int]:
    """The check of each row: CRC-32 of the table's name and columns, as "root(number,path)", and the values in the
    columns' order, each a letter and bytes:

        NULL n      integer i and int64      real r and float64      text t, or blob b, uint64 length, and the bytes

    Numbers are little-endian, text is UTF-8. rows: values as SQLite's module takes and gives them, in the order of
    TABLES[table].
    """
    begin = zlib.crc32(f"{table}({','.join(TABLES[table])})".encode())
    return [zlib.crc32(b"".join(map(_encoded, row)), begin) for row in rows]


def _encoded(value: object) -> bytes:
    if value is None:
        return b"n"
    if isinstance(value, int):
        return b"i" + struct.pack("<q", value)
    if isinstance(value, float):
        return b"r" + struct.pack("<d", value)
    letter, content = (b"t", value.encode()) if isinstance(value, str) else (b"b", bytes(value))  # type: ignore[call-overload]
    return letter + struct.pack("<Q", len(content)) + content


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
            checks = row_checks(table, [row[2:] for row in rows])
            connection.executemany(
                f"UPDATE {table} SET check_sum = ? WHERE rowid = ?",
                ((check, row[0]) for check, row in zip(checks, rows, strict=True)),
            )
            change = sum(checks) - sum(~row[1] for row in rows)
            connection.execute("UPDATE table_total SET total = total + ? WHERE name = ?", [change, table])
