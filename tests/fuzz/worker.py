"""One process that feeds one target, under bounds of time and memory; what it is at stands in a file, should it die.

    python worker.py TARGET FOLDER {"engine": "edits", "seed": 0, "n_inputs": 1000}

engine: "edits" (tests/fuzz/edits.py) or "atheris", which goes where new code of ours is reached. Prints one JSON line.
"""

from __future__ import annotations

import inspect
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

LIMIT_S = 2.0  # of processor time, for one input
MEMORY_BYTES = 1 << 30  # beyond what the process has when it starts
MAX_FAILURES = 20


class TooSlow(BaseException):
    """Not an Exception: nothing may take it for an error of the input."""


class Feeder:
    """Runs inputs and keeps the account."""

    def __init__(self, target: Any, folder: Path) -> None:
        self.target = target
        self.folder = folder
        self.current = (folder / "current").open("wb", buffering=0)
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, str]] = []
        self.slowest_s = 0.0
        self.n_inputs = 0
        signal.signal(signal.SIGPROF, self._too_slow)

    def feed(self, content: bytes) -> None:
        """One input."""
        self.current.seek(0)
        self.current.truncate()
        self.current.write(content)
        self.n_inputs += 1
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
        try:
            self.target.run(content)
            outcome = "accepted"
        except self.target.allowed as error:
            outcome = type(error).__name__
        except (Exception, TooSlow) as error:
            outcome = f"! {type(error).__name__}"
            self._fail(content, error)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        self.counts[outcome] += 1
        self.slowest_s = max(self.slowest_s, time.process_time() - start)

    def report(self) -> dict[str, Any]:
        """The account, as plain values."""
        return {
            "n_inputs": self.n_inputs,
            "outcomes": dict(self.counts.most_common()),
            "slowest_s": round(self.slowest_s, 3),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "failures": self.failures,
        }

    def _fail(self, content: bytes, error: BaseException) -> None:
        name = f"failure-{os.getpid()}-{len(self.failures)}"
        (self.folder / name).write_bytes(content)
        where = traceback.format_exception(error)[-3:]
        self.failures.append({"input": name, "error": repr(error)[:300], "where": "".join(where)[-1500:]})
        if len(self.failures) >= MAX_FAILURES:
            raise SystemExit(json.dumps(self.report()))

    def _too_slow(self, *_: object) -> None:
        raise TooSlow(f"more than {LIMIT_S} s")


def main(name: str, folder: Path, engine: str, seed: int, n_inputs: int) -> None:
    """Feeds n_inputs inputs."""
    from targets import TARGETS

    warnings.simplefilter("ignore")  # of Pillow's about odd tags there would be thousands
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="athsearch-fuzz-") as scratch:
        target = TARGETS[name](Path(scratch))
        _bound_memory()
        feeder = Feeder(target, folder)
        for content in target.seeds:
            feeder.feed(content)
        if set(feeder.counts) != {"accepted"}:
            raise SystemExit(f"{name}: its sound files are refused: {feeder.report()}")
        if engine == "edits":
            _edits(feeder, random.Random(seed), n_inputs)
        else:
            _atheris(feeder, folder, seed, n_inputs)
        print(json.dumps(feeder.report()), flush=True)


def _edits(feeder: Feeder, rng: random.Random, n_inputs: int) -> None:
    from edits import drawn_edits, edited

    target = feeder.target
    while feeder.n_inputs < n_inputs:
        content, other = rng.choice(target.seeds), rng.choice(target.seeds)
        content = edited(content, drawn_edits(rng), target.tokens, other)
        feeder.feed(target.mend(content) if target.mend and rng.random() < 0.7 else content)


def _atheris(feeder: Feeder, folder: Path, seed: int, n_inputs: int) -> None:
    import atheris

    for function in _functions():  # atheris.instrument_imports does not see packages that are installed to be edited
        atheris.instrument_func(function)
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, content in enumerate(feeder.target.seeds):
        (corpus / f"seed-{number}").write_bytes(content)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in feeder.target.tokens if word))

    def feed(content: bytes) -> None:
        feeder.feed(content)
        if feeder.n_inputs >= n_inputs:  # libFuzzer never returns
            print(json.dumps(feeder.report()), flush=True)
            os._exit(0)

    options = [f"-seed={seed + 1}", "-max_len=65536", "-rss_limit_mb=0", "-verbosity=0", "-print_final_stats=0"]
    dictionary = [f"-dict={words}"] if feeder.target.tokens else []
    atheris.Setup([sys.argv[0], *options, *dictionary, str(corpus)], feed)
    atheris.Fuzz()


def _functions() -> list[Any]:
    """Those of the readers: of our package, Pillow, pydicom and nibabel, as far as they are loaded."""
    packages = ("athsearch", "PIL", "pydicom", "nibabel")
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] in packages]
    found: dict[int, Any] = {}
    for module in modules:
        for thing in list(vars(module).values()):
            for part in [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]:
                function = getattr(part, "__func__", getattr(part, "fget", part))  # of a method or property
                if inspect.isfunction(function) and function.__module__.split(".")[0] in packages:
                    found[id(function)] = function
    return list(found.values())


def _escaped(word: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in word)


def _bound_memory() -> None:
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = n_pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), **json.loads(sys.argv[3]))
