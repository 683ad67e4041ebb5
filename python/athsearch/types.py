"""What more than one room speaks of: array types, masks, and the one ragged result of every search."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]  # [n_codes, n_words], bit i of a code is bit i % 64 of word i // 64
Ids: TypeAlias = NDArray[np.int64]
Distances: TypeAlias = NDArray[np.int32]
Scores: TypeAlias = NDArray[np.int32]
Bools: TypeAlias = NDArray[np.bool_]
Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]  # [H, W, 1 or 3]
Square: TypeAlias = NDArray[np.uint8]  # [size, size, 3] or [B, size, size, 3]
Floats: TypeAlias = NDArray[np.float32]
AnyArray: TypeAlias = NDArray[Any]


class Neighbour(NamedTuple):
    """One case near a query."""

    id: int
    distance: int


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Answers to q queries, each as long as it is: query i has ids[offsets[i] : offsets[i + 1]].

    offsets: int64 [q + 1]; ids: int64 [n]; distances: int32 [n], bits that differ. Each answer is ordered by
    (distance, id). ties: int64 [q] when they were counted: how many searchable cases lie at exactly the distance of the
    answer's last neighbour, that one included; 0 for an empty answer. scores: int32 [n] of a re-ranked search, whose
    answers are ordered by (score descending, distance, id); they compare neighbours of one query, not of several.
    """

    offsets: Ids
    ids: Ids
    distances: Distances
    ties: Ids | None = None
    scores: Scores | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, query: int) -> list[Neighbour]:
        """The neighbours of one query."""
        if not -len(self) <= query < len(self):
            raise IndexError(f"query {query} of {len(self)}")
        query %= len(self)
        rows = slice(self.offsets[query], self.offsets[query + 1])
        return [Neighbour(*pair) for pair in zip(self.ids[rows].tolist(), self.distances[rows].tolist(), strict=True)]

    def dense(self, k: int) -> tuple[Ids, Distances, Ids]:
        """(ids int64 [q, k], distances int32 [q, k], counts int64 [q]): the first k of each answer.

        Only the first counts[i] places of row i hold an answer; the rest are zero and mean nothing.
        """
        if k < 0:
            raise ValueError(f"k must not be negative, got {k}")
        counts = np.minimum(np.diff(self.offsets), k)
        filled = np.arange(k) < counts[:, None]  # [q, k]
        source = (self.offsets[:-1, None] + np.arange(k))[filled]
        ids, distances = np.zeros(filled.shape, np.int64), np.zeros(filled.shape, np.int32)
        ids[filled], distances[filled] = self.ids[source], self.distances[source]
        return ids, distances, counts


class Mask:
    """Which rows may be returned: one bit a row.

    words: uint64 [ceil(n_rows / 64)], row r at bit r % 64 of word r // 64. Raises ValueError for another type or shape,
    or where bits past the last row are set.
    """

    __slots__ = ("n_rows", "words")

    def __init__(self, words: NDArray[np.uint64], n_rows: int) -> None:
        n_rows = operator.index(n_rows)
        if n_rows < 0:
            raise ValueError(f"n_rows must not be negative, got {n_rows}")
        expected = f"words must be uint64 [{(n_rows + 63) // 64}] for {n_rows} rows"
        if not isinstance(words, np.ndarray):
            raise ValueError(f"{expected}, got {type(words).__name__}")
        if words.dtype != np.uint64 or words.shape != ((n_rows + 63) // 64,):
            raise ValueError(f"{expected}, got {words.dtype} {list(words.shape)}")
        if n_rows % 64 and int(words[-1]) >> n_rows % 64:
            raise ValueError(f"words allow rows past the {n_rows} there are")
        self.words = np.require(words, requirements=["C", "A"])
        self.n_rows = n_rows

    @classmethod
    def from_bools(cls, allowed: Bools) -> Mask:
        """allowed: bool [n_rows], True = may be returned."""
        if allowed.dtype != np.bool_ or allowed.ndim != 1:
            raise TypeError(f"allowed must be bool [n_rows], got {allowed.dtype} {list(allowed.shape)}")
        packed = np.zeros((len(allowed) + 63) // 64 * 8, np.uint8)
        packed[: (len(allowed) + 7) // 8] = np.packbits(allowed, bitorder="little")
        return cls(packed.view("<u8").astype(np.uint64, copy=False), len(allowed))

    @classmethod
    def from_rows(cls, rows: Ids, n_rows: int) -> Mask:
        """rows: int64, from 0 to n_rows - 1: those that may be returned. Takes no more than one bit a row.

        Raises TypeError for other types, IndexError for a row that is not there.
        """
        rows = np.asarray(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise TypeError(f"rows must be int64, got {rows.dtype}; Mask.from_bools takes bools")
        if rows.size and not 0 <= rows.min() <= rows.max() < n_rows:
            raise IndexError(f"rows must be from 0 to {n_rows - 1}, got {rows.min()} to {rows.max()}")
        rows = rows.astype(np.int64, copy=False)
        words = np.zeros((n_rows + 63) // 64, np.uint64)
        np.bitwise_or.at(words, rows // 64, np.uint64(1) << (rows % 64).astype(np.uint64))
        return cls(words, n_rows)

    def __and__(self, other: Mask) -> Mask:
        """Rows that both allow."""
        if self.n_rows != other.n_rows:
            raise ValueError(f"masks for {self.n_rows} and {other.n_rows} rows")
        return Mask(self.words & other.words, self.n_rows)

    def __invert__(self) -> Mask:
        """Rows that this one does not allow."""
        words = ~self.words
        if self.n_rows % 64:
            words[-1] &= np.uint64((1 << self.n_rows % 64) - 1)
        return Mask(words, self.n_rows)

    def to_bools(self) -> Bools:
        """bool [n_rows]."""
        packed = self.words.astype("<u8", copy=False).view(np.uint8)
        return np.unpackbits(packed, count=self.n_rows, bitorder="little").astype(np.bool_)
