"""The catalogue's tables, and how those of an earlier format become today's."""

from __future__ import annotations

FORMAT = 2

_KEPT_INDEX = (
    "CREATE TABLE kept_index (kind TEXT NOT NULL, folder TEXT NOT NULL, n_rows INTEGER NOT NULL, reason TEXT NOT NULL, "
    "files TEXT NOT NULL)"
)

SCHEMA = f"""
CREATE TABLE property (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE segment (
    first_id INTEGER PRIMARY KEY, n_codes INTEGER NOT NULL, file TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL,
    has_cases INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE deleted_code (id INTEGER PRIMARY KEY);
{_KEPT_INDEX};
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
PRAGMA user_version = {FORMAT};
"""

# Format -> what makes it the next one, inside the first transaction that writes to it.
UPGRADES = {
    1: (
        "ALTER TABLE segment ADD COLUMN has_cases INTEGER NOT NULL DEFAULT 1",
        "CREATE TABLE deleted_code (id INTEGER PRIMARY KEY)",
        _KEPT_INDEX,
        "PRAGMA user_version = 2",
    ),
}
