"""The pixels of one frame of a DICOM file as they are stored: native, or decoded by imagecodecs.

One decoder a transfer syntax: two would give two codes. Sizes are checked before anything is decoded, and a compressed
frame without its end mark is refused, for the decoders fill up what is missing without a word.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import CorruptImage, UnsupportedImage
from ..types import AnyArray
from .dicom_header import (
    BIG_ENDIAN,
    DEFLATED,
    DOUBLE_PIXEL_DATA,
    EXPLICIT,
    FLOAT_PIXEL_DATA,
    IMPLICIT,
    PIXEL_DATA,
    Header,
)  # fmt: skip
from .limits import check_size

NATIVE = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
TAGS = (0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102,
        0x00280103, FLOAT_PIXEL_DATA, DOUBLE_PIXEL_DATA, PIXEL_DATA, 0x7FE00001, 0x7FE00002)  # fmt: skip
_RLE = "1.2.840.10008.1.2.5"
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_GREYS = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_LOSSLESS = 0xC3  # a marker of JPEG


@dataclass(frozen=True)
class Layout:
    """How a frame's pixels are stored. Built by `layout_of`, which checks them."""

    height: int
    width: int
    n_samples: int
    photometric: str
    is_planar: bool
    n_frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool

    @property
    def extremes(self) -> tuple[float, ...]:
        """The lowest and the highest value that may be stored."""
        lowest = -(1 << (self.bits_stored - 1)) if self.is_signed else 0
        return lowest, lowest + (1 << self.bits_stored) - 1


def frame_count(header: Header) -> int:
    """How many frames a file says it holds, at least 1."""
    return max(1, int(header.decimal(0x00280008) or 1))


def layout_of(header: Header, name: str) -> Layout:
    """How the pixels are stored. Raises UnsupportedImage or CorruptImage where they cannot be used."""
    if FLOAT_PIXEL_DATA in header or DOUBLE_PIXEL_DATA in header:
        raise UnsupportedImage(name, "holds floating-point values")
    if PIXEL_DATA not in header:
        raise CorruptImage(name, "holds no pixel data: cut short, or no image")
    height, width = header.word(0x00280010), header.word(0x00280011)
    allocated = header.word(0x00280100)
    if height is None or width is None or allocated is None:
        raise CorruptImage(name, "does not say how its pixels are stored (Rows, Columns or Bits Allocated is missing)")
    check_size(width, height, name)
    stored = header.word(0x00280101, allocated) or allocated
    n_samples = header.word(0x00280002, 1) or 1
    photometric = (header.text(0x00280004) or ("RGB" if n_samples == 3 else "MONOCHROME2")).upper()
    if photometric not in (_COLOURS if n_samples == 3 else _GREYS) or n_samples not in (1, 3):
        known = ", ".join(_COLOURS + _GREYS)
        if photometric in _COLOURS + _GREYS:
            raise CorruptImage(name, f"{photometric} with {n_samples} samples a pixel")
        raise UnsupportedImage(name, f"its photometric interpretation is none of {known}")
    high_bit = header.word(0x00280102, stored - 1)
    if allocated not in (1, 8, 16, 32) or stored > allocated or not stored - 1 <= (high_bit or 0) < allocated:
        raise UnsupportedImage(name, f"{stored} bits stored in {allocated}, high bit {high_bit}")
    return Layout(
        height, width, n_samples, photometric, header.word(0x00280006) == 1, frame_count(header), allocated, stored,
        high_bit or 0, header.word(0x00280103) == 1,
    )  # fmt: skip


def stored_pixels(header: Header, layout: Layout, number: int, name: str) -> tuple[AnyArray, str]:
    """Frame `number`, from 1: integers [H, W, 1 or 3], and their photometric interpretation, which decoding may change.

    Raises CorruptImage, or UnsupportedImage for a transfer syntax that cannot be decoded here.
    """
    n_below = layout.high_bit + 1 - layout.bits_stored
    if header.syntax in NATIVE:
        values = _native(header, layout, number, name)
        return _meant(values, layout, n_below), layout.photometric.replace("_422", "")
    decode = DECODERS.get(header.syntax)
    if decode is None:
        raise UnsupportedImage(name, f"transfer syntax {_uid(header.syntax)} cannot be decoded: no still image, or new")
    from pydicom.encaps import get_frame

    if not header.is_encapsulated(PIXEL_DATA):
        raise CorruptImage(name, "its compressed pixels are not in fragments")
    offsets, lengths = header.raw(0x7FE00001), header.raw(0x7FE00002)
    extended = (offsets, lengths) if offsets and lengths else None
    pixels = header.raw(PIXEL_DATA)
    frame = get_frame(pixels, number - 1, number_of_frames=layout.n_frames, extended_offsets=extended)
    try:
        values, photometric = decode(frame, layout, name)
    except ModuleNotFoundError:
        cure = "pip install 'athsearch[dicom]'"
        raise UnsupportedImage(name, f"transfer syntax {_uid(header.syntax)} needs imagecodecs: {cure}") from None
    except RuntimeError as error:  # every codec has an error of its own below it
        raise CorruptImage(name, f"frame {number} cannot be decoded ({type(error).__name__})") from None
    wanted = (layout.height, layout.width, layout.n_samples)
    values = values[..., None] if values.ndim == 2 else values
    if values.shape != wanted:
        raise CorruptImage(name, f"frame {number} decodes to {values.shape}, its header says {wanted}")
    return _meant(values, layout, n_below if header.syntax == _RLE else 0), photometric


def _native(header: Header, layout: Layout, number: int, name: str) -> AnyArray:
    """An uncompressed frame, integers as allocated [H, W, samples]."""
    height, width, n_samples = layout.height, layout.width, layout.n_samples
    is_halved = layout.photometric == "YBR_FULL_422"
    n_values = height * width * (2 if is_halved else n_samples)
    raw = header.raw(PIXEL_DATA)
    n_bytes = (n_values * layout.bits_allocated * number + 7) // 8
    if len(raw) < n_bytes:
        raise CorruptImage(name, f"cut short: {len(raw):,} bytes of pixels, frame {number} needs {n_bytes:,}")
    if layout.bits_allocated == 1:
        first = n_values * (number - 1)
        bits = np.unpackbits(np.frombuffer(raw[first // 8 : n_bytes], np.uint8), bitorder="little")
        return bits[first % 8 : first % 8 + n_values].reshape(height, width, n_samples)
    order = ">" if header.syntax == BIG_ENDIAN else "<"
    n_word = layout.bits_allocated // 8
    if header.syntax == BIG_ENDIAN and n_word == 1 and header.is_word(PIXEL_DATA):
        raw = np.frombuffer(raw[: len(raw) // 2 * 2], "u2").byteswap().tobytes()
    values = np.frombuffer(raw, f"{order}u{n_word}", n_values, n_values * n_word * (number - 1))
    values = values.astype(f"u{n_word}")
    if is_halved:
        if width % 2:
            raise CorruptImage(name, f"YBR_FULL_422 with an odd width, {width}")
        pairs = values.reshape(height, width // 2, 4)  # Y Y Cb Cr
        chroma = np.repeat(pairs[..., 2:], 2, axis=1)  # [H, W / 2, 2] -> [H, W, 2]
        return np.concatenate([pairs[..., :2].reshape(height, width, 1), chroma], axis=-1)
    if layout.is_planar:
        return np.moveaxis(values.reshape(n_samples, height, width), 0, -1)
    return values.reshape(height, width, n_samples)


def _meant(values: AnyArray, layout: Layout, n_below: int) -> AnyArray:
    """The numbers that the stored bits are: other bits, n_below of them below, may hold an old overlay."""
    is_signed = layout.is_signed and layout.n_samples == 1
    if layout.bits_stored == values.dtype.itemsize * 8 == layout.bits_allocated:
        return values.view(f"{'i' if is_signed else 'u'}{values.dtype.itemsize}")
    wide = values.astype(np.int64) >> n_below
    wide &= (1 << layout.bits_stored) - 1
    if is_signed:
        wide -= (wide >> (layout.bits_stored - 1)) << layout.bits_stored
    return wide


def _uid(syntax: str) -> str:
    """The UID if it is one; anything may stand in a damaged file."""
    return syntax if len(syntax) <= 64 and set(syntax) <= set("0123456789.") else "(not a UID)"


def _check_end(frame: bytes, name: str) -> None:
    if b"\xff\xd9" not in frame[-64:]:  # some bytes of padding follow it
        raise CorruptImage(name, "a compressed frame is cut short: its end mark is missing")


def _check_decoded_size(width: int, height: int, layout: Layout, name: str) -> None:
    if (width, height) != (layout.width, layout.height):
        expected = f"{layout.width} x {layout.height}"
        raise CorruptImage(name, f"a compressed frame is {width} x {height} px, the file's header says {expected}")


def _jpeg(frame: bytes, layout: Layout, name: str) -> tuple[AnyArray, str]:
    """Baseline, extended (12 bits too) and lossless JPEG."""
    from imagecodecs import jpeg8_decode

    markers = _check_jpeg(frame, layout, name)
    if layout.n_samples == 1:
        return jpeg8_decode(frame), layout.photometric
    if _LOSSLESS in markers:  # of which libjpeg converts no colours; what these are, the file's header says
        stored = jpeg8_decode(frame, colorspace="RGB", outcolorspace="RGB")
        return stored, layout.photometric.replace("_422", "")
    # What the JPEG itself says of its colours (JFIF, Adobe) goes first, as in viewers; else the file's header.
    colours = None if markers & {0xE0, 0xEE} else ("YCBCR" if layout.photometric.startswith("YBR") else "RGB")
    return jpeg8_decode(frame, colorspace=colours, outcolorspace="RGB"), "RGB"


def _jpeg_ls(frame: bytes, layout: Layout, name: str) -> tuple[AnyArray, str]:
    from imagecodecs import jpegls_decode

    _check_jpeg(frame, layout, name)
    return jpegls_decode(frame), layout.photometric.replace("_422", "")


def _check_jpeg(frame: bytes, layout: Layout, name: str) -> set[int]:
    """Checks size and end; returns the markers up to the one with the size."""
    _check_end(frame, name)
    place, markers = 2, set[int]()
    while place + 9 <= len(frame) and frame[place] == 0xFF:
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4], "big")
        if marker == 0xFF:  # filling
            place += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            height, width = struct.unpack(">HH", frame[place + 5 : place + 9])
            _check_decoded_size(width, height, layout, name)
            return markers | {marker}
        markers.add(marker)
        place += 2 + length
    raise CorruptImage(name, "a compressed frame is no JPEG image")


def _jpeg_2000(frame: bytes, layout: Layout, name: str) -> tuple[AnyArray, str]:
    """JPEG 2000, high throughput too."""
    from imagecodecs import jpeg2k_decode

    _check_end(frame, name)
    start = frame[:4096].find(b"\xff\x4f\xff\x51")
    if start < 0 or len(frame) < start + 24:
        raise CorruptImage(name, "a compressed frame is no JPEG 2000 image")
    right, bottom, left, top = struct.unpack(">IIII", frame[start + 8 : start + 24])
    _check_decoded_size(right - left, bottom - top, layout, name)
    photometric = "RGB" if layout.photometric in ("YBR_RCT", "YBR_ICT") else layout.photometric.replace("_422", "")
    return jpeg2k_decode(frame), photometric


def _rle(frame: bytes, layout: Layout, name: str) -> tuple[AnyArray, str]:
    """PS3.5 annex G: a segment of PackBits for every byte of every sample, the high bytes first."""
    from imagecodecs import packbits_decode

    n_word = layout.bits_allocated // 8
    n_pixels = layout.height * layout.width
    n_segments, *offsets = struct.unpack("<16I", frame[:64])
    if n_segments != n_word * layout.n_samples or n_word == 0:
        raise CorruptImage(name, f"a frame has {n_segments} RLE segments, not {n_word * layout.n_samples}")
    planes = []
    for begin, end in zip(offsets[:n_segments], [*offsets[1:n_segments], len(frame)], strict=True):
        # Room for the byte that may fill up a segment; bytes that give more are damaged.
        plane = np.frombuffer(packbits_decode(frame[begin:end], out=n_pixels + 128), np.uint8)
        if len(plane) < n_pixels:
            raise CorruptImage(name, f"an RLE segment holds {len(plane):,} of {n_pixels:,} pixels")
        planes.append(plane[:n_pixels])
    stacked = np.stack(planes, axis=-1)  # [pixels, samples * bytes]
    values = np.ascontiguousarray(stacked.reshape(layout.height, layout.width, -1)).view(f">u{n_word}")
    return values.astype(f"u{n_word}"), layout.photometric.replace("_422", "")


_JPEG = "1.2.840.10008.1.2.4."
DECODERS: Mapping[str, Callable[[bytes, Layout, str], tuple[AnyArray, str]]] = {
    _RLE: _rle,
    **{_JPEG + process: _jpeg for process in ("50", "51", "57", "70")},
    **{_JPEG + kind: _jpeg_ls for kind in ("80", "81")},
    **{_JPEG + kind: _jpeg_2000 for kind in ("90", "91", "201", "202", "203")},
}
