"""The command demo."""

from __future__ import annotations

from pathlib import Path

import click

from ..data import patient_finder
from ..recipes import recipe_settings
from .common import Progress, device_option, json_option, print_json, report_failures
from .train import shown_training

EPOCHS = 16  # enough for phantoms, and short enough to wait for


@click.command()
@click.option("--data", metavar="SOURCE", help="Labelled images of your own, instead of phantoms.")
@click.option("--patient-pattern", metavar="REGEX", help=r"Patient from the path, as in '(\d+)_(left|right)'.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-output"), show_default=True)
@click.option("--size", type=int, default=64, show_default=True, help="Side of the network's input, in pixels.")
@click.option("--epochs", type=int, default=EPOCHS, show_default=True, help="Passes over the training images.")
@device_option
@json_option
def demo(
    data: str | None, patient_pattern: str | None, out: Path, size: int, epochs: int, device: str, as_json: bool
) -> None:
    """Show the whole road in a few minutes: train, index, query, evaluate, and a report to look at.

    Needs no data, network or GPU: it draws fundus-like phantoms of five classes, as unevenly frequent as in the paper.
    With --data it does the same with your images. What is finished in the folder is not done again.

    \b
    Examples:
      athsearch demo
      athsearch demo --data images/ --size 96 --out my-demo
    """
    from ..demo.run import demonstrate

    try:
        settings = recipe_settings("default", size=size, epochs=epochs)
        patient_finder(patient_pattern)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    bars: list[Progress] = []
    failed: list[tuple[str, str]] = []

    def observe(step: str) -> Progress:
        for bar in bars:
            bar.close()
        bars.append(Progress(step))
        return bars[-1]

    try:
        with shown_training(failed) as watch:
            path, report = demonstrate(out, data, patient_pattern, settings, device, observe, watch)
    finally:
        for bar in bars:
            bar.close()
    failed = list(dict.fromkeys([*failed, *report.failed]))
    if as_json:
        unreadable = [{"source": name, "reason": reason} for name, reason in failed]
        evaluation = report.evaluation.to_dict()
        print_json({"report": str(path), "timings_s": report.timings, "evaluation": evaluation, "failed": unreadable})
        return
    report_failures(failed)
    click.echo(report.evaluation.table())
    commands = "\n".join(f"  {line}" for line in report.commands)
    click.echo(f"\nReport to look at: {path}\n\nWith your own images:\n{commands}")
