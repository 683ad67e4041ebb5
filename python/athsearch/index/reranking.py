"""Re-ranking: the nearest codes in a finer order, that of the queries' logits against the stored bits."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import _scan
from ..codes import Codes
from ..types import Floats, Neighbors, Words

Weights = NDArray[np.int16]  # [q, bits]
Nearest = Callable[[Codes, int], tuple[Neighbors, Words]]  # (queries, k) -> neighbours by (distance, id), their codes

RERANKINGS = ("asymmetric",)
DEFAULT_DEPTH = 200
MAX_CANDIDATES = 1 << 20  # re-ranked at once, so that their memory does not grow with the queries


@dataclass(frozen=True)
class Reranking:
    """What is asked of one. weights: see `quantised`. depth: how many of the nearest are ordered anew, k if more."""

    weights: Weights
    depth: int

    @classmethod
    def checked(
        cls, name: str | None, logits: Floats | None, depth: int, queries: Codes, count_ties: bool
    ) -> Reranking | None:
        """From the arguments of a search; None where it is not to be re-ranked. Raises TypeError or ValueError."""
        if name is None:
            if logits is not None:
                raise ValueError('logits are for re-ranking only: ask with rerank="asymmetric", or without logits')
            return None
        if name not in RERANKINGS:
            raise ValueError(f"unknown re-ranking {name!r}; known: {', '.join(RERANKINGS)}")
        if count_ties:
            raise ValueError("a re-ranked answer has no last distance to count ties at: count them without rerank")
        if logits is None:
            raise ValueError(f"{name} re-ranking needs the queries' logits, float32 [{len(queries)}, {queries.bits}]")
        depth = operator.index(depth)
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        if not isinstance(logits, np.ndarray) or logits.dtype != np.float32:
            raise TypeError(f"logits must be a float32 array, got {getattr(logits, 'dtype', type(logits).__name__)}")
        if logits.shape != (len(queries), queries.bits):
            raise ValueError(f"logits must be [{len(queries)}, {queries.bits}], got {list(logits.shape)}")
        return cls(quantised(logits), depth)

    def search(self, nearest: Nearest, queries: Codes, k: int, n_codes: int, threads: int) -> Neighbors:
        """The first k of the nearest max(k, depth) of each query, by (score descending, distance, id)."""
        k = min(k, max(n_codes, 1))
        n_candidates = min(max(k, self.depth), max(n_codes, 1))
        n_queries = max(1, MAX_CANDIDATES // n_candidates)

        def reranked(queries: Codes, weights: Weights) -> Neighbors:
            found, codes = nearest(queries, n_candidates)
            offsets, places, scores = _scan.rerank(codes, found.offsets, weights, k, threads)
            return Neighbors(offsets, found.ids[places], found.distances[places], scores=scores)

        if len(queries) <= n_queries:
            return reranked(queries, self.weights)
        parts = [slice(begin, begin + n_queries) for begin in range(0, len(queries), n_queries)]
        return _joined([reranked(queries[part], self.weights[part]) for part in parts])


def quantised(logits: Floats) -> Weights:
    """int16 [q, bits] of float32 [q, bits]: a query's logits u as round(u * (32767 / max |u|)); all zeros stay zeros.

    Computed in double precision, halves rounded to even, so that it is the same on every machine. Raises ValueError
    where a logit is not finite.
    """
    return _scan.quantised(np.ascontiguousarray(logits))


def _joined(parts: list[Neighbors]) -> Neighbors:
    """Re-ranked answers to some queries and to those after them, as one."""
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    ids, distances, scores = (
        np.concatenate([getattr(part, field) for part in parts]) for field in ("ids", "distances", "scores")
    )
    return Neighbors(np.concatenate([[0], np.cumsum(counts)]), ids, distances, scores=scores)
