"""Which loss retrieves best? Every method of runs.py on every set, with several seeds.

    python benchmarks/quality/study.py DATA [--parts losses,few,ablations,lengths,long] [--minutes 60]

Each run is a process of its own on one core, two at a time on two cores. What stands in results/quality.json is
not done again, so that the study goes on where it was stopped, by Ctrl-C or by --minutes; a line of other settings than
those of now is replaced. --folder keeps the logits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runs import PARTS, SETS, Run

from athsearch.files import replacing

sys.path.insert(0, str(Path(__file__).parents[1]))
from machine import describe_machine

RESULTS = Path(__file__).parents[1] / "results" / "quality.json"


def main() -> None:
    """Runs what is missing; results are written as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seeds", help="only these, such as 0,1")
    parser.add_argument("--sets", default=",".join(SETS), help="only these")
    parser.add_argument("--methods", help="only these, such as 'ours,CSQ'")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no run is started after so many")
    parser.add_argument("--folder", type=Path, default=Path("study-runs"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    seeds = {int(seed) for seed in arguments.seeds.split(",")} if arguments.seeds else None
    wanted = dict.fromkeys(run for part in arguments.parts.split(",") for run in PARTS[part]())
    methods = set(arguments.methods.split(",")) if arguments.methods else None
    chosen = (
        run
        for run in wanted
        if run.set in arguments.sets.split(",")
        and (seeds is None or run.seed in seeds)
        and (methods is None or run.method in methods)
    )
    missing = (run for run in chosen if run not in finished())
    end = time.monotonic() + 60 * arguments.minutes
    n_at_once = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(n_at_once) as pool:
        going: set[Future[dict[str, Any]]] = set()
        for run in until(missing, end):
            going.add(pool.submit(measured, run, arguments.data, arguments.folder))
            if len(going) == n_at_once:
                done, going = wait(going, return_when=FIRST_COMPLETED)
                for future in done:
                    note(future.result())
        for future in going:
            note(future.result())


def until(runs: Iterator[Run], end: float) -> Iterator[Run]:
    """Those that are asked for before the end."""
    for run in runs:
        if time.monotonic() >= end:
            return
        yield run


def finished() -> set[Run]:
    """The runs with results, where these are of the settings of now."""
    return {run for line in known_lines() if line["settings"] == (run := run_of(line)).digest()}


def known_lines() -> list[dict[str, Any]]:
    """What stands in the results."""
    lines: list[dict[str, Any]] = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    return lines


def run_of(line: dict[str, Any]) -> Run:
    """Whose results a line is."""
    return Run(**{name: line[name] for name in asdict(Run("", "")) if name in line})


def measured(run: Run, data: Path, folder: Path) -> dict[str, Any]:
    """What the run's process printed. Raises CalledProcessError where it failed: nothing is left out quietly."""
    kind = "-few" * run.few + "-long" * run.long
    name = f"{run.set}-{run.method}-{run.bits}-{run.seed}{kind}.npz".replace(" ", "_")
    command = [sys.executable, str(Path(__file__).parent / "measure.py"), str(data), str(folder / name)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, json.dumps(asdict(run))], stdout=subprocess.PIPE, check=True, env=one_thread)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def as_text(results: dict[str, Any]) -> str:
    """As JSON, a line a run."""
    runs = ",\n".join(json.dumps(run) for run in results["runs"])
    return f'{{"machine": {json.dumps(results["machine"])},\n"runs": [\n{runs}\n]}}\n'


def note(result: dict[str, Any]) -> None:
    """Adds a run to the results."""
    others = [line for line in known_lines() if run_of(line) != run_of(result)]
    with replacing(RESULTS) as temporary:
        temporary.write_text(as_text({"machine": describe_machine(), "runs": [*others, result]}))
    run = " ".join(str(result[name]) for name in asdict(Run("", "")))
    print(f"{run}: macro P@10 {result['hamming']['precision']:.3f}, {result['cpu_s']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
