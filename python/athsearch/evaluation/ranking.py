"""The searched codes, counted: how many cases, and how many of a class, lie at each distance from a query."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codes import Codes
from ..types import Words
from .results import Health
from .ties import Counts, Rows, runs

CELLS = 1 << 20  # histogram cells, or left-out cases, worked on at a time
COLUMNS = 1 << 15  # database codes compared with one query at a time: 256 KiB a word
NO_GROUP, UNKNOWN = -1, -2  # of a case, of a query: never equal


class Grouping:
    """Which row of the database is in which group, by numbers from 0; NO_GROUP for None."""

    def __init__(self, groups: Sequence[Hashable]) -> None:
        self._number_of: dict[Hashable, int] = {}
        number_of = self._number_of
        numbered = (NO_GROUP if group is None else number_of.setdefault(group, len(number_of)) for group in groups)
        self.numbers = np.fromiter(numbered, np.int64, len(groups))
        self._rows = np.argsort(self.numbers, kind="stable")
        self._starts = np.searchsorted(self.numbers[self._rows], np.arange(len(number_of) + 2))

    def numbers_of(self, groups: Sequence[Hashable]) -> Rows:
        """int64 [n]: the number of each group; UNKNOWN for None and for groups the database does not know."""
        numbered = (UNKNOWN if group is None else self._number_of.get(group, UNKNOWN) for group in groups)
        return np.fromiter(numbered, np.int64, len(groups))

    def pairs(self, groups: Rows) -> Iterator[tuple[Rows, Rows]]:
        """Position in `groups` and database row of every case of those groups, CELLS at a time."""
        known = np.maximum(groups, 0)
        n_rows = np.where(groups >= 0, self._starts[known + 1] - self._starts[known], 0)
        ends = np.cumsum(n_rows)
        for start in range(0, int(ends[-1]), CELLS):
            pairs = np.arange(start, min(start + CELLS, int(ends[-1])))
            positions = np.searchsorted(ends, pairs, side="right")
            within = pairs - (ends - n_rows)[positions]
            yield positions, self._rows[self._starts[known[positions]] + within]


class CountedDatabase:
    """The searched codes, counted: distinct (class, code) pairs sorted by class, and which row is in which group."""

    def __init__(self, codes: Codes, classes: Rows, n_classes: int, groupings: Sequence[Grouping]) -> None:
        self.words, self.bits, self.classes = codes.words, codes.bits, classes
        self.class_sizes = np.bincount(classes, minlength=n_classes)
        self.largest = int(self.class_sizes.argmax())  # the first by name of equally large ones
        order = np.lexsort((*codes.words.T, classes))
        firsts, _ = runs(np.column_stack([classes[order].astype(np.uint64), codes.words[order]]))
        self._pair_words = np.ascontiguousarray(codes.words[order[firsts]].T)  # [n_words, n_pairs]
        self._pair_counts = np.diff(firsts, append=len(order)).astype(np.float64)
        self._pair_starts = np.searchsorted(classes[order[firsts]], np.arange(n_classes + 1))
        self.groupings = groupings

    def health(self, tied_at_k: float, n_without_relevant: int) -> Health:
        """What the codes look like, beside what only the queries tell."""
        n_cases = len(self.classes)
        order = np.lexsort(self._pair_words)
        firsts, _ = runs(self._pair_words.T[order])
        buckets = np.add.reduceat(self._pair_counts[order], firsts)
        is_shared = np.diff(firsts, append=len(order)) > 1  # pairs of one code are of different classes
        is_set = self._shares_of_bits(n_cases)
        return Health(
            n_distinct_codes=len(buckets),
            tied_at_k=tied_at_k,
            n_without_relevant=n_without_relevant,
            n_colliding_cases=int(buckets[is_shared].sum()),
            mean_bucket=n_cases / len(buckets),
            largest_bucket=int(buckets.max()),
            n_constant_bits=int(np.count_nonzero((is_set == 0) | (is_set == 1))),
            bit_imbalance=float(np.abs(2 * is_set - 1).mean()),
            bit_entropy=float((_surprise(is_set) + _surprise(1 - is_set)).mean()),
            code_entropy=float(_surprise(buckets / n_cases).sum()),
        )

    def _shares_of_bits(self, n_cases: int) -> NDArray[np.float64]:
        """float64 [bits]: in what share of the cases each bit is set."""
        n_set = np.zeros(self.bits)
        step = max(1, CELLS // self.bits)
        for first in range(0, len(self._pair_counts), step):
            columns = slice(first, first + step)
            words = np.ascontiguousarray(self._pair_words[:, columns].T)
            n_set += self._pair_counts[columns] @ Codes.trusted(words, self.bits).to_bits()
        return n_set / n_cases

    def rank(self, queries: Words, number: int, left_out: Sequence[Rows]) -> tuple[Counts, Counts, Counts, Rows]:
        """Cases at each distance, those of class `number` among them, and how many cases the largest class has.

        queries: uint64 [n, n_words], equal ones side by side; left_out: for each grouping int64 [n], the group that
        each query leaves out, or UNKNOWN. Returns float64 [m, bits + 1], [m, bits + 1] and [m, 1] for m distinct
        rankings, and each query's row in them.
        """
        firsts, place = runs(queries)
        distinct = queries[firsts]
        start, stop = self._pair_starts[number], self._pair_starts[number + 1]
        hits = self._histograms(distinct, start, stop)
        sizes = hits + self._histograms(distinct, 0, start)
        sizes += self._histograms(distinct, stop, len(self._pair_counts))
        n_largest = np.full((len(distinct), 1), float(self.class_sizes[self.largest]))
        if left_out:  # [m, bits + 1] -> [n, bits + 1]: equal codes of different groups rank differently
            sizes, hits, n_largest, place = sizes[place], hits[place], n_largest[place], np.arange(len(queries))
            for positions, rows in self._pairs_left_out(left_out):
                distances = np.bitwise_count(queries[positions] ^ self.words[rows]).sum(axis=1, dtype=np.int64)
                cells = positions * (self.bits + 1) + distances
                sizes -= np.bincount(cells, minlength=sizes.size).reshape(sizes.shape)
                hits -= np.bincount(cells[self.classes[rows] == number], minlength=hits.size).reshape(hits.shape)
                of_largest = positions[self.classes[rows] == self.largest]
                n_largest -= np.bincount(of_largest, minlength=len(queries))[:, None]
        return sizes, hits, n_largest, place

    def _histograms(self, queries: Words, start: int, stop: int) -> Counts:
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

    def _pairs_left_out(self, left_out: Sequence[Rows]) -> Iterator[tuple[Rows, Rows]]:
        """Position of the query and database row of every case to leave out, each once however many groups say so."""
        for place, (grouping, groups) in enumerate(zip(self.groupings, left_out, strict=True)):
            for positions, rows in grouping.pairs(groups):
                is_new = np.ones(len(rows), np.bool_)
                for earlier, of_queries in islice(zip(self.groupings, left_out, strict=True), place):
                    is_new &= earlier.numbers[rows] != of_queries[positions]
                yield positions[is_new], rows[is_new]


def _surprise(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """-p log2(p), and 0 for p = 0."""
    return shares * np.log2(1 / np.where(shares > 0, shares, 1.0))
