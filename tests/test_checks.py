"""Checks of the catalogue's rows: as docs/format.md has them, and right whatever a writer does."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athsearch.archive.catalogue import Catalogue
from athsearch.archive.checks import PART_ROWS, row_checks
from athsearch.archive.schema import TABLES

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(max_size=40),
)


def slow_check(table: str, row: tuple[object, ...]) -> int:
    """As docs/format.md says, value by value."""
    encoded = [f"{table}({','.join(TABLES[table])})".encode()]
    for value in row:
        if value is None:
            encoded.append(b"n")
        elif isinstance(value, int):
            encoded.append(b"i" + struct.pack("<q", value))
        elif isinstance(value, float):
            encoded.append(b"r" + struct.pack("<d", value))
        elif isinstance(value, str):
            encoded.append(b"t" + struct.pack("<Q", len(value.encode())) + value.encode())
        elif isinstance(value, bytes):
            encoded.append(b"b" + struct.pack("<Q", len(value)) + value)
    return zlib.crc32(b"".join(encoded))


@settings(deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), max_size=5))
def test_a_check_is_the_crc_of_everything_in_the_row(rows: list[tuple[object, ...]]) -> None:
    assert row_checks("root", rows) == [slow_check("root", row) for row in rows]
    assert row_checks("property", rows, first=1) == [slow_check("property", row[1:]) for row in rows]


def test_what_differs_has_another_check() -> None:
    rows = [
        (1, "a"),
        (1, b"a"),
        (1, ""),
        (1, b""),
        (1, None),
        (None, None),
        (1.0, "a"),
        ("1", "a"),
        (11, ""),
        ("1a", ""),
    ]
    assert len(set(row_checks("root", rows) + row_checks("property", rows))) == 2 * len(rows)
    for wrong, error in (([[1, "a"]], TypeError), ([(1, object())], TypeError), ([(2**63, "")], OverflowError)):
        with pytest.raises(error):
            row_checks("root", wrong)  # type: ignore[arg-type]


def test_whatever_a_writer_does_the_checks_fit(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.sqlite"
    Catalogue.create(path, {"bits": "36"})
    catalogue = Catalogue(path, writable=True)
    execute = catalogue._connection.execute
    with catalogue.transaction("IMMEDIATE"):
        catalogue._connection.executemany(
            "INSERT INTO root (path) VALUES (?)", [(str(n),) for n in range(PART_ROWS + 5)]
        )
    for statements in (
        ["UPDATE root SET path = 'x' WHERE number = 3", "UPDATE root SET path = 'y' WHERE number = 3"],
        [
            "INSERT OR REPLACE INTO root (number, path) VALUES (4, 'z')",
            "DELETE FROM root WHERE number > 10 AND number < 20",
        ],
        ["INSERT INTO deleted_code (id) VALUES (7)", "DELETE FROM deleted_code"],
        ["UPDATE root SET path = 'v' WHERE number = 5", "DELETE FROM root WHERE number = 5"],
    ):
        with catalogue.transaction("IMMEDIATE"):
            for statement in statements:
                execute(statement)
        for table, columns in TABLES.items():
            rows = execute(f"SELECT check_sum, {', '.join(columns)} FROM {table}").fetchall()
            assert [row[0] for row in rows] == [slow_check(table, row[1:]) for row in rows]
            total = execute("SELECT total FROM table_total WHERE name = ?", [table]).fetchone()[0]
            assert total == sum(row[0] for row in rows)
    catalogue.close()
    other = sqlite3.connect(path)
    with other:
        other.execute("UPDATE root SET path = 'w' WHERE number = 4")
    check_sum, *row = other.execute("SELECT check_sum, number, path FROM root WHERE number = 4").fetchone()
    assert check_sum not in (-1, slow_check("root", tuple(row)))
    other.close()
