"""FAISS's binary indexes under our contract: ragged answers ordered by (distance, id), masks, counted ties."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from ..codes import Codes, concatenate
from ..errors import DeviceError
from ..types import Bools, Distances, Ids, Mask, Words
from .base import CheckedIndex, Rows, checked_segments
from .faiss_codes import Packed, build, import_faiss, packed_for_faiss

if TYPE_CHECKING:
    import faiss

MAX_HITS = 1 << 24  # of one radius search of many queries, if all codes lie within
MAX_GPU_K = 2048  # FAISS's


class _Hits(NamedTuple):
    queries: Ids  # which query found it
    rows: Ids
    distances: Distances

    def at(self, places: Ids | Bools) -> _Hits:
        return _Hits(self.queries[places], self.rows[places], self.distances[places])


class FaissIndex(CheckedIndex):
    """An index that FAISS searches: the base of the kinds below.

    codes, ids: as for FlatIndex; FAISS keeps a copy of the codes, the ids stay here. options: as for `Codes.to_faiss`.

    FAISS orders ties as it likes. Here what a kind finds comes as from every index of ours, with true distances and
    ordered by (distance, id): where cases tie for the last place, a search within that distance finds them all, at the
    cost of a second search, and those with the smallest ids are returned. `ties` counts those that the kind finds. What
    it finds may be re-ranked where FAISS shows a code by its row: not by IVF and hash indexes, which raise ValueError.

    threads is checked and otherwise not used: OpenMP has one number of threads for the process, and a library must not
    change it; faiss.omp_set_num_threads does. Those threads spin for a moment after a search.
    """

    kind: ClassVar[str]  # of Codes.to_faiss
    is_exact: ClassVar[bool] = False
    takes_masks: ClassVar[bool] = False  # FAISS itself; otherwise all that it finds is fetched and then chosen from

    def __init__(self, codes: Codes | Sequence[Codes], ids: Ids | None = None, **options: Any) -> None:
        segments = checked_segments(codes)
        super().__init__(segments, ids)
        self._index: Any = build(self.kind, segments[0] if len(segments) == 1 else concatenate(segments), **options)

    @property
    def faiss_index(self) -> faiss.IndexBinary:
        """FAISS's own index, whose ids are our rows: to change between searches what may change, such as nprobe."""
        index: faiss.IndexBinary = self._index
        return index

    def _nearest(
        self, queries: Codes, k: int, mask: Mask | None, threads: int, count_ties: bool, with_codes: bool
    ) -> tuple[Rows, Ids | None, Words]:
        stored = self._stored() if with_codes else None
        parts, ties = [], np.zeros(len(queries), np.int64)
        for hits in self._candidates(packed_for_faiss(queries), k, mask):
            nearest, tied = _cut(hits, k, len(queries))
            parts.append(nearest)
            ties += tied
        found = _joined(parts, len(queries))
        codes = self._like if stored is None else Codes.from_bytes(stored[found[1]], self.bits)
        return found, ties if count_ties else None, codes.words

    def _within(self, queries: Codes, radius: int, mask: Mask | None, threads: int) -> Rows:
        hits = self._all_within(packed_for_faiss(queries), np.arange(len(queries)), radius, mask)
        return _joined(list(hits), len(queries))

    def _stored(self) -> Packed:
        """uint8 [n_codes, n_bytes]: FAISS's copy of the codes, by row, where it lies."""
        faiss = import_faiss()
        flat = faiss.downcast_IndexBinary(getattr(self._index, "storage", self._index))
        if not isinstance(flat, faiss.IndexBinaryFlat):
            raise ValueError(
                f"FAISS's {self.kind} index does not show the code of a row, so its answers cannot be re-ranked; "
                "those of faiss-flat, faiss-hnsw and faiss-multihash can"
            )
        if not self._n_codes:
            return np.zeros((0, flat.code_size), np.uint8)
        stored: Packed = faiss.rev_swig_ptr(flat.xb.data(), flat.xb.size()).reshape(self._n_codes, flat.code_size)
        return stored

    def _candidates(self, asked: Packed, k: int, allowed: Mask | None) -> Iterator[_Hits]:
        """The hits that the first k of every query, and all that tie with the last of them, are among."""
        if allowed is not None and not self.takes_masks:
            yield from self._all_within(asked, np.arange(len(asked)), self.bits, allowed)
            return
        if not (len(asked) and self._n_codes):
            return
        n_fetched = min(k + 1, self._n_codes)  # one more tells whether k cuts cases that tie
        distances, rows = self._dense(asked, n_fetched, allowed)
        found, last = rows >= 0, distances[:, k - 1]
        torn = (n_fetched > k) & found[:, -1] & (distances[:, -1] == last)
        found[torn] = False
        yield _Hits(np.nonzero(found)[0], rows[found], distances[found])
        for radius in np.unique(last[torn]).tolist():
            yield from self._all_within(asked, np.flatnonzero(torn & (last == radius)), radius, allowed)

    def _dense(self, asked: Packed, k: int, allowed: Mask | None) -> tuple[Distances, Ids]:
        """int32 and int64 [q, k]; rows are -1 where nothing was found."""
        found: tuple[Distances, Ids] = self._index.search(asked, k, params=self._parameters(allowed))
        return found

    def _all_within(self, asked: Packed, numbers: Ids, radius: int, allowed: Mask | None) -> Iterator[_Hits]:
        """All that the queries of these numbers find within the radius, some queries at a time."""
        n_queries = max(8, MAX_HITS // max(1, self._n_codes))
        parameters = self._parameters(allowed) if self.takes_masks else None
        chosen = allowed.to_bools() if allowed is not None and not self.takes_masks else None
        for begin in range(0, len(numbers) if self._n_codes else 0, n_queries):
            part = numbers[begin : begin + n_queries]
            offsets, distances, rows = self._index.range_search(asked[part], radius + 1, params=parameters)
            hits = _Hits(np.repeat(part, np.diff(offsets.astype(np.int64))), rows, distances.astype(np.int32))
            yield hits if chosen is None else hits.at(chosen[rows])

    def _parameters(self, allowed: Mask | None) -> Any:
        if allowed is None:
            return None
        faiss = import_faiss()
        return faiss.SearchParameters(sel=_selector(allowed))


class FaissFlat(FaissIndex):
    """IndexBinaryFlat: exact, with the same answers as FlatIndex, ties and masks included."""

    kind = "flat"
    is_exact = True
    takes_masks = True


class FaissIvf(FaissIndex):
    """IndexBinaryIVF: compares the codes of the nprobe nearest of nlist lists. options: nlist, nprobe.

    With a mask all of these codes are fetched, then chosen from.
    """

    kind = "ivf"


class FaissHash(FaissIndex):
    """IndexBinaryHash: compares codes whose first b bits differ in at most nflip. options: b, nflip.

    Few such codes, or none, make a short answer. With a mask all of them are fetched, then chosen from.
    """

    kind = "hash"


class FaissMultiHash(FaissIndex):
    """IndexBinaryMultiHash: compares codes of which one of nhash parts of b bits differs in at most nflip.

    options: nhash, b, nflip. Few such codes, or none, make a short answer. With a mask all of them are fetched, then
    chosen from.
    """

    kind = "multihash"


class FaissHnsw(FaissIndex):
    """IndexBinaryHNSW: follows a graph, keeping the efSearch nearest so far. options: M, efConstruction, efSearch.

    Answers are the first of those kept by (distance, id); others that tie may not be among them. A mask is heeded on
    the way, so one that allows few may make a short answer. There is no radius search. The graph depends on how the
    threads that build it take turns; many equal codes make it slow.
    """

    kind = "hnsw"
    takes_masks = True

    def _within(self, queries: Codes, radius: int, mask: Mask | None, threads: int) -> Rows:
        raise NotImplementedError(
            "FAISS has no radius search in HNSW graphs; faiss-flat, faiss-ivf, faiss-hash and faiss-multihash have one"
        )

    def _candidates(self, asked: Packed, k: int, allowed: Mask | None) -> Iterator[_Hits]:
        if len(asked) and self._n_codes:
            n_fetched = min(max(k, self._index.hnsw.efSearch), self._n_codes)
            distances, rows = self._dense(asked, n_fetched, allowed)
            found = rows >= 0
            yield _Hits(np.nonzero(found)[0], rows[found], distances[found])

    def _parameters(self, allowed: Mask | None) -> Any:
        if allowed is None:
            return None
        faiss = import_faiss()
        return faiss.SearchParametersHNSW(efSearch=self._index.hnsw.efSearch, sel=_selector(allowed))


class FaissGpuFlat(FaissFlat):
    """GpuIndexBinaryFlat: FaissFlat with a copy of the codes on a GPU, which does what FAISS lets it do.

    That is top-k up to 2047 without a mask. The CPU answers the rest: masks, radius searches, larger k, and queries
    whose last place is tied for. device: the GPU's number. One search at a time: FAISS's GPU resources are for one
    thread. Raises DeviceError where faiss was built without GPUs (faiss-cpu), or sees none.
    """

    def __init__(self, codes: Codes | Sequence[Codes], ids: Ids | None = None, device: int = 0) -> None:
        faiss = import_faiss("gpu")
        if not hasattr(faiss, "GpuIndexBinaryFlat"):
            raise DeviceError(
                "this faiss was built without GPUs: pip uninstall faiss-cpu, then pip install 'athsearch[gpu]' "
                "(both are imported as faiss, so only one may be installed)"
            )
        n_devices = faiss.get_num_gpus()
        if not 0 <= device < n_devices:
            raise DeviceError(f"faiss sees {n_devices} GPUs: there is no GPU {device}")
        super().__init__(codes, ids)
        config = faiss.GpuIndexBinaryFlatConfig()
        config.device = device
        self._resources = faiss.StandardGpuResources()
        self._on_gpu = faiss.GpuIndexBinaryFlat(self._resources, self._index, config)
        self._turn = Lock()

    def _dense(self, asked: Packed, k: int, allowed: Mask | None) -> tuple[Distances, Ids]:
        if allowed is not None or k > MAX_GPU_K:
            return super()._dense(asked, k, allowed)
        with self._turn:
            found: tuple[Distances, Ids] = self._on_gpu.search(asked, k)
        return found


_NO_HITS = _Hits(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32))


def _joined(parts: list[_Hits], n_queries: int) -> Rows:
    """Hits of whatever order, query after query, each ordered by (distance, row)."""
    queries, rows, distances = (np.concatenate(columns) for columns in zip(_NO_HITS, *parts, strict=True))
    hits = _in_order(_Hits(queries, rows, distances))
    offsets = np.zeros(n_queries + 1, np.int64)
    np.cumsum(np.bincount(hits.queries, minlength=n_queries), out=offsets[1:])
    return offsets, hits.rows, hits.distances


def _in_order(hits: _Hits) -> _Hits:
    return hits.at(np.lexsort((hits.rows, hits.distances, hits.queries)))


def _cut(hits: _Hits, k: int, n_queries: int) -> tuple[_Hits, Ids]:
    """The first k hits of each query, and int64 [n_queries], how many have the distance of the last of them."""
    hits = _in_order(hits)
    begins, ends = (np.searchsorted(hits.queries, hits.queries, side) for side in ("left", "right"))  # of its query
    last = hits.distances[np.minimum(begins + k, ends) - 1]
    ties = np.bincount(hits.queries[hits.distances == last], minlength=n_queries)
    return hits.at(np.arange(len(begins)) < begins + k), ties


def _selector(allowed: Mask) -> Any:
    return import_faiss().IDSelectorBitmap(allowed.words.astype("<u8", copy=False).view(np.uint8))
