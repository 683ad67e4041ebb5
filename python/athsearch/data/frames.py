"""Files of several images as items, each image one: what a source's files tell of themselves, and the way to one frame.

Frames of DICOM files, pages of TIFF files and slices of NIfTI volumes alike. A file of a single image stays one item.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

from .. import images
from ..errors import ImageError, SourceError
from ..parallel import map_ahead
from ..types import Pixels
from . import dicom, npz
from .source import Item, Source

FRAMES = ("all", "middle", "first")
MAX_FRAMES = 1000  # of one file under "all"; a film has more, and hardly as many different ones
N_AHEAD = 64
_DIGEST_BYTES = hashlib.sha256().digest_size

_lock = threading.Lock()  # threads wait for one parse of a file of many frames rather than each doing it


def described(
    source: Source,
    fields: Sequence[str],
    frames: str,
    allow_burned_in: bool,
    clear_names: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Source:
    """The source with what its files say of their items; those of other kinds stay as they are. See `open_source`.

    What a manifest says goes first. Files that hold no image by their kind, such as reports, join `skipped`.
    """
    if not any(tells(item.source) for item in source.items):
        return source
    describe = partial(_described, source.root, fields, frames, allow_burned_in, clear_names)
    found: list[Item] = []
    skipped: list[str] = []
    tells_root = False
    for number, (item, (parts, tells_this)) in enumerate(
        zip(source.items, map_ahead(describe, source.items, N_AHEAD), strict=True), 1
    ):
        found.extend(parts)
        tells_root |= tells_this
        if not parts:
            skipped.append(item.source)
        if progress and (number % 100 == 0 or number == len(source.items)):
            progress(number, len(source.items))
    _check_distinct(source.root, found)
    if tells_root:
        dicom.warn_of_root(source.root)
    dicom.warn_of_issuers(source.root, found)
    return replace(source, items=tuple(found), skipped=tuple(sorted(chain(source.skipped, skipped))))


def _check_distinct(root: Path, items: Sequence[Item]) -> None:
    seen: set[str] = set()
    for item in items:
        image = item.source.removesuffix("#frame=1")  # which a file of one image may be named by, too
        if image != item.source and (root / item.source).is_file():  # a file that is called so
            image = item.source
        if image in seen:
            raise SourceError(f"{root}: {item.source} is named twice, by itself and with its file: leave out one")
        seen.add(image)


def may_be_dicom(source: str) -> bool:
    """Whether the file of that source may be DICOM, by its name."""
    path, _ = images.split_frame(source)
    return images.may_be_dicom(path) and not npz.names_part(path)


def tells(source: str) -> bool:
    """Whether the file of that source may say something of its items, and how many there are."""
    path, _ = images.split_frame(source)
    may_tell = images.may_be_dicom(path) or images.may_hold_frames(path)
    return may_tell and not npz.names_part(path)


def _described(
    root: Path, fields: Sequence[str], frames: str, allow_burned_in: bool, clear_names: bool, item: Item
) -> tuple[list[Item], bool]:
    """An item as its frames, or as the one it names, with what its file says; none if that is of a kind that holds no
    image. And whether the root's path tells of whom it is.
    """
    if not tells(item.source):
        return [item], False
    path, number = images.split_frame(item.source)
    n_frames, tells_root = 1, False
    if images.may_be_dicom(path):
        described, n_frames, tells_root = dicom.describe(root, fields, allow_burned_in, clear_names, item)
        if described is None:
            return [], tells_root
        item = described
    elif number is None:
        with contextlib.suppress(OSError, ValueError, ImageError, ModuleNotFoundError):  # reading it will tell
            n_frames = images.frame_count(root / path)
    if number is not None or n_frames == 1:
        return [item], tells_root
    if frames == "all" and n_frames > MAX_FRAMES:
        cure = f"more than {MAX_FRAMES:,} frames in one file: frames='middle' (--frames middle) takes one"
        return [replace(item, refusal=item.refusal or f"holds {n_frames:,}, {cure}")], tells_root
    chosen = {"all": range(1, n_frames + 1), "middle": [(n_frames + 1) // 2], "first": [1]}[frames]
    return [replace(item, source=f"{path}#frame={number}") for number in chosen], tells_root


def read_frame(root: Path, source: str) -> tuple[bytes, Callable[[int], Pixels]]:
    """One frame, as `read_image` gives it. source: one that names a frame.

    Its bytes are the SHA-256 of its file and its number: they differ from frame to frame, and the file is read once.
    Raises OSError where the file cannot be read, ImageError where it is unusable.
    """
    path, number = images.split_frame(source)
    status = (root / path).stat()
    try:
        with _lock:
            digest, file = _parsed(root / path, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
    except ImageError as error:
        raise type(error)(source, error.reason) from None
    return _frame_bytes(digest, number or 1), lambda least_side: images.pixels_of(file, source, least_side)


def file_digest(source: str, content: bytes) -> bytes | None:
    """The SHA-256 of a frame's file, given the bytes that `read_image` gave; None for what is no frame."""
    return content[:_DIGEST_BYTES] if images.split_frame(source)[1] else None


def content_digest(source: str, file: bytes) -> bytes:
    """The SHA-256 of the bytes that `read_image` gives for a frame or an only image, given that of its file."""
    number = images.split_frame(source)[1]
    return hashlib.sha256(_frame_bytes(file, number)).digest() if number else file


def _frame_bytes(digest: bytes, number: int) -> bytes:
    return b"%s#frame=%d" % (digest, number)


@lru_cache(maxsize=2)
def _parsed(path: Path, modified_ns: int, changed_ns: int, n_bytes: int) -> tuple[bytes, images.ImageFile]:
    """A file and its digest. Times and size stand here so that a file that was replaced is read again."""
    content = path.read_bytes()
    return hashlib.sha256(content).digest(), images.open_image(content, path.name)
