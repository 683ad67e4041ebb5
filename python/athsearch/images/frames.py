"""Files that hold several images, DICOM's frames, pages or slices, and how a source names one of them."""

from __future__ import annotations

import re
from typing import Protocol

from ..errors import CorruptImage, UnsupportedImage
from ..types import Pixels

_FRAME = re.compile(r"(.+)#frame=([1-9][0-9]{0,8})", re.DOTALL)


class ImageFile(Protocol):
    """A file that was parsed; its images can be had one by one, from several threads.

    n_frames: how many there are. unit: what they are called, as "pages".
    """

    n_frames: int
    unit: str

    def pixels(self, number: int, name: str, least_side: int = 0) -> Pixels:
        """Image `number`, from 1 to n_frames, see `images.read`. Raises ImageError, with `name`, if it is unusable."""


def split_frame(source: str) -> tuple[str, int | None]:
    """The file of a source and, where it names one, as in "file.dcm#frame=3", the frame, counted from 1."""
    match = _FRAME.fullmatch(source)
    return (match[1], int(match[2])) if match else (source, None)


def pixels_of(file: ImageFile, name: str, least_side: int) -> Pixels:
    """The image that `name` names, or the only one. Raises ImageError where there is no such, or it is unusable."""
    number = split_frame(name)[1]
    if number is None and file.n_frames > 1:
        raise UnsupportedImage(name, f"holds {file.n_frames:,} {file.unit}: name one, as in FILE#frame=1")
    if not 1 <= (number or 1) <= file.n_frames:
        raise CorruptImage(name, f"no frame {number} among {file.n_frames:,}")
    return file.pixels(number or 1, name, least_side)
