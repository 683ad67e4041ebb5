"""Does an index last in a long-running program? An hour of threads, forks, signals and growing indexes in one process.

    python benchmarks/soak.py [--minutes 60]

Three threads ask without a pause: both indexes, four lengths of code, top-k and radius, masks and ties, one query and
many; every answer must equal what NumPy found beforehand. Meanwhile, every five seconds, the indexes grow by a mapped
segment (or begin again with one), a child is forked and searches, SIGINT ends a long search, a short-lived thread
builds indexes and drops them, and faulty calls must be refused. Before the hour, one sparse mapped array of more than
2**31 rows is searched; its file wants a TMPDIR that can hold holes of 17 GB. Needs Linux with glibc 2.33 or later.

Writes results/soak.json anew every minute. Exits 1 if an answer was wrong, a child failed, all hung for five minutes,
threads or descriptors grew after a sixth of the time, or from then to the end (medians of a twelfth of the time each,
with all searches at rest)
- what malloc has given out grew by more than 1 MiB, or Python's small objects by more than 10,000: two bytes, or a
  fiftieth of an object, for each of the half a million searches or more;
- memory that no file holds grew by more than 64 MiB, one heap of glibc's: it keeps a heap a thread, with more or less
  that is free, as answers of a megabyte come and go.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine
from soak_questions import N_QUERIES, N_SEGMENTS, Stage, Width, many_rows

from athsearch.codes import Codes
from athsearch.errors import ModelMismatch

RESULTS = Path(__file__).parent / "results" / "soak.json"
WIDTHS = (32, 64, 128, 256)
N_THREADS = 3
ROUND_S, ROUNDS_A_MINUTE = 5, 12  # in the last round of a minute the indexes have all segments
MOST_GROWTH = {"rss_anon_bytes": 64 << 20, "malloc_bytes": 1 << 20, "python_objects": 10_000}


class Soak:
    """The process under test: the indexes it holds, what it does, what it counts."""

    def __init__(self, widths: list[Width]) -> None:
        self.widths = widths
        self.held: dict[int, Stage] = {}
        self.counts: Counter[str] = Counter()  # of the main thread
        self.n_queries = [0] * N_THREADS
        self.wrong: list[str] = []
        self.may_ask = threading.Event()
        self.is_asking = [threading.Lock() for _ in range(N_THREADS)]
        self.grow(1)
        for number in range(N_THREADS):
            threading.Thread(target=self.work, args=(number,), daemon=True).start()

    def work(self, number: int) -> None:
        """Asks for ever, but for the moments when memory is measured."""
        while True:
            self.may_ask.wait()
            with self.is_asking[number]:
                self.n_queries[number] += self.ask(self.held[random.choice(WIDTHS)])

    def ask(self, stage: Stage) -> int:
        """Asks one question and compares the answer; says of how many queries it was."""
        question, index = random.choice(stage.questions), random.choice(stage.indexes)
        try:
            if not question.is_answered_by(index, threads=random.choice((1, 2))):
                self.wrong.append(f"{type(index).__name__}, {index.n_codes} codes of {index.bits} bits: {question}")
        except Exception:
            self.wrong.append(traceback.format_exc())
        return len(question.queries)

    def grow(self, n_segments: int) -> None:
        """New indexes of so many segments; searches under way keep the old ones."""
        self.counts["growths"] += n_segments > 1
        for width in self.widths:
            self.held[width.bits] = width.stage(width.segments[:n_segments])

    def fork(self) -> None:
        """A child that searches, forked while other threads do."""
        self.counts["forks"] += 1
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(120)  # ends a child that hangs
                self.wrong.clear()
                for stage in self.held.values():
                    for _ in range(5):
                        self.ask(stage)
                print(*self.wrong, sep="\n", end="", file=sys.stderr, flush=True)
                status = len(self.wrong) > 0
            finally:
                os._exit(status)
        self.counts["failed_children"] += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0

    def interrupt(self) -> None:
        """SIGINT ends a search that would take many seconds, and the index stays usable."""
        self.counts["signals"] += 1
        width = random.choice(self.widths)
        stage = self.held[width.bits]
        asked = width.queries[np.arange(1_000_000) % N_QUERIES]
        timer = threading.Timer(random.uniform(0.1, 0.4), os.kill, (os.getpid(), signal.SIGINT))
        with contextlib.suppress(KeyboardInterrupt):
            timer.start()
            random.choice(stage.indexes).search(asked, k=random.choice((10, 1000)), threads=2)
            self.wrong.append("a search did not hear SIGINT")
        timer.join()
        self.ask(stage)

    def build_and_drop(self) -> None:
        """A short-lived thread, with mappings and indexes of its own."""
        self.counts["built_and_dropped"] += 1
        width = random.choice(self.widths)
        thread = threading.Thread(target=lambda: self.ask(width.stage(width.mapped())))
        thread.start()
        thread.join()

    def ask_wrongly(self) -> None:
        """Calls that must be refused, each by its own error."""
        width = random.choice(self.widths)
        queries, index = width.queries, random.choice(self.held[width.bits].indexes)
        too_long = np.ones(index.n_codes + 1, np.bool_)
        refused: list[tuple[type[Exception], Callable[[], object]]] = [
            (TypeError, lambda: Codes(queries.words.view(np.int64), queries.bits)),
            (ValueError, lambda: Codes(queries.words[::2], queries.bits)),
            (ValueError, lambda: type(index)([])),
            (ValueError, lambda: type(index)(queries, np.zeros(N_QUERIES, np.int64))),
            (TypeError, lambda: index.search(queries.words)),  # type: ignore[arg-type]
            (ModelMismatch, lambda: index.search(Codes(np.zeros((1, 3), np.uint64), 192))),
            (ValueError, lambda: index.search(queries, k=0)),
            (ValueError, lambda: index.search(queries, threads=0)),
            (ValueError, lambda: index.search(queries, mask=too_long)),
            (TypeError, lambda: index.within(queries, radius=1, mask=too_long.view(np.uint8))),
            (ValueError, lambda: index.within(queries, radius=-1)),
        ]
        for error, call in refused:
            self.counts["faulty_calls"] += 1
            try:
                call()
                self.wrong.append(f"a call that should give {error.__name__} gave an answer")
            except error:
                pass

    def line(self, minute: int) -> dict[str, int]:
        """What the process has done so far and what it holds, with all searches at rest."""
        self.may_ask.clear()
        with contextlib.ExitStack() as stack:
            for lock in self.is_asking:
                stack.enter_context(lock)
            held = held_by_process()
        self.may_ask.set()
        return {"minute": minute, "queries": sum(self.n_queries), "wrong": len(self.wrong), **held, **self.counts}


class MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2, of which two numbers are wanted."""

    _fields_ = (
        ("_arena_to_hblks", ctypes.c_size_t * 4),
        ("hblkhd", ctypes.c_size_t),  # given out in mappings of their own
        ("_usmblks_fsmblks", ctypes.c_size_t * 2),
        ("uordblks", ctypes.c_size_t),  # given out from heaps
        ("_fordblks_keepcost", ctypes.c_size_t * 2),
    )


def held_by_process() -> dict[str, int]:
    """Memory, threads and open files of this process."""
    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallInfo
    given = mallinfo()
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "rss_anon_bytes": int(status["RssAnon"].split()[0]) * 1024,
        "malloc_bytes": given.uordblks + given.hblkhd,
        "python_objects": sys.getallocatedblocks(),
        "threads": int(status["Threads"]),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def main() -> None:
    """Lets the hour pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    n_rounds = parser.parse_args().minutes * ROUNDS_A_MINUTE
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        many_rows = search_many_rows(Path(folder) / "many.npy")
        soak = Soak([Width(Path(folder), bits) for bits in WIDTHS])
        soak.may_ask.set()
        begin, lines = time.monotonic(), []
        for number in range(1, n_rounds + 1):
            faulthandler.dump_traceback_later(300, exit=True)  # if anything hangs
            soak.grow((number - 1) % N_SEGMENTS + 1)
            for act in (soak.fork, soak.interrupt, soak.build_and_drop, soak.ask_wrongly):
                act()
            time.sleep(max(0.1, begin + number * ROUND_S - time.monotonic()))
            if number % ROUNDS_A_MINUTE:
                continue
            lines.append(soak.line(number // ROUNDS_A_MINUTE))
            print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
            verdict = judge(lines)
            result = {"machine": machine, "many_rows": many_rows, "verdict": verdict, "minutes": lines}
            RESULTS.write_text(json.dumps(result, indent=1) + "\n")
            if soak.wrong:
                break  # no later minute would mend it
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(verdict), *soak.wrong[:3], sep="\n", file=sys.stderr, flush=True)
    sys.exit(len(verdict["failures"]) > 0)  # the threads still ask, and must not mind


def search_many_rows(path: Path) -> dict[str, object]:
    """Seconds that questions to one mapped array take. Raises RuntimeError for a wrong answer."""
    (index,), questions = many_rows(path)
    seconds = {}
    for question in questions:
        begin = time.monotonic()
        if not question.is_answered_by(index, threads=2):
            raise RuntimeError(f"wrong answer over {index.n_codes} codes: {question}")
        seconds[str(question)] = time.monotonic() - begin
    return {"n_codes": index.n_codes, "seconds": seconds}


def judge(lines: list[dict[str, int]]) -> dict[str, Any]:
    """What grew after the first sixth, and what failed."""
    settled = lines[len(lines) // 6 :]
    part = max(1, len(lines) // 12)

    def growth(name: str) -> float:
        first, last = ([line[name] for line in some] for some in (settled[:part], settled[-part:]))
        return statistics.median(last) - statistics.median(first)

    grown = {name: growth(name) for name in MOST_GROWTH}
    failures = [name for name in ("wrong", "failed_children") if lines[-1][name]]
    failures += [name for name in ("threads", "descriptors") if max(line[name] for line in settled) > settled[0][name]]
    failures += [name for name, most in MOST_GROWTH.items() if grown[name] > most]
    n_thousands = max(growth("queries"), 1) / 1000
    return {
        "failures": failures,
        "queries": lines[-1]["queries"],
        "grown": grown,
        "grown_per_1000_queries": {name: value / n_thousands for name, value in grown.items()},
    }


if __name__ == "__main__":
    main()
