"""The GPU's index: without a GPU, what it says; with one (`pytest -m gpu`), that it answers as the flat index does.

These tests need NumPy and pytest alone, not conftest.py, so that `make gpu` runs where little else is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

import athsearch
from athsearch.codes import Codes
from athsearch.errors import CudaError, DeviceError, KernelUnavailable
from athsearch.gpus import find_gpus, free_bytes
from athsearch.index import FlatIndex, GpuIndex, gpu, open_index
from athsearch.types import Mask, Neighbors, Words
from cuda_stand_in import StandIn, install_cuda

KERNELS = ["b1", "popcount", "wgmma"]
Test = TypeVar("Test", bound=Callable[..., Any])
REASON = find_gpus().why_not(0)


def needs_gpu(test: Test) -> Test:
    """Marks a test for `pytest -m gpu`, and skips it elsewhere."""
    return pytest.mark.gpu(pytest.mark.skipif(REASON is not None, reason=str(REASON))(test))


def force(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All searches by that kernel. Skips the test where only other GPUs have it."""
    capability = find_gpus().devices[0]["compute_capability"]
    if kernel == "wgmma" and capability != "9.0":
        pytest.skip(f"wgmma needs compute capability 9.0, GPU 0 has {capability}")
    monkeypatch.setenv("ATHSEARCH_GPU_KERNEL", kernel)


class SearchingStandIn(StandIn):
    class Database:
        """The flat index in the module's clothes, at most three queries at once."""

        def __init__(self, n_rows: int, n_words: int, device: int) -> None:
            self.words = np.zeros((0, n_words), np.uint64)

        def append(self, rows: Words) -> None:
            self.words = np.concatenate([self.words, rows])

        def n_queries_at_once(self, k: int) -> int:
            return 3

        def top_k(self, queries: Words, k: int, mask: Words | None) -> object:
            found = self._flat().search(self._codes(queries), k, self._mask(mask), count_ties=True)
            return (found.offsets, found.ids, found.distances), found.ties

        def within(self, queries: Words, radius: int, mask: Words | None) -> object:
            found = self._flat().within(self._codes(queries), radius, self._mask(mask))
            return found.offsets, found.ids, found.distances

        def _flat(self) -> FlatIndex:
            return FlatIndex(self._codes(self.words))

        def _codes(self, words: Words) -> Codes:
            return Codes(words, 64 * words.shape[1])

        def _mask(self, words: Words | None) -> Mask | None:
            return None if words is None else Mask(words, len(self.words))


def random_codes(n_codes: int, bits: int, seed: int, flip: float) -> Codes:
    centres = np.random.default_rng(0).random((5, bits)) < 0.5
    rng = np.random.default_rng(seed)
    return Codes.from_bits(centres[rng.integers(0, 5, n_codes)] ^ (rng.random((n_codes, bits)) < flip))


def assert_same(found: Neighbors, truth: Neighbors) -> None:
    for field in ("offsets", "ids", "distances", "ties", "scores"):
        assert np.array_equal(getattr(found, field), getattr(truth, field)), field


def assert_answers_are_the_flat_ones(bits: int, n_codes: int, n_queries: int, flip: float) -> None:
    rng = np.random.default_rng(bits + n_codes)
    codes, queries = random_codes(n_codes, bits, 1, flip), random_codes(n_queries, bits, 2, flip)
    ids = np.cumsum(rng.integers(1, 5, n_codes))
    segments = [codes[begin:end] for begin, end in pairwise([0, n_codes // 3, n_codes // 3, n_codes])]
    index, flat = open_index("gpu", segments, ids), FlatIndex(codes, ids)
    for share in (1.0, 0.5, 0.001, 0.0):
        mask = None if share == 1 else Mask.from_bools(rng.random(n_codes) < share)
        for k in (1, 10, 1000, n_codes + 1):
            assert_same(index.search(queries, k, mask, count_ties=True), flat.search(queries, k, mask, count_ties=True))
        for radius in (0, bits // 3, bits):
            assert_same(index.within(queries, radius, mask), flat.within(queries, radius, mask))
    logits = np.where(queries.to_bits(), rng.random((n_queries, bits)), -1).astype(np.float32)
    asked = {"logits": logits, "rerank": "asymmetric", "depth": 50}
    assert_same(index.search(queries, 5, **asked), flat.search(queries, 5, **asked))  # type: ignore[arg-type]


def test_without_the_module_the_cure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    install_cuda(None, monkeypatch)
    with pytest.raises(DeviceError, match=r"ATH_CUDA=ON pip install .*kind flat searches on the CPU"):
        open_index("gpu", random_codes(9, 64, 1, 0.5))


def test_a_module_that_cannot_be_loaded_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "_cuda.py").write_text('raise ImportError("/lib/_cuda.so: undefined symbol: x")\n')
    monkeypatch.delitem(sys.modules, "athsearch._cuda", raising=False)
    monkeypatch.setattr(athsearch, "__path__", [str(tmp_path)])
    with pytest.raises(CudaError, match=r"CUDA module cannot be loaded: /lib/_cuda\.so: undefined symbol: x"):
        open_index("gpu", random_codes(9, 64, 1, 0.5))


def test_without_a_gpu_cudas_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    install_cuda(StandIn(0), monkeypatch)
    with pytest.raises(DeviceError, match="CUDA finds no GPU: CUDA driver version is insufficient"):
        GpuIndex(random_codes(9, 64, 1, 0.5))
    assert find_gpus().driver is None
    install_cuda(StandIn(2), monkeypatch)
    with pytest.raises(DeviceError, match="CUDA sees 2 GPUs: there is no GPU 2"):
        GpuIndex(random_codes(9, 64, 1, 0.5), device=2)
    assert (find_gpus().driver, find_gpus().runtime) == ("13.0", "13.2")
    install_cuda(StandIn(1, capability="7.5"), monkeypatch)
    with pytest.raises(DeviceError, match=r"GPU 0 \(stand-in\) is of compute capability 7\.5: the kernels need 8\.0"):
        GpuIndex(random_codes(9, 64, 1, 0.5))


@pytest.mark.parametrize("n_queries", [0, 1, 7])
@pytest.mark.parametrize("n_codes", [0, 5000])
def test_parts_and_segments_come_together_with_a_stand_in(
    n_codes: int, n_queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_cuda(SearchingStandIn(1), monkeypatch)
    monkeypatch.setattr(gpu, "UPLOADED_ROWS", 999)
    assert_answers_are_the_flat_ones(128, n_codes, n_queries, 0.2)


def test_the_module_is_there_without_a_driver() -> None:
    cuda = pytest.importorskip("athsearch._cuda", reason="athsearch was built without its CUDA module")
    found, reason = cuda.devices()
    assert bool(found) == (reason == "")
    assert cuda.versions()[1] >= 12_040
    if not found:
        with pytest.raises(CudaError, match=r"cuda_device\.cpp:\d+: cuda\w+\(.*\): .+ \(CUDA error \d+\)"):
            cuda.Database(10, 1, 0)


@pytest.mark.parametrize("n_codes", [1, 511, 4097, 200_000])
@pytest.mark.parametrize(
    ("kernel", "bits"),
    [
        *product(["b1", "popcount"], [7, 36, 64, 65, 192, 256, 320, 384, 448, 512, 520]),
        *product(["wgmma"], [36, 65, 192, 512, 520]),
    ],
)
@needs_gpu
def test_answers_are_the_flat_ones(kernel: str, bits: int, n_codes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    force(kernel, monkeypatch)
    for n_queries, flip in ((1, 0.0), (3, 0.5), (20, 0.02)):
        assert_answers_are_the_flat_ones(bits, n_codes, n_queries, flip)


@pytest.mark.parametrize("n_queries", [4, 16, 17, 64, 130, 257])
@pytest.mark.parametrize("kernel", KERNELS)
@needs_gpu
def test_full_passes_and_one_query_more_are_answered(
    kernel: str, n_queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(kernel, monkeypatch)
    assert_answers_are_the_flat_ones(128, 4097, n_queries, 0.2)


@pytest.mark.parametrize("kernel", KERNELS)
@needs_gpu
def test_the_longest_codes_are_found(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(kernel, monkeypatch)
    assert_answers_are_the_flat_ones(4096, 3000, 20, 0.3)


@pytest.mark.parametrize("kernel", ["b1", "wgmma"])
@needs_gpu
def test_indexes_of_short_and_long_codes_are_searched_at_once(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(kernel, monkeypatch)
    codes = [random_codes(3000, bits, 1, 0.3) for bits in (64, 4096)]
    queries = [random_codes(20, bits, 2, 0.3) for bits in (64, 4096)]
    truths = [FlatIndex(of).search(asked, 10, count_ties=True) for of, asked in zip(codes, queries, strict=True)]

    def search_often(index: GpuIndex, queries: Codes, truth: Neighbors) -> None:
        for _ in range(200):
            assert_same(index.search(queries, 10, count_ties=True), truth)

    with ThreadPoolExecutor() as pool:
        list(pool.map(search_often, [GpuIndex(of) for of in codes], queries, truths))


@needs_gpu
def test_an_unknown_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHSEARCH_GPU_KERNEL", "sse9")
    with pytest.raises(KernelUnavailable, match="'sse9' is unknown on GPUs; available: b1, popcount, wgmma"):
        GpuIndex(random_codes(9, 64, 1, 0.5))


@needs_gpu
def test_wgmma_is_refused_by_other_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_gpus().devices[0]["compute_capability"] == "9.0":
        pytest.skip("GPU 0 has wgmma")
    monkeypatch.setenv("ATHSEARCH_GPU_KERNEL", "wgmma")
    with pytest.raises(KernelUnavailable, match=r"'wgmma' needs a GPU of compute capability 9\.0"):
        GpuIndex(random_codes(9, 64, 1, 0.5))


@needs_gpu
def test_a_gpu_that_is_short_of_memory_says_so_and_goes_on() -> None:
    from athsearch import _cuda

    with pytest.raises(CudaError, match=r"GPU 0 is short of memory: 8000\.\d\d GB more are needed, .* GB are free"):
        _cuda.Database(10**12, 1, 0)
    assert_answers_are_the_flat_ones(64, 5000, 4, 0.1)


@needs_gpu
def test_rows_past_2_to_the_31_are_found() -> None:
    free = free_bytes(0)
    assert free is not None
    if free < 24 << 30:
        pytest.skip(f"needs 24 GiB of free GPU memory, there are {free / 2**30:.0f}")
    codes = Codes(np.random.default_rng(1).integers(0, 2**64, (1 << 23, 1), np.uint64), 64)
    index = GpuIndex([codes] * 257)
    same = [row + copy * len(codes) for copy in range(257) for row in (5, 8_000_000)]
    found = index.search(codes[np.array([5, 8_000_000])], k=257, count_ties=True)
    assert found.ids.tolist() == same[::2] + same[1::2]
    assert found.ids.max() > 2**31
    assert found.ties is not None
    assert found.ties.tolist() == [257, 257]
