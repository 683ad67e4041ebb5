"""How well codes rank cases of the query's class: exact expectations over the order of tied cases, macro first.

Hamming distances are small integers, so most rankings have ties, and a score that depends on how they happen to be
broken is not a score. Every figure here is the mean over all orders of tied cases, by the formulas of McSherry and
Najork (Computing information retrieval performance measures efficiently in the presence of tied scores, ECIR 2008).
Write a ranking as tie groups: `size` cases of which `hits` have the query's class, after N cases and S hits of the
groups before. Then, with R hits in all,

    P@k  = 1/k sum over groups of hits * m/size,                                m = min(size, max(k - N, 0))
    AP@k = 1/min(k, R) sum over groups of hits/size * sum_{j=1..m} [S + 1 + (j - 1) (hits - 1)/(size - 1)] / (N + j)
    RR   = E[1 / (N + J)] in the first group with a hit, J the place of its first hit, over the whole ranking
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .codes import Codes, check_same_model
from .errors import ArchiveError, SourceError
from .types import AnyArray, Bools, Words

if TYPE_CHECKING:
    from .archive.archive import Archive
    from .data import Source

_Counts = NDArray[np.float64]  # whole numbers, exact below 2**53
_Rows = NDArray[np.int64]

CELLS = 1 << 20  # histogram cells, or left-out cases, worked on at a time
COLUMNS = 1 << 15  # database codes compared with one query at a time: 256 KiB a word
TERMS = 1 << 16  # terms of a sum held at a time
NEGLIGIBLE = 40.0  # exp(-40) is far below the last bit of a double
NAME_COLUMNS = 48  # of the printed table


@dataclass(frozen=True)
class Scores:
    """Means over queries, each from 0 to 1. `precision` is P@k, which the paper calls mHR."""

    precision: float
    average_precision: float
    reciprocal_rank: float


@dataclass(frozen=True)
class ClassScores(Scores):
    """Scores of the queries of one class, with their number and the number of the class's cases in the database."""

    n_queries: int
    n_cases: int


@dataclass(frozen=True)
class Health:
    """What the codes look like: collapsed codes can have a fine precision and still rank nothing.

    n_distinct_codes: of the database. tied_at_k: share of queries for which a tie group reaches across place k, so that
    which of its cases are shown is a matter of order alone. n_without_relevant: queries whose class has no case.
    """

    n_distinct_codes: int
    tied_at_k: float
    n_without_relevant: int


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    `macro` is the mean over `classes` (those that have queries) of their means, `micro` the mean over queries. `chance`
    is what a random order of the database would score and `majority` what would score an order that puts all cases of
    the database's largest class first; both are macro means, and `chance_micro` and `majority_micro` the micro ones.
    """

    k: int
    n_queries: int
    n_cases: int
    classes: tuple[str, ...]
    macro: Scores
    micro: Scores
    per_class: dict[str, ClassScores]
    chance: Scores
    chance_micro: Scores
    majority: Scores
    majority_micro: Scores
    health: Health

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the form of AP@k named."""
        return {"average_precision_form": "divided by min(k, R)", **asdict(self)}

    def table(self) -> str:
        """A plain-text table of at most 100 columns: macro, micro, chance, majority, then each class."""
        averages = {
            "macro": self.macro,
            "micro": self.micro,
            "chance, macro": self.chance,
            "chance, micro": self.chance_micro,
            "majority, macro": self.majority,
            "majority, micro": self.majority_micro,
        }
        width = min(NAME_COLUMNS, max(map(len, [*averages, *self.per_class])))

        def line(name: str, scores: Scores, n_queries: int, n_cases: int) -> str:
            short = name if len(name) <= width else name[: width - 3] + "..."
            values = scores.precision, scores.average_precision, scores.reciprocal_rank
            return f"{short:{width}}" + "".join(f"{value:>10.3f}" for value in values) + f"{n_queries:>10}{n_cases:>10}"

        titles = f"P@{self.k}", f"AP@{self.k}", "MRR", "queries", "cases"
        head = " " * width + "".join(f"{title:>10}" for title in titles)
        rule = "-" * len(head)
        lines = [
            head,
            rule,
            *(line(name, scores, self.n_queries, self.n_cases) for name, scores in averages.items()),
            rule,
            *(line(name, scores, scores.n_queries, scores.n_cases) for name, scores in self.per_class.items()),
            rule,
            f"Means over every order of tied cases. AP@{self.k} is divided by min({self.k}, cases of the class).",
            f"Distinct codes in the database: {self.health.n_distinct_codes}. "
            f"Queries with a tie across place {self.k}: {self.health.tied_at_k:.0%}.",
            f"Queries without a case of their class: {self.health.n_without_relevant}.",
        ]
        return "\n".join(lines)


def evaluate(
    database_codes: Codes,
    database_labels: Sequence[str],
    query_codes: Codes,
    query_labels: Sequence[str],
    k: int = 10,
    *,
    database_groups: Sequence[Hashable] | None = None,
    query_groups: Sequence[Hashable] | None = None,
) -> Evaluation:
    """Ranks the database by Hamming distance for every query and scores the ranking; a case is a hit if labels agree.

    database_labels [n_codes of the database], query_labels [n_codes of the queries]: class names.
    database_groups, query_groups: cases of the query's own group are left out of its ranking; None belongs to no group.
    Give patients here so that no query finds its own patient, or file names to evaluate an archive with its own images.
    A query whose class has no case (left) scores 0 and is counted in `health.n_without_relevant`. Places from the
    database's end to k count as misses. Takes about 3 ns for a pair of distinct codes up to 64 bits, on one core, and
    some 100 MB beside its input.

    Raises ModelMismatch where the codes have other bits or another known model; ValueError where labels or groups are
    not as many as codes, without queries or cases, or if k < 1; TypeError where a label is not a str.
    """
    check_same_model(database_codes, query_codes)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    for name, codes, labels, groups in (
        ("database", database_codes, database_labels, database_groups),
        ("query", query_codes, query_labels, query_groups),
    ):
        if codes.n_codes == 0:
            raise ValueError(f"expected at least one {name} code, got none")
        if len(labels) != codes.n_codes:
            raise ValueError(f"expected {codes.n_codes} {name} labels, one a code, got {len(labels)}")
        if groups is not None and len(groups) != codes.n_codes:
            raise ValueError(f"expected {codes.n_codes} {name} groups, one a code, got {len(groups)}")
        for label in labels:
            if not isinstance(label, str):
                raise TypeError(f"{name} labels must be str, got {label!r}")
    if (database_groups is None) != (query_groups is None):
        raise ValueError("expected both database_groups and query_groups, or neither; got one of them")

    names = sorted(set(database_labels) | set(query_labels))
    class_of = {name: number for number, name in enumerate(names)}
    database = _Database(database_codes, _numbers(database_labels, class_of), len(names), database_groups)
    query_classes = _numbers(query_labels, class_of)
    group_numbers = database.group_numbers(query_groups)

    shape = query_codes.n_codes, 3
    scores, chance, majority = np.empty(shape), np.empty(shape), np.empty(shape)
    n_tied = n_without_relevant = 0
    by_code = np.lexsort((*query_codes.words.T, query_classes))  # equal codes side by side are compared once
    present, starts = np.unique(query_classes[by_code], return_index=True)
    members = np.split(by_code, starts[1:])
    step = max(1, CELLS // (query_codes.bits + 1))
    for number, member in zip(present, members, strict=True):
        for rows in np.split(member, range(step, len(member), step)):
            left_out = None if group_numbers is None else group_numbers[rows]
            sizes, hits, n_largest, place = database.rank(query_codes.words[rows], int(number), left_out)
            before = np.cumsum(sizes, axis=1) - sizes
            is_tied: Bools = np.any((before < k) & (before + sizes > k), axis=1)
            n_tied += int(np.count_nonzero(is_tied[place]))
            scores[rows] = expected_scores(sizes, hits, k)[place]
            all_sizes, all_hits = sizes.sum(axis=1, keepdims=True), hits.sum(axis=1, keepdims=True)
            n_without_relevant += int(np.count_nonzero(all_hits[place] == 0))
            chance[rows] = expected_scores(all_sizes, all_hits, k)[place]
            first_hits = all_hits if number == database.largest else np.zeros_like(all_hits)
            majority[rows] = expected_scores(
                np.hstack([n_largest, all_sizes - n_largest]), np.hstack([first_hits, all_hits - first_hits]), k
            )[place]

    per_class = {
        names[number]: ClassScores(*_mean(scores[member]), len(member), int(database.class_sizes[number]))
        for number, member in zip(present, members, strict=True)
    }

    def macro(values: NDArray[np.float64]) -> Scores:
        return Scores(*_mean(np.array([_mean(values[member]) for member in members])))

    return Evaluation(
        k=k,
        n_queries=query_codes.n_codes,
        n_cases=database_codes.n_codes,
        classes=tuple(per_class),
        macro=macro(scores),
        micro=Scores(*_mean(scores)),
        per_class=per_class,
        chance=macro(chance),
        chance_micro=Scores(*_mean(chance)),
        majority=macro(majority),
        majority_micro=Scores(*_mean(majority)),
        health=Health(database.n_distinct_codes, n_tied / query_codes.n_codes, n_without_relevant),
    )


@dataclass(frozen=True)
class ArchiveEvaluation:
    """What `evaluate_archive` found. n_left_out: queries from whose ranking something was left out, see there.

    failed: (source, reason) of images that could not be used as queries.
    """

    scores: Evaluation
    n_left_out: int
    failed: tuple[tuple[str, str], ...]


def evaluate_archive(
    archive: Archive, source: Source, k: int = 10, progress: Callable[[int, int], None] | None = None
) -> ArchiveEvaluation:
    """Scores an archive's answers to the labelled images of a source, see `evaluate`.

    A query does not find itself (an equal image in the archive) nor its patient's cases, as far as patients are known
    on either side. progress: called with (done, all) while the queries are encoded.
    Raises SourceError for an image without label or a source none of whose images can be used, ArchiveError for an
    archive without cases or with cases that have no label.
    """
    for item in source.items:
        if item.label is None:
            raise SourceError(f"{source.root}: {item.source} has no label to score answers by")
    counts = archive.counts()  # asked first: an archive of ready-made codes may be too big to be read for nothing
    if None in counts or not counts:
        raise ArchiveError(f"{archive.path}: scoring needs cases, all of them with labels")
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
    )
    in_archive = set(database_groups)
    return ArchiveEvaluation(scores, sum(group in in_archive for group in query_groups), queries.failed)


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


def expected_scores(sizes: _Counts, hits: _Counts, k: int) -> NDArray[np.float64]:
    """Expected P@k, AP@k and RR of rankings given as tie groups.

    sizes, hits: float64 [n, n_groups], whole numbers: cases of each group in order, and how many are hits. Groups may
    be empty. Returns float64 [n, 3]; a ranking without hits scores 0. The inner sum of AP@k is taken in closed form
    with harmonic numbers H: slope m + (S + 1 - slope (N + 1)) (H[N + m] - H[N]), slope = (hits - 1)/(size - 1).
    """
    before = np.cumsum(sizes, axis=1) - sizes  # [n, n_groups], N
    hits_before = np.cumsum(hits, axis=1) - hits  # S
    n_hits = hits.sum(axis=1)  # [n], R
    places = np.minimum(sizes, np.maximum(k - before, 0.0))  # m, the places above k that the group takes
    share = hits / np.maximum(sizes, 1.0)
    precision = (share * places).sum(axis=1) / k

    reach = int((before + places).max(initial=0.0, where=places > 0))
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, reach + 1))])
    start = np.where(places > 0, before, 0.0).astype(np.intp)
    slope = np.where(sizes > 1, (hits - 1.0) / np.maximum(sizes - 1.0, 1.0), 0.0)
    inner = slope * places + (hits_before + 1.0 - slope * (before + 1.0)) * (
        harmonic[start + places.astype(np.intp)] - harmonic[start]
    )
    average_precision = (share * inner).sum(axis=1) / np.maximum(np.minimum(k, n_hits), 1.0)

    first = (hits > 0).argmax(axis=1)[:, None]
    groups = np.hstack([np.take_along_axis(part, first, axis=1) for part in (before, sizes, hits)])  # [n, 3]
    order = np.lexsort(groups.T)
    firsts, place = _runs(groups[order])
    distinct = groups[order[firsts]]
    values = np.array([expected_reciprocal_rank(int(n), int(size), int(hit)) for n, size, hit in distinct])
    reciprocal_rank = np.empty(len(groups))
    reciprocal_rank[order] = values[place]
    return np.stack([precision, average_precision, reciprocal_rank], axis=1)


def expected_reciprocal_rank(before: int, size: int, hits: int) -> float:
    """E[1 / (before + J)], J the place of the first hit in a random order of `size` cases with `hits` hits; 0 without.

    P(J = 1) = hits/size and P(J = j + 1)/P(J = j) = 1 - (hits - 1)/(size - j): products of factors of at most one, so
    nothing overflows and errors do not grow. As P(J = j) <= hits/size exp(-(hits - 1)(j - 1)/(size - 1)), the sum ends
    after 40 (size - 1)/(hits - 1) terms at most: a million cases take 10 ms with one hit and 50 us with a tenth.
    """
    if hits == 0:
        return 0.0
    last = size - hits + 1
    if hits > 1:
        last = min(last, 2 + math.ceil(NEGLIGIBLE * (size - 1) / (hits - 1)))
    total, chance = 0.0, hits / size  # of the first hit at place j = start
    for start in range(1, last + 1, TERMS):
        j = np.arange(start, min(start + TERMS, last + 1), dtype=np.float64)
        chances = chance * np.cumprod(np.concatenate([[1.0], 1.0 - (hits - 1) / (size - j[:-1])]))
        total += float((chances / (before + j)).sum())
        chance = float(chances[-1]) * (1.0 - (hits - 1) / (size - j[-1])) if j[-1] < last else 0.0
    return total


class _Database:
    """The searched codes, counted: distinct (class, code) pairs sorted by class, and which row is in which group."""

    def __init__(self, codes: Codes, classes: _Rows, n_classes: int, groups: Sequence[Hashable] | None) -> None:
        self.words, self.bits, self.classes = codes.words, codes.bits, classes
        self.class_sizes = np.bincount(classes, minlength=n_classes)
        self.largest = int(self.class_sizes.argmax())  # the first by name of equally large ones
        order = np.lexsort((*codes.words.T, classes))
        firsts, _ = _runs(np.column_stack([classes[order].astype(np.uint64), codes.words[order]]))
        words = codes.words[order[firsts]]
        self._pair_words = np.ascontiguousarray(words.T)  # [n_words, n_pairs]
        self._pair_counts = np.diff(firsts, append=len(order)).astype(np.float64)
        self._pair_starts = np.searchsorted(classes[order[firsts]], np.arange(n_classes + 1))
        self.n_distinct_codes = len(_runs(words[np.lexsort(words.T)])[0])
        self._group_of: dict[Hashable, int] = {}
        if groups is not None:
            numbers = np.fromiter((self._group_number(group) for group in groups), np.int64, len(groups))
            self._group_rows = np.argsort(numbers, kind="stable")
            self._group_starts = np.searchsorted(numbers[self._group_rows], np.arange(len(self._group_of) + 2))

    def _group_number(self, group: Hashable) -> int:
        return -1 if group is None else self._group_of.setdefault(group, len(self._group_of))

    def group_numbers(self, groups: Sequence[Hashable] | None) -> _Rows | None:
        """int64 [n]: the number of each group, -1 for None and for groups the database does not know."""
        if groups is None:
            return None
        return np.fromiter((self._group_of.get(group, -1) for group in groups), np.int64, len(groups))

    def rank(self, queries: Words, number: int, left_out: _Rows | None) -> tuple[_Counts, _Counts, _Counts, _Rows]:
        """Cases at each distance, those of class `number` among them, and how many cases the largest class has.

        queries: uint64 [n, n_words], equal ones side by side; left_out: int64 [n], the group each leaves out, or -1.
        Returns float64 [m, bits + 1], [m, bits + 1] and [m, 1] for m distinct rankings, and each query's row in them.
        """
        firsts, place = _runs(queries)
        distinct = queries[firsts]
        start, stop = self._pair_starts[number], self._pair_starts[number + 1]
        hits = self._histograms(distinct, start, stop)
        sizes = hits + self._histograms(distinct, 0, start)
        sizes += self._histograms(distinct, stop, len(self._pair_counts))
        n_largest = np.full((len(distinct), 1), float(self.class_sizes[self.largest]))
        if left_out is not None:  # [m, bits + 1] -> [n, bits + 1]: equal codes of different groups rank differently
            sizes, hits, n_largest, place = sizes[place], hits[place], n_largest[place], np.arange(len(queries))
            for positions, rows in self._pairs_left_out(left_out):
                distances = np.bitwise_count(queries[positions] ^ self.words[rows]).sum(axis=1, dtype=np.int64)
                cells = positions * (self.bits + 1) + distances
                sizes -= np.bincount(cells, minlength=sizes.size).reshape(sizes.shape)
                hits -= np.bincount(cells[self.classes[rows] == number], minlength=hits.size).reshape(hits.shape)
                of_largest = positions[self.classes[rows] == self.largest]
                n_largest -= np.bincount(of_largest, minlength=len(queries))[:, None]
        return sizes, hits, n_largest, place

    def _histograms(self, queries: Words, start: int, stop: int) -> _Counts:
        """float64 [n, bits + 1]: how many cases of the pairs from start to stop lie at each distance."""
        out = np.zeros((len(queries), self.bits + 1))
        for first in range(start, stop, COLUMNS):
            columns = slice(first, min(first + COLUMNS, stop))
            words, counts = self._pair_words[:, columns], self._pair_counts[columns]
            for query, histogram in zip(queries, out, strict=True):
                distances: NDArray[Any] = np.bitwise_count(words[0] ^ query[0])
                if len(query) > 1:
                    distances = np.bitwise_count(words ^ query[:, None]).sum(axis=0, dtype=np.intp)
                histogram += np.bincount(distances, counts, minlength=self.bits + 1)
        return out

    def _pairs_left_out(self, groups: _Rows) -> Iterator[tuple[_Rows, _Rows]]:
        """Position in `groups` and database row of every case to leave out, CELLS at a time."""
        known = np.maximum(groups, 0)
        n_rows = np.where(groups >= 0, self._group_starts[known + 1] - self._group_starts[known], 0)
        ends = np.cumsum(n_rows)
        for start in range(0, int(ends[-1]), CELLS):
            pairs = np.arange(start, min(start + CELLS, int(ends[-1])))
            positions = np.searchsorted(ends, pairs, side="right")
            within = pairs - (ends - n_rows)[positions]
            yield positions, self._group_rows[self._group_starts[known[positions]] + within]


def _runs(rows: AnyArray) -> tuple[_Rows, _Rows]:
    """rows [n, m], equal ones side by side: where each run of equal rows begins, and the run each row is in."""
    is_new = np.ones(len(rows), np.bool_)
    is_new[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    return np.flatnonzero(is_new), np.cumsum(is_new) - 1


def _numbers(labels: Sequence[str], class_of: dict[str, int]) -> _Rows:
    return np.fromiter((class_of[label] for label in labels), np.int64, len(labels))


def _mean(values: NDArray[np.float64]) -> tuple[float, float, float]:
    precision, average_precision, reciprocal_rank = values.mean(axis=0)
    return float(precision), float(average_precision), float(reciprocal_rank)
