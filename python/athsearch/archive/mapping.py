"""Arrays in files, mapped read-only without keeping a descriptor each: an archive may have thousands of segments."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import tokenize
from pathlib import Path

import numpy as np

from ..types import AnyArray, Words

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


class _Mapping:
    """A file in memory for as long as an array needs it. mmap.mmap would hold a copy of the descriptor."""

    def __init__(self, descriptor: int, n_bytes: int) -> None:
        self._address = _libc.mmap(None, n_bytes, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        self._n_bytes = n_bytes
        if self._address == _FAILED:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def __del__(self) -> None:
        if self._address != _FAILED:
            _libc.munmap(self._address, self._n_bytes)

    def array(self, offset: int, shape: tuple[int, ...], typestr: str = "<u8") -> AnyArray:
        """From the offset on, uint64 unless another type is named. It keeps the mapping, and so do its parts."""
        where = {"data": (self._address + offset, True), "shape": shape, "typestr": typestr, "version": 3}
        self.__array_interface__ = where
        return np.asarray(self)


def map_array(path: Path, header: bytes, shape: tuple[int, int]) -> Words | None:
    """uint64 [n_codes, n_words] that follows the header in a file; None where the file is not just these two.

    header: a multiple of eight bytes long. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        n_bytes = len(header) + 8 * shape[0] * shape[1]
        if os.read(descriptor, len(header)) != header or os.fstat(descriptor).st_size != n_bytes:
            return None
        return _Mapping(descriptor, n_bytes).array(len(header), shape)
    finally:
        os.close(descriptor)


def map_npy(path: Path) -> AnyArray:
    """The array of an .npy file in C order. Raises OSError, or ValueError where it is not whole or holds objects."""
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{path}: not an .npy file of version 1.0")
        try:
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        except (SyntaxError, tokenize.TokenError, OverflowError, TypeError) as error:
            raise ValueError(f"{path}: its header is damaged ({error})") from error
        offset, n_bytes = file.tell(), os.fstat(file.fileno()).st_size
        if is_fortran or dtype.hasobject or n_bytes != offset + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{path}: not a whole array in C order")
        return _Mapping(file.fileno(), n_bytes).array(offset, shape, dtype.str)
