"""What does a search cost as the archive grows? Our indexes beside FAISS's flat one, on uniform and on clustered codes.

    python benchmarks/bench_scale.py [--sizes 1e6,1e7,1e8] [--queries 100]

Clustered codes are what a trained network gives: a thousand class centres with bits flipped, of which one in a hundred
cases has a code of its own and the others repeat one, frequent ones more often. 64 bits, k = 10, all processors where a
contender uses them for one query. Every contender's distances are compared with the flat index's. Writes
results/scale.json anew after every size.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from machine import describe_machine

from athsearch.codes import Codes
from athsearch.index import DistinctIndex, FlatIndex, Index
from athsearch.types import AnyArray, Neighbors

RESULTS = Path(__file__).parent / "results" / "scale.json"
BITS, K = 64, 10
N_BATCH = 256
KINDS = ("uniform", "clustered")
Search = Callable[[Codes], Neighbors | AnyArray]  # or distances [q, K]


def main() -> None:
    """Measures every size and kind of codes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1e6,1e7,1e8")
    parser.add_argument("--queries", type=int, default=100, help="single queries timed of each contender")
    arguments = parser.parse_args()
    results = []
    for size in arguments.sizes.split(","):
        for kind in KINDS:
            results += measure(int(float(size)), kind, arguments.queries)
            RESULTS.write_text(json.dumps({"machine": describe_machine(), "results": results}, indent=1) + "\n")


def codes_of(kind: str, n_codes: int, n_queries: int) -> tuple[Codes, Codes]:
    """Database and queries; the queries are drawn as the database is, with two bits flipped."""
    rng = np.random.default_rng([n_codes, KINDS.index(kind)])

    def flipped(words: AnyArray, n_bits: int) -> AnyArray:
        for _ in range(n_bits):
            words = words ^ (np.uint64(1) << rng.integers(0, BITS, words.shape, np.uint64))
        return words

    if kind == "uniform":
        words = rng.integers(0, 2**64, (n_codes, 1), np.uint64)
    else:
        centres = rng.integers(0, 2**64, (1000, 1), np.uint64)
        distinct = flipped(centres[rng.integers(0, 1000, n_codes // 100)], 8)
        words = distinct[(len(distinct) * rng.random(n_codes) ** 3).astype(np.int64)]
    queries = flipped(words[rng.integers(0, n_codes, n_queries)], 2)
    return Codes(words, BITS), Codes(queries, BITS)


def measure(n_codes: int, kind: str, n_queries: int) -> list[dict[str, Any]]:
    """One line a contender: seconds to build, memory, milliseconds of one query, queries a second of many at once.

    Every contender is built, asked and dropped before the next, because together they may not fit.
    """
    codes, queries = codes_of(kind, n_codes, n_queries + N_BATCH)
    truth = FlatIndex(codes).search(queries, K).dense(K)[1]
    lines = []
    for name, build in CONTENDERS.items():
        before = anonymous_bytes()
        begin = time.perf_counter()
        search, facts = build(codes)
        build_s = time.perf_counter() - begin
        n_bytes = anonymous_bytes() - before
        times = []
        for number in range(n_queries):
            one = queries[number : number + 1]
            begin = time.perf_counter()
            answer = search(one)
            times.append(time.perf_counter() - begin)
            check(name, answer, truth[number : number + 1])
        begin = time.perf_counter()
        answer = search(queries[n_queries:])
        batch_s = time.perf_counter() - begin
        check(name, answer, truth[n_queries:])
        line = {"kind": kind, "n_codes": n_codes, "index": name, **facts}
        line["build_s"] = build_s
        if n_codes >= 1e7:  # fewer fit the memory that was freed before
            line["bytes_a_code"] = n_bytes / n_codes
        line |= {f"query_ms_p{share}": float(np.percentile(times, share)) * 1e3 for share in (50, 99)}
        lines.append(line | {"batch_queries_per_s": N_BATCH / batch_s})
        print(json.dumps(lines[-1]), flush=True)
        del search
    return lines


def check(name: str, answer: Neighbors | AnyArray, truth: AnyArray) -> None:
    """Raises RuntimeError where a contender has other distances than the flat index."""
    distances = answer.dense(K)[1] if isinstance(answer, Neighbors) else answer
    if not np.array_equal(np.sort(distances, axis=1), truth):
        raise RuntimeError(f"{name} has other distances than the flat index")


def flat(codes: Codes) -> tuple[Search, dict[str, int]]:
    """Our scan; builds nothing."""
    return of_ours(FlatIndex(codes)), {}


def distinct(codes: Codes) -> tuple[Search, dict[str, int]]:
    """Our scan of distinct codes."""
    index = DistinctIndex(codes)
    return of_ours(index), {"n_distinct": index.n_distinct}


def of_ours(index: Index) -> Search:
    """The search of an index of ours."""
    return lambda queries: index.search(queries, K)


def faiss_flat(codes: Codes) -> tuple[Search, dict[str, int]]:
    """FAISS's exact scan, which copies the codes."""
    index = faiss.IndexBinaryFlat(BITS)
    index.add(codes.to_bytes())
    return lambda queries: index.search(queries.to_bytes(), K)[0], {}


CONTENDERS: dict[str, Callable[[Codes], tuple[Search, dict[str, int]]]] = {
    "flat": flat,
    "distinct": distinct,
    "faiss flat": faiss_flat,
}


def anonymous_bytes() -> int:
    """Memory of this process that no file holds."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
