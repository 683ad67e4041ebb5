"""How fast is the search on this machine? Our index beside its rivals: same process, same codes, turn by turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .codes import Codes, n_words_for
from .index import FlatIndex
from .types import AnyArray, Mask, Words

Search = Callable[[], Any]
MAX_SLOW_COMPARISONS = 20_000_000  # more would take NumPy and USearch seconds a turn
TURN_SECONDS = 0.002


@dataclass(frozen=True)
class Case:
    """One search to time: n_queries at once over n_codes, k neighbours each, on at most so many threads.

    kind: "uniform" (random bits) or "clustered" (a thousand centres, a twentieth of the bits flipped; many ties).
    allowed_share: of the rows that a mask allows, beside the same search without one; None: no mask.
    """

    bits: int
    n_codes: int
    n_queries: int
    k: int = 10
    threads: int = 1
    kind: Literal["uniform", "clustered"] = "uniform"
    allowed_share: float | None = None


SHORT = (
    Case(64, 1_000_000, 256),
    Case(256, 1_000_000, 64),
    Case(64, 1_000_000, 256, k=1000),
    Case(64, 100_000, 1),
    Case(64, 10_000_000, 1, threads=2),
)


def codes_for(case: Case) -> tuple[Codes, Codes]:
    """Database and queries of a case, the same ones every time."""
    rng = np.random.default_rng([case.bits, case.n_codes])
    n_words = n_words_for(case.bits)
    last = np.uint64(2 ** (case.bits - 64 * (n_words - 1)) - 1)

    def random(n_codes: int) -> Words:
        return rng.integers(0, 2**64, (n_codes, n_words), np.uint64)

    def flips(n_codes: int) -> Words:  # a bit in 16
        flipped: Words = random(n_codes) & random(n_codes) & random(n_codes) & random(n_codes)
        return flipped

    if case.kind == "uniform":
        parts = [random(case.n_codes), random(case.n_queries)]
    else:
        centres = random(1000)
        parts = [centres[rng.integers(0, 1000, n)] ^ flips(n) for n in (case.n_codes, case.n_queries)]
    for words in parts:
        words[:, -1] &= last
    return Codes(parts[0], case.bits), Codes(parts[1], case.bits)


def measure(case: Case, seconds: float = 2.0, rivals: Sequence[str] = ("faiss", "usearch", "numpy")) -> dict[str, Any]:
    """Times a case for about `seconds` a contender, all taking turns; the rivals that are not installed are left out.

    A turn is one search, or as many short ones as fill TURN_SECONDS, so that each contender finds its own data in the
    caches, not the previous contender's. Returns the case's values, `seconds`: median of a search by contender, and
    `comparisons_per_s` by contender.
    Raises RuntimeError where a rival that promises exact answers has other distances than ours.
    """
    with _faiss_threads(case.threads) if "faiss" in rivals else nullcontext():
        return _measured(case, seconds, rivals)


@contextmanager
def _faiss_threads(n_threads: int) -> Iterator[None]:
    """FAISS, where it is installed, uses so many threads in the block, and as many as before after it."""
    try:
        import faiss
    except ModuleNotFoundError:
        yield
        return
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n_threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _measured(case: Case, seconds: float, rivals: Sequence[str]) -> dict[str, Any]:
    database, queries = codes_for(case)
    mask = None
    if case.allowed_share is not None:
        mask = Mask.from_bools(np.random.default_rng(1).random(case.n_codes) < case.allowed_share)
    index = FlatIndex(database)
    ours = index.search(queries, case.k, mask=mask, threads=case.threads)
    contenders: dict[str, Search] = {"athsearch": lambda: index.search(queries, case.k, mask, case.threads)}
    if mask is not None:
        contenders["without mask"] = lambda: index.search(queries, case.k, threads=case.threads)
    for name, search, distances in _rivals(case, database, queries, rivals if mask is None else ()):
        if not np.array_equal(np.sort(distances, axis=1), ours.dense(min(case.k, case.n_codes))[1]):
            raise RuntimeError(f"{name} has other distances than athsearch for {case}")
        contenders[name] = search
    n_searches = {name: max(1, int(TURN_SECONDS / _seconds_of(search, 1))) for name, search in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    begin = time.perf_counter()
    while time.perf_counter() < begin + seconds * len(contenders) or len(times["athsearch"]) < 3:
        for name, search in contenders.items():
            times[name].append(_seconds_of(search, n_searches[name]))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    comparisons = case.n_codes * case.n_queries
    return {
        **vars(case),
        "seconds": medians,
        "comparisons_per_s": {name: comparisons / median for name, median in medians.items()},
        "turns": len(times["athsearch"]),
    }


def _seconds_of(search: Search, n_searches: int) -> float:
    """Seconds a search takes, as the mean of so many."""
    start = time.perf_counter()
    for _ in range(n_searches):
        search()
    return (time.perf_counter() - start) / n_searches


def _rivals(
    case: Case, database: Codes, queries: Codes, names: Sequence[str]
) -> Iterator[tuple[str, Search, AnyArray]]:
    """Name, search and distances [q, k] of each rival that can be had."""
    k, threads = min(case.k, case.n_codes), case.threads
    is_long = case.n_codes * case.n_queries * database.n_words > MAX_SLOW_COMPARISONS
    if "faiss" in names and case.bits % 8 == 0:
        try:
            import faiss
        except ModuleNotFoundError:
            pass
        else:
            flat = faiss.IndexBinaryFlat(case.bits)
            flat.add(np.ascontiguousarray(database.to_bytes()))
            asked = np.ascontiguousarray(queries.to_bytes())

            def by_faiss() -> AnyArray:
                found: AnyArray = flat.search(asked, k)[0]
                return found

            yield "faiss", by_faiss, by_faiss()
    if "usearch" in names and case.bits % 8 == 0 and case.k <= 100 and not is_long:
        try:
            from usearch.index import MetricKind, ScalarKind, search
        except ModuleNotFoundError:
            pass
        else:
            stored, wanted = database.to_bytes(), queries.to_bytes()

            def by_usearch() -> AnyArray:
                found = search(stored, wanted, k, MetricKind.Hamming, dtype=ScalarKind.B1, exact=True, threads=threads)
                distances: AnyArray = np.asarray(found.distances).reshape(len(wanted), -1)
                return distances

            yield "usearch", by_usearch, by_usearch()
    if "numpy" in names and not is_long:

        def by_numpy() -> AnyArray:
            found = [
                np.partition(np.bitwise_count(database.words ^ query).sum(axis=1, dtype=np.int32), k - 1)[:k]
                for query in queries.words
            ]
            distances: AnyArray = np.stack(found)
            return distances

        yield "numpy", by_numpy, by_numpy()


def read_bandwidth(threads: int = 1, n_bytes: int = 1 << 29) -> float:
    """Bytes a second that so many threads read from memory, by NumPy's sum: the limit of one query over many codes."""
    from concurrent.futures import ThreadPoolExecutor

    parts = np.array_split(np.ones(n_bytes // 8, np.uint64), threads)
    with ThreadPoolExecutor(threads) as pool:
        times = []
        for _ in range(7):
            start = time.perf_counter()
            list(pool.map(np.sum, parts))
            times.append(time.perf_counter() - start)
    return n_bytes / min(times)
