"""Scoring: every query's ranking of a database, by Hamming distance, in the mean over classes and over queries."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..codes import Codes, check_same_model
from .bootstrap import LEAST_RESAMPLES, bootstrap
from .curves import MeanCurve, depths_for
from .ranking import CELLS, CountedDatabase, Grouping
from .results import METRICS, ClassScores, Curves, Evaluation, Range, Scores
from .ties import Rows, TieGroups


def evaluate(
    database_codes: Codes,
    database_labels: Sequence[str],
    query_codes: Codes,
    query_labels: Sequence[str],
    k: int = 10,
    *,
    database_groups: Sequence[Hashable] | None = None,
    query_groups: Sequence[Hashable] | None = None,
    n_resamples: int = 1000,
) -> Evaluation:
    """Ranks the database by Hamming distance for every query and scores the ranking; a case is a hit if labels agree.

    database_labels [n_codes of the database], query_labels [n_codes of the queries]: class names.
    database_groups, query_groups: cases of the query's own group are left out of its ranking; None belongs to no group.
    Give patients here so that no query finds its own patient, or file names to evaluate an archive with its own images.
    A query whose class has no case (left) scores 0 and is counted in `health.n_without_relevant`. Places from the
    database's end to k count as misses.
    n_resamples: of the bootstrap that gives 95 % intervals, in which queries of one group are drawn together; 0 for no
    intervals.
    Takes about 3 ns for a pair of distinct codes up to 64 bits, on one core, where classes are few; beside its input
    some 100 MB, 50 bytes a case, 400 a query and, for intervals, some 230 a class and resample.

    Raises ModelMismatch where the codes have other bits or another known model; ValueError where labels or groups are
    not as many as codes, without queries or cases, if k < 1 or n_resamples is neither 0 nor at least 100; TypeError
    where a label is not a str.
    """
    check_same_model(database_codes, query_codes)
    _check("database", database_codes, database_labels, database_groups)
    _check("query", query_codes, query_labels, query_groups)
    if (database_groups is None) != (query_groups is None):
        raise ValueError("expected both database_groups and query_groups, or neither; got one of them")
    units: Sequence[Hashable] = [None] * query_codes.n_codes
    groupings = []
    if database_groups is not None and query_groups is not None:
        groupings, units = [(database_groups, query_groups)], query_groups
    labels = database_labels, query_labels
    found, _ = score(database_codes, labels[0], query_codes, labels[1], k, groupings, units, n_resamples=n_resamples)
    return found


def score(
    database_codes: Codes,
    database_labels: Sequence[str],
    query_codes: Codes,
    query_labels: Sequence[str],
    k: int,
    groupings: Sequence[tuple[Sequence[Hashable], Sequence[Hashable]]],
    units: Sequence[Hashable],
    *,
    n_resamples: int,
) -> tuple[Evaluation, Rows]:
    """What `evaluate` finds, with its arguments checked, and int64 [n_queries]: how many cases each query leaves out.

    groupings: groups of database and queries, of any number of kinds; a query leaves out cases that share its group of
    any kind. units [n_queries]: queries that are drawn together by the bootstrap, None for those drawn alone.
    Raises ValueError if k < 1 or n_resamples is neither 0 nor at least 100, TypeError where they are no whole numbers.
    """
    k, n_resamples = operator.index(k), operator.index(n_resamples)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if n_resamples != 0 and n_resamples < LEAST_RESAMPLES:
        raise ValueError(f"n_resamples must be 0 or at least {LEAST_RESAMPLES}, got {n_resamples}")
    names = sorted(set(database_labels) | set(query_labels))
    class_of = {name: number for number, name in enumerate(names)}
    of_database = [Grouping(groups) for groups, _ in groupings]
    database = CountedDatabase(database_codes, _numbers(database_labels, class_of), len(names), of_database)
    query_classes = _numbers(query_labels, class_of)
    of_queries = [group.numbers_of(groups) for group, (_, groups) in zip(of_database, groupings, strict=True)]

    n_queries, n_cases = query_codes.n_codes, database_codes.n_codes
    shape = n_queries, len(METRICS)
    scores, low, high, chance, majority = (np.empty(shape) for _ in range(5))
    curves = {name: MeanCurve(n_cases) for name in ("scores", "chance", "majority")}
    n_tied = n_without_relevant = 0
    n_left_out = np.zeros(n_queries, np.int64)
    by_code = np.lexsort((*query_codes.words.T, query_classes))  # equal codes side by side are compared once
    present, starts = np.unique(query_classes[by_code], return_index=True)
    members = np.split(by_code, starts[1:])
    step = max(1, CELLS // (query_codes.bits + 1))
    for number, member in zip(present, members, strict=True):
        for rows in np.split(member, range(step, len(member), step)):
            left_out = [numbers[rows] for numbers in of_queries]
            sizes, hits, n_largest, place = database.rank(query_codes.words[rows], int(number), left_out)
            weights = np.bincount(place, minlength=len(sizes)) / (len(member) * len(present))
            all_sizes, all_hits = sizes.sum(axis=1, keepdims=True), hits.sum(axis=1, keepdims=True)
            first_hits = all_hits if number == database.largest else np.zeros_like(all_hits)
            two_sizes = np.hstack([n_largest, all_sizes - n_largest])
            two_hits = np.hstack([first_hits, all_hits - first_hits])
            groups = TieGroups(sizes, hits, k)
            scores[rows] = groups.expected()[place]
            low[rows], high[rows] = (values[place] for values in groups.extremes())
            chance[rows] = TieGroups(all_sizes, all_hits, k).expected()[place]
            majority[rows] = TieGroups(two_sizes, two_hits, k).expected()[place]
            curves["scores"].add(sizes, hits, weights)
            curves["chance"].add(all_sizes, all_hits, weights)
            curves["majority"].add(two_sizes, two_hits, weights)
            n_left_out[rows] = n_cases - all_sizes[place, 0]
            n_tied += int(np.count_nonzero(groups.is_cut[place]))
            n_without_relevant += int(np.count_nonzero(all_hits[place] == 0))

    def macro(values: NDArray[np.float64]) -> Scores:
        return _mean(np.array([values[member].mean(axis=0) for member in members]))

    classes = tuple(names[number] for number in present)
    intervals = None
    drawn = _unit_numbers(units)
    if n_resamples and drawn.any():
        intervals = bootstrap(scores, np.searchsorted(present, query_classes), classes, drawn, n_resamples)
    depths = depths_for(n_cases, k)
    found = Evaluation(
        k=k,
        n_queries=n_queries,
        n_cases=n_cases,
        bits=query_codes.bits,
        classes=classes,
        macro=macro(scores),
        micro=_mean(scores),
        per_class={
            names[number]: ClassScores(
                **vars(_mean(scores[member])), n_queries=len(member), n_cases=int(database.class_sizes[number])
            )
            for number, member in zip(present, members, strict=True)
        },
        chance=macro(chance),
        chance_micro=_mean(chance),
        majority=macro(majority),
        majority_micro=_mean(majority),
        macro_ties=Range(macro(low), macro(high)),
        micro_ties=Range(_mean(low), _mean(high)),
        intervals=intervals,
        curves=Curves(tuple(depths.tolist()), **{name: curve.at(depths) for name, curve in curves.items()}),
        health=database.health(n_tied / n_queries, n_without_relevant),
    )
    return found, n_left_out


def _check(name: str, codes: Codes, labels: Sequence[str], groups: Sequence[Hashable] | None) -> None:
    if codes.n_codes == 0:
        raise ValueError(f"expected at least one {name} code, got none")
    if len(labels) != codes.n_codes:
        raise ValueError(f"expected {codes.n_codes} {name} labels, one a code, got {len(labels)}")
    if groups is not None and len(groups) != codes.n_codes:
        raise ValueError(f"expected {codes.n_codes} {name} groups, one a code, got {len(groups)}")
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(f"{name} labels must be str, got {label!r}")


def _unit_numbers(units: Sequence[Hashable]) -> Rows:
    """int64 [n_queries]: equal numbers, from 0, for queries of one unit."""
    number_of: dict[Hashable, int] = {}
    keys = ((row,) if unit is None else (unit, None) for row, unit in enumerate(units))
    return np.fromiter((number_of.setdefault(key, len(number_of)) for key in keys), np.int64, len(units))


def _numbers(labels: Sequence[str], class_of: dict[str, int]) -> Rows:
    return np.fromiter((class_of[label] for label in labels), np.int64, len(labels))


def _mean(values: NDArray[np.float64]) -> Scores:
    return Scores(*values.mean(axis=0).tolist())
