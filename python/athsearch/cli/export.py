"""The command export."""

from __future__ import annotations

from pathlib import Path

import click

from ..archive.archive import Archive
from ..archive.exports import EXPORTS
from ..archive.exports import export as export_archive
from .common import ARCHIVE, if_interrupted, json_option, print_json, progress


@click.command()
@ARCHIVE
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--to", "kind", required=True, type=click.Choice(list(EXPORTS)), help="What to write.")
@click.option("--fields", metavar="NAMES", help="With parquet: columns, with commas between.  [default: label,split]")
@click.option("--force", is_flag=True, help="Replace OUT where it is there already.")
@json_option
def export(archive_path: Path, out: Path, kind: str, fields: str | None, force: bool, as_json: bool) -> None:
    """Write the codes of ARCHIVE to OUT, for other programs. Deleted cases are left out.

    npy: codes in OUT, uint64 [n, n_words], and their ids beside it in NAME.ids.npy, int64 [n]. faiss: an
    IndexBinaryFlat that answers with our ids. parquet: a row a case,
    with id, code and the columns of --fields; source, patient (a pseudonym) and further columns of a manifest are only
    written when they are named. `athsearch info` shows which there are.

    \b
    Examples:
      athsearch export archive codes.npy --to npy
      athsearch export archive cases.parquet --to parquet --fields label,age
    """
    columns = None if fields is None else [name.strip() for name in fields.split(",") if name.strip()]
    nothing = f"{out} was not written"
    with Archive.open(archive_path) as archive, if_interrupted(nothing), progress("exporting") as bar:
        try:
            files, n_cases = export_archive(archive, out, kind, columns, force, bar)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    if as_json:
        print_json({"archive": str(archive_path), "files": [str(file) for file in files], "n_cases": n_cases})
    else:
        click.echo(f"{' and '.join(map(str, files))}: {n_cases:,} cases")
