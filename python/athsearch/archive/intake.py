"""From a source's images to codes and cases, in batches, with an account of every image.

Batches are cut from the source by position and committed whole, so that a run that goes on after an interruption shows
the network the same batches: float arithmetic may depend on them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from ..codes import Codes, concatenate
from ..data import Item, Source, frames, split_frame
from ..encoder import BATCH_SIZE, N_AHEAD, Encoder
from ..errors import ImageError, SourceError
from ..parallel import map_ahead
from ..types import Square
from .cases import COLUMNS, KnownCase, NewCase, Value, record_name
from .catalogue import Catalogue
from .pseudonym import HIDDEN, PatientKey
from .recognition import Recognition
from .segment import write_segment

COMMIT_BATCHES = 64
COMMIT_SECONDS = 20.0


@dataclass(frozen=True)
class AddReport:
    """What became of a source's images. Each is counted once.

    n_added: new cases. n_changed: new cases, too, of files that had another content; the former case is found no more.
    n_present: were there already, with the same source and content; n_differing of these now come with another label,
    patient, study, split or record, and keep what was stored, unless records were to be updated. n_deleted: had been
    deleted from this archive, and stay so. failed: (source, reason) of images that could not be used.
    """

    n_added: int
    n_changed: int
    n_present: int
    n_differing: int
    n_deleted: int
    failed: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Queries:
    """Images encoded to ask an archive. Row r is items[r].

    patients, studies: pseudonyms, None where they are not known. files: of frames of a file of many, its path, as an
    archive would have it. contents: SHA-256 of the image, hexadecimal.
    failed: (source, reason) of images that could not be used.
    """

    codes: Codes
    items: tuple[Item, ...]
    patients: tuple[str | None, ...]
    studies: tuple[str | None, ...]
    files: tuple[str | None, ...]
    contents: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class LoadedImage:
    """One image of a source: content is the SHA-256 of its bytes; error says why it cannot be used.

    known: what the catalogue lists already under this source and content; such an image was not decoded. stamp: of its
    file when these bytes were in it. file: the SHA-256 of that, where others of it may be cases, too, else b"".
    """

    item: Item
    content: bytes = b""
    stamp: str | None = None
    file: bytes = b""
    known: KnownCase | None = None
    error: ImageError | None = None
    square: Square | None = None


def encoded_batches(
    encoder: Encoder, source: Source, recognition: Recognition | None = None
) -> Iterator[tuple[list[LoadedImage], Codes]]:
    """The source's images in order, BATCH_SIZE at a time, with the codes of those that are new and usable, in order.

    recognition: of what an archive has already; that is not decoded, and not even read where its file is as it was.
    Images are read and decoded on threads while the network works.
    """

    def items() -> Iterator[Item]:
        waiting = iter(source.items)
        while part := list(islice(waiting, N_AHEAD)):
            if recognition:
                recognition.look_up([item.source for item in part])
            yield from part

    preprocessing = encoder.description.preprocessing

    def load(item: Item) -> LoadedImage:
        stamp = source.stamp(item) if recognition else None  # before the bytes: what is written later changes it
        try:
            if recognition and (digest := recognition.content(item.source, stamp)):
                return LoadedImage(item, digest, stamp, known=recognition.known(item.source, digest))
            content, decode = source.read(item)
            digest = hashlib.sha256(content).digest()
            if recognition and (known := recognition.known(item.source, digest)):
                return LoadedImage(item, digest, stamp, known=known)
            file = (frames.file_digest(item.source, content) or digest) if _may_hold_others(item) else b""
            return LoadedImage(item, digest, stamp, file, square=preprocessing.square(decode(preprocessing.least_side)))
        except ImageError as error:
            return LoadedImage(item, error=error)

    with closing(map_ahead(load, items(), N_AHEAD)) as loaded:
        while batch := list(islice(loaded, BATCH_SIZE)):
            squares = [image.square for image in batch if image.square is not None]
            codes = Codes.from_bits(np.zeros((0, encoder.bits), np.bool_), encoder.model_id)
            if squares:
                codes = Codes.from_logits(encoder.logits_of_squares(np.stack(squares)), encoder.model_id)
            yield [replace(image, square=None) for image in batch], codes


def add_images(
    folder: Path,
    catalogue: Catalogue,
    encoder: Encoder,
    source: Source,
    key: PatientKey | None,
    progress: Callable[[int, int], None] | None,
    recheck: bool,
    update_records: bool,
) -> AddReport:
    """Adds a source's images as cases: segments into `folder`, cases into the catalogue. See `Archive.add`."""
    root = str(source.root.resolve())
    recognition = Recognition(catalogue, root, key, recheck)
    listed = frozenset(item.source for item in source.items)
    pending: list[tuple[list[LoadedImage], Codes]] = []
    counts = {"added": 0, "changed": 0, "present": 0, "differing": 0, "deleted": 0}
    failed: list[tuple[str, str]] = []

    def commit() -> None:
        # Taken first: what an interruption in the middle leaves uncertain must not be written a second time.
        taken, pending[:] = pending[:], []
        images = [image for batch, _ in taken for image in batch]
        new = [image for image in images if not image.error and not image.known]
        if new:
            cases = [new_case(image.item, image.content, key, image.stamp) for image in new]
            parts = [part for _, part in taken]
            segment = write_segment(folder, parts, len(cases), encoder.bits, catalogue.next_id())
            outdated = recognition.outdated(new, listed, segment.first_id)
            n_changed = catalogue.add(root, segment, cases, outdated=outdated)
            counts["changed"] += n_changed
            counts["added"] += len(cases) - n_changed
        recognition.note(images)

    n_done, last_commit = 0, time.monotonic()
    try:
        for batch, batch_codes in encoded_batches(encoder, source, recognition):
            pending.append((batch, batch_codes))
            differing = []
            for image in batch:
                if image.error:
                    failed.append((image.item.source, image.error.reason))
                elif image.known and image.known.is_deleted:
                    counts["deleted"] += 1
                elif image.known:
                    counts["present"] += 1
                    case = new_case(image.item, image.content, key, image.stamp)
                    if _differs(image.known, case):
                        differing.append((image.known.id, case))
            counts["differing"] += len(differing)
            if differing and update_records:
                catalogue.update(differing)
            if len(pending) >= COMMIT_BATCHES or time.monotonic() > last_commit + COMMIT_SECONDS:
                commit()
                last_commit = time.monotonic()
            n_done += len(batch)
            if progress:
                progress(n_done, len(source))
    except KeyboardInterrupt:
        commit()
        raise
    commit()
    recognition.note_gone(source)
    return AddReport(**{f"n_{name}": count for name, count in counts.items()}, failed=tuple(failed))


def encode_queries(
    encoder: Encoder, source: Source, key: PatientKey, progress: Callable[[int, int], None] | None
) -> Queries:
    """Encodes a source's images to ask with. See `Archive.encode_queries`."""
    codes = [Codes.from_bits(np.zeros((0, encoder.bits), np.bool_), encoder.model_id)]
    items, patients, studies, files, contents, failed = [], [], [], [], [], []
    root, n_done = str(source.root.resolve()), 0
    for batch, batch_codes in encoded_batches(encoder, source):
        codes.append(batch_codes)
        for image in batch:
            if image.error:
                failed.append((image.item.source, image.error.reason))
                continue
            item = image.item
            path, frame = split_frame(item.source)
            items.append(item)
            patients.append(None if item.patient is None else key.pseudonym(item.patient))
            studies.append(None if item.study is None else key.pseudonym(item.study, "study"))
            file = os.path.join(root, key.source(path) if item.hides_name else path)
            files.append(None if frame is None else file)
            contents.append(image.content.hex())
        n_done += len(batch)
        if progress:
            progress(n_done, len(source))
    known = tuple(patients), tuple(studies), tuple(files), tuple(contents)
    return Queries(concatenate(codes), tuple(items), *known, tuple(failed))


def check_records(source: Source, columns: Sequence[str]) -> None:
    """Whether the catalogue can hold this source's root and records beside the `columns` it has.

    Raises SourceError where it cannot: text that is not UTF-8, a number that is not finite, or a column's name that SQL
    would take for another's, since it does not tell capitals apart.
    """
    try:
        str(source.root.resolve()).encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(source.root).decode(errors="backslashreplace")
        raise SourceError(f"{name}: the folder's name is not UTF-8, which the catalogue needs") from error
    stored = {name.casefold(): name for name in columns if name not in COLUMNS}
    origin: dict[str, str] = {}
    for column in sorted({name for item in source.items for name in item.record}):
        name = record_name(column)
        other = origin.get(name.casefold()) or stored.get(name.casefold(), name)
        if other != name or name.casefold() in origin:
            raise SourceError(f"{source.root}: column {column!r} cannot be stored beside {other!r}; rename it")
        if not _is_plain(column):
            raise SourceError(
                f"{source.root}: column {column!r}: its name holds a quote, backslash or control character"
            )
        origin[name.casefold()] = column
    for item in source.items:
        for column, value in item.record.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise SourceError(f"{source.root}: {item.source} has {column} = {value}, which is no number")


def check_names(source: Source, catalogue: Catalogue) -> None:
    """Whether the names of this source's DICOM files come in the form, hidden or clear, that the archive has them in,
    which is noted with the first. In the other form none is recognised: all would come twice, deleted ones too.

    Catalogues from before it was noted tell it by their sources; one that has both forms takes both. Raises
    SourceError.
    """
    files = [item for item in source.items if item.hides_name or frames.may_be_dicom(item.source)]
    if not files:
        return
    form = "hidden" if files[0].hides_name else "clear"
    noted = catalogue.properties().get("dicom_names") if catalogue.next_id() > 1 else form
    stored = {noted} if noted else _forms_of_names(catalogue, [item.source for item in files])
    if len(stored) == 1 and form not in stored:
        cure = "without clear_names (--clear-names)" if form == "clear" else "with clear_names (--clear-names)"
        raise SourceError(
            f"{source.root}: this archive has the names of DICOM files {'in ' * (form == 'hidden')}{stored.pop()}, and "
            f"would recognise none of these: open the source {cure}"
        )
    if len(stored) < 2 and catalogue.properties().get("dicom_names") != form:
        catalogue.set_property("dicom_names", form)


def _forms_of_names(catalogue: Catalogue, sources: Sequence[str]) -> set[str]:
    """Whether there are hidden names, and whether any of these sources, as they are in clear, is there."""
    hidden = f"source >= '{HIDDEN}' AND source < '{HIDDEN[:-1]};'"  # ";" comes after ":"
    clear = "source IN (SELECT value FROM json_each(?))"
    exist = [f"EXISTS (SELECT 1 FROM cases WHERE {condition})" for condition in (hidden, clear)]
    with catalogue.transaction():
        has_hidden, has_clear = catalogue.execute(f"SELECT {', '.join(exist)}", json.dumps(sources)).fetchone()
    return {form for form, is_there in (("hidden", has_hidden), ("clear", has_clear)) if is_there}


def _is_plain(column: str) -> bool:
    return column.isprintable() and not {'"', "\\"} & set(column)


def new_case(item: Item, content: bytes, key: PatientKey | None, stamp: str | None = None) -> NewCase:
    """An item as it is stored. content: SHA-256 of its image's bytes. stamp: of its file."""
    patient = key.pseudonym(item.patient) if key and item.patient is not None else None
    study = key.pseudonym(item.study, "study") if key and item.study is not None else None
    record = {record_name(name): value for name, value in item.record.items()} if item.record else {}
    return NewCase(item.source, content, item.label, patient, item.split, record, study, stamp)


def _may_hold_others(item: Item) -> bool:
    return frames.tells(item.path or item.source)


def _differs(known: KnownCase, case: NewCase) -> bool:
    """Whether the case says something that the catalogue does not; what it does not say does not count."""

    def values(one: KnownCase | NewCase) -> dict[str, Value | None]:
        return {"label": one.label, "patient": one.patient, "study": one.study, "split": one.split, **one.record}

    stored = values(known)
    return any(value is not None and stored.get(name) != value for name, value in values(case).items())
