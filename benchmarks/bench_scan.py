"""How fast is the exact search, beside FAISS, USearch and NumPy, and against what the machine allows?

    python benchmarks/bench_scan.py --limits build/limits [--seconds 2]

build/limits is benchmarks/limits.cpp, compiled. Writes results/scan-KERNEL.json and prints a line for each case.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path

from machine import describe_machine

from athsearch import _scan
from athsearch.benchmark import Case, measure
from athsearch.codes import n_words_for

RESULTS = Path(__file__).parent / "results"
KINDS = ("uniform", "clustered")
CASES = (
    *(Case(bits, 1_000_000, 256, kind=kind) for bits in (32, 64, 128, 256, 512, 1024) for kind in KINDS),
    *(Case(bits, 10_000_000, 32) for bits in (64, 128, 256, 512)),
    *(Case(64, 1_000_000, 256, k=k) for k in (100, 1000)),
    Case(64, 1_000_000, 256, threads=2),
    Case(64, 1_000_000, 256, allowed_share=0.5),
    *(Case(64, 10_000_000, 1, k=k, threads=threads) for k in (10, 1000) for threads in (1, 2)),
    Case(64, 100_000, 1),
    Case(256, 10_000_000, 1, threads=2),
)


def main() -> None:
    """Measures all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each contender of a case")
    arguments = parser.parse_args()
    limits = limits_of_machine(arguments.limits)
    kernel = _scan.selected_kernel()
    print(f"kernel {kernel}, limits {limits}")
    results = []
    for case in CASES:
        reads = [limits_of_machine(arguments.limits)["read_bytes_per_s"]] if case.n_queries == 1 else []
        result = measure(case, arguments.seconds)
        words = case.n_codes * case.n_queries * n_words_for(case.bits)
        seconds = result["seconds"]["athsearch"]
        popcounts = max(limits["popcounts_per_s"].values()) * case.threads
        result["share_of_popcounts"] = words / seconds / popcounts
        if case.n_queries == 1:  # other machines may share this one's memory: its limit, before and after
            reads.append(limits_of_machine(arguments.limits)["read_bytes_per_s"])
            read = statistics.mean(read[str(case.threads)] for read in reads)
            result |= {"read_bytes_per_s": read, "share_of_read_bandwidth": 8 * words / seconds / read}
        results.append(result)
        ratios = {name: round(taken / seconds, 2) for name, taken in result["seconds"].items() if name != "athsearch"}
        print(
            case,
            f"{result['comparisons_per_s']['athsearch'] / 1e9:.2f} G/s, {seconds * 1e3:.3f} ms; rivals' time: {ratios}",
            *(f"{result[key]:.0%} of the read bandwidth" for key in result if key == "share_of_read_bandwidth"),
        )
    path = RESULTS / f"scan-{kernel}.json"
    path.parent.mkdir(exist_ok=True)
    content = {"machine": describe_machine(), "kernel": kernel, "limits": limits, "results": results}
    path.write_text(json.dumps(content, indent=1) + "\n")


def limits_of_machine(program: Path) -> dict[str, dict[str, float]]:
    """What the program measures, each the median of three runs."""
    runs = [json.loads(subprocess.run([program.resolve()], check=True, capture_output=True).stdout) for _ in range(3)]
    return {
        kind: {name: statistics.median(run[kind][name] for run in runs) for name in values}
        for kind, values in runs[0].items()
    }


if __name__ == "__main__":
    main()
