"""Searches inside a long-running program: several threads, a fork, a signal, a growing index, no leak."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from athsearch.index import FlatIndex
from conftest import hear_ctrl_c

GUIDE = Path(__file__).parent.parent / "docs" / "embedding.md"

PREAMBLE = """
import os, resource, sys, threading
import numpy as np
import athsearch as ath

def codes(n, seed):
    return ath.Codes(np.random.default_rng(seed).integers(0, 2**64, (n, 1), np.uint64), 64)

def same(a, b):
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in ("offsets", "ids", "distances"))

database, queries = codes(400_000, 1), codes(20, 2)
index = ath.FlatIndex(database)
truth = index.search(queries, k=10, threads=1)
assert same(index.search(queries, k=10, threads=4), truth)  # starts threads
"""


def run(program: str, seconds: float = 120) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PREAMBLE + program],
        check=False, capture_output=True, text=True, timeout=seconds,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guides_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, n_codes in (("codes.npy", 1000), ("more.npy", 10)):
        np.save(name, np.random.default_rng(n_codes).integers(0, 2**64, (n_codes, 1), np.uint64))
    (example,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "embedding.md", "exec"), names)
    assert isinstance(names["index"], FlatIndex)
    assert names["index"].n_codes == 1010


def test_arrays_that_are_written_meanwhile_crash_nothing() -> None:
    run("""
rng = np.random.default_rng(0)
asked, rows = np.zeros((12, 2), np.uint64), rng.integers(0, 2**64, (300_000, 1), np.uint64)
written = [(array, rng.integers(0, 2**64, array.shape, np.uint64), array.copy()) for array in (asked, rows)]
is_ended = False

def write():
    while not is_ended:
        for array, other, own in written:
            np.copyto(array, other)
            np.copyto(array, own)

writer = threading.Thread(target=write, daemon=True)
writer.start()
wide, queries = ath.FlatIndex(ath.Codes(rng.integers(0, 2**64, (1000, 2), np.uint64), 128)), ath.Codes(asked, 128)
for _ in range(20_000):
    wide.search(queries, 1, threads=1)
for kind in ["distinct", "mih"] * 4:
    try:
        ath.open_index(kind, ath.Codes(rows, 64))
    except ValueError as error:
        assert "changed while they were sorted" in str(error)
is_ended = True
writer.join()
""")


def test_a_forked_child_searches_with_threads_of_its_own() -> None:
    out = run("""
def fork_and_search(depth):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    is_same = same(index.search(queries, k=10, threads=4), truth)
    os._exit(fork_and_search(depth - 1) if is_same and depth else 1 - is_same)
print(fork_and_search(2), same(index.search(queries, k=10, threads=4), truth))
""")
    assert out == "0 True\n"


def test_a_fork_during_other_threads_searches_is_harmless() -> None:
    run("""
stop = threading.Event()
def search():
    while not stop.is_set():
        assert same(index.search(queries, k=10, threads=4), truth)
threads = [threading.Thread(target=search) for _ in range(3)]
for thread in threads: thread.start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        os._exit(0 if same(index.search(queries, k=10, threads=4), truth) else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads: thread.join()
""")


def test_threads_search_while_the_index_grows() -> None:
    run("""
segments = [codes(50_000, seed) for seed in range(6)]
held = {"index": ath.FlatIndex(segments[:1])}
wrong = []
def search():
    while len(held["index"].ids) < 300_000:
        index = held["index"]
        whole = ath.FlatIndex(ath.Codes(np.concatenate([s.words for s in segments])[: index.n_codes], 64))
        if not same(index.search(queries, k=7, threads=2), whole.search(queries, k=7, threads=1)):
            wrong.append(index.n_codes)
threads = [threading.Thread(target=search) for _ in range(3)]
for thread in threads: thread.start()
for n in range(2, 7):
    held["index"] = ath.FlatIndex(segments[:n])
    threading.Event().wait(0.1)
for thread in threads: thread.join()
assert not wrong, wrong
""")


def test_thousands_of_queries_leave_nothing_behind() -> None:
    run("""
one, mask = queries[:1], np.arange(400_000) % 2 == 0
def some(n):
    for _ in range(n):
        index.search(one, k=1000, threads=2)
        index.search(one, mask=mask, count_ties=True)
        index.within(one, radius=18, threads=2)
        ath.FlatIndex(database).search(one, k=1)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
some(100)
before = resident()
some(500)
assert resident() - before < 4 << 20, resident() - before
""")


def test_a_child_that_a_signals_handler_forks_during_a_search_ends() -> None:
    out = run("""
import signal
children = []
def fork(*_):
    if not children:
        children.append(os.fork())
signal.signal(signal.SIGALRM, fork)
many = codes(20_000, 3)
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    while not children:
        index.search(many, k=10, threads=2)
except RuntimeError as error:
    assert children == [0] and "by a signal's handler" in str(error)
if children == [0]:
    os._exit(77 if same(index.search(queries, k=10, threads=4), truth) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]), same(index.search(queries, k=10), truth))
""")
    assert out == "77 True\n"


def test_a_daemon_thread_that_searches_at_the_end_is_harmless() -> None:
    run("""
import time
for threads in (1, 2):
    def search(threads=threads):
        while True:
            index.search(queries, k=10, threads=threads)
    threading.Thread(target=search, daemon=True).start()
time.sleep(0.3)
""")


@pytest.mark.parametrize(
    ("n_codes", "n_queries", "question"),
    [
        (400_000, 1_000_000, "search(asked, k=10)"),
        (2_000, 20_000_000, "search(asked, k=1, threads=1)"),  # passes shorter than the time between two looks
        (200_000, 10_000_000, "within(asked, 0)"),
    ],
)
def test_ctrl_c_ends_a_long_search(n_codes: int, n_queries: int, question: str) -> None:
    program = (
        PREAMBLE
        + f"""
asked, few = codes({n_queries}, 3), ath.FlatIndex(codes({n_codes}, 1))
print("ready", flush=True)
try:
    few.{question}
except KeyboardInterrupt:
    assert same(index.search(queries, k=10), truth)
    sys.exit(77)
"""
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            begin = time.monotonic()
            assert process.wait(timeout=60) == 77
            assert time.monotonic() - begin < 5
        finally:
            process.kill()
