"""Scoring an archive's answers to the images of a source."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import ArchiveError, SourceError
from .leaks import Leaks, find_leaks
from .results import Evaluation
from .scoring import score

if TYPE_CHECKING:
    from ..archive.archive import Archive
    from ..archive.intake import Queries
    from ..archive.parts import Database
    from ..data import Source

Names = Sequence[str | None]


@dataclass(frozen=True)
class ArchiveEvaluation:
    """What `evaluate_archive` found. n_left_out: queries from whose ranking something was left out, see there;
    n_cases_left_out: how many cases, over all queries. database: what was searched.

    failed: (source, reason) of images that could not be used as queries.
    """

    scores: Evaluation
    n_left_out: int
    n_cases_left_out: int
    leaks: Leaks
    failed: tuple[tuple[str, str], ...]
    database: Database = field(repr=False, compare=False)


def evaluate_archive(
    archive: Archive,
    source: Source,
    k: int = 10,
    progress: Callable[[int, int], None] | None = None,
    *,
    n_resamples: int = 1000,
) -> ArchiveEvaluation:
    """Scores an archive's answers to the labelled images of a source, see `evaluate`.

    A query does not find itself (an equal image in the archive) nor cases of its patient, its study, or its file where
    that holds many frames, as far as these are known; an image without patient has the patient that equal images have,
    if that is one. The intervals' resamples draw all queries of a patient (or else of a study or file, or of equal
    images) together. progress: called with (done, all) while the queries are encoded.
    Raises SourceError for an image without label or a source none of whose images can be used, ArchiveError for an
    archive without cases or with cases that have no label.
    """
    for item in source.items:
        if item.label is None:
            raise SourceError(f"{source.root}: {item.source} has no label to score answers by")
    # Asked first: an archive of ready-made codes may be too big to be read for nothing.
    _check_labelled(archive, archive.counts())
    database = archive.database()
    _check_labelled(archive, Counter(database.labels))
    queries = archive.encode_queries(source, progress)
    if not queries.items:
        raise SourceError(f"{source.root}: none of its {len(source):,} images can be used")
    groupings, units = _groups(database, queries)
    scores, n_left_out = score(
        database.codes,
        [str(label) for label in database.labels],
        queries.codes,
        [str(item.label) for item in queries.items],
        k,
        groupings,
        units,
        n_resamples=n_resamples,
    )
    leaks = find_leaks(archive, database, queries)
    n_queries_affected = int((n_left_out > 0).sum())
    return ArchiveEvaluation(scores, n_queries_affected, int(n_left_out.sum()), leaks, queries.failed, database)


def _check_labelled(archive: Archive, counts: Mapping[str | None, int]) -> None:
    if None in counts or not counts:
        n_unlabelled = f"{counts.get(None, 0):,} of {sum(counts.values()):,} have none"
        raise ArchiveError(f"{archive.path}: scoring needs cases, all of them with labels; {n_unlabelled}")


def _groups(database: Database, queries: Queries) -> tuple[list[tuple[Names, Names]], list[str]]:
    """By patients, studies, files and contents: the groups of the database's cases and of the queries. Then the
    bootstrap's unit of each query.
    """
    n_cases = len(database.ids)
    contents = [*database.contents, *queries.contents]
    groups = [
        _known_patients([*database.patients, *queries.patients], contents),
        [*database.studies, *queries.studies],
        _known_files([*database.files, *queries.files], contents),
        contents,
    ]
    units = _linked(
        [
            f"{kind} {name}"
            for kind, name in zip(("patient", "study", "file"), subjects, strict=True)
            if name is not None
        ]
        or [f"content {content}"]
        for *subjects, content in zip(*(names[n_cases:] for names in groups), strict=True)
    )
    return [(names[:n_cases], names[n_cases:]) for names in groups], units


def _known_patients(patients: Names, contents: Names) -> list[str | None]:
    """The patients; where one is not known, the one patient of equal images. One picture of several patients, such as
    a black one, says nothing.
    """
    of_content: dict[str, set[str]] = defaultdict(set)
    for patient, content in zip(patients, contents, strict=True):
        if patient is not None and content is not None:
            of_content[content].add(patient)
    known = {content: next(iter(found)) for content, found in of_content.items() if len(found) == 1}
    return [
        known.get(content) if patient is None and content is not None else patient
        for patient, content in zip(patients, contents, strict=True)
    ]


def _known_files(files: Names, contents: Names) -> list[str | None]:
    """One name for each file of frames, wherever copies of it lie: equal frames are of equal files."""
    frames = (
        (file, content or f"of {file}") for file, content in zip(files, contents, strict=True) if file is not None
    )
    name = iter(_linked(frames))
    return [None if file is None else next(name) for file in files]


def _linked(images: Iterable[Sequence[str]]) -> list[str]:
    """For images given by their names, at least one: equal for those that share a name, over any number of steps."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = parent[above]  # halves the path for those who come later
            name = above
        return name

    firsts = []
    for names in images:
        firsts.append(names[0])
        for name in names:
            parent[root(name)] = root(names[0])
    return [root(name) for name in firsts]
