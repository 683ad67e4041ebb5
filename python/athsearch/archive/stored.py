"""What an archive may store: every table, column, property and file there is, and what each can tell of a patient.

The audit knows nothing else: who adds a column or a file says here what it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from .pseudonym import HIDDEN

CLEAR, PSEUDONYM, KEYED, DIGEST, TECHNICAL = "clear text", "pseudonym", "keyed digest", "digest", "technical"

# What a value of these kinds looks like: an SQL condition on @, the value.
_NUMBER = "typeof(@) = 'integer'"
_BLOB = "typeof(@) = 'blob'"
_HEX_32 = "typeof(@) = 'text' AND length(@) = 32 AND @ NOT GLOB '*[^0-9a-f]*'"
_HEX_64 = _HEX_32.replace("32", "64")
_BYTES_32 = "typeof(@) = 'blob' AND length(@) = 32"
_ANY = "1"
_HIDDEN_LENGTH = len(HIDDEN) + 32
_DIGITS = f"substr(@, {len(HIDDEN) + 1}, 32)"


class Stored(NamedTuple):
    """A column of the catalogue: its kind, what it is, and the SQL condition that each of its values meets."""

    kind: str
    meaning: str
    condition: str


def _number(meaning: str) -> Stored:
    return Stored(TECHNICAL, meaning, _NUMBER)


_SOURCE = Stored(CLEAR, "path of the image below its root", "typeof(@) = 'text'")
HIDDEN_SOURCE = Stored(
    PSEUDONYM,
    "path of a DICOM file, under the key; of a frame with its number",
    f"(substr(@, 1, {len(HIDDEN)}) = '{HIDDEN}' AND {_HEX_32.replace('@', _DIGITS)} AND (length(@) = {_HIDDEN_LENGTH} "
    f"OR (substr(@, {_HIDDEN_LENGTH + 1}, 7) = '#frame=' AND substr(@, {_HIDDEN_LENGTH + 8}) NOT GLOB '*[^0-9]*')))",
)
_CHECK = _number("check of the row")

TABLES: Mapping[str, Mapping[str, Stored]] = {
    "property": {
        "name": Stored(TECHNICAL, "facts of the whole archive", _ANY),  # name and value: see PROPERTIES
        "value": Stored(TECHNICAL, "what they are", _ANY),
        "check_sum": _CHECK,
    },
    "segment": {
        "first_id": _number("its first id"),
        "n_codes": _number("how many codes"),
        "file": Stored(TECHNICAL, "name of the file", "@ GLOB '[0-9]*.npy' AND @ NOT GLOB '*[^0-9a-f.npy-]*'"),
        "sha256": Stored(DIGEST, "SHA-256 of the file", _HEX_64),
        "has_cases": Stored(TECHNICAL, "whether they have cases", "@ IN (0, 1)"),
        "runs": Stored(TECHNICAL, "which ids its rows are", _BLOB),
        "check_sum": _CHECK,
    },
    "deleted_code": {"id": _number("a deleted code without a case"), "check_sum": _CHECK},
    "kept_index": {
        "kind": Stored(TECHNICAL, "kind of index", "@ IN ('distinct', 'mih')"),
        "folder": Stored(TECHNICAL, "its folder", "@ GLOB '[dm]*-*' AND @ NOT GLOB '*[^0-9a-z-]*'"),
        "n_rows": _number("how many rows it covers"),
        "reason": Stored(TECHNICAL, "why this kind", "length(@) < 500"),
        "files": Stored(
            DIGEST, "names and SHA-256 of its files", "json_valid(@) AND @ NOT GLOB '*[^0-9a-z_., :\"}{]*'"
        ),
        "check_sum": _CHECK,
    },
    "root": {
        "number": _number("of a folder"),
        "path": Stored(CLEAR, "a folder that images came from", "typeof(@) = 'text'"),
        "check_sum": _CHECK,
    },
    "record_column": {
        "name": Stored(CLEAR, "the names of further columns", "typeof(@) = 'text'"),
        "check_sum": _CHECK,
    },
    "cases": {
        "id": _number("the case's number"),
        "root": _number("the folder's number"),
        "source": _SOURCE,
        "content": Stored(
            DIGEST, "SHA-256 of the image's bytes: who has the image recognises it", f"({_BYTES_32} OR @ = x'')"
        ),
        "label": Stored(CLEAR, "the image's class", "typeof(@) = 'text'"),
        "patient": Stored(PSEUDONYM, "the patient, under the key", _HEX_32),
        "study": Stored(PSEUDONYM, "the examination, under the key", _HEX_32),
        "split": Stored(TECHNICAL, "train, val or test", "@ IN ('train', 'val', 'test')"),
        "record": Stored(CLEAR, "further columns, see below", "json_valid(@)"),
        "is_deleted": Stored(TECHNICAL, "whether it was deleted", "@ IN (0, 1)"),
        "retired_by": _number("the newer case of a changed file"),
        "stamp": Stored(TECHNICAL, "size and times of the file", "@ NOT GLOB '*[^0-9a-z:., -]*'"),
        "check_sum": _CHECK,
    },
    "unreadable": {
        "root": _number("the folder's number"),
        "source": _SOURCE,
        "reason": Stored(CLEAR, "why it could not be used", "typeof(@) = 'text'"),
        "check_sum": _CHECK,
    },
    "forgotten": {
        "digest": Stored(KEYED, "a deleted image, recognised when it comes again", _BYTES_32),
        "check_sum": _CHECK,
    },
    "table_total": {
        "name": Stored(TECHNICAL, "a table", "@ NOT GLOB '*[^a-z_]*'"),
        "total": _number("the sum of its checks"),
    },
}

PROPERTIES: Mapping[str, re.Pattern[str]] = {
    "bits": re.compile(r"\d{1,4}"),
    "model_id": re.compile(r"(?:[0-9a-f]{16})?"),
    "weights_sha256": re.compile(r"[0-9a-f]{64}"),
    "key_fingerprint": re.compile(r"[0-9a-f]{16}"),
    "dicom_names": re.compile(r"hidden|clear"),
    "query_log": re.compile(r"on|off"),
    "next_id": re.compile(r"\d{1,19}"),
}

# Path below the archive -> what it is. The first that fits the whole path counts.
FILES: Mapping[str, str] = {
    r"catalogue\.sqlite": "the catalogue",
    r"segments/[0-9a-f-]+\.npy": "codes",
    r"indexes/(?:distinct|mih)-[0-9a-f]{8}/[a-z0-9_]+\.npy": "an index: the codes once more",
    r"weights\.safetensors": "the network, its classes, settings and training figures, drawn probe images",
    r"writer\.lock": "the number of the last writing process",
    r"queries\.log": "the query log: times, users as given, ids in clear; queries and filters as keyed digests",
    r"queries\.head": "the end of the query log, under a keyed digest",
}
LOG_FIELDS = {"n", "time", "user", "event", "query", "model", "archive", "k", "where", "ids", "mac"}
LEFT_OVER = r"(?:.*/)?\.[^/]+\.tmp(?:/.*)?|catalogue\.sqlite-(?:journal|wal|shm)"
