"""Cases: one image each, or one code, with what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

Value: TypeAlias = str | int | float

COLUMNS = ("id", "source", "label", "patient", "study", "split")  # what `where` sees, beside the record's columns


@lru_cache(maxsize=1024)
def record_name(column: str) -> str:
    """What a record's column is called in the catalogue: "record_id" for "id", so as not to hide the case's own.

    SQL does not tell capitals apart, so neither does this.
    """
    taken = (*COLUMNS, "root", "content", "record", "is_deleted", "retired_by", "stamp")
    return f"record_{column}" if column.casefold() in taken else column


class NewCase(NamedTuple):
    """A case to be added. content: SHA-256 of the image's bytes. patient, study: pseudonyms. stamp: of its file, see
    `Source.stamp`.
    """

    source: str
    content: bytes
    label: str | None = None
    patient: str | None = None
    split: str | None = None
    record: Mapping[str, Value] = MappingProxyType({})
    study: str | None = None
    stamp: str | None = None


@dataclass(frozen=True)
class Case:
    """One case of an archive. root: the folder its source is relative to. patient, study: pseudonyms. content: SHA-256
    of the image's bytes, hexadecimal, None where the archive never saw them.

    A case that came as a ready-made code has nothing but its id; `source` tells.
    """

    id: int
    root: str | None = None
    source: str | None = None
    label: str | None = None
    patient: str | None = None
    split: str | None = None
    record: Mapping[str, Value] = field(default_factory=dict)
    study: str | None = None
    content: str | None = None

    def value(self, column: str) -> Value | None:
        """What `where` sees under that name; None when the case has no such value."""
        own: Value | None = getattr(self, column) if column in COLUMNS else self.record.get(column)
        return own


class KnownCase(NamedTuple):
    """What the catalogue has for a source and content. patient, study: pseudonyms.

    is_own: of the root that was asked about. Of a deleted case that was compacted away nothing else is known.
    """

    is_deleted: bool
    label: str | None = None
    patient: str | None = None
    split: str | None = None
    record: Mapping[str, Value] = MappingProxyType({})
    study: str | None = None
    stamp: str | None = None
    id: int = 0
    is_own: bool = False
