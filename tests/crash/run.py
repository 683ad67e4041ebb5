"""Does an archive survive crashes? Replayed power cuts, killed writers, full and failing disks, and lost syncs.

    python tests/crash/run.py [--crash-points N] [--kills N] [--faults N] [--syncs WHICH] [--seed N] [--json FILE]

Exits 1 if an archive was harmed, or if a sync can be left out without harm: then it is not needed, or the disks of
disk.py are too kind. Of those that nothing is acknowledged upon before the next one, only one of a kind need do harm.
Needs Linux and a C compiler. Numbers larger than there are crash points or faults mean all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import recorder
from crash_points import crash_points, record
from dropped_syncs import dropped_syncs
from faults import faults
from kills import kill_writers
from recorder import Recorder
from steps import World

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "crash.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--crash-points", type=int, default=1_000)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--syncs", choices=("all", "few", "none"), default="all", help="to leave out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    recorder.run_again_preloaded()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        world = World.make(folder / "images")
        recording = record(Recorder(), world, folder)
        seed, results = arguments.seed, {"seed": arguments.seed, "seconds": {}}
        runs: dict[str, Callable[[], object]] = {
            "crash_points": lambda: crash_points(world, recording, arguments.crash_points, seed),
            "faults": lambda: faults(Recorder(), world, arguments.faults, seed),
            "kills": lambda: kill_writers(world, folder, arguments.kills, seed),
            "dropped_syncs": lambda: dropped_syncs(world, recording, seed, arguments.syncs),
        }
        for title, run in runs.items():
            begin = time.monotonic()
            results[title] = run()
            results["seconds"][title] = round(time.monotonic() - begin, 1)
            print(f"{title}: {json.dumps(results[title])[:300]}", file=sys.stderr)
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    is_harmed = any(results[title]["harmed"] for title in ("crash_points", "faults", "kills"))
    return int(is_harmed or any(row["n_harmful"] < max(1, row["n_relied_on"]) for row in results["dropped_syncs"]))


if __name__ == "__main__":
    sys.exit(main())
