"""The command repair."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ..archive.repairing import repair as repair_archive
from ..errors import ArchiveError
from .common import ARCHIVE, after, if_interrupted, json_option, key_option, print_json, progress, say


@click.command()
@ARCHIVE
@click.option("--into", required=True, metavar="NEW", type=click.Path(path_type=Path), help="The archive to make.")
@key_option
@json_option
def repair(archive_path: Path, into: Path, key_path: Path | None, as_json: bool) -> None:
    """Make an archive NEW of all that is sound in ARCHIVE, and list what is not. ARCHIVE stays as it is, and nobody
    can write to it meanwhile.

    Cases keep their ids. Give NEW the key that ARCHIVE has (copy ARCHIVE.key to NEW.key, or use --key), and build an
    index anew if one was kept. What was lost can be added again from its source; images that had been deleted stay so,
    which needs the key where their codes are lost, and cannot be known of a row that is damaged itself. The query log
    is copied as it is; with the key its chain is checked.

    Exit status 0 if NEW was made, also where some ids are listed as not kept (`lost` in JSON); 1 if it was not, as
    where a file may not be read, or if not one of the cases and codes could be kept.

    \b
    Example:
      athsearch repair archive --into archive-repaired
    """
    with if_interrupted(f"{into} was not made"), progress("repairing") as bar:
        report = repair_archive(archive_path, into, key_path, bar)
    done = f"{into}: {report.n_cases:,} cases and {report.n_codes_alone:,} codes without a case"
    with after(done):
        if as_json:
            print_json({"archive": str(archive_path), "into": str(into), **asdict(report)})
        else:
            click.echo(done)
    if not as_json:
        for problem in report.problems:
            say(f"  {problem}")
        for first, last in report.lost:
            say(f"  not kept: {first}" + (f" to {last}" if last > first else ""))
    if report.lost and not report.n_cases + report.n_codes_alone:
        raise ArchiveError(f"{into}: none of the cases and codes of {archive_path} could be kept: it is empty")
