"""From a source's images to codes and cases, in batches, with an account of every image.

Batches are cut from the source by position and committed whole, so that a run that goes on after an interruption shows
the network the same batches: float arithmetic may depend on them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from ..codes import Codes, concatenate
from ..data import Item, Source
from ..encoder import BATCH_SIZE, N_AHEAD, Encoder
from ..errors import ImageError
from ..parallel import map_ahead
from ..types import Square
from .catalogue import Catalogue, NewCase, record_name
from .pseudonym import PatientKey
from .segment import write_segment

COMMIT_BATCHES = 64
COMMIT_SECONDS = 20.0
Known = Mapping[tuple[str, bytes], bool]


@dataclass(frozen=True)
class AddReport:
    """What became of a source's images. Each is counted once.

    n_added: new cases. n_present: were there already, with the same source and content. n_deleted: had been deleted
    from this archive, and stay so. failed: (source, reason) of images that could not be used.
    """

    n_added: int
    n_present: int
    n_deleted: int
    failed: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class LoadedImage:
    """One image of a source: content is the SHA-256 of its bytes; error says why it cannot be used.

    is_known: the catalogue lists it already; is_deleted: as a case that was deleted. Neither was decoded.
    """

    item: Item
    content: bytes = b""
    is_known: bool = False
    is_deleted: bool = False
    error: ImageError | None = None
    square: Square | None = None


def encoded_batches(
    encoder: Encoder, source: Source, look_up: Callable[[list[str]], Known] | None = None
) -> Iterator[tuple[list[LoadedImage], Codes]]:
    """The source's images in order, BATCH_SIZE at a time, with the codes of those that are new and usable, in order.

    look_up: given some sources, says which of their contents are known, and whether as deleted; those are not decoded.
    Images are read and decoded on threads while the network works.
    """
    known: dict[tuple[str, bytes], bool] = {}

    def items() -> Iterator[Item]:
        waiting = iter(source.items)
        while part := list(islice(waiting, N_AHEAD)):
            if look_up:
                known.update(look_up([item.source for item in part]))
            yield from part

    def load(item: Item) -> LoadedImage:
        try:
            content, decode = source.read(item)
            digest = hashlib.sha256(content).digest()
            is_deleted = known.get((item.source, digest))
            if is_deleted is not None:
                return LoadedImage(item, digest, True, is_deleted)
            return LoadedImage(item, digest, square=encoder.description.preprocessing.square(decode()))
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
) -> AddReport:
    """Adds a source's images as cases: segments into `folder`, cases into the catalogue. See `Archive.add`."""
    root = str(source.root.resolve())
    pending: list[tuple[list[NewCase], Codes]] = []
    counts = {"added": 0, "present": 0, "deleted": 0}
    failed: list[tuple[str, str]] = []

    def commit() -> None:
        # Taken first: what an interruption in the middle leaves uncertain must not be written a second time.
        taken, pending[:] = pending[:], []
        cases = [case for batch, _ in taken for case in batch]
        if cases:
            codes = concatenate([part for _, part in taken])
            catalogue.add(root, write_segment(folder, codes, catalogue.next_id()), cases)
            counts["added"] += len(cases)

    n_done, last_commit = 0, time.monotonic()
    try:
        for batch, batch_codes in encoded_batches(encoder, source, catalogue.known):
            pending.append((_new_cases(batch, key), batch_codes))
            failed += [(image.item.source, image.error.reason) for image in batch if image.error]
            counts["deleted"] += sum(image.is_deleted for image in batch)
            counts["present"] += sum(image.is_known and not image.is_deleted for image in batch)
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
    return AddReport(counts["added"], counts["present"], counts["deleted"], tuple(failed))


def _new_cases(batch: Iterable[LoadedImage], key: PatientKey | None) -> list[NewCase]:
    cases = []
    for image in batch:
        if image.error or image.is_known:
            continue
        item = image.item
        patient = key.pseudonym(item.patient) if key and item.patient is not None else None
        record = {record_name(name): value for name, value in item.record.items()}
        cases.append(NewCase(item.source, image.content, item.label, patient, item.split, record))
    return cases
