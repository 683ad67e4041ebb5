"""What a `where` expression may do: read what a case shows and call simple functions, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from .cases import COLUMNS

# Functions a `where` expression may call: they read nothing but their arguments.
_FUNCTIONS = {
    *("abs", "coalesce", "date", "glob", "ifnull", "iif", "instr", "json_extract", "length", "like", "lower"),
    *("ltrim", "max", "min", "nullif", "replace", "round", "rtrim", "strftime", "substr", "trim", "typeof", "upper"),
}

_VISIBLE = {*COLUMNS, "record", ""}  # "": SQLite's word for a table of which no column is named


def value_of(column: str) -> str:
    """The SQL for a case's value in one of the columns that `where` may name."""
    return column if column in COLUMNS else record_value(column)


def record_value(column: str) -> str:
    """The SQL for what a case's record has in a column; NULL where it has nothing."""
    path = "'" + f'$."{column}"'.replace("'", "''") + "'"
    return f"json_extract(record, {path})"


def select_ids(connection: sqlite3.Connection, where: str, columns: Mapping[str, str]) -> list[int]:
    """Ids, ascending, of the cases for which the expression is true. Raises sqlite3's errors.

    columns: what the expression may name, with the SQL for each.
    """
    visible = ", ".join(f'{value} AS "{name}"' for name, value in columns.items())
    # The line break ends a comment that would swallow the bracket.
    table = f"WITH visible_cases AS (SELECT {visible} FROM cases)"
    statement = f"{table} SELECT id FROM visible_cases WHERE (\n{where}\n) ORDER BY id"
    connection.set_authorizer(_authorize)
    try:
        return [id for (id,) in connection.execute(statement)]
    finally:
        connection.set_authorizer(_allow)


def _authorize(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
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
