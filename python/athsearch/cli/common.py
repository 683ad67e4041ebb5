"""What several commands share: options about sources, progress, and output."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from ..data import SPLITS, Source, open_source
from ..data.frames import FRAMES
from ..errors import AthsearchError

if TYPE_CHECKING:
    from tqdm import tqdm

Command = TypeVar("Command", bound=Callable[..., Any])
GOES_ON = "what was finished is kept, and the same command goes on from there"
PLAIN_SECONDS = 10.0  # between the lines that replace a progress bar where there is no terminal

ARCHIVE = click.argument("archive_path", metavar="ARCHIVE", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Where the network runs: auto, cpu, cuda or cuda:1.",
)
key_option = click.option(
    "--key",
    "key_path",
    type=click.Path(path_type=Path),
    envvar="ATHSEARCH_KEY",
    help="Key file of the patients' pseudonyms.  [default: ARCHIVE.key; or ATHSEARCH_KEY]",
)


def is_given(parameter: str) -> bool:
    """Whether a parameter of the running command stands on its command line, rather than in the environment."""
    return click.get_current_context().get_parameter_source(parameter) is ParameterSource.COMMANDLINE


def source_options(command: Command, is_required: bool = True) -> Command:
    """Adds SOURCE and the options that say how to read it; the command takes `open_options`, for `open_chosen`."""
    options: Sequence[Callable[[Command], Command]] = (
        click.argument("source_path", metavar="SOURCE" if is_required else "[SOURCE]", required=is_required),
        click.option("--patient-pattern", metavar="REGEX", help=r"Patient from the path, as in '(\d+)_(left|right)'."),
        click.option("--path-column", metavar="NAME", help="Manifest column of the paths.  [default: path]"),
        click.option("--label-column", metavar="NAME", help="Manifest column of the labels.  [default: label]"),
        click.option("--patient-column", metavar="NAME", help="Manifest column of the patients.  [default: patient]"),
        click.option("--split-column", metavar="NAME", help="Manifest column of the splits.  [default: split]"),
        click.option(
            "--frames",
            type=click.Choice(FRAMES),
            help="Of each file with several: frames of DICOM, pages of TIFF, slices of NIfTI.  [default: all]",
        ),
        click.option(
            "--allow-burned-in",
            is_flag=True,
            default=None,
            help="Take DICOM images that may show texts, and so the patient's name, too.",
        ),
        click.option(
            "--test-share",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            help="Where SOURCE has no splits: make this share of it split `test` and the rest `train`, whole patients "
            "together. The same images in every command.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def open_chosen(
    source_path: str, split: str | None, test_share: float | None, patient_pattern: str | None, **further: Any
) -> Source:
    """The source that the options of `source_options` describe, or one split of it."""
    chosen = {name: value for name, value in further.items() if value is not None}
    columns = [name for name in chosen if name.endswith("_column")]
    if columns and Path(source_path).suffix.lower() not in (".csv", ".tsv"):
        raise click.UsageError(f"--{columns[0].replace('_', '-')} goes with a manifest (.csv or .tsv)")
    try:
        with progress("reading headers") as bar:
            source = open_source(source_path, patient_pattern=patient_pattern, progress=bar, **chosen)
    except ValueError as error:
        raise click.BadParameter(
            str(error), param_hint="--field" if "field" in str(error) else "--patient-pattern"
        ) from error
    if test_share is not None:
        if source.splits:
            raise click.UsageError(f"{source_path} has splits of its own ({', '.join(sorted(source.splits))})")
        source = source.divided({"train": 1 - test_share, "test": test_share})
    return source if split is None else source.split(split)


def split_option(default_text: str) -> Callable[[Command], Command]:
    """--split, with what happens without it."""
    return click.option("--split", type=click.Choice(SPLITS), help=f"Which split to use.  [default: {default_text}]")


class Progress:
    """A bar on a terminal; elsewhere plain lines: the first, the last, one now and then, and one for each milestone.

    On standard error, so that answers stay clean.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: tqdm[Any] | None = None
        self._next_line = 0.0
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, n_done: int, n_total: int, is_milestone: bool = False, **figures: str) -> None:
        """Shows n_done of n_total, and figures by name."""
        if self._is_terminal:
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(total=n_total, desc=self._label, file=sys.stderr, leave=True, dynamic_ncols=True)
            self._bar.total = n_total
            self._bar.set_postfix(figures, refresh=False)
            self._bar.update(n_done - self._bar.n)
        elif is_milestone or n_done == n_total or time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + PLAIN_SECONDS
            shown = "".join(f", {name} {value}" for name, value in figures.items())
            click.echo(f"{self._label}: {n_done:,} of {n_total:,}{shown}", err=True)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """A `Progress` that is closed when the block ends."""
    shown = Progress(label)
    try:
        yield shown
    finally:
        shown.close()


@contextmanager
def if_interrupted(outcome: str) -> Iterator[None]:
    """Ctrl-C becomes an error that says what the outcome is then."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise AthsearchError(f"interrupted; {outcome}") from error


@contextmanager
def after(done: str) -> Iterator[None]:
    """For the answer of what is done already: where it cannot be written, the error says what is done."""
    try:
        yield
    except OSError as error:
        raise AthsearchError(f"standard output: {error.strerror}; {done}") from error


def say(text: str) -> None:
    """A line for people, on standard error."""
    click.echo(text, err=True)


def print_json(value: object) -> None:
    """A value as JSON on standard output, in ASCII: the same bytes wherever it goes."""
    click.echo(json.dumps(value, indent=1))


def printable(text: str) -> str:
    """The text with a blank for each line break and control character, which names of folders can have."""
    return "".join(character if character.isprintable() else " " for character in text)


def print_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns on standard output, numbers to the right; None is left empty, a line break becomes a blank."""
    cells = [list(titles), *(["" if value is None else printable(str(value)) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    to_right = [all(isinstance(row[column], int | float) for row in rows) for column in range(len(titles))]
    for line in cells:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, to_right, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def report_failures(failed: Sequence[tuple[str, str]], shown: int = 10) -> None:
    """Names images that could not be used, the first few of many."""
    for source, reason in failed[:shown]:
        say(f"  cannot use {source}: {reason}")
    if len(failed) > shown:
        say(f"  and {len(failed) - shown} more (--json lists them all)")
