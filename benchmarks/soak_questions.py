"""Questions to indexes, and their right answers as NumPy alone finds them; soak.py asks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from athsearch.codes import Codes
from athsearch.index import DistinctIndex, FlatIndex
from athsearch.types import AnyArray, Bools, Ids, Mask, Neighbors

N_SEGMENTS, SEGMENT_ROWS = 4, 100_003
N_QUERIES = 20
MANY_ROWS = 2**31 + 2**20


class Question(NamedTuple):
    """What is asked, and the right answer."""

    method: str
    queries: Codes
    options: dict[str, Any]
    truth: Neighbors

    def __str__(self) -> str:
        options = (f"{name}={value}" for name, value in self.options.items() if name != "mask")
        mask = "no mask" if self.options["mask"] is None else "mask"
        return f"{self.method}, queries={len(self.queries)}, {', '.join(options)}, {mask}"

    def is_answered_by(self, index: FlatIndex | DistinctIndex, threads: int | None) -> bool:
        """Asks the index."""
        found = getattr(index, self.method)(self.queries, threads=threads, **self.options)
        pairs = [(getattr(found, name), getattr(self.truth, name)) for name in ("offsets", "ids", "distances", "ties")]
        return all(a is b or (np.array_equal(a, b) and a.dtype == b.dtype) for a, b in pairs)


class Stage(NamedTuple):
    """Indexes of the same codes, and questions to them."""

    indexes: tuple[FlatIndex | DistinctIndex, ...]
    questions: list[Question]


class Width:
    """Codes of one length in files, clustered as a network's are, and the questions to the first 1, 2, ... files."""

    def __init__(self, folder: Path, bits: int) -> None:
        rng = np.random.default_rng(bits)

        def near(codes: Bools, n_codes: int) -> Bools:  # a sixteenth of the bits flipped
            return codes[rng.integers(0, len(codes), n_codes)] ^ (rng.random((n_codes, bits)) < 1 / 16)

        n_codes = N_SEGMENTS * SEGMENT_ROWS
        distinct = near(rng.random((100, bits)) < 0.5, n_codes // 20)
        words = Codes.from_bits(distinct).words[rng.integers(0, len(distinct), n_codes)]
        self.bits = bits
        self.queries = Codes.from_bits(near(distinct, N_QUERIES))
        self.ids = None if bits <= 64 else 7 + 3 * np.arange(n_codes)
        self.files = [folder / f"{bits}-{number}.npy" for number in range(N_SEGMENTS)]
        for file, segment in zip(self.files, np.split(words, N_SEGMENTS), strict=True):
            np.save(file, segment)
        self.segments = self.mapped()
        self.allowed = rng.random(n_codes) < 0.4
        distances = np.stack([np.bitwise_count(words ^ query).sum(1, dtype=np.uint16) for query in self.queries.words])
        self.questions = [self._questions(distances[:, : (n + 1) * SEGMENT_ROWS]) for n in range(N_SEGMENTS)]

    def mapped(self) -> list[Codes]:
        """The segments, mapped anew."""
        return [Codes(np.load(file, mmap_mode="r"), self.bits) for file in self.files]

    def stage(self, segments: list[Codes]) -> Stage:
        """New indexes of these, the first segments."""
        ids = None if self.ids is None else self.ids[: len(segments) * SEGMENT_ROWS]
        return Stage((FlatIndex(segments, ids), DistinctIndex(segments, ids)), self.questions[len(segments) - 1])

    def _questions(self, distances: AnyArray) -> list[Question]:
        n_codes = distances.shape[1]
        ids = np.arange(n_codes) if self.ids is None else self.ids[:n_codes]
        allowed = self.allowed[:n_codes]
        kinds: list[dict[str, Any]] = [{"k": 10}, {"k": 10, "count_ties": True}, {"k": 5000}]
        kinds.append({"radius": self.bits * 3 // 16})
        questions = []
        for mask in (None, allowed, Mask.from_bools(allowed)):
            for asked in (slice(1), slice(1, None)):  # one query; many
                for options in kinds:
                    method = "within" if "radius" in options else "search"
                    truth = truth_of(distances[asked], ids, mask is None or allowed, **options)
                    questions.append(Question(method, self.queries[asked], options | {"mask": mask}, truth))
        return questions


def truth_of(
    distances: AnyArray,
    ids: Ids,
    allowed: Bools | bool,
    k: int | None = None,
    radius: int = 256,
    count_ties: bool = False,
) -> Neighbors:
    """The slow path: all distances [q, n_codes], sorted. Raises RuntimeError where a query has nothing to find."""
    rows, ties = [], []
    for of_query in distances:
        found = np.flatnonzero(allowed & (of_query <= radius))
        rows.append(found[np.argsort(of_query[found], kind="stable")][:k])
        if not len(found):
            raise RuntimeError("a query without an answer tests little")
        ties.append(np.count_nonzero(allowed & (of_query == of_query[rows[-1][-1]])))
    offsets = np.cumsum([0, *map(len, rows)])
    found_distances = [of_query[found] for of_query, found in zip(distances, rows, strict=True)]
    return Neighbors(
        offsets,
        ids[np.concatenate(rows)],
        np.concatenate(found_distances).astype(np.int32),
        np.array(ties) if count_ties else None,
    )


def many_rows(path: Path) -> Stage:
    """An index of one mapped array that reaches past row 2**31, in a file of holes that is gone when the index is.

    All codes are zero but for a few near the queries, which are all ones. Masks hide some of these.
    """
    near = {5: 3, 2**31 - 1: 2, 2**31: 1, 2**31 + 1: 2, MANY_ROWS - 1: 0}  # row: distance
    hidden = (5, 2**31 + 1)
    words = np.lib.format.open_memmap(path, "w+", np.uint64, (MANY_ROWS, 1))
    for row, distance in near.items():
        words[row] = 2**64 - 2**distance
    words.flush()
    index = FlatIndex(Codes(np.load(path, mmap_mode="r"), 64))
    path.unlink()
    allowed = np.full(MANY_ROWS // 64, 2**64 - 1, np.uint64)
    for row in hidden:
        allowed[row // 64] ^= np.uint64(1 << row % 64)
    mask = Mask(allowed, MANY_ROWS)
    questions = []
    for method, n_queries, of_rows in (
        ("search", 1, None),
        ("within", 8, None),
        ("search", 8, mask),
        ("within", 1, mask),
    ):
        pairs = sorted((distance, row) for row, distance in near.items() if of_rows is None or row not in hidden)
        options: dict[str, Any] = {"radius": 63}
        if method == "search":  # for one more: row 0, which ties with all that are zero
            pairs.append((64, 0))
            options = {"k": len(pairs), "count_ties": True}
        distances, rows = np.tile(pairs, (n_queries, 1)).T
        ties = np.full(n_queries, MANY_ROWS - len(near)) if method == "search" else None
        truth = Neighbors(np.arange(n_queries + 1) * len(pairs), rows, distances.astype(np.int32), ties)
        queries = Codes(np.full((n_queries, 1), 2**64 - 1, np.uint64), 64)
        questions.append(Question(method, queries, options | {"mask": of_rows}, truth))
    return Stage((index,), questions)
