"""A figure of bench_scale.py's results: the time of one query against the number of codes.

    python benchmarks/scale_figure.py

Writes results/scale.png. A hollow point is an index that misses neighbours; its recall stands beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
STYLES = {
    "flat": ("#1f5f9a", "-"),
    "distinct": ("#2f8f4e", "-"),
    "mih": ("#7a3f9a", "-"),
    "faiss-flat": ("#9a4a1f", "-"),
    "faiss-flat-distinct": ("#c98a5b", "--"),
    "faiss-ivf": ("#888888", "-"),
    "faiss-hnsw": ("#555555", "--"),
    "faiss-hash": ("#b0a030", "-"),
    "faiss-multihash": ("#b0a030", "--"),
}


def main() -> None:
    """Draws a panel for each kind of codes."""
    measured = json.loads((RESULTS / "scale.json").read_text())
    kinds = list(dict.fromkeys(line["codes"] for line in measured["results"]))
    figure = Figure(figsize=(5 * len(kinds), 5), dpi=120, layout="constrained")
    for place, kind in enumerate(kinds):
        axes = figure.add_subplot(1, len(kinds), place + 1)
        draw(axes, [line for line in measured["results"] if line["codes"] == kind and "query_ms_p50" in line])
        axes.set_title(f"{kind} codes", fontsize=10, loc="left")
        axes.set_ylim(0.008, 3000)
        if place == 0:
            axes.set_ylabel("one query for 10 neighbours, ms (median)")
            axes.legend(frameon=False, fontsize=8, loc="upper left")
    figure.suptitle(
        f"64 bits, {measured['machine']['processors']} processors of {measured['machine']['cpu']}", fontsize=10
    )
    figure.savefig(RESULTS / "scale.png")


def draw(axes: Axes, lines: list[dict[str, Any]]) -> None:
    """A line a contender."""
    for name, (colour, style) in STYLES.items():
        own = sorted((line for line in lines if line["index"] == name), key=lambda line: line["n_codes"])
        sizes, times = [line["n_codes"] for line in own], [line["query_ms_p50"] for line in own]
        axes.plot(sizes, times, style, color=colour, linewidth=1.2, label=name if own else None)
        for line in own:
            is_whole = line["recall"] == 1
            face = colour if is_whole else "white"
            axes.plot(line["n_codes"], line["query_ms_p50"], "o", markersize=5, color=colour, markerfacecolor=face)
            if not is_whole:
                place = (line["n_codes"], line["query_ms_p50"])
                axes.annotate(
                    f"{line['recall']:.3f}", place, (5, 0), textcoords="offset points", fontsize=7, color=colour
                )
    axes.set(xscale="log", yscale="log", xlabel="codes")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
