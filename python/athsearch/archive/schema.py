"""The catalogue's tables, and how those of an earlier format become today's."""

from __future__ import annotations

from collections.abc import Mapping

FORMAT = 3

# Table -> its columns that carry meaning, in the order in which `row_checks` goes over them.
TABLES: Mapping[str, tuple[str, ...]] = {
    "property": ("name", "value"),
    "segment": ("first_id", "n_codes", "file", "sha256", "has_cases", "runs"),
    "deleted_code": ("id",),
    "kept_index": ("kind", "folder", "n_rows", "reason", "files"),
    "root": ("number", "path"),
    "record_column": ("name",),
    "cases": (
        *("id", "root", "source", "content", "label", "patient", "study", "split", "record"),
        *("is_deleted", "retired_by", "stamp"),
    ),
    "unreadable": ("root", "source", "reason"),
    "forgotten": ("digest",),
}

# Below zero: not taken yet, see `checks`.
_CHECK_SUM = "check_sum INTEGER NOT NULL DEFAULT -1"
_UNREADABLE = (
    "CREATE TABLE unreadable (root INTEGER NOT NULL REFERENCES root (number), source TEXT NOT NULL, "
    f"reason TEXT NOT NULL, {_CHECK_SUM}, PRIMARY KEY (root, source))"
)
_FORGOTTEN = f"CREATE TABLE forgotten (digest BLOB PRIMARY KEY, {_CHECK_SUM})"
_TOTALS = (
    "CREATE TABLE table_total (name TEXT PRIMARY KEY, total INTEGER NOT NULL DEFAULT 0)",
    *(f"INSERT INTO table_total (name) VALUES ('{table}')" for table in TABLES),
    # Where rows may be many, those without a check are to be found at once.
    *(
        f"CREATE INDEX {table}_unchecked ON {table} (check_sum) WHERE check_sum < 0"
        for table in ("cases", "deleted_code", "unreadable")
    ),
)

# Pseudonyms fall anywhere into an index of them all, and each commit would write most of its pages anew. Here a commit
# writes the pages of the last 2^RANGE_BITS ids alone, and whoever looks for a patient looks once a range: see RANGES.
RANGE_BITS = 14
INDEXED_BY_RANGE = ("patient", "study")
_RANGE_INDEXES = tuple(
    f"CREATE INDEX cases_{column} ON cases (id >> {RANGE_BITS}, {column}) WHERE {column} IS NOT NULL"
    for column in INDEXED_BY_RANGE
)
RANGES = (
    "(WITH RECURSIVE every (id_range) AS (SELECT 0 UNION ALL SELECT id_range + 1 FROM every WHERE id_range < "
    f"(SELECT max(id) >> {RANGE_BITS} FROM cases)) SELECT id_range FROM every)"
)
PAGE_BYTES = 8192  # of a new catalogue; half as many writes a commit as with SQLite's 4096

SCHEMA = f"""
CREATE TABLE property (name TEXT PRIMARY KEY, value TEXT NOT NULL, {_CHECK_SUM});
CREATE TABLE segment (
    first_id INTEGER PRIMARY KEY, n_codes INTEGER NOT NULL, file TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL,
    has_cases INTEGER NOT NULL DEFAULT 1, runs BLOB, {_CHECK_SUM}
);
CREATE TABLE deleted_code (id INTEGER PRIMARY KEY, {_CHECK_SUM});
CREATE TABLE kept_index (
    kind TEXT NOT NULL, folder TEXT NOT NULL, n_rows INTEGER NOT NULL, reason TEXT NOT NULL, files TEXT NOT NULL,
    {_CHECK_SUM}
);
CREATE TABLE root (number INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, {_CHECK_SUM});
CREATE TABLE record_column (name TEXT PRIMARY KEY, {_CHECK_SUM});
CREATE TABLE cases (
    id INTEGER PRIMARY KEY,
    root INTEGER NOT NULL REFERENCES root (number),
    source TEXT NOT NULL,
    content BLOB NOT NULL,
    label TEXT,
    patient TEXT,
    study TEXT,
    split TEXT,
    record TEXT NOT NULL,
    is_deleted INTEGER NOT NULL DEFAULT 0,
    retired_by INTEGER REFERENCES cases (id),
    stamp TEXT,
    {_CHECK_SUM}
);
{_UNREADABLE};
{_FORGOTTEN};
CREATE INDEX cases_source ON cases (source);
{";".join(_RANGE_INDEXES)};
CREATE INDEX cases_deleted ON cases (id) WHERE is_deleted;
{";".join(_TOTALS)};
PRAGMA user_version = {FORMAT};
"""

# A record's column that was called study, in any capitals: format 3 has a study of its own.
_STUDY = "(SELECT name FROM record_column WHERE lower(name) = 'study')"
_STUDY_PATH = f"""'$."' || {_STUDY} || '"'"""

_NEW = ("unreadable", "forgotten")  # since format 3

# Format -> what makes it the next one, inside the first transaction that writes to it.
UPGRADES = {
    1: (
        "ALTER TABLE segment ADD COLUMN has_cases INTEGER NOT NULL DEFAULT 1",
        "CREATE TABLE deleted_code (id INTEGER PRIMARY KEY)",
        "CREATE TABLE kept_index (kind TEXT NOT NULL, folder TEXT NOT NULL, n_rows INTEGER NOT NULL, "
        "reason TEXT NOT NULL, files TEXT NOT NULL)",
        "PRAGMA user_version = 2",
    ),
    2: (
        *(f"ALTER TABLE {table} ADD COLUMN {_CHECK_SUM}" for table in TABLES if table not in _NEW),
        "ALTER TABLE cases ADD COLUMN study TEXT",
        "ALTER TABLE cases ADD COLUMN retired_by INTEGER REFERENCES cases (id)",
        "ALTER TABLE cases ADD COLUMN stamp TEXT",
        "ALTER TABLE segment ADD COLUMN runs BLOB",
        _UNREADABLE,
        _FORGOTTEN,
        "DROP INDEX cases_patient",
        *_RANGE_INDEXES,
        *_TOTALS,
        f"""UPDATE cases SET record = json_remove(json_set(record, '$."record_' || {_STUDY} || '"',
        json_extract(record, {_STUDY_PATH})), {_STUDY_PATH}) WHERE json_type(record, {_STUDY_PATH}) IS NOT NULL""",
        "UPDATE record_column SET name = 'record_' || name WHERE lower(name) = 'study'",
        "PRAGMA user_version = 3",
    ),
}
