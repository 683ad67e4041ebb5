"""JPEG, PNG, BMP and TIFF through Pillow.

What is decided here:
- The plug-in is chosen by the content's first bytes and called directly. So a JPEG named .png is read, Pillow's reason
  for a refusal is kept, and its process-wide size limit, with its warnings, plays no part.
- Grey stays one channel, 16-bit grey stays uint16. Pillow reads 16-bit colour, and 16-bit grey with alpha, by the high
  bytes only: those come as uint8 RGB. Bilevel is 0 and 255. Palettes, CMYK, YCbCr and Lab become RGB.
- Transparent parts are black, as the background of medical images is; half transparent ones are darkened.
- EXIF rotation is applied. EXIF data that cannot be read costs the rotation, not the image.
- The pages of a TIFF file are images of their own: each is read, or refused, as if it stood alone (`tiff_pages`).
- Refused: several frames of a PNG (taking the first would hide the rest), floating point, integers outside 0..65535,
  16-bit colours of which one is transparent.
- Half a picture is never accepted, except where nothing tells: uncompressed data has no checksum, and a JPEG that was
  cut short and then closed by an end mark is filled up by the decoder without a word.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import CorruptImage, ImageError, UnsupportedImage
from ..types import AnyArray, Pixels
from .limits import check_size
from .tiff_pages import STARTS, FromPage, page_heads

_PLUGINS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"BM": BmpImageFile,
    **dict.fromkeys(STARTS, TiffImageFile),
}

# What damaged bytes make Pillow raise, found by fuzzing and reading; UserWarning only where warnings are made errors.
# MemoryError is not here: it says nothing about the file.
_BAD_BYTES = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, struct.error, UserWarning
)  # fmt: skip

# How the plug-ins word that a file may be sound, but is beyond them.
_BEYOND_PILLOW = ("nsupported", "not yet supported", "unknown pixel mode")

_ORIENTATION, _PHOTOMETRIC, _SAMPLE_FORMAT = 274, 262, 339  # TIFF and EXIF tags
_WHITE_IS_ZERO, _SIGNED = 0, (2,)  # values of the latter two

_TURNED: dict[int, Callable[[AnyArray], AnyArray]] = {  # by EXIF orientation; 1 is upright
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


class PillowFile:
    """A JPEG, PNG, BMP or TIFF file, see `ImageFile`. Nothing is decoded before it is asked for."""

    unit = "pages"

    def __init__(self, content: bytes, name: str) -> None:
        """Raises CorruptImage, with `name`, where it is none of them, UnsupportedImage where it has too many pages."""
        plugin = next((plugin for start, plugin in _PLUGINS.items() if content.startswith(start)), None)
        if plugin is None:
            raise CorruptImage(name, "the content is not that of a JPEG, PNG, BMP or TIFF file")
        self._content, self._plugin = content, plugin
        self._heads = page_heads(io.BytesIO(content), name) if plugin is TiffImageFile else []
        self.n_frames = len(self._heads) or 1

    def pixels(self, number: int, name: str, least_side: int = 0) -> Pixels:
        """Page `number`, see `images.read`."""
        file = FromPage(self._content, self._heads[number - 1]) if self._heads else io.BytesIO(self._content)
        return _read(file, self._plugin, name, least_side)


def _read(file: io.BytesIO, plugin: type[ImageFile.ImageFile], name: str, least_side: int) -> Pixels:
    try:
        image = plugin(file)
        _check_header(image, name)
        if least_side and isinstance(image, JpegImageFile):
            image.draft(None, (least_side, least_side))  # by libjpeg's scaled cosine transform; never to less than that
        if isinstance(image, PngImageFile):
            _scale_transparent(image, name)
            PngImageFile(io.BytesIO(file.getvalue())).verify()  # checksums and the end mark: decoding looks at neither
        image.load()
        pixels = _deep_grey(image, name) if image.mode.startswith("I") else _shallow(image)
        if isinstance(image, TiffImageFile) and image.tag_v2.get(_SAMPLE_FORMAT) == _SIGNED and image.mode == "L":
            _check_range(pixels.view(np.int8), name)
    except ImageError:
        raise
    except _BAD_BYTES as error:
        reason = str(error) or type(error).__name__
        kind = UnsupportedImage if any(words in reason for words in _BEYOND_PILLOW) else CorruptImage
        raise kind(name, f"cannot be decoded as {plugin.format}: {reason}") from error
    orientation = 1
    with contextlib.suppress(*_BAD_BYTES):
        orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation in _TURNED:
        pixels = np.ascontiguousarray(_TURNED[orientation](pixels))
    return pixels


def _check_header(image: ImageFile.ImageFile, name: str) -> None:
    check_size(*image.size, name)
    n_frames = 1 if isinstance(image, TiffImageFile) else getattr(image, "n_frames", 1)
    if n_frames != 1:
        raise UnsupportedImage(name, f"holds {n_frames} frames: write each to a file of its own")
    if image.mode == "F":
        raise UnsupportedImage(name, "holds floating-point values: write them as 8 or 16-bit integers")


def _scale_transparent(image: PngImageFile, name: str) -> None:
    """Makes the grey value that is transparent what Pillow makes of it in pixels. Raises UnsupportedImage for a colour
    of 16-bit channels, for pixels keep the high bytes alone.
    """
    if "transparency" not in image.info:
        return
    raw_mode = image.tile[0].args
    if raw_mode in ("L;2", "L;4"):
        image.info["transparency"] *= 255 // (2 ** int(raw_mode[2:]) - 1)
    if raw_mode == "RGB;16B":
        raise UnsupportedImage(name, "names a transparent colour of 16 bits a channel: write it with 8")


def _check_range(values: AnyArray, name: str) -> None:
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > 65535:
        raise UnsupportedImage(name, f"holds values from {lowest} to {highest}: 0 to 65535 can be read")


def _shallow(image: Image.Image) -> Pixels:
    """A loaded image of up to 8 bits a channel as uint8 [H, W, 1 or 3]."""
    grey = image.mode in ("1", "L", "LA", "La")
    # "transparency" names one grey value, one colour, or the alpha of the palette's entries.
    if "transparency" not in image.info and image.mode not in ("LA", "La", "PA", "RGBA"):
        opaque = np.array(image.convert("L" if grey else "RGB"))
        return opaque[..., None] if grey else opaque
    values = np.asarray(image.convert("LA" if grey else "RGBA"))
    darkened = values[..., :-1].astype(np.uint16) * values[..., -1:]  # [H, W, 1 or 3] * [H, W, 1]
    pixels: Pixels = ((darkened + 127) // 255).astype(np.uint8)
    return pixels


def _deep_grey(image: Image.Image, name: str) -> Pixels:
    """A loaded image of one channel with more than 8 bits as uint16 [H, W, 1]."""
    values: AnyArray = np.asarray(image)
    _check_range(values, name)
    pixels: Pixels = values.astype(np.uint16)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        pixels = 65535 - pixels  # Pillow turns this round for 8 bits, not for 16
    if "transparency" in image.info:
        pixels[pixels == image.info["transparency"]] = 0
    return pixels[..., None]
