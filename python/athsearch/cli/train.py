"""The command train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ImageError
from ..recipes import RECIPES, recipe_settings
from .common import (
    GOES_ON,
    device_option,
    if_interrupted,
    json_option,
    open_chosen,
    print_json,
    progress,
    report_failures,
    source_options,
)

if TYPE_CHECKING:
    from ..training import EpochReport, StepReport


@click.command()
@source_options
@click.option("--out", "run_dir", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--recipe", type=click.Choice(list(RECIPES)), default="default", show_default=True)
@click.option("--network", help="Another network than the recipe's: ath-s, ath-m or ath-l.")
@click.option("--loss", help="Another loss than the recipe's, such as orthohash; a wrong name lists them all.")
@click.option("--bits", type=int, help="Code length.")
@click.option("--size", type=int, help="Side of the network's input, in pixels.")
@click.option("--epochs", type=int, help="Passes over the training images.")
@click.option("--flips", help="Mirror images while training: auto, both, horizontal or none.")
@click.option("--framing", help="Zoom and shift while training: auto (wide if all images are grey), wide or narrow.")
@click.option("--levels", help="Grey levels: auto (standardised if all images are grey), standardised or stored.")
@click.option("--seed", type=int, help="Another seed, another network.  [default: 0]")
@device_option
@json_option
def train(
    run_dir: Path,
    recipe: str,
    network: str | None,
    loss: str | None,
    bits: int | None,
    size: int | None,
    epochs: int | None,
    flips: str | None,
    framing: str | None,
    levels: str | None,
    seed: int | None,
    device: str,
    as_json: bool,
    **open_options: Any,
) -> None:
    """Train a network on the labelled images of SOURCE: its split `train`, or all of it if it has no splits.

    The folder gets weights.safetensors, history.json and curves.png. The epoch to keep is chosen on the split `val`, or
    on training images held out by patient (recipe paper: by the training loss). An interrupted run goes on with the
    same command, after its last whole epoch, to the weights it would have had. A run that is finished is only told of:
    its folder does not say which images it could not use, for their names may be patients' (in JSON `failed` is null).

    \b
    Examples:
      athsearch train images/ --out run
      athsearch train cases.csv --out run-paper --recipe paper --size 128 --epochs 12
      athsearch train images/ --out run-orthohash --loss orthohash
    """
    from ..model.losses import LOSSES
    from ..model.network import NETWORKS
    from ..training import train as run

    for option, name, known in (("--loss", loss, LOSSES), ("--network", network, NETWORKS)):
        if name is not None and name not in known:
            raise click.BadParameter(f"{name!r} is none of {', '.join(known)}", param_hint=option)
    changes = {
        "network": network,
        "loss": loss,
        "bits": bits,
        "size": size,
        "epochs": epochs,
        "flips": flips,
        "framing": framing,
        "levels": levels,
        "seed": seed,
    }
    try:
        settings = recipe_settings(recipe, **{name: value for name, value in changes.items() if value is not None})
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    source = open_chosen(split=None, **open_options)
    failed: list[tuple[str, str]] = []
    with shown_training(failed) as watch:
        encoder = run(source, settings, run_dir=run_dir, device=device, **watch)
    summary = {
        "weights": str(run_dir / "weights.safetensors"),
        "model_id": encoder.model_id,
        **encoder.description.training,
    }
    if as_json:
        listed = [{"source": name, "reason": reason} for name, reason in failed]
        print_json({**summary, "failed": listed if len(listed) == summary["n_unreadable"] else None})
        return
    report_failures(failed)
    width = max(map(len, summary))
    for name, value in summary.items():
        click.echo(f"{name:{width}}  {value:.4f}" if isinstance(value, float) else f"{name:{width}}  {value}")


@contextmanager
def shown_training(failed: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """The callbacks of `training.train` that show its progress, and that add images it cannot use to `failed`. Ctrl-C
    tells that the run goes on.
    """
    validation = ""
    with if_interrupted(GOES_ON), progress("reading") as reading, progress("training") as training:

        def on_step(report: StepReport) -> None:
            if report.epoch == 0:
                reading(report.step, report.steps)
                return
            reading.close()
            figures = {"epoch": f"{report.epoch}/{report.epochs}", "loss": f"{report.loss:.3f}"}
            if validation:
                figures["val P@10"] = validation
            n_done = (report.epoch - 1) * report.steps + report.step
            training(n_done, report.epochs * report.steps, report.step == report.steps, **figures)

        def on_epoch(report: EpochReport) -> None:
            nonlocal validation
            if report.validation is not None:
                validation = f"{report.validation:.3f}"

        def on_unreadable(error: ImageError) -> None:
            failed.append((error.path, error.reason))

        yield {"progress": on_epoch, "on_step": on_step, "on_unreadable": on_unreadable}
