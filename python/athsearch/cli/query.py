"""The command query."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..archive.archive import Archive
from ..archive.searching import Hit
from ..codes import Codes
from ..data import locate, read_pixels
from ..errors import ArchiveError, ImageError
from ..files import check_file, replacing
from ..index import INDEXES
from ..index.reranking import DEFAULT_DEPTH, RERANKINGS
from .common import (
    ARCHIVE,
    device_option,
    is_given,
    json_option,
    key_option,
    print_json,
    print_table,
    say,
)


@click.command()
@ARCHIVE
@click.argument("image", required=False)
@click.option("--id", "id", type=int, help="Search for cases like this one of the archive.")
@click.option("--code", help="Search by a code: hexadecimal bytes, bit 0 lowest in the first.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(min=1), help="How many cases.")
@click.option("--where", metavar="EXPRESSION", help="Only cases that meet it, as in \"label = 'amd' AND age < 60\".")
@click.option(
    "--patient", help="The image's patient, as in the sources; his own cases are left out.  [default: the DICOM file's]"
)
@click.option("--exclude-same", multiple=True, metavar="COLUMN", help="With --id: leave out cases with its value here.")
@click.option("--same-patient", is_flag=True, help="With --id: show other cases of its patient too.")
@click.option("--one-per", metavar="COLUMN", help="Of cases of the same patient, study, ... only the nearest.")
@click.option("--user", metavar="NAME", help="Who asks, for the query log (see `athsearch audit`).")
@click.option("--sheet", type=click.Path(path_type=Path), help="Write a picture (PNG): query, hits, overlays.")
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    help="With --sheet: where the cases' images are now, if they were moved.",
)
@click.option("--kind", type=click.Choice(list(INDEXES)), help="Index to search; others than the kept one are built.")
@click.option(
    "--rerank", type=click.Choice(RERANKINGS), help="With IMAGE: order the nearest cases anew, by its logits."
)
@click.option(
    "--depth",
    type=click.IntRange(min=1),
    help=f"With --rerank: so many cases, at least -k.  [default: {DEFAULT_DEPTH}]",
)
@key_option
@device_option
@json_option
def query(
    archive_path: Path,
    image: str | None,
    id: int | None,
    code: str | None,
    k: int,
    where: str | None,
    patient: str | None,
    exclude_same: Sequence[str],
    same_patient: bool,
    one_per: str | None,
    user: str | None,
    sheet: Path | None,
    images: Path | None,
    kind: str | None,
    rerank: str | None,
    depth: int | None,
    key_path: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Show the cases of ARCHIVE most similar to IMAGE (or to a case, or a code), nearest first.

    Distance is the number of bits in which two codes differ; of equal distances the lower id comes first. Other cases
    of the query's patient are left out where the patient is known: with --id, or by --patient. Ready-made codes have no
    record, so that they meet no --where.

    With --rerank asymmetric the nearest --depth cases, or -k if that is more, are ordered anew before the first -k are
    shown: by a score that also knows how sure the network is of each bit of IMAGE, higher first, instead of by
    distance. A case or a code has no such values.

    \b
    Examples:
      athsearch query archive eye.jpg -k 5 --sheet hits.png
      athsearch query archive eye.jpg --rerank asymmetric --depth 500
      athsearch query archive --id 17 --one-per patient
      athsearch query archive --id 17 --where "label = 'glaucoma'" --json
    """
    if sum(given is not None for given in (image, id, code)) != 1:
        raise click.UsageError("give one of IMAGE, --id and --code")
    if id is None and (exclude_same or same_patient):
        raise click.UsageError("--exclude-same and --same-patient go with --id")
    if id is not None and patient is not None:
        raise click.UsageError("--patient goes with IMAGE or --code; with --id the archive knows the patient")
    if rerank is None and depth is not None:
        raise click.UsageError("--depth goes with --rerank")
    if images is not None and sheet is None:
        raise click.UsageError("--images goes with --sheet")
    if is_given("device") and image is None and sheet is None:
        raise click.UsageError("--device goes with IMAGE or --sheet: no network runs for a search by id or code")
    if sheet is not None:
        check_file(sheet)
    if kind is not None and not getattr(INDEXES[kind], "is_exact", True):
        say(f"{kind} is approximate: it may miss cases")
    with Archive.open(archive_path, key_path, device) as archive:
        if sheet is not None and archive.model_id is None:
            raise ArchiveError(f"{archive_path}: it holds ready-made codes of no known network, which have no sheet")
        if user is not None and not archive.logs_queries:
            say("no query log is kept, so that --user is not noted (see `athsearch audit --start-log`)")
        try:
            if id is not None:
                excluded = exclude_same if same_patient else ("patient", *exclude_same)
                hits = archive.search_case(id, k, where, excluded, kind, rerank, one_per=one_per, user=user)
            else:
                asked = image if image is not None else _parse_code(str(code), archive)
                hits = archive.search(
                    *(asked, k, where, patient),
                    kind=kind, rerank=rerank, depth=depth or DEFAULT_DEPTH, one_per=one_per, user=user,
                )  # fmt: skip
        except KeyError as error:
            raise ArchiveError(f"{archive_path}: no case {id}") from error
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        if sheet is not None:
            _write_sheet(sheet, archive, image, id, hits, images)
    if as_json:
        print_json(
            {
                "archive": str(archive_path),
                "query": {"image": image, "id": id, "code": code},
                "k": k,
                "rerank": rerank,
                "hits": [_plain(rank, hit) for rank, hit in enumerate(hits, 1)],
            }
        )
        return
    columns = sorted({name for hit in hits for name in hit.case.record})
    rows = []
    for rank, hit in enumerate(hits, 1):
        case = hit.case
        further = (case.record.get(name) for name in columns)
        score = [] if rerank is None else [hit.score]
        rows.append([rank, hit.distance, *score, case.id, case.label, *further, case.source])
    print_table(["rank", "distance", *([] if rerank is None else ["score"]), "id", "label", *columns, "source"], rows)
    if not hits:
        say("no case may be returned: the archive is empty, or --where and --exclude-same leave none")
    if sheet is not None:
        say(f"contact sheet: {sheet}")


def _parse_code(text: str, archive: Archive) -> Codes:
    try:
        packed = np.frombuffer(bytes.fromhex(text), np.uint8)[None]
        return Codes.from_bytes(packed, archive.bits, archive.model_id)
    except (ValueError, TypeError) as error:
        raise click.BadParameter(
            f"{text!r} is not {(archive.bits + 7) // 8} hexadecimal bytes of {archive.bits} bits", param_hint="--code"
        ) from error


def _plain(rank: int, hit: Hit) -> dict[str, Any]:
    case = hit.case
    return {
        "rank": rank,
        "distance": hit.distance,
        "score": hit.score,
        "id": case.id,
        "label": case.label,
        "patient": case.patient,
        "study": case.study,
        "split": case.split,
        "source": case.source,
        "root": case.root,
        "record": dict(case.record),
    }


def _write_sheet(
    path: Path, archive: Archive, image: str | None, id: int | None, hits: Sequence[Hit], images: Path | None
) -> None:
    from ..explanation import answer_sheet, case_pixels

    place = archive.places(images)
    pixels, label, lines = None, None, ["query", "a code"]
    if id is not None:
        case = archive.case(id)
        label, lines = case.label, ["query", f"id {id}, {case.label or 'no label'}"]
        if case.root is not None and case.source is not None:
            lines.append(case.source)
            try:
                pixels = case_pixels(case, place)
            except ImageError as error:
                lines.append(error.reason)
    elif image is not None:
        lines = ["query", Path(image).name]
        pixels = read_pixels(*locate(image))
    title = f"{archive.path.name}: {len(hits)} nearest of {archive.n_cases:,} cases"
    is_explained = importlib.util.find_spec("torch") is not None
    if not is_explained:
        say("  the sheet is without overlays: they need torch (pip install 'athsearch[train]')")
    sheet = answer_sheet(archive.encoder, pixels, lines, hits, label, place, title, is_explained)
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")
