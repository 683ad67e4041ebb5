"""Scores of rankings with ties: exact expectations over the orders of tied cases, and the worst and the best order.

Write a ranking as tie groups: `size` cases of which `hits` have the query's class, after N cases and S hits of the
groups before; m = min(size, max(k - N, 0)) of its cases come to stand among the first k. Then, with R hits in all,
H[n] = 1 + 1/2 + ... + 1/n and D[n] = 1/log2(2) + ... + 1/log2(n + 1),

    P@k, recall@k  = 1/k, 1/R times the sum over groups of hits * m/size
    AP@k * divisor = sum over groups of hits/size * sum_{j=1..m} [S + 1 + (j - 1) (hits - 1)/(size - 1)] / (N + j)
    RR             = E[1 / (N + J)] in the first group with a hit, J the place of its first hit, over the whole ranking
    DCG@k          = sum over groups of hits/size * (D[N + m] - D[N]);  NDCG@k = DCG@k / D[min(k, R)]

(McSherry and Najork, Computing information retrieval performance measures efficiently in the presence of tied scores,
ECIR 2008). At most one group is cut by place k, and only its order decides how many hits are among the first k: S + X,
X of the hypergeometric distribution of the hits among m of its cases. Given X = x, these are x hits among m places in
random order, to which the formulas above apply with (m, x) instead of (size, hits). So, summing over x,

    hit rate@k     = P(S + X > 0)
    AP@k by hits   = E[(sum of the whole groups + that of x hits among m places) / (S + x)], 0 for S + x = 0

Any score but AP@k by hits is greatest where the hits of each group come first and least where they come last. AP@k by
hits may fall with a further hit, so there the extremes are sought over x: given x, hits first is best, last is worst.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..types import Bools
from .results import METRICS

Counts = NDArray[np.float64]  # whole numbers, exact below 2**53
Rows = NDArray[np.int64]

CELLS = 1 << 20  # of what is summed over the hits of cut groups, at a time
TERMS = 1 << 16  # terms of a sum held at a time
NEGLIGIBLE = 40.0  # exp(-40) is far below the last bit of a double


class TieGroups:
    """Rankings as tie groups, and the first k places of them.

    sizes, hits: float64 [n, n_groups], whole numbers: cases of each group in order, and how many are hits. Groups may
    be empty. Scores come as float64 [n, len(METRICS)], columns in the order of METRICS; without hits they are 0.
    """

    def __init__(self, sizes: Counts, hits: Counts, k: int) -> None:
        before = np.cumsum(sizes, axis=1) - sizes
        first = (hits > 0).argmax(axis=1)[:, None]
        self._first = np.hstack([np.take_along_axis(part, first, axis=1) for part in (before, sizes, hits)])  # [n, 3]
        self._n_hits = hits.sum(axis=1)  # [n], R
        self._k = float(k)
        places = np.minimum(sizes, np.maximum(k - before, 0.0))
        reached = np.flatnonzero((places > 0).any(axis=0))
        n_groups = int(reached.max(initial=0)) + 1  # those behind place k are in no sum
        self._sizes, self._hits, self._before, self._places = (
            np.ascontiguousarray(part[:, :n_groups]) for part in (sizes, hits, before, places)
        )
        self._hits_before = np.cumsum(self._hits, axis=1) - self._hits
        # The first k places hold from _least to _most hits of a group; the two differ where the group is cut.
        self._most = np.minimum(self._places, self._hits)
        self._least = np.maximum(0.0, self._places - (self._sizes - self._hits))
        is_cut = (self._places > 0) & (self._places < self._sizes)
        self.is_cut: Bools = np.asarray(is_cut.any(axis=1))
        """bool [n]: whether a tie reaches across place k, so that the first k cases are a matter of order."""
        self._cut = np.flatnonzero(self.is_cut), is_cut[self.is_cut].argmax(axis=1)
        reach = np.arange(1, int((self._before + self._places)[self._places > 0].max(initial=0.0)) + 1)
        self._harmonic = np.concatenate([[0.0], np.cumsum(1.0 / reach)])
        self._discounts = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(reach + 1.0))])

    def expected(self) -> NDArray[np.float64]:
        """Means over all orders of tied cases."""
        share = self._hits / np.maximum(self._sizes, 1.0)
        found = (share * self._places).sum(axis=1)
        ends = self._before + self._places
        terms = share * self._sum_of(self._sizes, self._hits, self._hits_before, self._before, self._places)
        total = terms.sum(axis=1)
        gain = (share * self._between(self._discounts, self._before, ends)).sum(axis=1)
        hit_rate = (found > 0).astype(np.float64)
        by_hits = total / np.maximum(found, 1.0)  # where no group is cut, `found` is a whole number
        for cell, x, is_possible in self._cut_groups():
            rows = cell[0]
            places, before, hits_before = self._at(cell, self._places, self._before, self._hits_before)
            chance = self._chances(cell, x, is_possible)
            hit_rate[rows] = 1.0 - (chance * (hits_before + x == 0)).sum(axis=1)
            whole = (total[rows] - terms[cell])[:, None]
            sums = whole + x / places * self._sum_of(places, x, hits_before, before, places)
            by_hits[rows] = (chance * np.where(hits_before + x > 0, sums / np.maximum(hits_before + x, 1.0), 0.0)).sum(
                1
            )
        return self._scores(found, total, _expected_reciprocal_ranks(self._first), hit_rate, gain, by_hits)

    def extremes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(least, greatest) value of each score over all orders of tied cases, each score by itself."""
        before, size, hits = self._first.T
        rank_best, rank_worst = before + 1.0, before + size - hits + 1.0
        return (
            self._extreme(self._least, self._before + self._places - self._least, rank_worst, np.fmin),
            self._extreme(self._most, self._before, rank_best, np.fmax),
        )

    def _extreme(self, hits: Counts, start: Counts, rank: Counts, better: np.ufunc) -> NDArray[np.float64]:
        """Scores where each group's places after `start` hold its `hits` hits, side by side."""
        terms = self._sum_of_run(hits, self._hits_before, start)
        total, found = terms.sum(axis=1), hits.sum(axis=1)
        gain = self._between(self._discounts, start, start + hits).sum(axis=1)
        by_hits = total / np.maximum(found, 1.0)
        for cell, x, is_possible in self._cut_groups():
            places, before, hits_before = self._at(cell, self._places, self._before, self._hits_before)
            first = before if better is np.fmax else before + places - np.minimum(x, places)
            whole = (total[cell[0]] - terms[cell])[:, None]
            values = (whole + self._sum_of_run(x, hits_before, first)) / np.maximum(hits_before + x, 1.0)
            by_hits[cell[0]] = better.reduce(np.where(is_possible, values, np.nan), axis=1)
        return self._scores(found, total, (self._n_hits > 0) / rank, (found > 0).astype(np.float64), gain, by_hits)

    def _scores(
        self, found: Counts, total: Counts, reciprocal_rank: Counts, hit_rate: Counts, gain: Counts, by_hits: Counts
    ) -> NDArray[np.float64]:
        relevant = np.maximum(self._n_hits, 1.0)
        in_reach = np.minimum(relevant, self._k)
        ideal = self._discounts[np.minimum(in_reach, len(self._discounts) - 1).astype(np.intp)]
        columns = {
            "precision": found / self._k,
            "average_precision": total / in_reach,
            "reciprocal_rank": reciprocal_rank,
            "recall": found / relevant,
            "hit_rate": hit_rate,
            "ndcg": gain / np.maximum(ideal, 1.0),  # D[1] = 1; 0 only where there are no places, nor gain
            "average_precision_by_relevant": total / relevant,
            "average_precision_by_hits": by_hits,
            "average_precision_by_k": total / self._k,
        }
        return np.stack([columns[name] for name in METRICS], axis=1)

    def _sum_of(self, size: Counts, hits: Counts, hits_before: Counts, before: Counts, places: Counts) -> Counts:
        """sum_{j=1..places} [S + 1 + (j - 1) slope] / (N + j), slope = (hits - 1)/(size - 1), in closed form:
        slope m + (S + 1 - slope (N + 1)) (H[N + m] - H[N])."""
        slope = np.where(size > 1, (hits - 1.0) / np.maximum(size - 1.0, 1.0), 0.0)
        fractions = self._between(self._harmonic, before, before + places)
        out: Counts = slope * places + (hits_before + 1.0 - slope * (before + 1.0)) * fractions
        return out

    def _sum_of_run(self, hits: Counts, hits_before: Counts, start: Counts) -> Counts:
        """sum_{j=1..hits} (S + j) / (start + j): what hits side by side add to AP@k."""
        out: Counts = hits + (hits_before - start) * self._between(self._harmonic, start, start + hits)
        return out

    def _between(self, sums: Counts, start: Counts, stop: Counts) -> Counts:
        """sums[stop] - sums[start]; 0 for what is not among the first k."""
        last = len(sums) - 1
        return sums[np.minimum(stop, last).astype(np.intp)] - sums[np.minimum(start, last).astype(np.intp)]

    def _cut_groups(self) -> Iterator[tuple[tuple[Rows, Rows], Counts, Bools]]:
        """Of the cut groups, some at a time: where they are, x [1, w], and whether they may have x hits [n_cut, w]."""
        rows, columns = self._cut
        n_values = int(self._most[self._cut].max(initial=0.0)) + 1
        x = np.arange(n_values, dtype=np.float64)[None]
        step = max(1, CELLS // n_values)
        for start in range(0, len(rows), step):
            cell = rows[start : start + step], columns[start : start + step]
            least, most = self._at(cell, self._least, self._most)
            yield cell, x, (x >= least) & (x <= most)

    def _chances(self, cell: tuple[Rows, Rows], x: Counts, is_possible: Bools) -> NDArray[np.float64]:
        """P(X = x) [n_cut, w]: so many of a cut group's hits are among the first k.

        By the quotients P(x)/P(x - 1) = (hits - x + 1)(m - x + 1) / (x (size - hits - m + x)), as logarithms, for
        products of many overflow.
        """
        size, hits, places = self._at(cell, self._sizes, self._hits, self._places)
        is_step = is_possible & np.roll(is_possible, 1, axis=1) & (x > 0)
        upper = np.where(is_step, (hits - x + 1.0) * (places - x + 1.0), 1.0)
        lower = np.where(is_step, x * (size - hits - places + x), 1.0)
        logarithms = np.where(is_possible, np.cumsum(np.log(upper / lower), axis=1), -np.inf)
        chances = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
        normal: NDArray[np.float64] = chances / chances.sum(axis=1, keepdims=True)
        return normal

    @staticmethod
    def _at(cell: tuple[Rows, Rows], *parts: Counts) -> list[Counts]:
        """The values there, each [n_cut, 1]."""
        return [part[cell][:, None] for part in parts]


def _expected_reciprocal_ranks(groups: Counts) -> NDArray[np.float64]:
    """groups: float64 [n, 3], before, size and hits of each ranking's first group with a hit. Returns [n]."""
    order = np.lexsort(groups.T)
    firsts, place = runs(groups[order])
    distinct = groups[order[firsts]]
    values = np.array([expected_reciprocal_rank(int(n), int(size), int(hit)) for n, size, hit in distinct])
    reciprocal_rank = np.empty(len(groups))
    reciprocal_rank[order] = values[place]
    return reciprocal_rank


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


def runs(rows: NDArray[np.float64] | NDArray[np.uint64]) -> tuple[Rows, Rows]:
    """rows [n, m], equal ones side by side: where each run of equal rows begins, and the run each row is in."""
    is_new = np.ones(len(rows), np.bool_)
    is_new[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    return np.flatnonzero(is_new), np.cumsum(is_new) - 1
