"""The command audit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from ..archive.archive import Archive
from ..archive.audit import AuditReport
from ..errors import ArchiveError
from .common import ARCHIVE, json_option, key_option, print_json, print_table, say


@click.command()
@ARCHIVE
@click.option("--log", "is_log", is_flag=True, help="Check the query log; with --json, print its lines too.")
@click.option("--start-log", "change", flag_value="on", help="From now on, log every query of every program.")
@click.option("--stop-log", "change", flag_value="off", help="Log no more queries; the log stays, and says so.")
@click.option("--user", metavar="NAME", help="With --start-log or --stop-log: who does it, for the log.")
@key_option
@json_option
def audit(
    archive_path: Path, is_log: bool, change: str | None, user: str | None, key_path: Path | None, as_json: bool
) -> None:
    """List everything that ARCHIVE stores: tables, columns and files, and what of it is clear text or a pseudonym.

    What no version of athsearch stores is an error (exit status 1). Clear text that looks like names, dates or
    identifiers is warned of, and never shown; that is a guess. What bytes the files hold is not compared with their
    checksums here.

    The query log, once started, has a line for each answer: when, who (--user of `athsearch query`), which cases. A
    query whose line cannot be written gets no answer. --log finds lines that were changed, taken out or cut off (exit
    status 1), and needs the key.

    \b
    Examples:
      athsearch audit archive
      athsearch audit archive --start-log --user "dr. x"
      athsearch audit archive --log --json
    """
    if is_log and change is not None:
        raise click.UsageError("--log goes without --start-log and --stop-log")
    if user is not None and change is None:
        raise click.UsageError("--user goes with --start-log or --stop-log")
    with Archive.open(archive_path, key_path) as archive:
        if change is not None:
            archive.set_query_log(change == "on", user)
            if as_json:
                print_json({"archive": str(archive_path), "query_log": change})
            else:
                click.echo(f"query log: {change}")
        elif is_log:
            _audit_log(archive, as_json)
        else:
            report = archive.audit()
            if as_json:
                print_json({"archive": str(archive_path), **dataclasses.asdict(report)})
            else:
                _print_report(report)
            if report.unknown:
                raise ArchiveError(f"{archive_path}: it holds what it should not: {'; '.join(report.unknown)}")


def _print_report(report: AuditReport) -> None:
    shown = [column for column in report.columns if column.n_values]
    print_table(
        ["kind", "values", "where", "what", "example"],
        [
            [column.kind, column.n_values, f"{column.table}.{column.column}", column.meaning, column.example]
            for column in sorted(shown, key=lambda column: column.kind)
        ],
    )
    click.echo()
    print_table(["bytes", "file", "what"], [[file.n_bytes, file.name, file.meaning] for file in report.files])
    for column in report.columns:
        for look, count in column.looks:
            say(f"warning: {column.table}.{column.column}: {count:,} values look like what names a patient: {look}")
    for line in report.remains:
        say(f"remains: {line}")


def _audit_log(archive: Archive, as_json: bool) -> None:
    report = archive.check_query_log()
    if report is None:
        click.echo("null" if as_json else "the query log was never started")
        return
    if as_json:
        print_json({**dataclasses.asdict(report), "lines": list(archive.query_log().read())})
    else:
        click.echo(f"lines  {report.head.n_lines:,}")
        click.echo(f"last   {report.head.mac}")
        if report.n_broken_off:
            click.echo(f"broken off by killed processes  {report.n_broken_off:,}")
    if report.problem:
        raise ArchiveError(f"{archive.path}: query log: {report.problem}")
