"""Figures about training, drawn with matplotlib's objects alone, so no global state is touched."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .files import replacing

if TYPE_CHECKING:
    from .training import EpochReport

LOSS_COLOUR, VALIDATION_COLOUR, GREY = "#9a4a1f", "#1f5f9a", "#666666"


def check_matplotlib() -> None:
    """Raises ModuleNotFoundError where there is none, for those who would else learn it after an hour of work."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("matplotlib is not installed", name="matplotlib")


def training_curves(history: Sequence[EpochReport], path: Path) -> None:
    """Writes a PNG: loss (left axis) and validation figure (right axis) by epoch, with the kept epoch marked."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    losses = figure.add_subplot()
    epochs = [report.epoch for report in history]
    losses.plot(epochs, [report.loss for report in history], color=LOSS_COLOUR, marker="o", markersize=3, linewidth=1.5)
    losses.set_xlabel("epoch")
    losses.set_ylabel("training loss", color=LOSS_COLOUR)
    losses.tick_params(axis="y", colors=LOSS_COLOUR)
    losses.set_xlim(0.5, history[-1].epochs + 0.5)
    losses.set_ylim(bottom=0)
    losses.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    losses.spines[["top", "right"]].set_visible(False)

    best = history[history[-1].best_epoch - 1]
    title = f"Epoch {best.epoch} kept: training loss {best.loss:.3f}"
    measured = [(report.epoch, report.validation) for report in history if report.validation is not None]
    if measured:
        figures = losses.twinx()
        figures.plot(*zip(*measured, strict=True), color=VALIDATION_COLOUR, marker="o", markersize=3, linewidth=1.5)
        figures.set_ylabel("validation: macro precision at 10", color=VALIDATION_COLOUR)
        figures.tick_params(axis="y", colors=VALIDATION_COLOUR)
        figures.set_ylim(0, 1)
        figures.spines[["top", "left"]].set_visible(False)
    if best.validation is not None:
        title += f", validation macro precision at 10 {best.validation:.3f}"
        figures.plot(best.epoch, best.validation, "o", markersize=9, markerfacecolor="none", color=VALIDATION_COLOUR)
    losses.axvline(best.epoch, color=GREY, linestyle=":", linewidth=1.2)
    losses.set_title(title, fontsize=11, loc="left")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
