"""Do readers of an archive see whole commits only, while another process writes to it without a pause?

    python benchmarks/soak_archive.py [--minutes 10] [--json FILE]

One process adds ready-made codes, deletes, compacts and builds indexes; four search meanwhile, by a scan and by what is
kept, through one open Archive each that they open anew now and then. A case's code follows from its id, so any answer
can be checked: it must be, to the id, the answer of a whole commit, one from the last that was done before the search
began to the last that was begun before it ended. Exits 1 at the first error or wrong answer.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import TypeAlias

import numpy as np
from machine import describe_machine

from athsearch import Archive, Codes
from athsearch.types import Ids, Words

Number: TypeAlias = "Synchronized[int]"  # that processes share

RESULTS = Path(__file__).parent / "results" / "soak-archive.json"
N_READERS, MOST_CASES, K = 4, 30_000, 10
KINDS = (None, "flat", "distinct", "mih")
WEIGHTS = {"add": 6, "delete": 4, "compact": 1, "build_index": 1}


def words_of(ids: Ids) -> Words:
    """The 64-bit code of each id: splitmix64, some of it cleared so that many distances tie."""
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray(mixed & np.uint64(0x0F0F0F0F0F0F0F0F))


class Plan:
    """What commit after commit does, the same in every process. Commit 0 is the empty archive."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.alive = np.zeros(0, np.int64)
        self.next_id = 1

    def advance(self) -> tuple[str, Ids | str]:
        """The next commit, as what to do and with what; `alive` are then the ids that can be found after it."""
        name = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if name == "add" or len(self.alive) < K:
            ids = np.arange(self.next_id, self.next_id + self._rng.choice((1, 50, 1000, 3000)), dtype=np.int64)
            self.alive, self.next_id = np.concatenate([self.alive, ids]), int(ids[-1]) + 1
            return "add", ids
        if name == "delete":
            n_deleted = len(self.alive) // 2 if len(self.alive) > MOST_CASES else self._rng.randint(1, 50)
            is_chosen = np.zeros(len(self.alive), np.bool_)
            is_chosen[self._rng.sample(range(len(self.alive)), min(n_deleted, len(self.alive) - 1))] = True
            chosen, self.alive = self.alive[is_chosen], self.alive[~is_chosen]
            return "delete", chosen
        return name, self._rng.choice(("distinct", "mih", "flat"))


def answer(alive: Ids, query: int) -> list[tuple[int, int]]:
    """(distance, id) of the nearest, by NumPy alone."""
    distances = np.bitwise_count(words_of(alive) ^ np.uint64(query)).astype(np.int64)
    nearest = np.lexsort((alive, distances))[:K]
    return list(zip(distances[nearest].tolist(), alive[nearest].tolist(), strict=True))


def write(path: Path, seed: int, begun: Number, done: Number, end: float) -> Counter[str]:
    """Commits until the end."""
    plan, counts = Plan(seed), Counter[str]()
    with Archive.open(path) as archive:
        while time.monotonic() < end:
            name, what = plan.advance()
            begun.value += 1
            if name == "add" and not isinstance(what, str):
                archive.add_codes(Codes(words_of(what)[:, None], 64))
            elif name == "delete" and not isinstance(what, str):
                archive.delete(what.tolist())
            elif name == "compact":
                archive.compact()
            else:
                archive.build_index(str(what))
            done.value += 1
            counts[name] += 1
    return counts


def read(
    path: Path, seed: int, begun: Synchronized[int], done: Synchronized[int], end: float, number: int
) -> Counter[str]:
    """Searches until the end. Raises RuntimeError at the first answer of no commit."""
    plan, rng, counts = Plan(seed), random.Random(number), Counter[str]()
    alive = {0: plan.alive}
    archive = Archive.open(path)
    while time.monotonic() < end:
        if rng.random() < 0.02:
            archive.close()
            archive = Archive.open(path)
            counts["opened"] += 1
        query, kind, first = rng.randrange(2**64) & 0x0F0F0F0F0F0F0F0F, rng.choice(KINDS), done.value
        hits = archive.search(Codes(np.array([[query]], np.uint64), 64), K, kind=kind)
        found, last = [(hit.distance, hit.case.id) for hit in hits], begun.value
        while max(alive) < last:
            plan.advance()
            alive[max(alive) + 1] = plan.alive
        for commit in [commit for commit in alive if commit < first]:
            del alive[commit]
        if not any(found == answer(alive[commit], query) for commit in range(last, first - 1, -1)):
            raise RuntimeError(f"kind {kind}: {found} is the answer of no commit from {first} to {last}")
        counts["searches"] += 1
        counts["searches during a commit"] += first != last
    archive.close()
    return counts


def run(job: str, *arguments: object, results: multiprocessing.Queue[tuple[str, object]]) -> None:
    """One process: a job, and its counts or its traceback as the result."""
    try:
        results.put((job, dict((write if job == "writer" else read)(*arguments))))  # type: ignore[operator]
    except BaseException:
        results.put(("error", traceback.format_exc()))
        raise


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "archive"
        Archive.create(path, bits=64).close()
        begun, done, results = context.Value("q", 0), context.Value("q", 0), context.Queue()
        common = (path, arguments.seed, begun, done, time.monotonic() + 60 * arguments.minutes)
        jobs = [("writer", *common), *(("reader", *common, number) for number in range(N_READERS))]
        processes = [context.Process(target=run, args=job, kwargs={"results": results}) for job in jobs]
        for process in processes:
            process.start()
        told = [results.get(timeout=60 * arguments.minutes + 120) for _ in processes]
        for process in processes:
            process.join()
    counts = {job: Counter[str]() for job in ("writer", "reader")}
    errors = [text for job, text in told if job == "error"]
    for job, found in told:
        if job != "error":
            counts[job].update(found)
    outcome = {"minutes": arguments.minutes, "readers": N_READERS, **counts, "errors": errors}
    arguments.json.write_text(json.dumps({"machine": describe_machine(), **outcome}, indent=1) + "\n")
    print(json.dumps(outcome, indent=1))
    return int(bool(errors))


if __name__ == "__main__":
    sys.exit(main())
