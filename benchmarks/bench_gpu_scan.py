"""How fast the GPU searches, beside torch on the same GPU and NumPy on the CPU; answers compared with the CPU's by ==.

    python benchmarks/bench_gpu_scan.py [--seconds 0.3]

Needs a GPU with 20 GB of free memory, 24 GB of main memory, athsearch with its CUDA module, and torch. Times are of
whole searches, from codes and queries in main memory (the database was uploaded before) to answers there: medians.
The share of the bandwidth is that of what copying on the GPU reads and writes, measured in the same run. Batches are
also searched by each kernel alone: on the tensor cores (b1, and wgmma where there is one), and by population counts.
The results are written after every case, to results/gpu-scan.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_gpu_machine, write_results

from athsearch.codes import Codes
from athsearch.errors import KernelUnavailable
from athsearch.index import FlatIndex, GpuIndex
from athsearch.types import Neighbors

RESULT = Path(__file__).parent / "results" / "gpu-scan.json"
CASES = (  # codes, bits, queries, k: the most wanted first
    (10**9, 64, 1, 100),
    (10**8, 64, 1024, 100),
    (10**9, 64, 1024, 100),
    (10**8, 64, 1, 100),
    (10**6, 64, 1, 100),
    (10**6, 64, 1024, 100),
    (10**8, 256, 1, 100),
    (10**8, 256, 1024, 100),
    (10**8, 64, 1, 10_000),
)
TORCH_ROWS = 1 << 24  # torch writes distances: so many rows at once
NUMPY_ROWS = 10**7
KERNELS = ("b1", "popcount", "wgmma")
CHECKED = 2  # queries of each case that the CPU answers too
AT_LEAST = 3  # calls, whatever time they take


def seconds_of(run: Callable[[], Any], seconds: float) -> float:
    """Median of the seconds of a call, of so many that they take `seconds`, after one that is not counted."""
    run()
    taken: list[float] = []
    while len(taken) < AT_LEAST or sum(taken) < seconds:
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def copy_bandwidth(seconds: float) -> float:
    """Bytes read and written a second by a copy of 2 GiB on the GPU."""
    data = torch.randint(-(2**62), 2**62, (1 << 28,), dtype=torch.int64, device="cuda")
    other = torch.empty_like(data)
    return 2 * data.nbytes / seconds_of(lambda: other.copy_(data), seconds)


def torch_search(codes: torch.Tensor, query: torch.Tensor, k: int) -> torch.Tensor:
    """Distances and rows of the k nearest, ties as torch likes. codes: int64 [n, n_words]; query: [n_words]."""
    table = torch.tensor([number.bit_count() for number in range(256)], dtype=torch.int16, device="cuda")
    best = torch.empty(0, dtype=torch.int64, device="cuda")
    for begin in range(0, len(codes), TORCH_ROWS):
        differing = (codes[begin : begin + TORCH_ROWS] ^ query).view(torch.uint8)
        distances = table[differing.int()].sum(dim=1)
        nearest, rows = torch.topk(distances, min(k, len(distances)), largest=False)
        best = torch.cat([best, nearest << 48 | (rows + begin)])
        best = torch.topk(best, min(k, len(best)), largest=False)[0]
    return best


def time_athsearch(codes: Codes, queries: Codes, k: int, truth: Neighbors, seconds: float, kernel: str = "") -> float:
    """Seconds of our search, by a named kernel or the one it chooses. Exits where its first answers are not true."""
    os.environ["ATHSEARCH_GPU_KERNEL"] = kernel
    index = GpuIndex(codes)
    found = index.search(queries, k, count_ties=True)
    n_hits = int(truth.offsets[-1])
    is_equal = (
        np.array_equal(found.ids[:n_hits], truth.ids)
        and np.array_equal(found.distances[:n_hits], truth.distances)
        and np.array_equal(np.asarray(found.ties)[: len(truth)], np.asarray(truth.ties))
    )
    if not is_equal:
        raise SystemExit(f"{len(codes):,} codes of {codes.bits} bits {kernel}: the GPU's answers are not the CPU's")
    return seconds_of(lambda: index.search(queries, k), seconds)


def time_kernels(codes: Codes, queries: Codes, k: int, truth: Neighbors, seconds: float) -> dict[str, float | None]:
    """Seconds of each kernel; None where this GPU or this build has not got it."""
    taken: dict[str, float | None] = dict.fromkeys(KERNELS)
    for name in KERNELS:
        with suppress(KernelUnavailable):
            taken[name] = time_athsearch(codes, queries, k, truth, seconds, name)
    return taken


def time_torch(codes: Codes, queries: Codes, k: int, truth: Neighbors, seconds: float) -> float:
    """Seconds of torch for one query. Exits where its distances are not the truth."""
    on_gpu = torch.from_numpy(codes.words.view(np.int64)).cuda()
    query = torch.from_numpy(queries.words[0].view(np.int64)).cuda()
    distances = torch_search(on_gpu, query, k).cpu() >> 48
    if distances.tolist() != truth.distances[: truth.offsets[1]].tolist():
        raise SystemExit(f"{len(codes):,} codes of {codes.bits} bits: torch's distances are not the CPU's")
    return seconds_of(lambda: torch_search(on_gpu, query, k), seconds)


def time_numpy(codes: Codes, queries: Codes, k: int, seconds: float) -> float:
    """Seconds of NumPy on one CPU thread for one query, from those for NUMPY_ROWS codes."""
    few, query = codes.words[:NUMPY_ROWS], queries.words[0]
    taken = seconds_of(
        lambda: np.argpartition(np.bitwise_count(few ^ query).sum(axis=1), min(k, len(few) - 1)), seconds
    )
    return taken * len(codes) / len(few)


def time_rivals(codes: Codes, queries: Codes, k: int, truth: Neighbors, seconds: float) -> dict[str, float]:
    """Seconds of those that answer one query after the other, of the first alone."""
    of_torch = time_torch(codes, queries, k, truth, seconds)
    torch.cuda.empty_cache()
    return {"torch_a_query": of_torch, "numpy_a_query": time_numpy(codes, queries, k, seconds)}


def measure(
    codes: Codes, n_queries: int, k: int, bandwidth: float, seconds: float, rivals: dict[Any, dict[str, float]]
) -> dict[str, Any]:
    """One case: seconds of each contender, and what they make.

    rivals: `time_rivals` by number of codes, bits and k, kept from one case to the next.
    """
    queries = Codes(np.random.default_rng(2).integers(0, 2**64, (n_queries, codes.n_words), np.uint64), codes.bits)
    truth = FlatIndex(codes).search(queries[:CHECKED], k, count_ties=True)
    ours = time_athsearch(codes, queries, k, truth, seconds)
    by = time_kernels(codes, queries, k, truth, seconds) if n_queries > 1 else {}
    asked = (len(codes), codes.bits, k)
    if asked not in rivals:
        rivals[asked] = time_rivals(codes, queries, k, truth, seconds)
    of_torch = rivals[asked]["torch_a_query"]
    return {
        **{"n_codes": len(codes), "bits": codes.bits, "n_queries": n_queries, "k": k, "n_queries_compared": len(truth)},
        "seconds": {
            **{"athsearch": ours, **rivals[asked], "faiss_gpu": time_faiss(codes, queries, k, seconds)},
            **{f"athsearch_{name}": taken for name, taken in by.items()},
        },
        "times_popcount": {name: taken and by["popcount"] / taken for name, taken in by.items()},
        "pairs_per_s": n_queries * len(codes) / ours,
        "share_of_copy_bandwidth": codes.words.nbytes / ours / bandwidth if n_queries == 1 else None,
        "times_torch": of_torch * n_queries / ours,
    }


def time_faiss(codes: Codes, queries: Codes, k: int, seconds: float) -> float | None:
    """Seconds of FAISS's flat index on the same GPU; None where it is not there or k is beyond it."""
    try:
        import faiss
    except ModuleNotFoundError:
        return None
    if not hasattr(faiss, "GpuIndexBinaryFlat") or k > 2048:
        return None
    resources = faiss.StandardGpuResources()
    index = faiss.GpuIndexBinaryFlat(resources, codes.bits)
    index.add(codes.to_bytes())
    return seconds_of(lambda: index.search(queries.to_bytes(), k), seconds)


def main() -> None:
    """Measures every case and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most-codes", type=int, default=10**9, help="Leave out cases of more codes.")
    parser.add_argument("--seconds", type=float, default=0.3, help="For each contender.")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    machine, bandwidth = describe_gpu_machine(), copy_bandwidth(arguments.seconds)
    torch.cuda.empty_cache()
    cases = [case for case in CASES if case[0] <= arguments.most_codes]
    n_words = max(n_codes * bits // 64 for n_codes, bits, _, _ in cases)
    results: list[dict[str, Any]] = []
    rivals: dict[Any, dict[str, float]] = {}
    pool = np.random.default_rng(1).integers(0, 2**64, n_words, np.uint64)
    for n_codes, bits, n_queries, k in cases:
        codes = Codes(pool[: n_codes * bits // 64].reshape(n_codes, bits // 64), bits)
        results.append(measure(codes, n_queries, k, bandwidth, arguments.seconds, rivals))
        print(json.dumps(results[-1]), flush=True)
        write_results(arguments.out, {"machine": machine, "copy_bytes_per_s": bandwidth, "results": results})


if __name__ == "__main__":
    main()
