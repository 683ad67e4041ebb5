"""What a `where` expression may do: say of one case, by what it shows, whether it is meant, and nothing else.

It is SQL that SQLite runs on the reader's own connection, between four fences:

- an authorizer: it reads the columns of the case and calls the functions named here; no other table, pragma or file, no
  subquery, and so no recursion and no join;
- what could make a value longer than what came in (replace, printf, zeroblob, hex) or take the square of its length
  (instr, trim) is not among the functions;
- limits on the length of the text, the parameters, values and patterns;
- a clock of the processor time it takes, asked every few steps.

What stands in "..." must be a column: SQLite takes any other for a text, and a mistyped name would be true of every
case.

Values belong into parameters, not into the text: then no label and no name can be taken for SQL.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np

from ..types import Ids
from .cases import COLUMNS, Value

Parameters: TypeAlias = Sequence[Value | None] | Mapping[str, Value | None]

# Functions a `where` expression may call: they read nothing but their arguments, in time linear in their length.
_FUNCTIONS = {
    *("abs", "coalesce", "date", "glob", "ifnull", "iif", "json_extract", "length", "like", "lower", "max", "min"),
    *("nullif", "round", "strftime", "substr", "typeof", "upper"),
    "group_concat",  # our own; an expression cannot call it, for it is an aggregate
}
_VISIBLE = {*COLUMNS, "record", ""}  # "": SQLite's word for a table of which no column is named
_N_SELECTS = 2  # of the statement below: another one is a subquery

MAX_CHARACTERS = 10_000  # of the expression, and of each parameter
MAX_VALUE_BYTES = 1 << 17  # of any value on the way, stored records among them
MAX_PATTERN_BYTES = 100  # of LIKE and GLOB, whose time is their length times the text's
LEAST_SECONDS = 1.0  # of this thread's processor time: a busy machine makes no expression wrong
SECONDS_A_CASE = 1e-5  # ten times what a comparison with a record's column takes
_STEPS = 50  # of SQLite's machine between looks at the clock
_IDS_AT_ONCE = 8192  # their digits are far fewer than MAX_VALUE_BYTES

# SQLite's comments, texts and names in quotes, of which the group catches the one kind that may become a text.
_QUOTED = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|\Z)|'(?:[^']|'')*'?|`(?:[^`]|``)*`?|\[[^]]*]?|"((?:[^"]|"")*)"?""", re.DOTALL
)


def value_of(column: str) -> str:
    """The SQL for a case's value in one of the columns that `where` may name."""
    return column if column in COLUMNS else record_value(column)


def record_value(column: str) -> str:
    """The SQL for what a case's record has in a column; NULL where it has nothing."""
    path = "'" + f'$."{column}"'.replace("'", "''") + "'"
    return f"json_extract(record, {path})"


def select_ids(connection: sqlite3.Connection, where: str, parameters: Parameters, columns: Mapping[str, str]) -> Ids:
    """Ids, ascending, of the cases for which the expression is true. columns: those it may name, with the SQL for each.

    Inside a transaction: it takes several statements. Raises ValueError, OverflowError and sqlite3's errors where it is
    none or does not end in time, TypeError for parameters that are none.
    """
    given = _checked(where, parameters)
    _check_names(where, columns)
    last_id = connection.execute("SELECT coalesce(max(id), 0) FROM cases").fetchone()[0]
    visible = ", ".join(f'{value} AS "{name}"' for name, value in columns.items())
    found = []
    with _fenced(connection, max(LEAST_SECONDS, SECONDS_A_CASE * last_id)) as authorizer:
        for first_id in range(0, last_id + 1, _IDS_AT_ONCE):
            # Text with commas is three times as fast as a tuple for each id. The line break ends a comment that would
            # swallow the bracket.
            statement = (
                f"WITH visible_cases AS (SELECT {visible} FROM cases WHERE id >= {first_id} "
                f"AND id < {first_id + _IDS_AT_ONCE}) SELECT group_concat(id) FROM visible_cases WHERE (\n{where}\n)"
            )
            authorizer.n_selects = 0
            found += [text for (text,) in connection.execute(statement, given) if text is not None]
    return np.sort(np.fromstring(",".join(found), np.int64, sep=",")) if found else np.empty(0, np.int64)


def _checked(where: str, parameters: Parameters) -> tuple[Value | None, ...] | dict[str, Value | None]:
    if not isinstance(where, str):
        raise TypeError(f"where must be a str, got {type(where).__name__}")
    if isinstance(parameters, Mapping):
        given: tuple[Value | None, ...] | dict[str, Value | None] = dict(parameters)
        values = list(parameters.values())
    elif isinstance(parameters, Sequence) and not isinstance(parameters, str | bytes):
        given = tuple(parameters)
        values = list(parameters)
    else:
        raise TypeError(f"parameters must be a sequence or a mapping, got {type(parameters).__name__}")
    for value in values:
        if value is not None and not isinstance(value, str | int | float):
            raise TypeError(f"parameters must be str, int, float or None, got {type(value).__name__}")
    longest = max(len(text) for text in (where, *values) if isinstance(text, str))
    if longest > MAX_CHARACTERS:
        raise ValueError(f"{longest:,} characters are too many, {MAX_CHARACTERS:,} may be")
    return given


def _check_names(where: str, columns: Iterable[str]) -> None:
    known = {_folded(name) for name in columns}
    for match in _QUOTED.finditer(where):
        name = match[1]
        if name is not None and _folded(name) not in known:
            raise ValueError(f"no column \"{name}\"; a text stands in '...'")


def _folded(name: str) -> bytes:
    """As SQLite compares names: ASCII's capitals make no difference."""
    return name.encode("utf-8", "surrogatepass").lower()


@contextmanager
def _fenced(connection: sqlite3.Connection, seconds: float) -> Iterator[_Authorizer]:
    """Lets a connection do nothing but what the module's text says, until the block ends or the time is over."""
    deadline = time.thread_time() + seconds
    authorizer = _Authorizer()
    connection.set_authorizer(authorizer)
    connection.set_progress_handler(lambda: time.thread_time() > deadline, _STEPS)
    try:
        with _limited(connection):
            yield authorizer
    except sqlite3.OperationalError as error:
        if str(error) != "interrupted":
            raise
        if time.thread_time() <= deadline:
            # SQLite swallowed what was raised while the clock was read, and only a signal's handler raises there.
            raise KeyboardInterrupt from error
        raise ValueError(f"it takes more than {seconds:.3g} s") from error
    finally:
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(_allow)


@contextmanager
def _limited(connection: sqlite3.Connection) -> Iterator[None]:
    if sys.version_info < (3, 11):  # no way to set limits: the clock and the limits above have to do
        yield
        return
    limits = {
        sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE_BYTES,
        sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: MAX_PATTERN_BYTES,
    }
    before = {limit: connection.setlimit(limit, value) for limit, value in limits.items()}
    try:
        yield
    finally:
        for limit, value in before.items():
            connection.setlimit(limit, value)


class _Authorizer:
    """Asked by SQLite about everything that a statement would do, when it is compiled. n_selects: of it, so far."""

    def __init__(self) -> None:
        self.n_selects = 0

    def __call__(
        self, action: int, first: str | None, second: str | None, database: str | None, source: str | None
    ) -> int:
        if action == sqlite3.SQLITE_SELECT:
            self.n_selects += 1
            is_allowed = self.n_selects <= _N_SELECTS
        elif action == sqlite3.SQLITE_READ:
            is_allowed = first == "visible_cases" or (first == "cases" and second in _VISIBLE)
        else:
            is_allowed = action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS
        return sqlite3.SQLITE_OK if is_allowed else sqlite3.SQLITE_DENY


def _allow(*_: object) -> int:
    """The authorizer between `where` expressions; Python 3.10 cannot take one away."""
    return sqlite3.SQLITE_OK
