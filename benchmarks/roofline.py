"""A figure of bench_scan.py's results: how near the searches come to what memory and the processor allow.

    python benchmarks/roofline.py [results/scan-KERNEL.json ...]

Writes a PNG beside each file. One thread, uniform codes, ten neighbours. A search of several queries compares each word
that it reads from memory several times: that is the horizontal axis, and the limits are lines over it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
COLOURS = {"athsearch": "#1f5f9a", "faiss": "#9a4a1f"}
GREY = "#666666"


def main() -> None:
    """Draws every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, default=sorted(RESULTS.glob("scan-*.json")))
    for path in parser.parse_args().results:
        draw(json.loads(path.read_text()), path.with_suffix(".png"))


def draw(measured: dict[str, Any], path: Path) -> None:
    """The limits, and a point for each case and contender."""
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log", xlabel="queries at once: comparisons of each word read from memory")
    axes.set_ylabel("64-bit words compared, billions a second")
    words_read = measured["limits"]["read_bytes_per_s"]["1"] / 8e9
    popcounts = {name: rate / 1e9 for name, rate in measured["limits"]["popcounts_per_s"].items()}
    fastest = max(popcounts.values())
    axes.plot([1, fastest / words_read], [words_read, fastest], color=GREY, linewidth=1.2)
    axes.text(1.05, words_read * 1.3, f"memory, {8 * words_read:.1f} GB/s", color=GREY, fontsize=8, rotation=30)
    for name, rate in popcounts.items():
        axes.plot([max(1, rate / words_read), 400], [rate, rate], color=GREY, linewidth=1.2)
        axes.text(400, rate * 1.04, f"{name}, {rate:.1f} G words/s", color=GREY, fontsize=8, ha="right")
    for name, colour in COLOURS.items():
        label: str | None = name
        for result in measured["results"]:
            if not is_drawn(result) or name not in result["seconds"]:
                continue
            rate = result["comparisons_per_s"][name] * -(-result["bits"] // 64) / 1e9
            axes.plot(result["n_queries"], rate, "o", markersize=5, color=colour, label=label)
            axes.annotate(f"{result['bits']}", (result["n_queries"], rate), (5, -3), fontsize=7, color=colour,
                          textcoords="offset points")  # fmt: skip
            label = None
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    machine = measured["machine"]
    axes.set_title(f"Exact search on one thread by code length in bits: {machine['cpu']}, kernel {measured['kernel']}",
                   fontsize=10, loc="left")  # fmt: skip
    figure.savefig(path)


def is_drawn(result: dict[str, Any]) -> bool:
    """Whether a result is one of the figure's."""
    wanted = {"threads": 1, "kind": "uniform", "k": 10, "allowed_share": None}
    return wanted.items() <= result.items() and result["n_codes"] * result["bits"] > 1 << 24


if __name__ == "__main__":
    main()
