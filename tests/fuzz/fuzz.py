"""Damaged files by the hundred thousand: does every reader refuse them with an error of ours, soon and in little space?

    python tests/fuzz/fuzz.py [--inputs 100000] [--targets png,where] [--engines edits,atheris] [--seed 0]

Each target (targets.py) is fed in processes of its own, with damage drawn by a seeded generator and, where atheris is
installed, by libFuzzer, which keeps what reaches new code. An unexpected exception, more than 2 s of processor time,
more than 1 GiB of memory or a process that dies is a failure: its input is kept in FOLDER, and the exit status is 1.
Results are written to benchmarks/results/fuzz.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "results" / "fuzz.json"
SHARES = {  # per cent of the inputs; some take longer than others
    "png": 10,
    "jpeg": 10,
    "bmp": 6,
    "tiff": 10,
    "dicom": 12,
    "nifti": 6,
    "segment": 14,
    "catalogue": 8,
    "manifest": 12,
    "where": 12,
}
DEAD_S = 60  # without a new input


def main() -> int:
    """Feeds everything, prints a line a target, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--targets", default=",".join(SHARES), help="only these")
    parser.add_argument("--engines", default="edits,atheris" if importlib.util.find_spec("atheris") else "edits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("fuzz-output"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    targets, engines = arguments.targets.split(","), arguments.engines.split(",")
    whole = sum(SHARES[name] for name in targets) * len(engines)
    jobs = [(name, engine, -(-arguments.inputs * SHARES[name] // whole)) for name in targets for engine in engines]

    def feed(job: tuple[str, str, int]) -> dict[str, Any]:
        name, engine, n_inputs = job
        result = fed(name, engine, n_inputs, arguments.seed, arguments.folder / f"{name}-{engine}")
        refused = sum(result["outcomes"].values()) - result["outcomes"].get("accepted", 0)
        print(
            f"{name:10} {engine:8} {result['n_inputs']:7,} inputs, {refused:7,} refused, slowest "
            f"{result['slowest_s']:.3f} s, {result['peak_mb']:,} MB, {len(result['failures'])} failures",
            flush=True,
        )
        return result

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = list(pool.map(feed, jobs))
    n_failures = sum(len(result["failures"]) for result in results)
    n_inputs = sum(result["n_inputs"] for result in results)
    arguments.out.write_text(
        json.dumps({"seed": arguments.seed, "n_inputs": n_inputs, "results": results}, indent=1) + "\n"
    )
    print(f"{n_inputs:,} inputs, {n_failures} failures" + (f"; see {arguments.folder}" if n_failures else ""))
    return 1 if n_failures else 0


def fed(name: str, engine: str, n_inputs: int, seed: int, folder: Path) -> dict[str, Any]:
    """What a worker reports. One that dies is a failure with the input it was at."""
    folder.mkdir(parents=True, exist_ok=True)
    options = json.dumps({"engine": engine, "seed": seed, "n_inputs": n_inputs})
    current = folder / "current"
    current.touch()
    os.utime(current)
    command = [sys.executable, str(HERE / "worker.py"), name, str(folder), options]
    with (
        (folder / "stderr").open("w+b") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        while (status := process.poll()) is None:
            time.sleep(0.05)
            if time.time() - current.stat().st_mtime > DEAD_S:
                process.kill()
        lines = process.stdout.read().splitlines() if process.stdout else []
        errors.seek(0)
        told = errors.read().decode(errors="replace")[-1500:]
    about = {"target": name, "engine": engine}
    if status == 0 and lines:
        return {**about, **json.loads(lines[-1])}
    content = current.read_bytes()
    (folder / "failure-died").write_bytes(content)
    failure = {"input": "failure-died", "error": f"the process ended with status {status}", "where": told}
    return {**about, "n_inputs": 0, "outcomes": {}, "slowest_s": 0.0, "peak_mb": 0, "failures": [failure]}


if __name__ == "__main__":
    sys.exit(main())
