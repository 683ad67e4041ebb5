"""Segments: immutable files of codes, plain .npy arrays of uint64 [n_codes, n_words]."""

from __future__ import annotations

import hashlib
import io
import re
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..codes import Codes, n_words_for
from ..errors import SegmentCorrupt
from ..files import replacing
from ..types import Ids
from .mapping import map_array

FILE_NAME = re.compile(r"(\d{12,})(?:-[0-9a-f]{8})?\.npy")  # the first id; of a compacted segment, digits of chance


@dataclass(frozen=True)
class Segment:
    """A segment as the catalogue knows it: row r holds the code of case first_id + r, unless there are runs.

    has_cases: whether the catalogue has a row for each of them; otherwise all that is known is a range of ids.
    runs: of a compacted segment whose ids have gaps, int64 [n_runs, 2], little endian: (first id, how many ids follow
    one another from there), in the order of the rows.
    """

    file: str
    first_id: int
    n_codes: int
    sha256: str
    has_cases: bool = True
    runs: bytes | None = None

    @property
    def id_runs(self) -> Ids:
        """int64 [n_runs, 2]: the runs, of which there is one where ids have no gaps."""
        if self.runs is None:
            return np.array([[self.first_id, self.n_codes]], np.int64)
        return np.frombuffer(self.runs, "<i8").reshape(-1, 2).astype(np.int64, copy=False)

    @property
    def ids(self) -> Ids:
        """int64 [n_codes], ascending: one a row."""
        first_ids, counts = self.id_runs.T
        return np.repeat(first_ids - np.cumsum(counts) + counts, counts) + np.arange(self.n_codes)

    @property
    def next_id(self) -> int:
        """One past the last id."""
        first_id, n_ids = self.id_runs[-1].tolist()
        return int(first_id + n_ids)

    @property
    def has_sound_ids(self) -> bool:
        """Whether first id, number of codes and runs can be true, and agree."""
        if not (isinstance(self.first_id, int) and isinstance(self.n_codes, int)) or self.n_codes < 1:
            return False
        if self.runs is None:
            return True
        if not isinstance(self.runs, bytes) or not self.runs or len(self.runs) % 16:
            return False
        first_ids, n_ids = self.id_runs.T
        is_whole = first_ids[0] == self.first_id and n_ids.sum() == self.n_codes
        # By differences of what is positive, which cannot overflow, whatever a damaged catalogue says.
        return bool(is_whole and self.id_runs.min() > 0 and (np.diff(first_ids) > n_ids[:-1]).all())


def runs_of(parts: Iterable[Ids]) -> Ids:
    """int64 [n_runs, 2], see `Segment`, of ids that ascend over all parts."""
    first_ids, places, n_ids, last_id = [], [], 0, -1
    for ids in parts:
        begins = np.flatnonzero(np.diff(ids, prepend=last_id) != 1)
        first_ids.append(ids[begins])
        places.append(n_ids + begins)
        n_ids += len(ids)
        last_id = int(ids[-1]) if len(ids) else last_id
    counts = np.diff(np.concatenate(places), append=n_ids)
    return np.stack([np.concatenate(first_ids), counts], axis=1)


def write_segment(
    folder: Path,
    parts: Iterable[Codes],
    n_codes: int,
    bits: int,
    first_id: int,
    has_cases: bool = True,
    name: str | None = None,
    runs: Ids | None = None,
) -> Segment:
    """Writes codes, whole or not at all, for the ids from first_id on. A file that nobody lists may be replaced.

    parts: the codes, one part after the other; n_codes: how many they are together (a ValueError otherwise).
    name: of the file, if not that of new cases. runs: of the ids, if they may have gaps, as `runs_of` gives them.
    """
    path = folder / (name or f"{first_id:012d}.npy")
    digest, n_written = hashlib.sha256(), 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        header = npy_header("<u8", (n_codes, n_words_for(bits)))
        file.write(header)
        digest.update(header)
        for part in parts:
            words = part.words.astype("<u8", copy=False)
            file.write(words.data)
            digest.update(words.data)
            n_written += part.n_codes
        if n_written != n_codes:
            raise ValueError(f"{n_codes:,} codes were announced, {n_written:,} came")
    packed = runs.astype("<i8").tobytes() if runs is not None and len(runs) > 1 else None
    return Segment(path.name, first_id, n_codes, digest.hexdigest(), has_cases, packed)


def map_segment(folder: Path, segment: Segment, like: Codes) -> Codes:
    """The segment's codes, mapped read-only from disk; their bits and model are those of `like`.

    Raises SegmentCorrupt when the file is missing, cut short or of another shape; the bytes of the codes are not read.
    """
    path = folder / segment.file
    shape = (segment.n_codes, like.n_words)
    try:
        words = map_array(path, npy_header("<u8", shape), shape)
        if words is None:  # wrong, or written by another version of NumPy, whose header looks different: it judges
            words = np.lib.format.open_memmap(path, "r")
    except FileNotFoundError as error:
        raise SegmentCorrupt(f"{path}: the segment's file is missing") from error
    except (ValueError, EOFError, OSError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        raise SegmentCorrupt(f"{path}: not a readable segment ({error})") from error
    if words.dtype != np.dtype("<u8") or words.shape != shape or not words.flags.c_contiguous:
        raise SegmentCorrupt(
            f"{path}: holds {words.dtype} {list(words.shape)}, the catalogue says uint64 {list(shape)}"
        )
    return Codes.trusted(words.astype(np.uint64, copy=False), like.bits, like.model_id)


def next_id_of_file(path: Path, n_words: int) -> int:
    """One past the last id of a segment that nobody lists, as far as its file's name and size tell; 0 for another file.

    Raises OSError.
    """
    match = FILE_NAME.fullmatch(path.name)
    if match is None:
        return 0
    n_bytes = path.stat().st_size - len(npy_header("<u8", (1, n_words)))
    return int(match[1]) + max(1, n_bytes // (8 * n_words))


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """What an .npy file begins with: a multiple of 64 bytes, as many for any number of rows."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return header.getvalue()
