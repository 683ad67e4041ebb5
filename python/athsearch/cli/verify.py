"""The command verify."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ..archive.kept_index import FOLDER
from ..archive.pseudonym import default_key
from ..archive.verifying import verify as verify_archive
from ..errors import ArchiveError
from .common import ARCHIVE, json_option, key_option, print_json, progress, say


@click.command()
@ARCHIVE
@key_option
@json_option
def verify(archive_path: Path, key_path: Path | None, as_json: bool) -> None:
    """Check every byte of ARCHIVE against what was written, and name what is wrong.

    That is: the SHA-256 of every segment, of the weights and of a kept index; the check of every row of the catalogue
    and the sums of its tables; SQLite's own structure; that every code that should have a case has one; that no file is
    missing or does not belong; and, where the patients' key is there, that it is this archive's, and the query log's
    chain. Nothing is changed.

    Exit status 1 if anything is wrong, or could not be read. Where rows, segments or weights are damaged, `athsearch
    repair` makes an archive of all that is sound.

    \b
    Example:
      athsearch verify archive
    """
    if key_path is not None and not key_path.exists():
        raise ArchiveError(f"{key_path}: no such key file; without --key what needs the key is not checked")
    with progress("verifying") as bar:
        report = verify_archive(archive_path, key_path or default_key(archive_path), bar)
    sound = "all that could be checked is sound" if report.unchecked else "all is sound"
    outcome = sound if report.is_sound else "DAMAGED"
    if as_json:
        print_json({"archive": str(archive_path), "is_sound": report.is_sound, **asdict(report)})
    else:
        click.echo(
            f"{archive_path}: {report.n_files:,} files, {report.n_bytes:,} bytes, {report.n_cases:,} cases and "
            f"{report.n_codes_alone:,} codes without a case, {report.n_rows:,} rows: {outcome}"
        )
        for problem in report.problems:
            click.echo(f"  {problem}")
        for unchecked in report.unchecked:
            say(f"  {unchecked}: not checked")
        for name in report.leftovers:
            say(f"  {name}: listed nowhere, left by a writer that was stopped: harmless")
    if not report.is_sound:
        advice = ""
        if report.can_be_repaired:
            advice = f"; `athsearch repair {archive_path} --into NEW` makes an archive of all that is sound"
        elif all(problem.file.startswith(f"{FOLDER}/") for problem in report.problems):
            advice = f"; `athsearch index {archive_path} --kind auto` builds the index anew"
        found = f"{len(report.problems):,} problem{'s' if len(report.problems) > 1 else ''}"
        raise ArchiveError(f"{archive_path}: {found}{advice}")
