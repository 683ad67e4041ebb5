"""NIfTI volumes (.nii, .nii.gz) as axial slices, the way DICOM viewers show them.

- Axes are turned to the patient's nearest ones, as nibabel's `as_closest_canonical` does, and nothing is resampled: a
  voxel is a pixel. Slice 1 is the lowest, towards the feet. Radiological convention: the patient's right is on the left
  of the picture, the front on top.
- Grey is uint8 for the whole volume alike, so that slices can be compared: from the header's cal_min (black) to its
  cal_max (white) if it has them; else 8-bit values without a scale stay as they are; all others go from the 0.1th to
  the 99.9th percentile of a regular sample of up to four million voxels. What is not finite is black.
- A single volume of integers or floats. Several volumes are refused (taking the first would hide the rest), and
  colours, complex numbers, long doubles and pairs of .hdr and .img.
- Of the header only sizes, types, scales and the affine are looked at: its texts may name a patient.
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from ..errors import CorruptImage, UnsupportedImage
from ..types import AnyArray, Pixels
from .limits import check_size

MAX_INFLATED = 1 << 30  # bytes of a volume
_GZIP = b"\x1f\x8b"
_PERCENTILES = (0.1, 99.9)
_N_SAMPLED = 1 << 22
_BAD_BYTES = (OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, struct.error, zlib.error)

_quiet = logging.Logger(__name__)  # nibabel logs what it mends in a header
_quiet.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class _Layout:
    """shape: as stored, of three axes. orientation: [3, 2], as nibabel has it. offset: where the voxels begin, bytes.
    window: what is black and white by the header, if it says so.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    orientation: AnyArray
    offset: int
    slope: float
    intercept: float
    window: tuple[float, float] | None

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels from left to right, from back to front, and from feet to head."""
        return tuple(self.shape[axis] for axis in np.argsort(self.orientation[:, 0]))

    @property
    def end(self) -> int:
        """Where the voxels end, in bytes."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def n_slices(file: BinaryIO, name: str) -> int:
    """How many axial slices a volume has, by its header. Raises ImageError where it cannot be used."""
    return _layout(file, name).size[2]


class NiftiFile:
    """A volume, see `ImageFile`."""

    unit = "slices"

    def __init__(self, content: bytes, name: str) -> None:
        """Raises ImageError, with `name`, where it is no volume that can be used; ModuleNotFoundError without nibabel.

        A compressed one is inflated once, as far as its header says it goes.
        """
        from nibabel.orientations import apply_orientation

        layout = _layout(io.BytesIO(content), name)
        if content.startswith(_GZIP):
            content = _inflated(content, layout.end, name)
        if len(content) < layout.end:
            raise CorruptImage(name, f"cut short: {len(content):,} bytes of {layout.end:,}")
        voxels = np.frombuffer(content, layout.dtype, math.prod(layout.shape), layout.offset)
        self._layout = layout
        self._volume = apply_orientation(voxels.reshape(layout.shape, order="F"), layout.orientation)  # a view
        self._black, self._white = self._window(voxels)
        self.n_frames = self._volume.shape[2]

    def pixels(self, number: int, name: str, least_side: int = 0) -> Pixels:
        """Slice `number` as uint8 [H, W, 1]; least_side plays no part."""
        seen = self._volume[::-1, ::-1, number - 1].T  # [right to left, front to back] -> [rows, columns]
        with np.errstate(all="ignore"):
            grey = (self._real(seen) - self._black) / ((self._white - self._black) or 1.0)
            grey[~np.isfinite(grey)] = 0
            pixels: Pixels = (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)
        return pixels[..., None]

    def _real(self, voxels: AnyArray) -> AnyArray:
        return voxels.astype(np.float64) * self._layout.slope + self._layout.intercept

    def _window(self, voxels: AnyArray) -> tuple[float, float]:
        """What is shown black, and what white. voxels: [n], as stored."""
        if self._layout.window:
            return self._layout.window
        if voxels.dtype == np.uint8 and (self._layout.slope, self._layout.intercept) == (1, 0):
            return 0.0, 255.0
        with np.errstate(all="ignore"):
            sample = self._real(voxels[:: (len(voxels) // _N_SAMPLED + 1) | 1])  # odd, for sides are even
            sample = sample[np.isfinite(sample)]
            if not len(sample):
                return 0.0, 1.0
            black, white = np.percentile(sample, _PERCENTILES)
        if black == white:  # nearly all is background
            black, white = sample.min(), sample.max()
        return float(black), float(white)


def _layout(file: BinaryIO, name: str) -> _Layout:
    """What the header of a file, compressed or not, says. Raises ImageError, never with a value of it but counts."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.orientations import io_orientation
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    kinds = {348: Nifti1Header, 540: Nifti2Header}
    try:
        is_packed = file.read(2) == _GZIP
        file.seek(0)
        stream: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=file) if is_packed else file
        start = stream.read(4)
        order = next((order for order in "<>" if struct.unpack(f"{order}i", start)[0] in kinds), None)
        if order is None:
            raise CorruptImage(name, "the content is not that of a NIfTI file")
        n_header = struct.unpack(f"{order}i", start)[0]
        header = kinds[n_header](start + stream.read(n_header - 4), order, check=False)
        if bytes(header["magic"]).startswith((b"ni1", b"ni2")):
            raise UnsupportedImage(name, "one of a pair of .hdr and .img: write both as one .nii")
        header.check_fix(_quiet, error_level=40)
        shape = tuple(int(side) for side in header.get_data_shape())
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        shape += (1,) * (3 - len(shape))
        if min(shape) < 1:
            raise CorruptImage(name, "a side of the volume is not positive")
        if len(shape) > 3:
            n_volumes = math.prod(shape[3:])
            raise UnsupportedImage(name, f"holds {n_volumes:,} volumes: write the one wanted to a file of its own")
        dtype = header.get_data_dtype()
        if dtype.kind not in "iuf" or dtype.itemsize > 8:
            raise UnsupportedImage(name, "its voxels are neither integers nor floats of up to 64 bits")
        slope, intercept = header.get_slope_inter()
        with np.errstate(all="ignore"):
            orientation = io_orientation(header.get_best_affine())
        if not np.isfinite(orientation).all():
            raise CorruptImage(name, "its affine does not say which way its axes lie")
        window = float(header["cal_min"]), float(header["cal_max"])
        has_window = bool(np.isfinite(window).all()) and window[0] < window[1]
        layout = _Layout(
            shape, dtype, orientation.astype(np.int64), int(header.get_data_offset()),
            1.0 if slope is None else slope, 0.0 if slope is None else intercept, window if has_window else None,
        )  # fmt: skip
    except (*_BAD_BYTES, HeaderDataError, WrapStructError) as error:
        raise CorruptImage(name, f"its header cannot be used ({type(error).__name__})") from None
    check_size(layout.size[0], layout.size[1], name)
    if layout.end > MAX_INFLATED:
        raise UnsupportedImage(name, f"a volume of {layout.end:,} bytes, at most {MAX_INFLATED:,} are read")
    return layout


def _inflated(content: bytes, n_bytes: int, name: str) -> bytes:
    """The first n_bytes of a gzip file. Raises CorruptImage where there are fewer, or its checksum is wrong."""
    if n_bytes > 1032 * len(content):  # more than deflate can hold: no memory is asked for
        raise CorruptImage(name, f"cut short: {len(content):,} compressed bytes cannot be {n_bytes:,}")
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            inflated = file.read(n_bytes)
            file.read(1)  # the end, and with it the checksum
    except _BAD_BYTES as error:
        raise CorruptImage(name, f"cannot be inflated: cut short or damaged ({type(error).__name__})") from None
    return inflated
