"""The command delete."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from ..archive.archive import Archive
from ..errors import ArchiveError
from .common import ARCHIVE, after, json_option, key_option, print_json, say


@click.command()
@ARCHIVE
@click.option("--id", "ids", type=int, multiple=True, help="A case; may be given several times.")
@click.option("--where", metavar="EXPRESSION", help="Cases that meet it, as in \"label = 'amd' AND age < 60\".")
@click.option(
    "--patient", help="All cases of a patient, as in the sources (DICOM: NUMBER or NUMBER^^^ISSUER); needs the key."
)
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@key_option
@json_option
def delete(
    archive_path: Path,
    ids: Sequence[int],
    where: str | None,
    patient: str | None,
    dry_run: bool,
    yes: bool,
    key_path: Path | None,
    as_json: bool,
) -> None:
    """Take cases out of every search of ARCHIVE, for good: their ids never return, nor do their images when the same
    files are added again. A copy under another path below SOURCE is a new image: who must not return is left out there.

    Their codes and records stay in the files until `athsearch compact ARCHIVE`. Says how many, and asks before it
    deletes; where there is no terminal to ask on, --yes is needed.

    \b
    Examples:
      athsearch delete archive --id 17 --id 18
      athsearch delete archive --where "label = 'phantom'" --dry-run
      athsearch delete archive --patient P0042 --yes && athsearch compact archive
    """
    if sum([bool(ids), where is not None, patient is not None]) != 1:
        raise click.UsageError("give one of --id, --where and --patient")
    with Archive.open(archive_path, key_path) as archive:
        try:
            found = archive.find(ids or None, where=where, patient=patient)
        except KeyError as error:
            raise ArchiveError(f"{archive_path}: no case {error}; nothing was deleted") from error
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        if len(found) and not dry_run:
            if not yes:
                _ask(archive_path, len(found), archive.n_cases)
            try:
                archive.delete(found.tolist())
            except KeyError as error:
                message = f"{archive_path}: case {error} was deleted by another process meanwhile; nothing was deleted"
                raise ArchiveError(f"{message} now, try again") from error
        n_deleted = 0 if dry_run else len(found)
        n_left = archive.n_cases
    done = f"{archive_path}: {len(found):,} {'would be deleted' if dry_run else 'deleted'}; {n_left:,} cases"
    with after(done):
        if as_json:
            facts = {"archive": str(archive_path), "n_found": len(found), "n_deleted": n_deleted, "n_cases": n_left}
            print_json({**facts, "ids": found.tolist()})
            return
        click.echo(done)
    if patient is not None and not len(found):
        say("  no case is of a patient of that name; a DICOM number that names its issuer is NUMBER^^^ISSUER")
    if n_deleted:
        say(f"  codes and records stay in the files until `athsearch compact {archive_path}`")


def _ask(path: Path, n_found: int, n_cases: int) -> None:
    """Raises ArchiveError where the answer is no, UsageError where nobody can be asked."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError(f"{n_found:,} of {n_cases:,} cases would be deleted; --yes deletes them without asking")
    try:
        click.confirm(f"Delete {n_found:,} of {n_cases:,} cases? They never return", abort=True, err=True)
    except click.Abort as error:
        raise ArchiveError(f"{path}: nothing was deleted") from error
