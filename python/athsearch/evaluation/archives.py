"""Scoring an archive's answers to the images of a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ArchiveError, SourceError
from .leaks import Leaks, find_leaks
from .results import Evaluation
from .scoring import evaluate

if TYPE_CHECKING:
    from ..archive.archive import Archive
    from ..data import Source


@dataclass(frozen=True)
class ArchiveEvaluation:
    """What `evaluate_archive` found. n_left_out: queries from whose ranking something was left out, see there;
    n_cases_left_out: how many cases, over all queries.

    failed: (source, reason) of images that could not be used as queries.
    """

    scores: Evaluation
    n_left_out: int
    n_cases_left_out: int
    leaks: Leaks
    failed: tuple[tuple[str, str], ...]


def evaluate_archive(
    archive: Archive,
    source: Source,
    k: int = 10,
    progress: Callable[[int, int], None] | None = None,
    *,
    n_resamples: int = 1000,
) -> ArchiveEvaluation:
    """Scores an archive's answers to the labelled images of a source, see `evaluate`.

    A query does not find itself (an equal image in the archive) nor its patient's cases, as far as patients are known
    on either side; and the intervals' resamples draw all queries of a patient together. progress: called with
    (done, all) while the queries are encoded.
    Raises SourceError for an image without label or a source none of whose images can be used, ArchiveError for an
    archive without cases or with cases that have no label.
    """
    for item in source.items:
        if item.label is None:
            raise SourceError(f"{source.root}: {item.source} has no label to score answers by")
    counts = archive.counts()  # asked first: an archive of ready-made codes may be too big to be read for nothing
    if None in counts or not counts:
        n_unlabelled = f"{counts.get(None, 0):,} of {archive.n_cases:,} have none"
        raise ArchiveError(f"{archive.path}: scoring needs cases, all of them with labels; {n_unlabelled}")
    database = archive.database()
    queries = archive.encode_queries(source, progress)
    if not queries.items:
        raise SourceError(f"{source.root}: none of its {len(source):,} images can be used")
    contents = [*map(str, database.contents), *queries.contents]
    groups = _linked(zip([*database.patients, *queries.patients], contents, strict=True))
    database_groups, query_groups = groups[: len(database.ids)], groups[len(database.ids) :]
    scores = evaluate(
        database.codes,
        [str(label) for label in database.labels],
        queries.codes,
        [str(item.label) for item in queries.items],
        k,
        database_groups=database_groups,
        query_groups=query_groups,
        n_resamples=n_resamples,
    )
    sizes = Counter(database_groups)
    left_out = [sizes[group] for group in query_groups if group in sizes]
    leaks = find_leaks(archive, database, queries)
    return ArchiveEvaluation(scores, len(left_out), sum(left_out), leaks, queries.failed)


def _linked(images: Iterable[tuple[str | None, str]]) -> list[str]:
    """For images given as (patient, content): equal for images that share either, over any number of steps."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = parent[above]  # halves the path for those who come later
            name = above
        return name

    contents = []
    for patient, content in images:
        contents.append(f"content {content}")
        if patient is not None:
            parent[root(contents[-1])] = root(f"patient {patient}")
    return [root(content) for content in contents]
