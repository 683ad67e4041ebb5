"""FAISS's indexes under our contract: the exact kind equals ours, the others return true distances in our order."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import faiss
import numpy as np
import pytest

from athsearch.codes import Codes
from athsearch.errors import DeviceError, ModelMismatch
from athsearch.index import INDEXES, FlatIndex, faiss_adapters, open_index
from athsearch.index.faiss_adapters import FaissFlat, FaissGpuFlat, FaissIndex, FaissIvf
from athsearch.types import Bools, Ids, Mask, Neighbors
from test_index import BITS, all_distances, assert_same, random_codes

pytestmark = pytest.mark.usefixtures("one_openmp_thread")

ON_CPU = [kind for kind in INDEXES if kind.startswith("faiss-") and kind != "faiss-gpu-flat"]
RANGED = [kind for kind in ON_CPU if kind != "faiss-hnsw"]
# With these each kind looks at every code, and so has to answer as FlatIndex does.
EXHAUSTIVE: dict[str, dict[str, int]] = {
    "faiss-flat": {},
    "faiss-ivf": {"nlist": 5, "nprobe": 5},
    "faiss-hash": {"b": 1, "nflip": 1},
    "faiss-multihash": {"nhash": 1, "b": 1, "nflip": 1},
}


def some_ids(n_codes: int) -> Ids:
    return np.cumsum(np.random.default_rng(n_codes).integers(1, 5, n_codes))


def assert_equal_indexes(index: Any, flat: FlatIndex, queries: Codes, allowed: Bools) -> None:
    for mask in (None, Mask.from_bools(allowed), np.zeros(flat.n_codes, np.bool_)):
        for k in (1, 10, flat.n_codes + 1):
            assert_same(index.search(queries, k, mask, count_ties=True), flat.search(queries, k, mask, count_ties=True))
        for radius in (0, flat.bits // 3, flat.bits, 2**70):
            assert_same(index.within(queries, radius, mask), flat.within(queries, radius, mask))


def test_each_index_says_whether_it_is_exact() -> None:
    exact = {kind for kind, index in INDEXES.items() if kind != "auto" and index.is_exact}
    assert exact == {"flat", "distinct", "mih", "gpu", "faiss-flat", "faiss-gpu-flat"}
    assert open_index("auto", random_codes(9, 64, 1)).is_exact


@pytest.mark.parametrize("flip", [0.02, 0.5])
@pytest.mark.parametrize("n_codes", [0, 1, 9, 700])
@pytest.mark.parametrize("bits", BITS)
def test_faiss_flat_equals_flat(bits: int, n_codes: int, flip: float) -> None:
    codes, queries, ids = random_codes(n_codes, bits, 1, flip), random_codes(5, bits, 2, flip), some_ids(n_codes)
    index = open_index("faiss-flat", codes, ids)
    assert (index.bits, index.n_codes, index.ids.tolist()) == (bits, n_codes, ids.tolist())
    assert_equal_indexes(index, FlatIndex(codes, ids), queries, np.random.default_rng(3).random(n_codes) < 0.3)


@pytest.mark.parametrize("kind", RANGED)
def test_kinds_that_look_at_every_code_equal_flat(kind: str) -> None:
    for bits in (7, 64, 128):
        for flip in (0.0, 0.05, 0.5):
            codes, queries = random_codes(600, bits, 1, flip), random_codes(5, bits, 2, flip)
            index = open_index(kind, codes, some_ids(600), **EXHAUSTIVE[kind])
            allowed = np.random.default_rng(3).random(600) < 0.1
            assert_equal_indexes(index, FlatIndex(codes, some_ids(600)), queries, allowed)


@pytest.mark.parametrize("bits", [1, 7, 12, 36, 64, 65, 512])
@pytest.mark.parametrize("kind", ON_CPU)
def test_answers_are_true_and_in_order(kind: str, bits: int) -> None:
    for n_codes in (0, 1, 7, 900):
        codes, queries, ids = random_codes(n_codes, bits, 1, 0.05), random_codes(9, bits, 2, 0.05), some_ids(n_codes)
        index, truth = open_index(kind, codes, ids), all_distances(codes, queries)
        allowed = np.random.default_rng(3).random(n_codes) < 0.5
        n_found = 0
        for mask in (None, allowed):
            found = [index.search(queries, 10, mask), index.search(queries, n_codes + 1, mask)]
            if kind in RANGED:
                found.append(index.within(queries, bits // 4, mask))
            for answer, most in zip(found, (10, n_codes + 1, n_codes + 1), strict=False):
                assert len(answer) == len(queries)
                for query, distances in enumerate(truth):
                    hits = answer[query]
                    rows = np.searchsorted(ids, [hit.id for hit in hits])
                    assert [hit.id for hit in hits] == ids[rows].tolist()
                    assert [hit.distance for hit in hits] == distances[rows].tolist()
                    assert all((a.distance, a.id) < (b.distance, b.id) for a, b in pairwise(hits))
                    assert len(hits) <= most
                    assert mask is None or allowed[rows].all()
                    n_found += len(hits)
        assert n_found or n_codes < 900
        assert len(index.search(queries[:0])) == 0


def recall(found: Neighbors, truth: Neighbors, k: int) -> float:
    """Share of the places whose neighbour is as near as it can be: ties are worth the same."""
    _, distances, counts = found.dense(k)
    farthest = truth.dense(k)[1][:, -1:]
    return float(np.mean((distances <= farthest) & (np.arange(k) < counts[:, None])))


@pytest.mark.parametrize(
    ("kind", "poor"),
    [
        ("faiss-ivf", {"nprobe": 1, "nlist": 2000}),
        ("faiss-hnsw", {"M": 2, "efConstruction": 1, "efSearch": 1}),
        ("faiss-hash", {"nflip": 0}),
        ("faiss-multihash", {"nflip": 0, "nhash": 1}),
    ],
)
def test_approximate_kinds_find_most(kind: str, poor: dict[str, int]) -> None:
    # Measured: 1, 1, 0.98, 1 and with the mask 0.99, 1, 0.94, 0.99; poor ones with the mask 0.72, 0.04, 0.35, 0.35.
    rng = np.random.default_rng(4)
    centres = rng.random((300, 64)) < 0.5
    codes, queries = (
        Codes.from_bits(centres[rng.integers(0, 300, n)] ^ (rng.random((n, 64)) < 0.05)) for n in (8000, 200)
    )
    flat, allowed = FlatIndex(codes), rng.random(len(codes)) < 0.5
    index = open_index(kind, codes)
    assert recall(index.search(queries, 10), flat.search(queries, 10), 10) > 0.8
    truth = flat.search(queries, 10, allowed)
    assert recall(index.search(queries, 10, allowed), truth, 10) > 0.8
    assert recall(open_index(kind, codes, **poor).search(queries, 10, allowed), truth, 10) < 0.8


def test_ties_by_the_thousand_are_searched_some_queries_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, queries = random_codes(3000, 64, 5, 0.0), random_codes(30, 64, 6, 0.0)
    index, searches = FaissFlat(codes), list[int]()
    range_search = index.faiss_index.range_search

    def recorded(asked: Any, *more: Any, **named: Any) -> Any:
        searches.append(len(asked))
        return range_search(asked, *more, **named)

    monkeypatch.setattr(faiss_adapters, "MAX_HITS", 3000)
    monkeypatch.setattr(index.faiss_index, "range_search", recorded)
    found = index.search(queries, 10, count_ties=True)
    assert_same(found, FlatIndex(codes).search(queries, 10, count_ties=True))
    assert searches == [8, 8, 8, 6]


def test_segments_count_as_one() -> None:
    codes, queries = random_codes(90, 36, 7), random_codes(3, 36, 8)
    split = FaissFlat([codes[:20], codes[20:20], codes[20:]])
    assert_same(split.search(queries, count_ties=True), FlatIndex(codes).search(queries, count_ties=True))


def test_parameters_may_change_between_searches() -> None:
    codes, queries = random_codes(500, 64, 9), random_codes(5, 64, 10)
    index = FaissIvf(codes, nlist=10, nprobe=1)
    assert index.faiss_index.ntotal == 500
    few = len(index.within(queries, 64).ids)
    index.faiss_index.nprobe = 10  # type: ignore[attr-defined]
    assert few < len(index.within(queries, 64).ids) == 5 * 500


@pytest.mark.parametrize("kind", ON_CPU)
def test_wrong_arguments_are_refused(kind: str) -> None:
    codes, queries = Codes(random_codes(9, 64, 11).words, 64, "a"), random_codes(2, 64, 12)
    index = open_index(kind, codes)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        index.search(queries, 0)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        index.search(queries, threads=0)
    with pytest.raises(ValueError, match="8 rows, the index has 9"):
        index.search(queries, mask=np.ones(8, np.bool_))
    with pytest.raises(ModelMismatch, match="64-bit codes, the query 36"):
        index.search(random_codes(1, 36, 1))
    with pytest.raises(ModelMismatch, match="model a, the query by b"):
        index.search(Codes(queries.words, 64, "b"))
    with pytest.raises(TypeError, match="expected Codes, got ndarray"):
        index.search(queries.words)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected Codes, got ndarray"):
        open_index(kind, codes.words)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="row 2 has 5 after 5"):
        open_index(kind, codes[:3], np.array([1, 5, 5]))
    with pytest.raises(TypeError, match="'nprobes'"):
        open_index(kind, codes, nprobes=2)
    if kind in RANGED:
        with pytest.raises(ValueError, match="radius must not be negative"):
            index.within(queries, -1)
    else:
        with pytest.raises(NotImplementedError, match="faiss-flat, faiss-ivf, faiss-hash and faiss-multihash have one"):
            index.within(queries, 3)


@pytest.mark.parametrize("kind", ON_CPU)
def test_without_faiss_the_cure_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'athsearch\[faiss\]'"):
        open_index(kind, random_codes(3, 64, 1))


class GpuIndexBinaryFlat:
    """Stands in for FAISS's: the same answers from the CPU, within what the GPU's allows."""

    def __init__(self, resources: object, index: faiss.IndexBinaryFlat, config: Any) -> None:
        self.index, self.device, self.n_searched = faiss.clone_binary_index(index), config.device, 0

    def search(self, asked: Any, k: int, *, params: None = None) -> Any:
        assert params is None
        assert k <= 2048
        self.n_searched += len(asked)
        return self.index.search(asked, k)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them."""
    for name, stand_in in (
        ("GpuIndexBinaryFlat", GpuIndexBinaryFlat),
        ("GpuIndexBinaryFlatConfig", type("GpuIndexBinaryFlatConfig", (), {"device": 0})),
        ("StandardGpuResources", object),
        ("get_num_gpus", lambda: 2),
    ):
        monkeypatch.setattr(faiss, name, stand_in, raising=False)


@pytest.mark.usefixtures("gpus")
def test_the_gpu_kind_with_a_stand_in() -> None:
    codes, queries = random_codes(5000, 64, 13, 0.1), random_codes(20, 64, 14, 0.1)
    index = open_index("faiss-gpu-flat", codes, some_ids(5000), device=1)
    assert isinstance(index, FaissGpuFlat)
    assert index._on_gpu.device == 1
    flat, allowed = FlatIndex(codes, some_ids(5000)), np.random.default_rng(15).random(5000) < 0.1
    for k in (1, 10, 2047):
        assert_same(index.search(queries, k, count_ties=True), flat.search(queries, k, count_ties=True))
    assert index._on_gpu.n_searched == 60
    for k in (2048, 5001):
        assert_same(index.search(queries, k), flat.search(queries, k))
    assert_same(index.search(queries, 10, allowed), flat.search(queries, 10, allowed))
    assert_same(index.within(queries, 15), flat.within(queries, 15))
    assert index._on_gpu.n_searched == 60
    with pytest.raises(DeviceError, match="faiss sees 2 GPUs: there is no GPU 2"):
        open_index("faiss-gpu-flat", codes, device=2)


def test_a_faiss_without_gpus_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(faiss, "GpuIndexBinaryFlat", raising=False)
    with pytest.raises(DeviceError, match=r"uninstall faiss-cpu, then pip install 'athsearch\[gpu\]'"):
        open_index("faiss-gpu-flat", random_codes(3, 64, 1))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'athsearch\[gpu\]'"):
        open_index("faiss-gpu-flat", random_codes(3, 64, 1))


def test_every_faiss_kind_is_registered() -> None:
    kinds = {index for name, index in INDEXES.items() if name.startswith("faiss-")}
    assert all(issubclass(kind, FaissIndex) for kind in kinds)
    assert len(kinds) == len(ON_CPU) + 1 == 6
