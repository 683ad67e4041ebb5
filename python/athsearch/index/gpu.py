"""The flat index on an NVIDIA GPU, by athsearch._cuda, which is built on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..codes import Codes
from ..errors import DeviceError
from ..gpus import find_gpus
from ..types import Ids, Mask, Words
from .base import CheckedIndex, Rows, checked_segments

UPLOADED_ROWS = 1 << 22  # at once, so that Ctrl-C is heard between


class GpuIndex(CheckedIndex):
    """FlatIndex on a GPU: the same answers, bit for bit.

    codes, ids: as for FlatIndex. The codes are uploaded once; searches take at most 1 GB beside them, or what k asks
    for. device: the GPU's number. threads is checked and otherwise not used. One search at a time, others wait.

    Raises DeviceError without the CUDA module or that GPU, and where the GPU is too old for it, CudaError where the
    GPU's memory is short (it says by how much) or the GPU fails, KernelUnavailable when ATHSEARCH_GPU_KERNEL names none
    of its kernels (b1, popcount, wgmma), or wgmma where there is none.
    """

    def __init__(self, codes: Codes | Sequence[Codes], ids: Ids | None = None, device: int = 0) -> None:
        reason = find_gpus().why_not(device)
        if reason is not None:
            raise DeviceError(f"no index of kind gpu: {reason}; kind flat searches on the CPU")
        from .. import _cuda

        self._segments = checked_segments(codes)
        super().__init__(self._segments, ids)
        self._first_rows = np.cumsum([0, *map(len, self._segments)])
        self._database = _cuda.Database(self._n_codes, self._like.n_words, device)
        for segment in self._segments:
            for begin in range(0, len(segment), UPLOADED_ROWS):
                self._database.append(segment.words[begin : begin + UPLOADED_ROWS])

    def _nearest(
        self, queries: Codes, k: int, mask: Mask | None, threads: int, count_ties: bool, with_codes: bool
    ) -> tuple[Rows, Ids | None, Words]:
        words = None if mask is None else mask.words
        ties = [np.zeros(0, np.int64)]

        def search(part: Words) -> Rows:
            rows, tied = self._database.top_k(part, k, words)
            ties.append(tied)
            return rows

        found = self._in_parts(queries, k, search)
        codes = self._codes_of(found[1]) if with_codes else self._like.words
        return found, np.concatenate(ties) if count_ties else None, codes

    def _within(self, queries: Codes, radius: int, mask: Mask | None, threads: int) -> Rows:
        words = None if mask is None else mask.words
        return self._in_parts(queries, 1, lambda part: self._database.within(part, radius, words))

    def _in_parts(self, queries: Codes, k: int, search: Callable[[Words], Rows]) -> Rows:
        """Some queries at a time, so that they need little memory and Ctrl-C is heard between."""
        n = self._database.n_queries_at_once(k)
        parts = [search(queries.words[begin : begin + n]) for begin in range(0, max(len(queries), 1), n)]
        ends = np.concatenate([np.diff(offsets) for offsets, _, _ in parts])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(ends)])
        return offsets, np.concatenate([part[1] for part in parts]), np.concatenate([part[2] for part in parts])

    def _codes_of(self, rows: Ids) -> Words:
        """uint64 [rows, n_words], from the arrays that were uploaded."""
        place = np.searchsorted(self._first_rows, rows, side="right") - 1
        words = np.empty((len(rows), self._like.n_words), np.uint64)
        for number in np.unique(place).tolist():
            here = place == number
            words[here] = self._segments[number].words[rows[here] - self._first_rows[number]]
        return words
