"""The command evaluate."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from ..archive.archive import Archive
from ..files import check_file, check_folder, replacing
from ..plots import check_matplotlib
from .common import (
    ARCHIVE,
    device_option,
    json_option,
    key_option,
    open_chosen,
    print_json,
    progress,
    report_failures,
    say,
    source_options,
    split_option,
)


@click.command()
@ARCHIVE
@source_options
@split_option("test if SOURCE has it, else all images")
@click.option(
    "-k", default=10, show_default=True, type=click.IntRange(1, 10**9 - 1), help="Length of the answers scored."
)
@click.option(
    "--resamples", "n_resamples", default=1000, show_default=True, type=click.IntRange(min=0), metavar="N",
    help="Of the bootstrap that gives 95 % intervals, at least 100; 0 for none.",
)  # fmt: skip
@click.option("--near-duplicates", is_flag=True, help="Read all images again, to find queries that look like a case.")
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    help="With --near-duplicates: where the cases' images are now, if they were moved.",
)
@click.option("--plots", type=click.Path(path_type=Path), metavar="FOLDER", help="Write figures (PNG).")
@click.option("--latex", type=click.Path(path_type=Path), metavar="FILE", help="Write the table for LaTeX (booktabs).")
@key_option
@device_option
@json_option
def evaluate(
    archive_path: Path,
    k: int,
    n_resamples: int,
    near_duplicates: bool,
    images: Path | None,
    plots: Path | None,
    latex: Path | None,
    key_path: Path | None,
    device: str,
    as_json: bool,
    **open_options: Any,
) -> None:
    """Score ARCHIVE's answers to the labelled images of SOURCE: the mean over classes first, then over queries.

    A hit is right if its label is the query's. Figures are means over all orders of equally distant cases; the rows
    `chance` and `majority` say what knowing nothing scores. Cases of the query's own patient, study or many-frame
    file, and the query itself where it is in the archive, are left out of its answer; what else the two share is told.

    \b
    Examples:
      athsearch evaluate archive images/ --split test
      athsearch evaluate archive images/ --near-duplicates --plots figures --latex table.tex --json
    """
    from ..evaluation import evaluate_archive
    from ..evaluation.bootstrap import LEAST_RESAMPLES

    if 0 < n_resamples < LEAST_RESAMPLES:
        raise click.BadParameter(f"{n_resamples} is neither 0 nor at least {LEAST_RESAMPLES}", param_hint="--resamples")
    if images is not None and not near_duplicates:
        raise click.UsageError("--images goes with --near-duplicates")
    if plots is not None:
        check_matplotlib()
        check_folder(plots)
    if latex is not None:
        check_file(latex)
    source = open_chosen(**open_options)
    if open_options["split"] is None and "test" in source.splits:
        source = source.split("test")
    near = None
    with Archive.open(archive_path, key_path, device) as archive:
        with progress("encoding") as bar:
            result = evaluate_archive(archive, source, k, bar, n_resamples=n_resamples)
        if near_duplicates:
            from ..evaluation.near import find_near_duplicates

            with progress("comparing images") as bar:
                near = find_near_duplicates(archive, source, images, bar)
        if plots is not None:
            from ..evaluation.figures import write_figures

            database = result.database
            write_figures(plots, result.scores, database.codes, [str(label) for label in database.labels])
    if latex is not None:
        with replacing(latex) as temporary:
            temporary.write_text(result.scores.latex(), encoding="utf-8")
    if as_json:
        leaks = {**dataclasses.asdict(result.leaks), "near_duplicates": near and dataclasses.asdict(near)}
        failed = [{"source": name, "reason": reason} for name, reason in result.failed]
        left_out = {"n_left_out": result.n_left_out, "n_cases_left_out": result.n_cases_left_out}
        print_json({**result.scores.to_dict(), **left_out, "leaks": leaks, "failed": failed})
        return
    report_failures(result.failed)
    click.echo(result.scores.table())
    for line in result.leaks.lines():
        click.echo(line)
    click.echo(near.line() if near else "Near duplicates: not looked for (--near-duplicates reads all images again).")
    if result.n_left_out:
        click.echo(
            f"{result.n_left_out:,} queries or their patients are in the archive too: each was scored without its own "
            f"({result.n_cases_left_out:,} cases left out in all)."
        )
    for kind, path in (("figures", plots), ("LaTeX", latex)):
        if path is not None:
            say(f"{kind}: {path}")
