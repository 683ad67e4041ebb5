"""Figures of an evaluation, drawn with matplotlib's objects alone, so no global state is touched.

Colours are those of Okabe and Ito (Color universal design, 2008), which people with any colour vision tell apart; where
there are more classes than colours, the rim of the mark tells them apart as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..codes import Codes
from ..files import replacing
from .results import Curve, Curves, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
RIMS = ("white", "black")
GREY, LIGHT = "#777777", "#e6e6e6"
NAME_LETTERS = 28
MAX_BARS = 60  # classes of which bars are drawn
MAX_COLOURED = len(COLOURS) * len(RIMS)  # classes that get a colour and a place in the legend
MAX_CODES = 20_000  # of the map
CASE_AREA, SMALLEST_AREA, LARGEST_AREA = 20.0, 13.0, 1200.0  # of marks, in square points


def write_figures(folder: Path, found: Evaluation, database_codes: Codes, database_labels: Sequence[str]) -> list[Path]:
    """Writes precision-recall.png, precision-at-k.png, classes.png and code-map.png into a folder, made if need be.

    database_codes, database_labels [n_codes]: what was searched. Needs matplotlib. Returns the paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Callable[[], Figure]] = {
        "precision-recall.png": lambda: precision_recall(found),
        "precision-at-k.png": lambda: precision_at_k(found),
        "classes.png": lambda: class_bars(found),
        "code-map.png": lambda: code_map(database_codes, database_labels),
    }
    for name, draw in figures.items():
        with replacing(folder / name) as temporary:
            draw().savefig(temporary, format="png")
    return [folder / name for name in figures]


def precision_recall(found: Evaluation) -> Figure:
    """Macro precision against macro recall, from the first place of the rankings to their ends."""
    figure, axes = _figure(6.4, 5.2)
    curves = found.curves
    for name, curve, style in _lines(curves):
        axes.plot(curve.recall, curve.precision, label=name, **style)
    place = int(np.searchsorted(curves.depths, min(found.k, found.n_cases)))
    axes.plot(
        curves.scores.recall[place], curves.scores.precision[place], "o", color=COLOURS[0], markersize=6, zorder=4
    )
    axes.annotate(
        f"first {curves.depths[place]:,}",
        (curves.scores.recall[place], curves.scores.precision[place]),
        xytext=(8, 6) if curves.scores.precision[place] < 0.9 else (7, -15),  # above the curve, below the title
        textcoords="offset points",
        fontsize=9,
    )
    axes.set_xlabel("recall: share of the class's cases that are found (mean over classes)")
    axes.set_ylabel("precision (mean over classes)")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, loc="best")
    axes.set_title(f"Precision and recall, {_counts(found)}", fontsize=11, loc="left")
    return figure


def precision_at_k(found: Evaluation) -> Figure:
    """Macro P@k by k, with its interval at the k of the evaluation."""
    figure, axes = _figure(6.4, 4.4)
    curves = found.curves
    for name, curve, style in _lines(curves):
        axes.plot(curves.depths, curve.precision, label=name, **style)
    value = found.macro.precision
    span = found.intervals.macro if found.intervals else None
    if span is not None:
        label = f"P@{found.k} = {value:.3f}, 95 % {span.low.precision:.3f} to {span.high.precision:.3f}"
        axes.vlines(found.k, span.low.precision, span.high.precision, color=COLOURS[0], linewidth=1.5)
    else:
        label = f"P@{found.k} = {value:.3f}"
    axes.plot(found.k, value, "o", color=COLOURS[0], markersize=6, zorder=4, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("k: how many of the nearest cases are looked at")
    axes.set_ylabel("P@k (mean over classes)")
    axes.set_xlim(1, max(found.n_cases, found.k) * 1.1)
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(frameon=False, loc="best")
    axes.set_title(f"Precision among the first k, {_counts(found)}", fontsize=11, loc="left")
    return figure


def class_bars(found: Evaluation) -> Figure:
    """P@k of each class, with its interval, and what chance gives: the class's share of the database."""
    names = sorted(found.per_class, key=lambda name: (-found.per_class[name].n_queries, name))[:MAX_BARS]
    names.sort(key=lambda name: (found.per_class[name].precision, name))
    figure, axes = _figure(7.2, 1.7 + 0.32 * len(names))
    rows = np.arange(len(names))
    scores = [found.per_class[name] for name in names]
    values = np.array([score.precision for score in scores])
    axes.barh(rows, values, height=0.62, color=COLOURS[4])
    if found.intervals:
        spans = [(row, span) for row, name in enumerate(names) if (span := found.intervals.per_class.get(name))]
        low, high = ([getattr(span, end).precision for _, span in spans] for end in ("low", "high"))
        axes.hlines([row for row, _ in spans], low, high, color="#222222", linewidth=1.4, label="95 % interval")
    share = [score.n_cases / found.n_cases for score in scores]
    axes.plot(share, rows, "|", color=COLOURS[5], markersize=13, markeredgewidth=2, label="share of the database")
    axes.axvline(found.macro.precision, color=GREY, linestyle="--", linewidth=1.2, label="macro mean")
    axes.set_yticks(rows, [f"{_short(name)} ({score.n_queries:,})" for name, score in zip(names, scores, strict=True)])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel(f"P@{found.k}")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    left_out = len(found.per_class) - len(names)
    remark = f"; {left_out} classes with fewer queries not shown" if left_out else ""
    axes.set_title(f"Classes, in brackets their queries{remark}", fontsize=11, loc="left")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def code_map(codes: Codes, labels: Sequence[str]) -> Figure:
    """Distinct codes in the plane that shows most of the variance of the bits; the area of a mark is its cases.

    The marks of classes that share a code lie in each other, so that each shows as much area as it has cases. Where the
    largest code has many, marks of few cases are larger than that, to be seen.
    """
    names, classes = np.unique(np.array(labels), return_inverse=True)
    distinct, code_of = np.unique(codes.words, axis=0, return_inverse=True)
    plane, shares = _plane(Codes.trusted(np.ascontiguousarray(distinct), codes.bits), np.bincount(code_of.ravel()))
    shown = np.unique(np.linspace(0, len(distinct) - 1, min(MAX_CODES, len(distinct))).round().astype(np.intp))
    by_size = np.argsort(-np.bincount(classes), kind="stable")
    rank_of_class = np.argsort(by_size)

    # One mark for each class of each code. Those of a code lie in each other, the class with most cases outermost; its
    # mark has the area of all of them, so that the ring that shows has the area of its own.
    pairs, counts = np.unique(code_of.ravel() * len(names) + classes, return_counts=True)
    code, number = pairs // len(names), pairs % len(names)
    order = np.lexsort((number, -counts, code))
    code, number, counts = code[order], number[order], counts[order]
    upto = np.cumsum(counts)
    last_of_code = np.searchsorted(code, code, side="right") - 1
    area = upto[last_of_code] - upto + counts
    kept = np.isin(code, shown)
    code, number, area = code[kept], number[kept], area[kept]
    sizes = np.maximum(area * min(CASE_AREA, LARGEST_AREA / area.max()), SMALLEST_AREA)

    figure, axes = _figure(8.4, 5.6)
    order = np.argsort(-sizes, kind="stable")  # small marks over large ones
    x, y = plane[code[order]].T
    axes.scatter(x, y, s=sizes[order], **_look(rank_of_class[number[order]].tolist()))
    titles = [_short(str(names[number])) for number in by_size[:MAX_COLOURED]]
    if len(names) > MAX_COLOURED:
        titles.append(f"{len(names) - MAX_COLOURED} more classes")
    marks = [axes.scatter([], [], s=45, **_look([rank])) for rank in range(len(titles))]
    axes.set_xlabel(f"first component of the bits, {shares[0]:.0%} of their variance")
    axes.set_ylabel(f"second component, {shares[1]:.0%}")
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.1)
    part = f"{len(shown):,} of {len(distinct):,}" if len(shown) < len(distinct) else f"{len(distinct):,}"
    axes.set_title(f"{part} distinct codes of {len(labels):,} cases; area: cases", fontsize=11, loc="left")
    figure.legend(marks, titles, frameon=False, loc="outside right upper", fontsize=9)
    return figure


def _plane(distinct: Codes, counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """float64 [n, 2], the first two principal components of codes that occur `counts` times, and their shares of the
    variance: by the singular values of the covariance of the bits. A component points to where most bits are set."""
    weights = counts / counts.sum()
    bits = distinct.to_bits().astype(np.float32)  # [n, bits]
    bits -= (weights @ bits).astype(np.float32)
    covariance = (bits * weights[:, None].astype(np.float32)).T @ bits
    directions, variances, _ = np.linalg.svd(covariance.astype(np.float64))
    axes = np.zeros((len(covariance), 2))
    axes[:, : min(2, len(covariance))] = directions[:, :2]
    axes *= np.where(axes.sum(axis=0) < 0, -1, 1)
    shares = np.zeros(2)
    shares[: len(variances[:2])] = variances[:2] / max(float(variances.sum()), 1e-12)
    return bits @ axes, shares


def _look(ranks: Sequence[int]) -> dict[str, Any]:
    """How the marks of classes are drawn, given the place of each among the classes by size."""
    is_coloured = [rank < MAX_COLOURED for rank in ranks]
    return {
        "c": [COLOURS[rank % len(COLOURS)] if own else GREY for rank, own in zip(ranks, is_coloured, strict=True)],
        "edgecolors": [
            RIMS[rank // len(COLOURS)] if own else LIGHT for rank, own in zip(ranks, is_coloured, strict=True)
        ],
        "linewidths": [0.3 if rank < len(COLOURS) else 0.7 for rank in ranks],
    }


def _lines(curves: Curves) -> list[tuple[str, Curve, dict[str, Any]]]:
    """What is drawn of curves, and how."""
    return [
        ("codes", curves.scores, {"color": COLOURS[0], "linewidth": 2.0, "zorder": 3}),
        ("largest class first", curves.majority, {"color": COLOURS[5], "linewidth": 1.4, "linestyle": "--"}),
        ("random order", curves.chance, {"color": "#bbbbbb", "linewidth": 4.5, "zorder": 1.5}),  # often the same line
    ]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color=LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _counts(found: Evaluation) -> str:
    return f"{found.n_queries:,} queries, {found.n_cases:,} cases, {found.bits} bits"


def _short(name: str) -> str:
    """A name that fits, without what matplotlib would read as a formula."""
    short = name if len(name) <= NAME_LETTERS else name[: NAME_LETTERS - 3] + "..."
    return short.replace("$", r"\$")
