"""What does a search cost as the archive grows? Our indexes beside FAISS's, from a million codes to a billion.

    python benchmarks/bench_scale.py --limits build/limits [--sizes 1e6,1e7] [--trained DATABASE.npy QUERIES.npy]

64 bits, k = 10, all processors where a contender uses them for one query. Codes are
uniform    random;
clustered  a thousand class centres with bits flipped, of which one case in a hundred has a code of its own and the
           others repeat one, frequent ones more often; queries are drawn likewise, with two bits flipped;
trained    codes of a network (`athsearch export --to npy` writes them), each bit flipped in one case of a hundred, and
           asked for with the codes of other images.

Every contender runs in a process of its own over the same file of codes, mapped. FAISS's approximate indexes are tuned
on queries of their own: the setting of least effort that gives the flat index's distances, or else the one that gives
most of them; the recall of the queries timed is reported. All others must give the flat index's distances. Lines are
added to results/scale.json as they come; those of the same codes, size and contender are replaced.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from machine import describe_machine

from athsearch.codes import Codes
from athsearch.index import DistinctIndex, FlatIndex, MihIndex
from athsearch.index.sorted import SortedForm
from athsearch.types import AnyArray, Neighbors, Words

RESULTS = Path(__file__).parent / "results" / "scale.json"
BITS, K = 64, 10
N_TIMED, N_BATCH, N_TUNING = 100, 256, 50
PART = 1 << 22
Search = Callable[[Words], Any]  # words [q, 1] -> an answer that `distances_of` understands
Settings = list[tuple[str | None, Search]]  # by ascending effort; None: there is nothing to set
Built = tuple[Settings, dict[str, Any]]


def main() -> None:
    """Measures every size, kind of codes and contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1e6,1e7,1e8,1e9")
    parser.add_argument(
        "--trained", nargs=2, type=Path, metavar=("DATABASE", "QUERIES"), help="codes of a network, .npy"
    )
    parser.add_argument("--kinds", help="of codes  [default: uniform,clustered and, where given, trained]")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--folder", type=Path, help="where the codes are written; the largest takes 8 GB")
    parser.add_argument("--limits", type=Path, help="benchmarks/limits.cpp, compiled: what memory allows a scan")
    parser.add_argument("--timeout", type=float, default=900, help="seconds a contender may take")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(Path(arguments.child[0]), arguments.child[1])))
        return
    kinds = arguments.kinds or ("uniform,clustered,trained" if arguments.trained else "uniform,clustered")
    for size in arguments.sizes.split(","):
        for kind in kinds.split(","):
            n_codes = int(float(size))
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                write_codes(Path(folder), kind, n_codes, arguments.trained)
                for contender in arguments.contenders.split(","):
                    if n_codes <= CONTENDERS[contender][1]:
                        line = {"codes": kind, "n_codes": n_codes, "index": contender}
                        line |= run(folder, contender, arguments.timeout)
                        if contender == "flat" and arguments.limits:
                            line |= against_limit(line, arguments.limits)
                        note(line)


def note(line: dict[str, Any]) -> None:
    """Adds a line to the results."""
    print(json.dumps(line), flush=True)
    lines = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else []
    names = ("codes", "n_codes", "index")
    lines = [old for old in lines if [old[name] for name in names] != [line[name] for name in names]]
    RESULTS.write_text(json.dumps({"machine": describe_machine(), "results": [*lines, line]}, indent=1) + "\n")


def against_limit(line: dict[str, Any], limits: Path) -> dict[str, float]:
    """What all processors read from memory now, and how much of it one query's scan did."""
    measured = json.loads(subprocess.run([limits.resolve()], check=True, capture_output=True).stdout)
    most: float = max(measured["read_bytes_per_s"].values())
    read = line["n_codes"] * BITS / 8 / (line["query_ms_p50"] / 1e3)
    return {"read_bytes_per_s": most, "share_of_read_bandwidth": read / most}


def run(folder: str, contender: str, timeout_s: float) -> dict[str, Any]:
    """What one contender's process measured, or why it did not."""
    command = [sys.executable, __file__, "--child", folder, contender]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {timeout_s:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def write_codes(folder: Path, kind: str, n_codes: int, trained: Sequence[Path] | None) -> None:
    """Writes codes.npy, queries.npy and, by the flat index, truth.npy."""
    rng = np.random.default_rng([n_codes, len(kind)])
    words = np.lib.format.open_memmap(folder / "codes.npy", "w+", np.uint64, (n_codes, 1))
    draw = {"uniform": uniform, "clustered": clustered, "trained": replicated}[kind](rng, n_codes, trained)
    for begin in range(0, n_codes, PART):
        words[begin : begin + PART] = draw(min(PART, n_codes - begin))
    words.flush()
    n_queries = N_TIMED + N_BATCH + N_TUNING
    if kind == "trained" and trained:
        known = np.load(trained[1])
        queries = known[rng.integers(0, len(known), n_queries)]
    else:
        queries = flipped(rng, draw(n_queries), 2)
    np.save(folder / "queries.npy", queries)
    truth = FlatIndex(Codes(words, BITS)).search(Codes(queries, BITS), K).dense(K)[1]
    np.save(folder / "truth.npy", truth)


def uniform(rng: np.random.Generator, n_codes: int, _: object) -> Callable[[int], Words]:
    """Draws random codes."""
    return lambda n: rng.integers(0, 2**64, (n, 1), np.uint64)


def clustered(rng: np.random.Generator, n_codes: int, _: object) -> Callable[[int], Words]:
    """Draws codes around class centres, of which one in a hundred is different."""
    centres = rng.integers(0, 2**64, (1000, 1), np.uint64)
    distinct = flipped(rng, centres[rng.integers(0, 1000, n_codes // 100)], 8)
    return lambda n: distinct[(len(distinct) * rng.random(n) ** 3).astype(np.int64)]


def replicated(rng: np.random.Generator, n_codes: int, trained: Sequence[Path] | None) -> Callable[[int], Words]:
    """Draws a network's codes with noise."""
    if trained is None:
        raise SystemExit("--trained: codes of a network are needed")
    known = np.load(trained[0])

    def draw(n: int) -> Words:
        words: Words = known[rng.integers(0, len(known), n)]
        flips = rng.binomial(n * BITS, 0.01)
        np.bitwise_xor.at(
            words[:, 0], rng.integers(0, n, flips), np.uint64(1) << rng.integers(0, BITS, flips, np.uint64)
        )
        return words

    return draw


def flipped(rng: np.random.Generator, words: Words, n_bits: int) -> Words:
    """Codes with so many bits flipped, some perhaps back again."""
    for _ in range(n_bits):
        words = words ^ (np.uint64(1) << rng.integers(0, BITS, words.shape, np.uint64))
    return words


def measure(folder: Path, contender: str) -> dict[str, Any]:
    """Seconds to build and open, memory, milliseconds of one query, queries a second of many at once, recall."""
    words = np.load(folder / "codes.npy", mmap_mode="r")
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    timed, batch = slice(0, N_TIMED), slice(N_TIMED, N_TIMED + N_BATCH)
    tuning = slice(N_TIMED + N_BATCH, len(queries))
    int(words[::512].max())  # from disk, once
    before = anonymous_bytes()
    with Peak() as peak:
        begin = time.perf_counter()
        settings, facts = CONTENDERS[contender][0](words, folder)
        facts = {"build_s": time.perf_counter() - begin, **facts}
    search, setting, facts["recall_tuning"] = tuned(settings, queries[tuning], truth[tuning])
    if setting is not None:
        facts["setting"] = setting
    times, answers = [], []
    for number in range(timed.start, timed.stop):
        begin = time.perf_counter()
        answer = search(queries[number : number + 1])
        times.append(time.perf_counter() - begin)
        answers.append(answer)
    begin = time.perf_counter()
    answers.append(search(queries[batch]))
    batch_s = time.perf_counter() - begin
    found = np.concatenate([distances_of(answer) for answer in answers])
    facts["recall"] = float((found == truth[: len(found)]).mean())
    if facts["recall"] < 1 and setting is None:
        raise RuntimeError(f"{contender} has other distances than the flat index")
    facts |= {f"query_ms_p{share}": float(np.percentile(times, share)) * 1e3 for share in (50, 99)}
    facts["batch_queries_per_s"] = N_BATCH / batch_s
    facts["bytes_a_code"] = (anonymous_bytes() - before) / len(words)
    facts["peak_anonymous_gb"] = peak.n_bytes / 1e9
    return facts


def tuned(settings: Settings, queries: Words, truth: AnyArray) -> tuple[Search, str | None, float]:
    """The first setting, effort ascending, that finds all distances, or else the one that finds most; its recall."""
    best: tuple[Search, str | None, float] | None = None
    for name, search in settings:
        found = np.concatenate([distances_of(search(queries[i : i + 1])) for i in range(len(queries))])
        recall = float((found == truth).mean())
        if best is None or recall > best[2]:
            best = search, name, recall
        if recall == 1:
            break
    if best is None:
        raise RuntimeError("there is no setting")
    return best


def distances_of(answer: Any) -> AnyArray:
    """[q, K], ascending, of what a contender's search gave."""
    if isinstance(answer, Neighbors):
        return answer.dense(K)[1]
    if isinstance(answer, Repeated):
        return np.stack([np.repeat(d, n)[:K] for d, n in zip(answer.distances, answer.n_cases, strict=True)])
    return np.sort(answer[0], axis=1)


@dataclass
class Repeated:
    """An answer of distinct codes: their distances, and how many cases carry each."""

    distances: AnyArray
    n_cases: AnyArray


def flat(words: Words, _: Path) -> Built:
    """Our scan; builds nothing."""
    index = FlatIndex(Codes(words, BITS))
    return [(None, of_ours(index))], {"n_compared": len(words)}


def distinct(words: Words, folder: Path) -> Built:
    """Our scan of distinct codes."""
    return of_sorted(DistinctIndex, words, folder)


def mih(words: Words, folder: Path) -> Built:
    """Our multi-index hashing."""
    return of_sorted(MihIndex, words, folder)


def of_sorted(kind: type[DistinctIndex] | type[MihIndex], words: Words, folder: Path) -> Built:
    """Builds, writes the sorted form to files, as an archive does, and opens it again for the searches."""
    codes = Codes.trusted(words, BITS)
    begin = time.perf_counter()
    form = kind.sort(codes)
    facts: dict[str, Any] = {"n_compared": form.n_codes, "sort_s": time.perf_counter() - begin}
    for name, array in form.arrays():
        np.save(folder / f"form-{name}.npy", array)
    del form
    begin = time.perf_counter()
    arrays = {path.stem[5:]: np.load(path, mmap_mode="r") for path in folder.glob("form-*.npy")}
    index = kind(codes, form=SortedForm.from_arrays(len(words), arrays))
    facts["open_s"] = time.perf_counter() - begin
    return [(None, of_ours(index))], facts


def of_ours(index: FlatIndex | DistinctIndex | MihIndex) -> Search:
    """The search of an index of ours."""
    return lambda queries: index.search(Codes.trusted(queries, BITS), K)


def faiss_flat(words: Words, _: Path) -> Built:
    """FAISS's exact scan, which copies the codes."""
    index = faiss.IndexBinaryFlat(BITS)
    return [(None, of_faiss(added(index, words)))], {}


def faiss_flat_distinct(words: Words, _: Path) -> Built:
    """FAISS's exact scan of the distinct codes: their nearest codes, not yet the cases that carry them."""
    index = faiss.IndexBinaryFlat(BITS)
    form = DistinctIndex.sort(Codes.trusted(words, BITS))
    assert form.postings is not None
    added(index, form.postings.words)
    counts = np.diff(form.postings.offsets)

    def search(queries: Words) -> Repeated:
        distances, numbers = index.search(queries.view(np.uint8), K)
        return Repeated(distances, counts[numbers])

    return [(None, search)], {"n_compared": len(counts)}


def faiss_ivf(words: Words, _: Path) -> Built:
    """FAISS's inverted lists, about four times as many as the root of the number of codes, by probes."""
    n_lists = min(4096, 1 << round(np.log2(4 * len(words) ** 0.5)))
    quantizer = faiss.IndexBinaryFlat(BITS)
    index = faiss.IndexBinaryIVF(quantizer, BITS, n_lists)
    index.train(np.ascontiguousarray(words[:: max(1, len(words) // (64 * n_lists))]).view(np.uint8))
    added(index, words)
    return [(f"{n} of {n_lists} lists", of_faiss(index, quantizer, nprobe=n)) for n in powers(1, n_lists)], {}


def faiss_hnsw(words: Words, _: Path) -> Built:
    """FAISS's graph, 16 links, by the length of the search's list."""
    index = faiss.IndexBinaryHNSW(BITS, 16)
    added(index, words)

    def with_list(length: int) -> Search:
        parameters = faiss.SearchParametersHNSW(efSearch=length)
        return lambda queries: index.search(queries.view(np.uint8), K, params=parameters)

    return [(f"efSearch {n}", with_list(n)) for n in powers(16, 4096)], {}


def faiss_hash(words: Words, _: Path) -> Built:
    """FAISS's buckets by the first bits, about as many as there are codes, by bits flipped."""
    n_bits = min(24, round(np.log2(len(words))))
    index = added(faiss.IndexBinaryHash(BITS, n_bits), words)
    return [(f"{n} of {n_bits} bits flipped", of_faiss(index, nflip=n)) for n in range(6)], {}


def faiss_multihash(words: Words, _: Path) -> Built:
    """FAISS's multi-index hashing with four substrings, by bits flipped."""
    index = added(faiss.IndexBinaryMultiHash(BITS, 4, 16), words)
    return [(f"{n} of 16 bits flipped", of_faiss(index, nflip=n)) for n in range(5)], {}


def added(index: Any, words: Words) -> Any:
    """The index with these codes."""
    for begin in range(0, len(words), PART):
        index.add(np.ascontiguousarray(words[begin : begin + PART]).view(np.uint8))
    return index


def of_faiss(index: Any, *kept: object, **settings: int) -> Search:
    """The search of a FAISS index with these settings; `kept` are objects it needs but does not own."""

    def search(queries: Words, _: object = kept) -> Any:
        for name, value in settings.items():
            setattr(index, name, value)
        return index.search(queries.view(np.uint8), K)

    return search


def powers(first: int, last: int) -> list[int]:
    """first, twice that, ... up to last."""
    return [first << i for i in range((last // first).bit_length())]


# Each with the largest archive it is asked to hold.
CONTENDERS: dict[str, tuple[Callable[[Words, Path], Built], float]] = {
    "flat": (flat, 1e10),
    "distinct": (distinct, 4e9),
    "mih": (mih, 1e8),
    "faiss-flat": (faiss_flat, 1e9),
    "faiss-flat-distinct": (faiss_flat_distinct, 1e8),
    "faiss-ivf": (faiss_ivf, 1e8),
    "faiss-hnsw": (faiss_hnsw, 1e7),
    "faiss-hash": (faiss_hash, 1e7),
    "faiss-multihash": (faiss_multihash, 1e7),
}


class Peak:
    """The most anonymous memory that this process holds inside the block."""

    def __enter__(self) -> Peak:
        self.n_bytes = anonymous_bytes()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self.n_bytes = max(self.n_bytes, anonymous_bytes())

    def _watch(self) -> None:
        while not self._is_over.wait(0.05):
            self.n_bytes = max(self.n_bytes, anonymous_bytes())


def anonymous_bytes() -> int:
    """Memory of this process that no file holds."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
