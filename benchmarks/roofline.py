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
from matplotlib.ticker import NullFormatter

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
    axes.set(xscale="log", yscale="log", xlabel="queries at once: comparisons of each code read from memory")
    axes.set_ylabel("bits compared, billions a second")
    read = 8 * measured["limits"]["read_bytes_per_s"]["1"] / 1e9
    popcounts = {name: 64 * rate / 1e9 for name, rate in measured["limits"]["popcounts_per_s"].items()}
    fastest = max(popcounts.values())
    axes.plot([1, fastest / read], [read, fastest], color=GREY, linewidth=1.2)
    axes.text(1.1, read, f"memory: {read / 8:.1f} GB/s", color=GREY, fontsize=8)
    for name, rate in popcounts.items():
        axes.plot([max(1, rate / read), 600], [rate, rate], color=GREY, linewidth=1.2)
        axes.text(600, rate * 1.03, f"{name}: {rate / 64:.1f} G words/s", color=GREY, fontsize=8, ha="right")
    for name, colour in COLOURS.items():
        drawn = [result for result in measured["results"] if is_drawn(result) and name in result["seconds"]]
        # Side by side by width, so that points of equal height can be told apart.
        places = [result["n_queries"] * (result["bits"] / 128) ** 0.25 for result in drawn if result["n_queries"] > 1]
        places = [1.0] * (len(drawn) - len(places)) + places
        drawn.sort(key=lambda result: result["n_queries"] > 1)
        rates = [result["comparisons_per_s"][name] * result["bits"] / 1e9 for result in drawn]
        axes.plot(places, rates, "o", markersize=5, color=colour, label=f"{name}, by bits a code")
        for result, x, y in zip(drawn, places, rates, strict=True):
            axes.annotate(str(result["bits"]), (x, y), (0, 5), textcoords="offset points", fontsize=7, color=colour,
                          ha="center")  # fmt: skip
    axes.set_xticks([1, 32, 256])
    axes.set_yticks([2**power for power in range(5, 15) if axes.get_ylim()[0] < 2**power < axes.get_ylim()[1]])
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.12, 0))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    machine = measured["machine"]
    axes.set_title(
        f"Exact search on one thread of {machine['cpu']}, kernel {measured['kernel']}", fontsize=10, loc="left"
    )
    figure.savefig(path)


def is_drawn(result: dict[str, Any]) -> bool:
    """Whether a result is one of the figure's."""
    wanted = {"threads": 1, "kind": "uniform", "k": 10, "allowed_share": None}
    return wanted.items() <= result.items() and result["n_codes"] * result["bits"] > 1 << 24


if __name__ == "__main__":
    main()
