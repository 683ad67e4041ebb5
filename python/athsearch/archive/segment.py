"""Segments: immutable files of codes, plain .npy arrays of uint64 [n_codes, n_words]."""

from __future__ import annotations

import hashlib
import tokenize
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..codes import Codes, n_words_for
from ..errors import SegmentCorrupt
from ..files import replacing


@dataclass(frozen=True)
class Segment:
    """A segment as the catalogue knows it: row r holds the code of case first_id + r."""

    file: str
    first_id: int
    n_codes: int
    sha256: str


def write_segment(folder: Path, codes: Codes, first_id: int) -> Segment:
    """Writes codes, whole or not at all, for the ids from first_id on. A file that nobody lists may be replaced."""
    path = folder / f"{first_id:012d}.npy"
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            np.save(file, codes.words.astype("<u8", copy=False))
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    return Segment(path.name, first_id, codes.n_codes, digest)


def map_segment(folder: Path, segment: Segment, bits: int, model_id: str) -> Codes:
    """The segment's codes, mapped read-only from disk. Raises SegmentCorrupt when the file is missing, cut short or of
    another shape; the bytes of the codes are not read.
    """
    path = folder / segment.file
    try:
        words = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise SegmentCorrupt(f"{path}: the segment's file is missing") from error
    except (ValueError, EOFError, OSError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        raise SegmentCorrupt(f"{path}: not a readable segment ({error})") from error
    shape = (segment.n_codes, n_words_for(bits))
    if words.dtype != np.dtype("<u8") or words.shape != shape or not words.flags.c_contiguous:
        raise SegmentCorrupt(
            f"{path}: holds {words.dtype} {list(words.shape)}, the catalogue says uint64 {list(shape)}"
        )
    return Codes.trusted(words.astype(np.uint64, copy=False), bits, model_id)
