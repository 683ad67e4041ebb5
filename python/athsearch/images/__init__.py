"""Bytes in, pixels out: one reader a format, chosen by the file name's suffix.

A new format is a module beside this one and a line in `READERS`; one of several images a file, in `COUNTERS`, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import BinaryIO

from ..errors import CorruptImage, UnsupportedImage
from ..types import Pixels
from .dicom_names import begins_like_dicom, is_dicom, may_be_dicom
from .frames import ImageFile, pixels_of, split_frame

__all__ = [
    "COUNTERS", "READERS", "ImageFile", "frame_count", "is_dicom", "is_image", "may_be_dicom", "may_hold_frames",
    "open_image", "pixels_of", "read", "split_frame",
]  # fmt: skip


def _pillow(content: bytes, name: str) -> ImageFile:
    from . import pillow  # when first needed: searching decodes nothing, and starts faster without

    return pillow.PillowFile(content, name)


def _dicom(content: bytes, name: str) -> ImageFile:
    from . import dicom

    try:
        return dicom.DicomFile(content, name)
    except ModuleNotFoundError:
        raise UnsupportedImage(name, "DICOM files need pydicom: pip install 'athsearch[dicom]'") from None


def _nifti(content: bytes, name: str) -> ImageFile:
    from . import nifti

    try:
        return nifti.NiftiFile(content, name)
    except ModuleNotFoundError:
        raise UnsupportedImage(name, "NIfTI files need nibabel: pip install 'athsearch[nifti]'") from None


def _n_pages(file: BinaryIO, name: str) -> int:
    from . import tiff_pages

    return tiff_pages.n_pages(file, name)


def _n_slices(file: BinaryIO, name: str) -> int:
    from . import nifti

    return nifti.n_slices(file, name)


READERS: Mapping[str, Callable[[bytes, str], ImageFile]] = {
    ".bmp": _pillow,
    ".dcm": _dicom,
    ".dicom": _dicom,
    ".ima": _dicom,
    ".jfif": _pillow,
    ".jpe": _pillow,
    ".jpeg": _pillow,
    ".jpg": _pillow,
    ".nii": _nifti,
    ".nii.gz": _nifti,
    ".png": _pillow,
    ".tif": _pillow,
    ".tiff": _pillow,
}
COUNTERS: Mapping[str, Callable[[BinaryIO, str], int]] = {  # DICOM files are counted with the rest of their header
    ".nii": _n_slices,
    ".nii.gz": _n_slices,
    ".tif": _n_pages,
    ".tiff": _n_pages,
}


_PLAIN_SUFFIX = re.compile(r"(\.[a-z][a-z0-9]{0,4})?").fullmatch  # others may tell a birthday, and reasons are stored


def _suffix(name: str) -> str:
    """In small letters. That of a compressed volume has two parts."""
    stem, suffix = os.path.splitext(name.lower())
    return ".nii.gz" if suffix == ".gz" and os.path.splitext(stem)[1] == ".nii" else suffix


def is_image(name: str) -> bool:
    """Whether there is a reader for a file of this name. Case does not matter. DICOM files may do without a suffix:
    see `is_dicom`.
    """
    return _suffix(name) in READERS


def may_hold_frames(name: str) -> bool:
    """Whether a file of this name may hold several images that `frame_count` counts; DICOM files aside."""
    return _suffix(name) in COUNTERS


def frame_count(path: str | os.PathLike[str]) -> int:
    """How many images a TIFF or NIfTI file says it holds. No image is read.

    Raises OSError where the file cannot be read, ImageError where it is unusable, ModuleNotFoundError without nibabel.
    """
    with open(path, "rb") as file:
        return COUNTERS[_suffix(os.fspath(path))](file, os.fspath(path))


def open_image(content: bytes, name: str) -> ImageFile:
    """Parse a file; see `read` for what may be raised. `pixels_of` then gives its image, or one of them."""
    path, _ = split_frame(name)
    suffix = _suffix(path)
    open_as = READERS.get(suffix)
    if open_as is None and may_be_dicom(path) and begins_like_dicom(content[:256]):
        open_as = _dicom
    if open_as is None:
        what = f"suffix {suffix!r}" if _PLAIN_SUFFIX(suffix) else "its suffix"
        raise UnsupportedImage(name, f"{what} is not one of {' '.join(READERS)}")
    if not content:
        raise CorruptImage(name, "the file is empty")
    return open_as(content, name)


def read(content: bytes, name: str, least_side: int = 0) -> Pixels:
    """Decode one image.

    content: the whole file. name: its name or path, for the suffix and for errors; of a file of several frames (DICOM),
    pages (TIFF) or slices (NIfTI) followed by which one is wanted, as in "file.dcm#frame=3". least_side: where it is
    not 0, a JPEG may come at a half, a quarter or an eighth of its size, which is quicker, if no side gets shorter than
    that.
    Returns uint8 or uint16 [H, W, 1 or 3], grey or RGB, at least 8 x 8.
    Raises UnsupportedImage if the image is sound but of a kind or size we refuse (an unknown suffix too),
    CorruptImage if it is empty, truncated or not what its name says. Either carries `name`.
    """
    return pixels_of(open_image(content, name), name, least_side)
