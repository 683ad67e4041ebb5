"""CSV manifests: a row an image, with its path, label, patient, study, split and any further columns."""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import SourceError
from .source import SPLIT_OF_NAME, SPLITS, Item, Source, Value

USUAL_ROLES = ("path", "label", "patient", "study", "split")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]").search
_PLAIN_INTEGER = re.compile("0|-?[1-9][0-9]{0,18}").fullmatch
_PLAIN_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?").fullmatch


def read(
    path: Path, path_column: str, label_column: str | None, patient_column: str | None, split_column: str | None
) -> Source:
    """All images that a manifest names, in its order. See `open_source`."""
    (_, header), *rows = _rows(path)
    columns = [name.strip() for name in header]
    known = [name.casefold() for name in columns]  # "Patient" is "patient"
    if repeated := [name for name, count in Counter(known).items() if name and count > 1]:
        raise SourceError(f"{path}: column {repeated[0]!r} stands twice in the header (capitals make no difference)")
    for name in columns:
        if '"' in name or "\\" in name or not name.isprintable():
            raise SourceError(f"{path}: column {name!r}: its name holds a quote, backslash or control character")
    needed = {"path_column": path_column, "label_column": label_column}
    needed |= {} if patient_column == "patient" else {"patient_column": patient_column}
    needed |= {} if split_column == "split" else {"split_column": split_column}
    for option, column in needed.items():
        if (column or "").casefold() not in known and (column or option == "path_column"):
            cure = " (empty if there are no labels)" if option == "label_column" else ""
            raise SourceError(
                f"{path}: no column {column!r} (found: {', '.join(columns)}); give its name as {option}{cure}"
            )
    if not rows:
        raise SourceError(f"{path}: no rows below the header")
    for number, row in rows:
        if len(row) != len(columns):
            raise SourceError(f"{path}: row {number} has {len(row)} fields, the header has {len(columns)}")

    cells = {name: [row[place].strip() for _, row in rows] for place, name in enumerate(known) if name}
    roles = [(role or "").casefold() for role in (path_column, label_column, patient_column, split_column)]
    unknown = [""] * len(rows)
    paths, labels, patients, splits = (cells.get(role, unknown) for role in roles)
    studies = cells.get("study", unknown) if "study" not in roles else unknown
    for name in (*roles, "study"):
        for (number, _), text in zip(rows, cells.get(name, unknown), strict=True):
            if _CONTROL(text):
                raise SourceError(f"{path}: row {number}: column {name!r} holds a line break or control character")
    # A column named "patient" is a patient even where another one was chosen, or none: it must not become a record.
    taken = {*roles, *USUAL_ROLES}
    further = {name: _typed(cells[name.casefold()]) for name in columns if name and name.casefold() not in taken}
    root = os.path.join(path.parent, "")
    items: list[Item] = []
    row_of: dict[str, int] = {}
    for place, (number, _) in enumerate(rows):
        source = _inside(root, paths[place])
        if not paths[place]:
            raise SourceError(f"{path}: row {number} names no image")
        if source is None:
            raise SourceError(
                f"{path}: row {number}: {paths[place]!r} is not below {root}; put the manifest above its images"
            )
        if row_of.setdefault(source, number) != number:
            raise SourceError(f"{path}: rows {row_of[source]} and {number} name the same image, {source}")
        split = SPLIT_OF_NAME.get(splits[place].lower())
        if splits[place] and not split:
            raise SourceError(
                f"{path}: row {number}: split {splits[place]!r} is none of {', '.join(SPLITS)}"
                " (an empty split_column ignores the column)"
            )
        record = {name: value for name, values in further.items() if (value := values[place]) is not None}
        items.append(
            Item(source, labels[place] or None, patients[place] or None, split, record, studies[place] or None)
        )
    return Source(path.parent, tuple(items))


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows that are not blank, at least one, each with its number as a spreadsheet counts: the first is 1."""
    line = 0
    rows = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            # Strict, because a quote left open would silently take all the rows after it into one field.
            reader = csv.reader(
                file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", skipinitialspace=True, strict=True
            )
            for number, row in enumerate(reader, 1):
                line = reader.line_num
                if row:
                    rows.append((number, row))
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8 text, somewhere after line {line}") from error
    except csv.Error as error:
        raise SourceError(f"{path}: not a table after line {line}: {error}") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if not rows:
        raise SourceError(f"{path}: the file is empty")
    return rows


def _inside(root: str, text: str) -> str | None:
    """A path relative to root (which ends with a separator), "/" between folders. None if it does not lie below."""
    full = os.path.normpath(os.path.join(root, text))
    return full[len(root) :].replace(os.sep, "/") if full.startswith(root) else None


def _typed(texts: list[str]) -> Sequence[Value | None]:
    """A column's values, None where empty: all int, or all float, or all text."""
    for number in (_integer, _real):
        values: list[int | float | None] = []
        for text in texts:
            value = number(text) if text else None
            if text and value is None:
                break
            values.append(value)
        else:
            return values
    return [text or None for text in texts]


def _integer(text: str) -> int | None:
    """The number if it is written plainly and fits 64 bits, as databases want it."""
    if not _PLAIN_INTEGER(text):
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


def _real(text: str) -> float | None:
    """The number if it is a plain decimal of the 15 digits that a double always keeps, or written as Python does."""
    try:
        number = float(text)
    except ValueError:
        return None
    plain = _PLAIN_DECIMAL(text) and sum(map(str.isdigit, text)) <= 15
    return number if plain or (math.isfinite(number) and repr(number) == text) else None
