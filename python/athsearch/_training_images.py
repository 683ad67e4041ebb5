"""Which images of a source training uses, and reading them into memory once."""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .data import SPLITS, Item, Source
from .errors import ImageError, SourceError
from .parallel import map_ahead
from .preprocessing import Preprocessing
from .recipes import TrainingSettings
from .types import Square

MEMORY_BYTES = 2 << 30  # decoded images beyond this go to a temporary file that the system pages in and out
N_AHEAD = 64  # images decoded ahead
UNREADABLE_SHARE = 0.05
N_LOOKED_AT = 64  # images that tell whether a source is grey


def divide(source: Source, validation: Source | None, settings: TrainingSettings) -> tuple[Source, Source | None]:
    """The images to train on and those to choose the best epoch by.

    Warns where patients are on both sides, or on those of the source's other splits.
    """
    _warn_of_leaks(source, validation)
    images = source.split("train") if source.splits else source
    if validation is None and "val" in source.splits:
        validation = source.split("val")
    for part in (images, validation):
        if part is None:
            continue
        if len(part) == 0:
            raise SourceError(f"{part.root}: no images")
        for item in part.items:
            if item.label is None:
                raise SourceError(f"{part.root}: training needs the label of every image; {item.source} has none")
    check_classes([str(item.label) for item in images.items], str(source.root))
    if validation is None and settings.validation_share:
        share = settings.validation_share
        divided = images.divided({"train": 1 - share, "val": share}, seed=settings.seed)
        if "val" not in divided.splits:
            raise SourceError(
                f"{source.root}: none can be held out to validate: each class has a single patient, study or file of "
                "many frames; give images to validate by (a split val)"
            )
        images, validation = divided.split("train"), divided.split("val")
        where = f"{source.root}, after holding out {share:.0%} to validate"
        check_classes([str(item.label) for item in images.items], where)
    return images, validation


def _warn_of_leaks(source: Source, validation: Source | None) -> None:
    """A UserWarning where a patient has images in several splits, which names no patient."""
    sides: dict[str, Counter[str]] = {}
    for part, side in ((source, None if source.splits else "train"), (validation, "val")):
        for item in part.items if part else ():
            split = side or item.split
            if item.patient is not None and split is not None:
                sides.setdefault(item.patient, Counter())[split] += 1
    leaking = [counts for counts in sides.values() if len(counts) > 1]
    if leaking:
        example = " and ".join(f"{leaking[0][split]:,} in {split}" for split in SPLITS if leaking[0][split])
        warnings.warn(
            f"{source.root}: {len(leaking):,} of {len(sides):,} patients have images in more than one split, one of "
            f"them {example}: figures of such a split flatter, for the network has seen these patients; divide by "
            "patient (Source.divided)",
            UserWarning,
            stacklevel=4,  # who called train
        )


def check_classes(labels: list[str], where: str) -> None:
    """Raises SourceError, naming the class, unless there are two classes or more, each with two images or more."""
    counts = Counter(labels)
    if len(counts) == 1:
        raise SourceError(f"{where}: training needs two classes or more; all images are of class {labels[0]!r}")
    rarest = min(counts, key=lambda name: (counts[name], name))
    if counts[rarest] < 2:
        raise SourceError(f"{where}: class {rarest!r} has one image; training needs two or more of every class")


def look_grey(source: Source) -> bool:
    """Whether no image has colour, as some of them tell, evenly spread over the source."""
    for row in sorted({round(row) for row in np.linspace(0, len(source) - 1, N_LOOKED_AT)}):
        try:
            pixels = source.pixels(source.items[row])
        except ImageError:
            continue
        if (pixels != pixels[..., :1]).any():
            return False
    return True


@dataclass(frozen=True)
class Pictures:
    """Decoded images of a source in its order: squares uint8 [N, size, size, 3], and the items they came from."""

    squares: Square
    items: tuple[Item, ...]
    n_unreadable: int

    @cached_property
    def labels(self) -> list[str]:
        """The class of each image."""
        return [str(item.label) for item in self.items]


def read_parts(
    parts: Sequence[Source],
    preprocessing: Preprocessing,
    on_read: Callable[[], None],
    on_unreadable: Callable[[ImageError], None],
) -> list[Pictures]:
    """Decodes every image. `on_read` is called after each, `on_unreadable` for one that cannot be used.

    Raises SourceError, naming the first, where of all parts together more than one in twenty cannot be used, or of one
    part none can.
    """
    n_images = sum(map(len, parts))
    unreadable: list[ImageError] = []

    def note(error: ImageError) -> None:
        unreadable.append(error)
        on_unreadable(error)
        if len(unreadable) > UNREADABLE_SHARE * n_images:
            share = f"{UNREADABLE_SHARE:.0%}"
            raise SourceError(f"more than {share} of {n_images} images cannot be used; first {unreadable[0]}")

    pictures = [_read(part, preprocessing, on_read, note) for part in parts]
    for part in pictures:
        if not part.items:
            raise SourceError(
                f"none of the {part.n_unreadable} images to validate by can be used; first {unreadable[0]}"
            )
    return pictures


def _read(
    source: Source,
    preprocessing: Preprocessing,
    on_read: Callable[[], None],
    on_unreadable: Callable[[ImageError], None],
) -> Pictures:
    shape = (len(source), preprocessing.size, preprocessing.size, 3)
    squares: Square
    if math.prod(shape) > MEMORY_BYTES:
        with tempfile.TemporaryFile(prefix="athsearch-") as file:  # lives until the mapping goes
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
                os.posix_fallocate(file.fileno(), 0, math.prod(shape))
            squares = np.memmap(file, np.uint8, "w+", shape=shape)
    else:
        squares = np.empty(shape, np.uint8)

    def read(item: Item) -> Square | ImageError:
        try:
            return preprocessing.square(source.pixels(item, preprocessing.least_side))
        except ImageError as error:
            return error

    kept: list[Item] = []
    for item, square in zip(source.items, map_ahead(read, source.items, N_AHEAD), strict=True):
        if isinstance(square, ImageError):
            on_unreadable(square)
        else:
            squares[len(kept)] = square
            kept.append(item)
        on_read()
    return Pictures(squares[: len(kept)], tuple(kept), len(source) - len(kept))
