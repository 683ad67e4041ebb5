"""The arrays of a MedMNIST npz file: `{train,val,test}_images` and `..._labels`."""

from __future__ import annotations

import math
import re
import struct
import threading
import tokenize
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptImage, ImageError, SourceError
from ..types import AnyArray, Pixels

_PART = re.compile(r"(.+\.npz)/(train|val|test)/([0-9]+)", re.IGNORECASE)

# What a damaged or foreign file makes zipfile and NumPy raise.
_BAD_FILE = (
    *(OSError, ValueError, LookupError, EOFError, RuntimeError, OverflowError, SyntaxError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error, struct.error),
)

_lock = threading.Lock()  # threads wait for one decompression rather than each doing it


def names_part(source: str) -> bool:
    """Whether a source names an image in an npz file, such as "file.npz/train/00017"."""
    return _PART.fullmatch(source) is not None


def read_labels(path: Path, splits: tuple[str, ...]) -> tuple[dict[str, list[str]], list[str]]:
    """The labels of each split there is, as text, and the names of the arrays that are of no use.

    Images are judged by their headers alone. Raises SourceError if the file is not such.
    """
    labels: dict[str, list[str]] = {}
    try:
        with zipfile.ZipFile(path) as file:
            others = {name.removesuffix(".npy") for name in file.namelist()}
            found = ", ".join(sorted(others))
            for split in splits:
                keys = {f"{split}_images", f"{split}_labels"}
                missing = keys - others
                others -= keys
                if len(missing) == 1:
                    raise SourceError(f"{path}: no array {missing.pop()!r} (found: {found})")
                if not missing:
                    n_images = _check_images(file, f"{split}_images")
                    labels[split] = _labels(file, f"{split}_labels", n_images)
    except _BAD_FILE as error:
        raise SourceError(f"{path}: not a usable npz file: {error or type(error).__name__}") from error
    if not any(labels.values()):
        raise SourceError(f"{path}: no images (train_images, train_labels, ... wanted, found: {found})")
    return labels, sorted(others)


def read_part(root: Path, source: str) -> Pixels:
    """A copy of one image, uint8 [H, W, 1 or 3]. source: one that `names_part`.

    Raises CorruptImage if it is not there (any more), ImageError if the system refuses to read it.
    """
    match = _PART.fullmatch(source)
    if match is None:
        raise ValueError(f"source must be like file.npz/train/00017, got {source!r}")
    path, split, place = root / match[1], match[2].lower(), int(match[3])
    try:
        status = path.stat()
        with _lock:
            array = _images(path, f"{split}_images", status.st_mtime_ns, status.st_size)
        pixels: Pixels = array[place].copy()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CorruptImage(source, f"no such file in {root}") from error
    except PermissionError as error:
        raise ImageError(source, f"cannot be read in {root}: {error.strerror}") from error
    except _BAD_FILE as error:
        raise CorruptImage(source, f"cannot be read in {root}: {error or type(error).__name__}") from error
    return pixels if pixels.ndim == 3 else pixels[..., None]


@lru_cache(maxsize=3)
def _images(path: Path, key: str, modified_ns: int, n_bytes: int) -> AnyArray:
    """One split's images, decompressed. Time and size stand here so that a file that was replaced is read again."""
    with zipfile.ZipFile(path) as file:
        _check_images(file, key)
        return _array(file, key)


def _check_images(file: zipfile.ZipFile, key: str) -> int:
    """The number of images. Raises ValueError if they are not such."""
    shape, dtype = _header(file, key)
    if len(shape) == 5 or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise ValueError(f"{key} is {shape}: three-dimensional images cannot be used")
    if len(shape) not in (3, 4) or dtype != np.uint8 or min(shape[1:3]) < 8:
        raise ValueError(f"{key} must be uint8 [N, H, W] or [N, H, W, 1 or 3], at least 8 x 8, got {dtype} {shape}")
    return shape[0]


def _labels(file: zipfile.ZipFile, key: str, n_images: int) -> list[str]:
    shape, dtype = _header(file, key)
    if len(shape) == 2 and shape[1] > 1:
        raise ValueError(f"{key} is {shape}: several labels an image cannot be used")
    if dtype.kind not in "iu" or shape not in ((n_images,), (n_images, 1)):
        raise ValueError(f"{key} must be integers [{n_images}] or [{n_images}, 1], got {dtype} {shape}")
    return [str(label) for label in _array(file, key).ravel().tolist()]


def _header(file: zipfile.ZipFile, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """An array's shape and dtype, without its values. Raises ValueError if there are not as many bytes as they need."""
    with file.open(f"{key}.npy") as stream:
        first_version = np.lib.format.read_magic(stream) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first_version else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        n_bytes = file.getinfo(f"{key}.npy").file_size - stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{key} holds pickled objects")
    if math.prod(shape) * dtype.itemsize != n_bytes:
        raise ValueError(f"{key} holds {n_bytes} bytes, not {math.prod(shape) * dtype.itemsize} for {dtype} {shape}")
    return shape, dtype


def _array(file: zipfile.ZipFile, key: str) -> AnyArray:
    with file.open(f"{key}.npy") as stream:
        array: AnyArray = np.lib.format.read_array(stream, allow_pickle=False)
    return array
