"""DICOM files: one frame as a viewer shows it, or a refusal with its reason.

`dicom_header` finds the elements, `dicom_frames` gets the stored values, `dicom_display` says what they look like.
No message holds a value of the file, for it may name a patient: sizes, counts and transfer syntaxes aside.
"""

from __future__ import annotations

import io

from ..errors import CorruptImage, ImageError
from ..types import Pixels
from . import dicom_display, dicom_frames
from .dicom_header import BAD_BYTES, PIXEL_DATA, read_header

_TAGS = (*dicom_frames.TAGS, *dicom_display.TAGS)


class DicomFile:
    """A DICOM file that was parsed, see `ImageFile`."""

    unit = "frames"

    def __init__(self, content: bytes, name: str) -> None:
        """Raises ImageError, with `name`, where it is no DICOM file or cannot be used as a whole."""
        self._header = read_header(io.BytesIO(content), name, _TAGS, PIXEL_DATA)
        try:
            self._layout = dicom_frames.layout_of(self._header, name)
        except BAD_BYTES as error:
            raise CorruptImage(name, f"its header cannot be used ({type(error).__name__})") from None
        self.n_frames = self._layout.n_frames

    def pixels(self, number: int, name: str, least_side: int = 0) -> Pixels:
        """Frame `number` as uint8 [H, W, 1 or 3]; least_side plays no part."""
        try:
            values, photometric = dicom_frames.stored_pixels(self._header, self._layout, number, name)
            return dicom_display.shown(self._header, self._layout, values, photometric, number, name)
        except ImageError:
            raise
        except BAD_BYTES as error:
            raise CorruptImage(name, f"frame {number} cannot be decoded ({type(error).__name__})") from None
