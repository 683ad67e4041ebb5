"""What database and queries share and should not: equal images and patients. Near duplicates are in `near`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..archive.archive import Archive
    from ..archive.intake import Queries
    from ..archive.parts import Database

N_PAIRS = 10  # named of any number


@dataclass(frozen=True)
class Pair:
    """A query and a case, by their sources, each relative to the folder it came from."""

    query: str
    case: str


@dataclass(frozen=True)
class SharedImages:
    """Queries whose very bytes are a case's too, and the first of them with such a case.

    n_of_other_patients: those of them that such a case has under another patient: one of the two is wrong, or the image
    shows nothing. n_cases_unknown: cases that are ready-made codes, of whose images nothing can be said.
    """

    n_queries: int
    n_of_other_patients: int
    n_cases_unknown: int
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class SharedPatients:
    """Patients that have queries and cases, the queries they have, and the first of these with a case of the patient.

    n_queries_unknown, n_cases_unknown: those whose patient is not known, of whom nothing can be said.
    """

    n_patients: int
    n_queries: int
    n_queries_unknown: int
    n_cases_unknown: int
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Leaks:
    """What an archive's cases and the queries share. No patient is named, by pseudonym or otherwise."""

    n_queries: int
    n_cases: int
    images: SharedImages
    patients: SharedPatients

    def lines(self) -> list[str]:
        """One line on each."""
        return [self._images_line(), self._patients_line()]

    def _images_line(self) -> str:
        found = self.images
        if self.n_cases == found.n_cases_unknown:
            return "Equal images: not known, for all cases are ready-made codes."
        text = f"Equal images: none of {self.n_queries:,} queries is a case of the archive"
        if found.n_queries:
            first = found.pairs[0]
            text = f"Equal images: {found.n_queries:,} of {self.n_queries:,} queries are cases of the archive too, "
            text += f"such as {first.query} ({first.case})"
        if found.n_of_other_patients:
            text += f"; {found.n_of_other_patients:,} of them of another patient there"
        if found.n_cases_unknown:
            text += f"; not known for {found.n_cases_unknown:,} of {self.n_cases:,} cases, ready-made codes"
        return f"{text}."

    def _patients_line(self) -> str:
        found = self.patients
        if self.n_queries == found.n_queries_unknown or self.n_cases == found.n_cases_unknown:
            side = "query" if self.n_queries == found.n_queries_unknown else "case"
            return f"Shared patients: not known, for no {side} names its patient."
        text = "Shared patients: none found"
        if found.n_patients:
            text = f"Shared patients: {found.n_patients:,}, with {found.n_queries:,} of {self.n_queries:,} queries"
        if found.n_queries_unknown or found.n_cases_unknown:
            text += (
                f"; not known for {found.n_queries_unknown:,} queries and "
                f"{found.n_cases_unknown:,} of {self.n_cases:,} cases"
            )
        return f"{text}."


def find_leaks(archive: Archive, database: Database, queries: Queries) -> Leaks:
    """Equal images and patients of all of an archive's cases and some queries."""
    sources = [item.source for item in queries.items]
    image_rows = _shared(queries.contents, database.contents)
    patient_rows = _shared(queries.patients, database.patients)

    def pairs(rows: Sequence[tuple[int, int]]) -> tuple[Pair, ...]:
        return tuple(Pair(sources[query], _source(archive, int(database.ids[case]))) for query, case in rows[:N_PAIRS])

    return Leaks(
        n_queries=len(sources),
        n_cases=len(database.ids),
        images=SharedImages(
            n_queries=len(image_rows),
            n_of_other_patients=_n_of_other_patients(database, queries),
            n_cases_unknown=database.contents.count(None),
            pairs=pairs(image_rows),
        ),
        patients=SharedPatients(
            n_patients=len({queries.patients[query] for query, _ in patient_rows}),
            n_queries=len(patient_rows),
            n_queries_unknown=queries.patients.count(None),
            n_cases_unknown=database.patients.count(None),
            pairs=pairs(patient_rows),
        ),
    )


def _shared(queries: Sequence[str | None], cases: Sequence[str | None]) -> list[tuple[int, int]]:
    """(query, case) for each query whose value some case has, with the first such case."""
    case_of: dict[str, int] = {}
    for row, value in enumerate(cases):
        if value is not None:
            case_of.setdefault(value, row)
    return [(row, case_of[value]) for row, value in enumerate(queries) if value is not None and value in case_of]


def _n_of_other_patients(database: Database, queries: Queries) -> int:
    """Queries of a known patient that are cases of another known one too, by content."""
    patients_of: dict[str, set[str]] = {}
    for content, patient in zip(database.contents, database.patients, strict=True):
        if content is not None and patient is not None:
            patients_of.setdefault(content, set()).add(patient)
    asked = zip(queries.contents, queries.patients, strict=True)
    return sum(patient is not None and bool(patients_of.get(content, set()) - {patient}) for content, patient in asked)


def _source(archive: Archive, id: int) -> str:
    try:
        return str(archive.case(id).source)
    except KeyError:
        return f"id {id}, deleted meanwhile"
