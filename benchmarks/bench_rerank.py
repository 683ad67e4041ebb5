"""What does re-ranking add to a search, in all and beside NumPy?

    python benchmarks/bench_rerank.py [--codes 1000000] [--seconds 1]

The nearest R of a million uniform codes are ordered anew by the query's logits, the first 10 returned; one thread. What
is timed as "rerank" is everything after the search for these R: fetching their codes, quantising the logits, scoring,
ordering. NumPy does the same from unpacked bits. Writes results/rerank.json and prints a line for each case.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine

from athsearch import _scan
from athsearch.benchmark import Case, codes_for
from athsearch.codes import Codes
from athsearch.index import FlatIndex
from athsearch.index.reranking import Reranking
from athsearch.types import AnyArray, Floats, Neighbors

RESULTS = Path(__file__).parent / "results" / "rerank.json"
K = 10


def main() -> None:
    """Measures all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each contender of a case")
    arguments = parser.parse_args()
    results = []
    for bits in (32, 64, 128):
        for n_queries in (1, 256):
            database, queries = codes_for(Case(bits, arguments.codes, n_queries))
            index, logits = FlatIndex(database), logits_of(queries)
            for depth in (50, 200, 1000):
                result = measure(index, database, queries, logits, depth, arguments.seconds)
                results.append(result)
                us = ", ".join(f"{name} {taken:.1f}" for name, taken in result["us_a_query"].items())
                print(f"{bits} bits, {n_queries} queries, R {depth}: us a query: {us}", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    content = {"machine": describe_machine(), "kernel": _scan.selected_kernel(), "n_codes": arguments.codes, "k": K}
    RESULTS.write_text(json.dumps(content | {"threads": 1, "results": results}, indent=1) + "\n")


def logits_of(queries: Codes) -> Floats:
    """Normal values of the queries' signs."""
    sizes = np.abs(np.random.default_rng(1).normal(size=(len(queries), queries.bits)))
    return np.where(queries.to_bits(), sizes, -sizes).astype(np.float32)


def measure(
    index: FlatIndex, database: Codes, queries: Codes, logits: Floats, depth: int, seconds: float
) -> dict[str, Any]:
    """Median microseconds a query of each contender, all taking turns. Raises RuntimeError where answers differ."""
    nearest = index.search(queries, depth, threads=1)

    def search(**options: Any) -> Neighbors:
        return index.search(queries, K, threads=1, **options)

    def rerank() -> Neighbors:
        asked = Reranking.checked("asymmetric", logits, depth, queries, count_ties=False)
        if asked is None:
            raise RuntimeError("nothing is re-ranked")
        codes = np.take(database.words, nearest.ids, axis=0)
        return asked.search(lambda *_: (nearest, codes), queries, K, len(database), threads=1)

    contenders: dict[str, Callable[[], object]] = {
        "search": search,
        "search_for_R": lambda: index.search(queries, depth, threads=1),
        "reranked_search": lambda: search(logits=logits, rerank="asymmetric", depth=depth),
        "rerank": rerank,
        "rerank_by_numpy": lambda: by_numpy(nearest, database, logits),
    }
    ids, scores = by_numpy(nearest, database, logits)
    for found in (rerank(), search(logits=logits, rerank="asymmetric", depth=depth)):
        if found.scores is None or not (np.array_equal(found.ids, ids) and np.array_equal(found.scores, scores)):
            raise RuntimeError(f"NumPy ranks otherwise at {queries.bits} bits, R {depth}")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    begin = time.perf_counter()
    while time.perf_counter() < begin + seconds * len(contenders) or len(times["search"]) < 3:
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            times[name].append(time.perf_counter() - start)
    us = {name: statistics.median(taken) / len(queries) * 1e6 for name, taken in times.items()}
    return {
        "bits": queries.bits,
        "n_queries": len(queries),
        "R": depth,
        "us_a_query": us,
        "share_of_reranked_search": us["rerank"] / us["reranked_search"],
        "turns": len(times["search"]),
    }


def by_numpy(nearest: Neighbors, database: Codes, logits: Floats) -> tuple[AnyArray, AnyArray]:
    """ids and scores [q * K], the first of each query by (-score, distance, id)."""
    values = logits.astype(np.float64)
    weights = np.rint(values * (32767 / np.abs(values).max(axis=1, keepdims=True))).astype(np.int32)
    all_ids, all_scores = [], []
    for query, of_query in enumerate(weights):
        rows = slice(nearest.offsets[query], nearest.offsets[query + 1])
        ids, distances = nearest.ids[rows], nearest.distances[rows]
        signs = 2 * database[ids].to_bits().astype(np.int32) - 1
        scores = signs @ of_query
        order = np.lexsort((ids, distances, -scores))[:K]
        all_ids.append(ids[order])
        all_scores.append(scores[order])
    return np.concatenate(all_ids), np.concatenate(all_scores)


if __name__ == "__main__":
    main()
