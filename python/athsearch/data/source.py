"""A source: its items, what is asked of them, and the way to their bytes and pixels."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias

from .. import images
from ..errors import CorruptImage, ImageError, SourceError, UnsupportedImage
from ..types import Pixels
from . import npz
from .division import divide

SPLITS = ("train", "val", "test")
SPLIT_OF_NAME = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
QUIET_S = 3
Value: TypeAlias = str | int | float
Decode: TypeAlias = Callable[[int], Pixels]


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source.

    source: its path below the source's root, with "/" between folders; "file.npz/train/00017" in a MedMNIST file.
    label, patient, study: None if not known. split: "train", "val", "test" or None.
    record: the further columns of a manifest, without those that are empty here.
    refusal: why the image must not be used, though it may be readable. hides_name: an archive keeps the source under
    its key, for it may name the patient. path: where the image lies, if source is such a pseudonym.
    """

    source: str
    label: str | None = None
    patient: str | None = None
    split: str | None = None
    record: Mapping[str, Value] = field(default_factory=dict)
    study: str | None = None
    refusal: str | None = None
    hides_name: bool = False
    path: str | None = None


@dataclass(frozen=True)
class Source:
    """Images and what is known of them. Nothing is decoded before it is asked for.

    root: the folder that every item's source is relative to. items: in a fixed order, each source once.
    skipped: what the folder or npz holds beside the images: hidden files and folders, other suffixes, links that lead
    back up, arrays of other names. `split` and `divided` keep it.
    """

    root: Path
    items: tuple[Item, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The distinct labels, sorted. Items without one add nothing."""
        return tuple(sorted({item.label for item in self.items if item.label is not None}))

    @cached_property
    def splits(self) -> frozenset[str]:
        """The splits that hold items."""
        return frozenset(item.split for item in self.items if item.split is not None)

    @cached_property
    def n_without_patient(self) -> int:
        """How many items have no patient. Each of them counts as a patient of its own."""
        return sum(item.patient is None for item in self.items)

    def leaking_patients(self) -> frozenset[str]:
        """The patients with items in more than one split."""
        first_split: dict[str, str] = {}
        return frozenset(
            item.patient
            for item in self.items
            if item.patient is not None
            and item.split is not None
            and first_split.setdefault(item.patient, item.split) != item.split
        )

    def split(self, name: str) -> Source:
        """The items of one split, in order. Raises SourceError, naming the splits there are, if there is none."""
        chosen = tuple(item for item in self.items if item.split == name)
        if not chosen:
            there = ", ".join(split for split in SPLITS if split in self.splits) or "none"
            raise SourceError(f"{self.root}: no split {name!r} (there: {there})")
        return replace(self, items=chosen)

    def divided(self, fractions: Mapping[str, float], seed: int = 0) -> Source:
        """The same items, each with a split; splits they had are forgotten.

        fractions: split -> its share of the items, above 0, together 1, such as {"train": 0.8, "test": 0.2}.
        All items of a patient come to one side, and those of his studies that name none; without patient those of a
        study, or else of a file, stay together.
        Classes, and the items without label, are divided one by one, see `divide`. Seed, groups and labels decide, not
        the order of items.
        Raises ValueError if the fractions are not such.
        """
        shares = {split: float(fractions[split]) for split in SPLITS if split in fractions}
        if len(shares) != len(fractions) or not all(0 < share <= 1 for share in shares.values()):
            raise ValueError(f"fractions must be positive and of {', '.join(SPLITS)}, got {dict(fractions)}")
        if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
            raise ValueError(f"fractions must sum to 1, got {dict(fractions)}")
        named = (
            (item.study, item.patient) for item in self.items if item.study is not None and item.patient is not None
        )
        patients = dict(sorted(named))  # by study; sorted, since the order of items must not matter
        groups = [_group(item, patients) for item in self.items]
        sides = divide(((item.label, group) for item, group in zip(self.items, groups, strict=True)), shares, seed)
        divided = (replace(item, split=sides[group]) for item, group in zip(self.items, groups, strict=True))
        return replace(self, items=tuple(divided))

    def under_key(self, pseudonym: Callable[[str], str]) -> Source:
        """The same items, those that hide their names with pseudonyms for sources. A frame's number stays readable."""

        def hidden(item: Item) -> Item:
            path, frame = images.split_frame(item.source)
            source = pseudonym(path) + ("" if frame is None else f"#frame={frame}")
            return replace(item, source=source, path=item.source)

        return replace(self, items=tuple(hidden(item) if item.hides_name else item for item in self.items))

    def read(self, item: Item) -> tuple[bytes, Decode]:
        """An item's bytes and how to decode them, see `read_image`. Raises UnsupportedImage for its refusal, too."""
        if item.refusal is not None:
            raise UnsupportedImage(item.source, item.refusal)
        return read_image(self.root, item.path or item.source)

    def pixels(self, item: Item, least_side: int = 0) -> Pixels:
        """An item's pixels, see `read` and `read_pixels`."""
        return self.read(item)[1](least_side)

    def stamp(self, item: Item) -> str | None:
        """Size, time of the last change and time of the last change of attributes (ns) of the file that holds an item.

        None where that says too little: of a file that is not there, or was changed in the last QUIET_S seconds, since
        another change within a tick of the file system's clock, which may be two seconds long, would not show.
        """
        try:
            status = file_of(self.root, item.path or item.source).stat()
        except (OSError, ValueError):
            return None
        is_quiet = max(status.st_mtime_ns, status.st_ctime_ns) < time.time_ns() - QUIET_S * 10**9
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}" if is_quiet else None


def locate(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """Root and source of an image given by its path alone: of a file, or as in "folder/file.npz/test/00017"."""
    whole = Path(path)
    n_parts = 3 if npz.names_part("/".join(whole.parts[-3:])) else 1
    return Path(*whole.parts[:-n_parts]), "/".join(whole.parts[-n_parts:])


def file_of(root: str | os.PathLike[str], source: str) -> Path:
    """The file that holds an image, by itself or beside others. It need not be there."""
    path = Path(root, images.split_frame(source)[0])
    return path.parents[1] if npz.names_part(source) else path


def read_image(root: str | os.PathLike[str], source: str) -> tuple[bytes, Decode]:
    """The bytes of one image, of its file or its part of an npz array, and a function that decodes these very bytes,
    given the `least_side` of `images.read`.

    Raises CorruptImage if it is not there (any more), ImageError if the system refuses to read it; the function raises
    ImageError if they are no usable image.
    """
    from . import frames  # which needs this module

    if npz.names_part(source):
        pixels = npz.read_part(Path(root), source)
        return pixels.tobytes(), lambda least_side: pixels
    try:
        if images.split_frame(source)[1] is not None:
            return frames.read_frame(Path(root), source)
        content = Path(root, source).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CorruptImage(source, f"no such file in {root}") from error
    except OSError as error:
        raise ImageError(source, f"cannot be read in {root}: {error.strerror}") from error
    return content, partial(images.read, content, source)


def read_pixels(root: str | os.PathLike[str], source: str, least_side: int = 0) -> Pixels:
    """The pixels of one image, uint8 or uint16 [H, W, 1 or 3]. Raises ImageError if it is unusable.

    least_side: as for `images.read`.
    """
    _, decode = read_image(root, source)
    return decode(least_side)


def _group(item: Item, patients: Mapping[str, str]) -> str:
    """What must stay on one side. The first word keeps a patient from being taken for a source. patients: by study."""
    patient = item.patient
    if patient is None and item.study is not None:
        patient = patients.get(item.study)
    if patient is not None:
        return f"patient {patient}"
    return f"source {images.split_frame(item.source)[0]}" if item.study is None else f"study {item.study}"
