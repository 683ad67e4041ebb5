"""The command index."""

from __future__ import annotations

import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..archive.archive import Archive
from ..archive.imports import CODE_FILES, open_codes
from ..archive.kept_index import KINDS
from ..archive.writing import writing
from ..codes import MAX_BITS
from ..errors import ArchiveError, ModelMismatch, SourceError
from .common import (
    ARCHIVE,
    GOES_ON,
    after,
    device_option,
    if_interrupted,
    is_given,
    json_option,
    key_option,
    open_chosen,
    print_json,
    print_table,
    progress,
    report_failures,
    say,
    source_options,
    split_option,
)


@click.command()
@ARCHIVE
@partial(source_options, is_required=False)
@split_option("all images")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME",
    help="Store this of DICOM headers, as in --field Modality; a wrong name lists those that may be.",
)
@click.option(
    "--clear-names", is_flag=True, default=None, help="Store the names of DICOM files as they are; of all or of none."
)
@click.option("--weights", type=click.Path(path_type=Path), help="Weights file; needed to make an archive of images.")
@click.option("--bits", type=click.IntRange(1, MAX_BITS), help="Bits of a ready-made code; needed to make an archive.")
@click.option(
    "--kind", type=click.Choice(KINDS), help="Keep an index of this kind of all codes; auto lets them decide."
)
@click.option("--recheck", is_flag=True, help="Read files again whose size and times are as they were.")
@click.option(
    "--update-records", is_flag=True, help="Store labels and records anew where an image now comes with others."
)
@key_option
@device_option
@json_option
def index(
    archive_path: Path,
    weights: Path | None,
    bits: int | None,
    kind: str | None,
    recheck: bool,
    update_records: bool,
    key_path: Path | None,
    device: str,
    as_json: bool,
    **open_options: Any,
) -> None:
    """Add the images of SOURCE, or ready-made codes, to ARCHIVE, which is made if it is not there.

    SOURCE is a folder (class/file or split/class/file), a CSV manifest (path, label, patient, ...), a MedMNIST .npz, a
    DICOMDIR or one image. DICOM files tell patient and study, which are stored as pseudonyms, as their names are. What
    is there already is recognised by its path below SOURCE and its content, so an interrupted run goes on where it
    stopped, and a run every night does only the new work: a file whose size and times are as they were is not even
    read. A file that was changed becomes a new case in the place of the former one. An image that cannot be read is
    reported, tried again the next time, listed by `athsearch info` until then, and never stops the run.

    A SOURCE that ends in .npy holds ready-made codes: uint64 [n, n_words] or uint8 [n, n_bytes], bit 0 lowest in the
    first; one that ends in .faiss is a FAISS binary index, whose ids are not kept. All of them are added or none. They
    become cases with an id and no record, so no --where finds them, and they are not recognised: added twice, they are
    there twice.

    With --kind the archive keeps an index beside its codes, which makes searches faster and changes no answer: distinct
    compares each different code once, mih (multi-index hashing) looks only at codes of which a part is near the
    query's, flat keeps none. It is renewed as the archive grows. SOURCE may be left out.

    \b
    Examples:
      athsearch index archive images/ --weights run/weights.safetensors --split train
      athsearch index archive pacs/ --field Modality --field StudyDate
      athsearch index archive codes.npy --bits 64 --kind auto
      athsearch index archive --kind mih
    """
    of_images = {
        **{"recheck": recheck or None, "update_records": update_records or None},
        **{"device": is_given("device") or None, "key": is_given("key_path") or None},
    }
    if open_options["source_path"] is None:
        if kind is None:
            raise click.UsageError("give a SOURCE to add, or --kind to build an index of what is there")
        options = {"weights": weights, "bits": bits, **of_images, **open_options}
        if names := [name for name, value in options.items() if value not in (None, ())]:
            raise click.UsageError(f"--{names[0].replace('_', '-')} goes with a SOURCE to add")
        with Archive.open(archive_path) as archive:
            _finish(archive, kind, {"archive": str(archive_path), "n_cases": archive.n_cases}, as_json, "")
        return
    if Path(open_options["source_path"]).suffix.lower() in CODE_FILES:
        options = {**open_options, **of_images}
        if given := [name for name, value in options.items() if name != "source_path" and value not in (None, ())]:
            raise click.UsageError(f"--{given[0].replace('_', '-')} goes with images")
        _index_codes(archive_path, Path(open_options["source_path"]), weights, bits, kind, as_json)
        return
    if bits is not None:
        raise click.UsageError("--bits goes with ready-made codes; images get those of the network")
    source = open_chosen(**open_options)
    if not archive_path.exists():
        from ..archive.intake import check_records  # late: --kind and ready-made codes do without

        check_records(source, ())  # first: what cannot be stored makes no archive
    archive, _ = _open_or_create(archive_path, weights, None, key_path, device)
    with archive:
        with if_interrupted(GOES_ON), progress("indexing") as bar:
            report = archive.add(source, bar, recheck=recheck, update_records=update_records)
        if not as_json:
            report_failures(report.failed)
        facts: dict[str, Any] = {
            "archive": str(archive_path),
            "n_cases": archive.n_cases,
            "n_added": report.n_added,
            "n_changed": report.n_changed,
            "n_present": report.n_present,
            "n_differing": report.n_differing,
            "n_deleted": report.n_deleted,
            "failed": [{"source": name, "reason": reason} for name, reason in report.failed],
            "skipped": source.skipped,
            "columns": archive.columns,
        }
        became = {
            "added": report.n_added,
            "changed": report.n_changed,
            "there already": report.n_present,
            "deleted earlier": report.n_deleted,
            "unreadable": len(report.failed),
        }
        text = f"{archive_path}: {archive.n_cases:,} cases"
        if not as_json:
            with after(f"{report.n_added + report.n_changed:,} were added"):
                print_table(["images", "became"], [(count, name) for name, count in became.items()])
        _finish(archive, kind, facts, as_json, text)
    if not as_json:
        if report.n_differing:
            done = "that is stored now" if update_records else "what was stored stands (see --update-records)"
            say(f"  {report.n_differing:,} of those there already come with another label, patient or record; {done}")
        if n_unlabelled := sum(item.label is None for item in source.items):
            say(
                f"  {n_unlabelled:,} of {len(source):,} images come without a label, or with one that names the patient"
            )
        if stored := sorted({name for item in source.items for name in item.record}):
            path = "" if all(item.hides_name for item in source.items) else "path, "
            say(f"  stored with each case, as they are: {path}{', '.join(stored)}; leave out what names people")
        if source.skipped:
            say(f"  {len(source.skipped):,} other files in {source.root} are not images and were passed over")
    if len(report.failed) == len(source):
        raise SourceError(f"{open_options['source_path']}: none of its {len(source):,} images can be used")


def _index_codes(
    archive_path: Path,
    path: Path,
    weights: Path | None,
    bits: int | None,
    kind: str | None,
    as_json: bool,
) -> None:
    if archive_path.exists():
        with Archive.open(archive_path) as archive:
            if bits not in (None, archive.bits):
                raise ModelMismatch(f"{archive_path} holds {archive.bits}-bit codes, not {bits}")
            bits = archive.bits
    codes = open_codes(path, bits)  # first: a file that is not one makes no archive
    archive, is_new = _open_or_create(archive_path, weights, codes.bits, None, "cpu")
    with archive:
        try:
            with if_interrupted(f"{archive_path} holds what it held before"), progress("importing") as bar:
                ids = archive.add_codes(codes.parts, bar, codes.n_codes)
        except BaseException:
            if is_new:
                _remove_empty(archive_path)
            raise
        facts = {"archive": str(archive_path), "n_cases": archive.n_cases, "n_added": len(ids)}
        facts["first_id"] = ids.start if ids else None
        as_ids = f" as ids {ids[0]} to {ids[-1]}" if ids else ""
        text = f"{archive_path}: {len(ids):,} codes added{as_ids}; {archive.n_cases:,} cases"
        _finish(archive, kind, facts, as_json, text)


def _remove_empty(path: Path) -> None:
    """Removes the archive if it is still empty and nobody else is writing to it."""
    with suppress(ArchiveError, OSError), writing(path) as catalogue:
        if not catalogue.segments():
            shutil.rmtree(path)


def _finish(archive: Archive, kind: str | None, facts: dict[str, Any], as_json: bool, text: str) -> None:
    """Says what was added, before anything else can fail; then builds the index that was asked for, and says which."""
    n_added = facts.get("n_added", 0) + facts.get("n_changed", 0)
    done = f"{n_added:,} were added, so do not add them again" if n_added else ""
    if text and not as_json:
        with after(done or "nothing was added"):
            click.echo(text)
    plan = archive.index_plan
    if kind is not None:
        before = f"{done}; " if done else ""
        advice = f"{before}`athsearch index {archive.path} --kind {kind}` builds the index"
        try:
            with if_interrupted(f"the index is the one there was before; {advice}"):
                plan = archive.build_index(kind, lambda step: say(f"index: {step}"))
        except OSError as error:
            raise ArchiveError(f"{error}; {advice}") from error
        done = f"{before}the index was built"
    with after(done or "nothing was added"):
        if as_json:
            print_json({**facts, "index": plan.kind, "index_reason": plan.reason})
        elif kind is not None:
            click.echo(f"index {plan}")


def _open_or_create(
    path: Path, weights: Path | None, bits: int | None, key_path: Path | None, device: str
) -> tuple[Archive, bool]:
    """The archive, and whether this made it. bits: those of ready-made codes, which need no weights."""
    from ..encoder import Encoder

    if path.exists():
        archive = Archive.open(path, key_path, device)
        if weights is not None and (other := Encoder.load(weights, "cpu").model_id) != archive.model_id:
            archive.close()
            if archive.model_id is None:
                raise ModelMismatch(f"{path} holds ready-made codes of no known network: leave --weights out")
            raise ModelMismatch(
                f"{path} holds codes of model {archive.model_id}, {weights} is model {other}: "
                "leave --weights out to use the archive's own, or make another archive"
            )
        return archive, False
    if weights is not None:
        encoder = Encoder.load(weights, device)
        if bits not in (None, encoder.bits):
            raise ModelMismatch(f"{weights} makes {encoder.bits}-bit codes, not {bits}")
        return Archive.create(path, encoder, key_path), True
    if bits is None:
        raise click.UsageError(f"{path} does not exist; give --weights to make it")
    return Archive.create(path, key_path=key_path, bits=bits), True
