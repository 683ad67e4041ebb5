"""Precision and recall at every depth of rankings with ties, in the mean over classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .results import Curve
from .ties import Counts

N_DEPTHS = 150


class MeanCurve:
    """Expected hits at each place, summed over rankings: a tie group has hits/size of one at each of its places.

    So what a ranking adds changes only where a group begins or ends, and those changes are what is summed.
    """

    def __init__(self, n_cases: int) -> None:
        self._hits, self._recalled = np.zeros(n_cases + 1), np.zeros(n_cases + 1)

    def add(self, sizes: Counts, hits: Counts, weights: NDArray[np.float64]) -> None:
        """sizes, hits: [n, n_groups], as for `TieGroups`. weights: [n], of each ranking in the mean."""
        rows, columns = np.nonzero(hits)
        if len(rows) == 0:
            return
        starts = (np.cumsum(sizes, axis=1) - sizes)[rows, columns]
        lengths, found = sizes[rows, columns], hits[rows, columns]
        places = np.concatenate([starts, starts + lengths]).astype(np.intp)
        steps = found / lengths * weights[rows]
        for sums, change in ((self._hits, steps), (self._recalled, steps / hits.sum(axis=1)[rows])):
            sums += np.bincount(places, np.concatenate([change, -change]), minlength=len(sums))

    def at(self, depths: NDArray[np.int64]) -> Curve:
        """depths: ascending, from 1 to n_cases."""
        hits, recall = (np.cumsum(np.cumsum(sums))[depths - 1] for sums in (self._hits, self._recalled))
        return Curve(tuple((hits / depths).tolist()), tuple(recall.tolist()))


def depths_for(n_cases: int, k: int) -> NDArray[np.int64]:
    """int64, ascending: about N_DEPTHS depths from 1 to n_cases, and k."""
    spread = np.geomspace(1, n_cases, N_DEPTHS).round().astype(np.int64)
    return np.unique(np.append(spread, min(k, n_cases)))
