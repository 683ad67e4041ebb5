"""DICOM files: one frame as a viewer shows it, or a refusal with its reason.

`dicom_header` finds the elements, `dicom_frames` gets the stored values, `dicom_display` says what they look like.
No message holds a value of the file, for it may name a patient: sizes, counts and transfer syntaxes aside.
"""

from __future__ import annotations

import io

from ..errors import CorruptImage, ImageError, UnsupportedImage
from ..types import Pixels
from . import dicom_display, dicom_frames
from .dicom_header import BAD_BYTES, PIXEL_DATA, read_header
from .dicom_names import split_frame

_TAGS = (*dicom_frames.TAGS, *dicom_display.TAGS)


class DicomFile:
    """A DICOM file that was parsed; its frames can be had one by one, from several threads."""

    def __init__(self, content: bytes, name: str) -> None:
        """Raises ImageError, with `name`, where it is no DICOM file or cannot be used as a whole."""
        self._header = read_header(io.BytesIO(content), name, _TAGS, PIXEL_DATA)
        try:
            self._layout = dicom_frames.layout_of(self._header, name)
        except BAD_BYTES as error:
            raise CorruptImage(name, f"its header cannot be used ({type(error).__name__})") from None
        self.n_frames = self._layout.n_frames

    def pixels(self, number: int, name: str) -> Pixels:
        """Frame `number`, from 1, as uint8 [H, W, 1 or 3]. Raises ImageError, with `name`, where there is none."""
        if not 1 <= number <= self.n_frames:
            raise CorruptImage(name, f"no frame {number} among {self.n_frames:,}")
        try:
            values, photometric = dicom_frames.stored_pixels(self._header, self._layout, number, name)
            return dicom_display.shown(self._header, self._layout, values, photometric, number, name)
        except ImageError:
            raise
        except BAD_BYTES as error:
            raise CorruptImage(name, f"frame {number} cannot be decoded ({type(error).__name__})") from None


def read(content: bytes, name: str, least_side: int = 0) -> Pixels:
    """Decode a DICOM file, or the frame of it that `name` ends with. The interface of `images.read`.

    least_side plays no part.
    """
    try:
        file = DicomFile(content, name)
    except ModuleNotFoundError:
        raise UnsupportedImage(name, "DICOM files need pydicom: pip install 'athsearch[dicom]'") from None
    number = split_frame(name)[1]
    if number is None and file.n_frames > 1:
        raise UnsupportedImage(name, f"holds {file.n_frames:,} frames: name one, as in FILE#frame=1")
    return file.pixels(number or 1, name)
