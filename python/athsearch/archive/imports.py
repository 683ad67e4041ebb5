"""Ready-made codes on their way into an archive: no images, no cases, only codes."""

from __future__ import annotations

import operator
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..codes import Codes, check_same_model, n_words_for
from ..errors import SourceError
from ..index import read_faiss
from ..types import AnyArray

PART_BYTES = 1 << 24  # read or written at a time


@dataclass(frozen=True)
class CodeFile:
    """Ready-made codes in a file. parts: all, in order, read as they are asked for, which may raise SourceError."""

    bits: int
    n_codes: int
    parts: Iterator[Codes]


def open_codes(path: Path, bits: int | None) -> CodeFile:
    """The codes in a file of a kind that its name's suffix says. bits: their length, if the file does not say it.

    Raises SourceError, or OSError, when the file does not hold such codes.
    """
    if path.suffix.lower() not in CODE_FILES:
        raise SourceError(f"{path}: not a file of codes; known: {', '.join(CODE_FILES)}")
    return CODE_FILES[path.suffix.lower()](path, bits)


def _open_npy(path: Path, bits: int | None) -> CodeFile:
    """A NumPy array, uint64 [n_codes, n_words] or uint8 [n_codes, ceil(bits / 8)], or [n_codes] where that is one."""
    if bits is None:
        raise SourceError(f"{path}: the file does not say how many bits its codes have: give them (--bits)")
    try:
        array: AnyArray = np.lib.format.open_memmap(path, "r")
    except (ValueError, EOFError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        raise SourceError(f"{path}: not a whole .npy file ({error})") from error
    if array.ndim == 1:
        array = array[:, None]
    n_columns = {"u8": n_words_for(bits), "u1": (bits + 7) // 8}.get(array.dtype.str[1:])
    if array.ndim != 2 or array.shape[1] != n_columns:
        raise SourceError(
            f"{path}: holds {array.dtype} {list(array.shape)}; {bits} bits are uint64 [n, {n_words_for(bits)}] "
            f"or uint8 [n, {(bits + 7) // 8}]"
        )

    def parts() -> Iterator[Codes]:
        n_rows = max(1, PART_BYTES // (array.shape[1] * array.itemsize))
        for begin in range(0, len(array), n_rows):
            part = array[begin : begin + n_rows]
            try:
                if array.itemsize == 1:
                    yield Codes.from_bytes(part, bits)
                else:
                    yield Codes(np.require(part, np.uint64, ["C", "A"]), bits)
            except ValueError as error:
                raise SourceError(f"{path}: {error} (rows {begin:,} to {begin + len(part) - 1:,})") from error

    return CodeFile(bits, len(array), parts())


def _open_faiss(path: Path, bits: int | None) -> CodeFile:
    """A file of a FAISS binary index, in the order of its ids; bits: where FAISS counts whole bytes. Takes memory."""
    try:
        codes, _ = read_faiss(path, bits)
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from error
    return CodeFile(codes.bits, codes.n_codes, iter([codes]))


# Suffix -> what opens such a file.
CODE_FILES: dict[str, Callable[[Path, int | None], CodeFile]] = {".npy": _open_npy, ".faiss": _open_faiss}


def sized(codes: Codes | Iterable[Codes], n_codes: int | None) -> tuple[Iterable[Codes], int]:
    """The parts of codes, and how many codes they are together. Raises TypeError where that is not known."""
    if isinstance(codes, Codes):
        codes = [codes]
    if n_codes is None and isinstance(codes, Sequence):
        n_codes = sum(checked_type(part).n_codes for part in codes)
    if isinstance(codes, np.ndarray) or not isinstance(codes, Iterable):
        checked_type(codes)
    if n_codes is None:
        raise TypeError(f"n_codes is needed with {type(codes).__name__}: how many codes there will be in all")
    n_codes = operator.index(n_codes)
    if n_codes < 0:
        raise ValueError(f"n_codes must not be negative, got {n_codes}")
    return codes, n_codes


def checked_type(codes: object) -> Codes:
    """The same; TypeError for what is no Codes."""
    if not isinstance(codes, Codes):
        raise TypeError(f"expected Codes, got {type(codes).__name__}; Codes.from_bytes and its siblings make them")
    return codes


def checked_parts(
    parts: Iterable[Codes], n_codes: int, like: Codes, progress: Callable[[int, int], None] | None
) -> Iterator[Codes]:
    """The same codes, PART_BYTES at a time, so that mapped ones need little memory; tells progress of each.

    Raises ModelMismatch for codes of other bits or another model than `like`, TypeError for what is no Codes.
    """
    n_rows, n_done = max(1, PART_BYTES // (8 * like.n_words)), 0
    for part in parts:
        check_same_model(like, checked_type(part))
        for begin in range(0, part.n_codes, n_rows):
            piece = part[begin : begin + n_rows]
            yield piece
            n_done += piece.n_codes
            if progress:
                progress(n_done, n_codes)
