"""Bytes in, pixels out: one reader a format, chosen by the file name's suffix.

A new format is a module beside this one and a line in `READERS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from ..errors import CorruptImage, UnsupportedImage
from ..types import Pixels
from .dicom_names import begins_like_dicom, is_dicom, may_be_dicom, split_frame

__all__ = ["READERS", "is_dicom", "is_image", "may_be_dicom", "read", "split_frame"]


def _pillow(content: bytes, name: str, least_side: int) -> Pixels:
    from . import pillow  # when first needed: searching decodes nothing, and starts faster without

    return pillow.read(content, name, least_side)


def _dicom(content: bytes, name: str, least_side: int) -> Pixels:
    from . import dicom

    return dicom.read(content, name, least_side)


READERS: Mapping[str, Callable[[bytes, str, int], Pixels]] = {
    ".bmp": _pillow,
    ".dcm": _dicom,
    ".dicom": _dicom,
    ".ima": _dicom,
    ".jfif": _pillow,
    ".jpe": _pillow,
    ".jpeg": _pillow,
    ".jpg": _pillow,
    ".png": _pillow,
    ".tif": _pillow,
    ".tiff": _pillow,
}


def is_image(name: str) -> bool:
    """Whether there is a reader for a file of this name. Case does not matter. DICOM files may do without a suffix:
    see `is_dicom`.
    """
    return os.path.splitext(name)[1].lower() in READERS


def read(content: bytes, name: str, least_side: int = 0) -> Pixels:
    """Decode one image.

    content: the whole file. name: its name or path, for the suffix and for errors; of a DICOM file with several frames
    followed by which one is wanted, as in "file.dcm#frame=3". least_side: where it is not 0, a JPEG may come at a half,
    a quarter or an eighth of its size, which is quicker, if no side gets shorter than that.
    Returns uint8 or uint16 [H, W, 1 or 3], grey or RGB, at least 8 x 8.
    Raises UnsupportedImage if the image is sound but of a kind or size we refuse (an unknown suffix too),
    CorruptImage if it is empty, truncated or not what its name says. Either carries `name`.
    """
    path, _ = split_frame(name)
    suffix = os.path.splitext(path)[1].lower()
    read_as = READERS.get(suffix)
    if read_as is None and may_be_dicom(path) and begins_like_dicom(content[:256]):
        read_as = _dicom
    if read_as is None:
        raise UnsupportedImage(name, f"suffix {suffix!r} is not one of {' '.join(READERS)}")
    if not content:
        raise CorruptImage(name, "the file is empty")
    return read_as(content, name, least_side)
