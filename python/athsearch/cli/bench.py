"""The command bench."""

from __future__ import annotations

from typing import Any

import click

from .. import _scan
from ..codes import n_words_for
from .common import json_option, print_json, print_table, progress


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0.01), default=1.0, show_default=True, help="For each contender.")
@json_option
def bench(seconds: float, as_json: bool) -> None:
    """Measure how fast this machine searches, beside FAISS, USearch and NumPy as far as they are installed.

    All compare the same codes in turn; figures are medians. For one query over many codes the limit is how fast memory
    can be read: that share is shown too. Close other programs first.

    \b
    Example:
      athsearch bench --seconds 2
    """
    from ..benchmark import SHORT, measure, read_bandwidth

    results: list[dict[str, Any]] = []
    with progress("measuring") as bar:
        for number, case in enumerate(SHORT):
            bar(number, len(SHORT))
            result = measure(case, seconds)
            if case.n_queries == 1 and case.n_codes * case.bits > 1 << 28:  # more than any cache holds
                read = case.n_codes * n_words_for(case.bits) * 8 / result["seconds"]["athsearch"]
                result["share_of_read_bandwidth"] = read / read_bandwidth(case.threads)
            results.append(result)
        bar(len(SHORT), len(SHORT))
    if as_json:
        print_json({"kernel": _scan.selected_kernel(), "results": results})
        return
    click.echo(f"kernel {_scan.selected_kernel()}; billions of comparisons a second, and how many times a rival's")
    print_table(
        ["bits", "codes", "queries", "k", "threads", "athsearch", "ms a search", "faiss", "usearch", "numpy", "memory"],
        [_row(result) for result in results],
    )


def _row(result: dict[str, Any]) -> list[object]:
    seconds = result["seconds"]
    times = [f"{seconds[rival] / seconds['athsearch']:.1f}x" if rival in seconds else None for rival in _RIVALS]
    share = result.get("share_of_read_bandwidth")
    return [
        *(result[name] for name in ("bits", "n_codes", "n_queries", "k", "threads")),
        f"{result['comparisons_per_s']['athsearch'] / 1e9:.2f}",
        f"{seconds['athsearch'] * 1e3:.3f}",
        *times,
        None if share is None else f"{share:.0%}",
    ]


_RIVALS = ("faiss", "usearch", "numpy")
