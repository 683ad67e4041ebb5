"""The command compact."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ..archive.archive import Archive
from .common import ARCHIVE, after, if_interrupted, json_option, key_option, print_json, say


@click.command()
@ARCHIVE
@key_option
@json_option
def compact(archive_path: Path, key_path: Path | None, as_json: bool) -> None:
    """Write the files of ARCHIVE anew without deleted cases, so that nothing of them is left in any, and merge small
    segments into large ones.

    Searches go on meanwhile, also in other processes. Ids stay as they are. So that a deleted image does not come back
    when its file is added again, at the same path, a digest of it is kept that says nothing without the key. Needs the
    key if cases were deleted, and space for the files once more.

    \b
    Example:
      athsearch compact archive
    """
    with (
        Archive.open(archive_path, key_path) as archive,
        if_interrupted(f"no case of {archive_path} is lost; `athsearch compact {archive_path}` ends what was begun"),
    ):
        report = archive.compact(lambda step: say(f"compact: {step}"))
        n_cases = archive.n_cases
    done = (
        f"{archive_path}: {report.n_removed:,} deleted removed, {report.n_segments_before:,} segments became "
        f"{report.n_segments:,}; {n_cases:,} cases"
    )
    with after(done):
        if as_json:
            print_json({"archive": str(archive_path), "n_cases": n_cases, **asdict(report)})
        else:
            click.echo(done)
