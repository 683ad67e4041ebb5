"""The audit: what an archive stores, what of it is clear text, and whether there is anything else in it.

Every table, column and property of the catalogue and every file of the folder must be one that `stored` knows, and each
value must look as it should: a patient who stands there in clear, where a pseudonym should, is found. What looks like a
name, a date, an identifier in clear text is warned of, without showing it. The bytes of files are `verify`'s to check.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .catalogue import Catalogue
from .looks import looks
from .schema import SCHEMA
from .snapshot import Snapshot
from .stored import CLEAR, FILES, HIDDEN_SOURCE, LEFT_OVER, LOG_FIELDS, PROPERTIES, TABLES, Stored
from .where import record_value

LEAST_ALIKE = 5  # cases that have a value, before it is shown as an example
_HEADER_BYTES = (64, 256)  # of an .npy file


@dataclass(frozen=True)
class AuditedColumn:
    """A column of the catalogue, or of the records: `table` is then "record".

    example: its most frequent value, where at least LEAST_ALIKE rows have it and nothing in the column looks like what
    names a patient. looks: what the column's values look like, with how many different ones do.
    """

    table: str
    column: str
    kind: str
    meaning: str
    n_values: int
    example: str | None = None
    looks: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class AuditedFile:
    """A file of the archive's folder, and what it is."""

    name: str
    meaning: str
    n_bytes: int


@dataclass(frozen=True)
class AuditReport:
    """What an archive stores. unknown: what must not be there, a line each; remains: what is left of earlier times."""

    columns: tuple[AuditedColumn, ...]
    files: tuple[AuditedFile, ...]
    unknown: tuple[str, ...]
    remains: tuple[str, ...]


def audit(snapshot: Snapshot, catalogue: Catalogue) -> AuditReport:
    """Looks at everything an archive stores. Inside the transaction that made the snapshot. Raises CatalogueError."""
    unknown: list[str] = [*_unknown_objects(catalogue), *_unknown_properties(catalogue)]
    columns: list[AuditedColumn] = []
    for table, stored in TABLES.items():
        names = [name for _, name, *_ in catalogue.read(f"PRAGMA table_info({table})")]
        unknown += [f"column {table}.{name}" for name in names if name not in stored]
        for name in (name for name in names if name in stored):
            if name == "source":
                is_hidden = HIDDEN_SOURCE.condition.replace("@", name)
                columns.append(
                    _audited(catalogue, table, name, f"CASE WHEN NOT {is_hidden} THEN {name} END", stored[name])
                )
                columns.append(
                    _audited(catalogue, table, name, f"CASE WHEN {is_hidden} THEN {name} END", HIDDEN_SOURCE)
                )
            else:
                columns.append(_audited(catalogue, table, name, name, stored[name]))
            condition = stored[name].condition.replace("@", name)
            n_others = _count(catalogue, f"{table} WHERE {name} IS NOT NULL AND NOT coalesce({condition}, 0)")
            if n_others:
                unknown.append(f"{table}.{name}: {n_others:,} values are not what they should be ({stored[name].kind})")
    keys = {key for (key,) in catalogue.read("SELECT DISTINCT key FROM cases, json_each(record)")}
    listed = [name for (name,) in catalogue.read("SELECT name FROM record_column ORDER BY name")]
    unknown += [f"{len(others)} columns of records that are not listed" for others in [keys - set(listed)] if others]
    further = Stored(CLEAR, "a further column of a manifest", "1")
    columns += [_audited(catalogue, "record", name, record_value(name), further) for name in listed]
    files, unknown_files, remains = _files(snapshot)
    return AuditReport(tuple(columns), files, (*unknown, *unknown_files), (*remains, *_remains(catalogue)))


def _audited(catalogue: Catalogue, table: str, name: str, value: str, stored: Stored) -> AuditedColumn:
    where = f"{'cases' if table == 'record' else table} WHERE {value} IS NOT NULL"
    n_values, example = _count(catalogue, where), None
    found: tuple[tuple[str, int], ...] = ()
    if stored.kind == CLEAR and name != "record" and n_values:
        groups = catalogue.read(f"SELECT {value}, count(*) FROM {where} GROUP BY 1 ORDER BY 2 DESC, 1")
        may_be_one_each = table == "record" or name == "label"
        found = looks(name if table == "record" else "", [value for value, _ in groups], n_values, may_be_one_each)
        if not found and groups[0][1] >= LEAST_ALIKE:
            example = str(groups[0][0])
    return AuditedColumn(table, name, stored.kind, stored.meaning, n_values, example, found)


def _unknown_objects(catalogue: Catalogue) -> Iterator[str]:
    """Tables, indexes, views and triggers that no format of the catalogue has."""
    indexes = set(re.findall(r"CREATE INDEX (\w+)", SCHEMA))
    for kind, name, table in catalogue.read("SELECT type, name, tbl_name FROM sqlite_master ORDER BY name"):
        is_known = (kind == "table" and name in TABLES) or (kind == "index" and table in TABLES and name in indexes)
        if not is_known and not (kind == "index" and name.startswith(f"sqlite_autoindex_{table}_") and table in TABLES):
            yield f"{kind} {name} in the catalogue"


def _unknown_properties(catalogue: Catalogue) -> Iterator[str]:
    for name, value in catalogue.properties().items():
        if name not in PROPERTIES:
            yield f"property {name}"
        elif not PROPERTIES[name].fullmatch(value):
            yield f"property {name}: its value is not what it should be"


def _files(snapshot: Snapshot) -> tuple[tuple[AuditedFile, ...], list[str], list[str]]:
    files, unknown, remains = [], [], []
    n_codes = {f"segments/{segment.file}": segment.n_codes for segment in snapshot.segments}
    kept = snapshot.kept_index
    indexes = {f"indexes/{kept.folder}/{name}" for name, _ in kept.files} if kept else set()
    for path in _paths(snapshot.path):
        name = path.relative_to(snapshot.path).as_posix()
        try:
            n_bytes = path.lstat().st_size
        except FileNotFoundError:  # a writer at work
            continue
        meaning = next((meaning for pattern, meaning in FILES.items() if re.fullmatch(pattern, name)), None)
        if re.fullmatch(LEFT_OVER, name) and path.is_file():
            remains.append(f"{name}: unfinished work of a writer, {n_bytes:,} bytes")
        elif meaning is None or path.is_symlink() or not path.is_file():
            unknown.append(f"file {name}")
        elif name.startswith(("segments/", "indexes/")) and name not in n_codes and name not in indexes:
            remains.append(f"{name}: not listed (any more), {n_bytes:,} bytes")
        else:
            files.append(AuditedFile(name, meaning, n_bytes))
            extra = n_bytes - n_codes.get(name, 0) * 8 * snapshot.codes[0].n_words
            if name in n_codes and not _HEADER_BYTES[0] <= extra <= _HEADER_BYTES[1]:
                unknown.append(f"file {name}: holds more than its codes")
            if name == "weights.safetensors":
                unknown += _unknown_tensors(path)
            if name == "queries.log":
                unknown += _unknown_log_fields(path)
            if name == "writer.lock" and not re.fullmatch(rb"\d{0,20}\s?", path.read_bytes()[:32]):
                unknown.append(f"file {name}: holds more than a number")
    return tuple(files), unknown, remains


def _unknown_tensors(path: Path) -> Iterator[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            names, metadata = file.keys(), set(file.metadata() or {})
    except SafetensorError as error:
        yield f"file {path.name}: not a weights file ({error})"
        return
    n_others = sum(re.fullmatch(r"network\.[\w.]+|extra\.(?:jpeg\.\d+|logits)", name) is None for name in names)
    if n_others or metadata != {"athsearch"}:
        yield f"file {path.name}: holds {n_others} tensors and metadata that are not a network's"


def _unknown_log_fields(path: Path) -> Iterator[str]:
    """Lines that are broken are for the check of the log to tell."""
    n_others = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                n_others += not set(json.loads(line)) <= LOG_FIELDS
            except (ValueError, TypeError):
                continue
    if n_others:
        yield f"file {path.name}: {n_others:,} lines have fields that are not a query's"


def _paths(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder, sorted, and empty folders that an archive does not have."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        is_known = root == str(folder) or Path(root).parent == folder / "indexes"
        if not folders and not names and not is_known and Path(root).name not in ("segments", "indexes"):
            yield Path(root)
        yield from (Path(root, name) for name in sorted(names))
        yield from (Path(root, name) for name in folders if Path(root, name).is_symlink())


def _remains(catalogue: Catalogue) -> Iterator[str]:
    n_deleted = len(catalogue.deleted_ids())
    if n_deleted:
        yield f"{n_deleted:,} deleted cases, whose codes and records are still in the files until it is compacted"
    n_pages = catalogue.read("PRAGMA freelist_count")[0][0]
    if n_pages:
        yield f"{n_pages:,} free pages in the catalogue, which may hold what was deleted until it is compacted"


def _count(catalogue: Catalogue, what: str) -> int:
    return int(catalogue.read(f"SELECT count(*) FROM {what}")[0][0])
