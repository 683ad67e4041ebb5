"""Encoding on a GPU: without one, who encodes instead; with one (`pytest -m gpu`), that its logits are the CPU's.

With a GPU these tests need NumPy and pytest, one of them torch, and not conftest.py, so that `make gpu` runs where
little else is installed; the others need what the encoder needs.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pytest

from athsearch import _network
from athsearch.codes import Codes
from athsearch.errors import CheckpointError, CudaError, DeviceError
from athsearch.gpus import find_gpus
from athsearch.model import inference
from athsearch.model.checkpoint import ModelDescription
from athsearch.preprocessing import Preprocessing
from athsearch.types import AnyArray, Floats, Square
from cuda_stand_in import FailingStandIn, StandIn, install_cuda

if TYPE_CHECKING:
    from athsearch import _cuda

Test = TypeVar("Test", bound=Callable[..., Any])
REASON = find_gpus().why_not(0)
NETWORKS = ("ath-s", "ath-m", "ath-l")
TOLERANCE = 1e-4  # of the logits' spread: a tenth of the encoder's LOGIT_TOLERANCE
TYPICAL_FLOAT16, LARGEST_FLOAT16 = 2e-3, 1e-2  # root mean square and largest difference, as shares of the spread


def needs_gpu(test: Test) -> Test:
    """Marks a test for `pytest -m gpu`, and skips it elsewhere."""
    return pytest.mark.gpu(pytest.mark.skipif(REASON is not None, reason=str(REASON))(test))


class EncodingStandIn(StandIn):
    """Its networks run on the CPU."""

    made: list[tuple[int, int]]  # size and device

    def __init__(self, n_devices: int) -> None:
        super().__init__(n_devices)
        made = self.made = []

        def make(size: int, values: AnyArray, order: Sequence[int], device: int) -> _network.Network:
            made.append((size, device))
            return _network.Network(size, values, order)

        self.Network = make


class Shapes:
    """Records what tensors a network's builder asks for, and answers with random ones."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.drawn: dict[str, AnyArray] = {}

    def draw(self, name: str, shape: tuple[int, ...]) -> AnyArray:
        values = self.rng.normal(0, 1.4 / np.sqrt(max(1, np.prod(shape[1:]))), shape)
        if name.endswith("running_var") or name.endswith("norm.weight"):
            values = self.rng.uniform(0.5, 1.5, shape)
        elif name.endswith(("running_mean", "bias")):
            values = self.rng.normal(0, 0.3, shape)
        return self.drawn.setdefault(name, values.astype(np.float32))


def drawn_model(
    name: str, size: int, bits: int, monkeypatch: pytest.MonkeyPatch, **preprocessing: Any
) -> tuple[ModelDescription, dict[str, AnyArray]]:
    """A network all of whose tensors are random; the class layer, which makes no codes, is left out."""
    shapes = Shapes(size + bits)
    description = ModelDescription(name, bits, ("a", "b"), Preprocessing(size=size, **preprocessing))
    with monkeypatch.context() as patch:
        patch.setattr(inference._Steps, "tensor", lambda _, name, *shape: shapes.draw(name, shape).astype(np.float64))
        inference.build(description, {})
    return description, shapes.drawn


def on_gpu(
    description: ModelDescription, tensors: Mapping[str, AnyArray], precision: Literal["float32", "float16"] = "float32"
) -> _cuda.Network:
    from athsearch import _cuda

    return inference.build_with(partial(_cuda.Network, device=0, precision=precision), description, tensors)


def random_squares(n: int, size: int, seed: int) -> Square:
    """Blocks of colour with noise: squares as uint8 [n, size, size, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, size // 8, size // 8, 3))
    noisy = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2) + rng.integers(-20, 21, (n, size, size, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def assert_close(found: Floats, expected: Floats) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    spread = float(np.sqrt(np.mean(expected**2)))
    assert spread > 0
    assert np.abs(found - expected).max() < TOLERANCE * spread


@pytest.fixture
def encoders() -> ModuleType:
    """The module athsearch.encoder, where what it needs is installed."""
    return pytest.importorskip("athsearch.encoder")  # type: ignore[no-any-return]


def test_without_the_module_torch_is_asked_as_before(encoders: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("torch finds a GPU here")
    install_cuda(None, monkeypatch)
    from athsearch.model.checkpoint import tensors_of
    from athsearch.model.network import NETWORKS as TORCH_NETWORKS

    tensors = tensors_of(TORCH_NETWORKS["ath-m"](64, 16, 2))
    description = ModelDescription("ath-m", 16, ("a", "b"), Preprocessing(size=64))
    for stand_in in (None, StandIn(0), StandIn(1)):
        install_cuda(stand_in, monkeypatch)
        with pytest.raises(DeviceError, match=r"device 'cuda:1' cannot be used: "):
            encoders.Encoder(tensors, description, "cuda:1")
    for device in ("quantum", "cuda:", "cudas"):
        with pytest.raises(DeviceError, match=f"device '{device}' cannot be used"):
            encoders.Encoder(tensors, description, device)


def test_with_neither_module_nor_torch_both_are_named(encoders: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    description, tensors = drawn_model("ath-m", 64, 16, monkeypatch)
    monkeypatch.setattr(encoders, "_has_torch", lambda: False)
    install_cuda(None, monkeypatch)
    with pytest.raises(DeviceError, match=r"'cuda' cannot be used: .*ATH_CUDA=ON pip install .*torch is not installed"):
        encoders.Encoder(tensors, description, "cuda")
    install_cuda(StandIn(0), monkeypatch)
    with pytest.raises(DeviceError, match=r"CUDA finds no GPU: CUDA driver version is insufficient.*torch is not"):
        encoders.Encoder(tensors, description, "cuda")
    install_cuda(StandIn(1), monkeypatch)
    with pytest.raises(DeviceError, match=r"'cuda:1' cannot be used: CUDA sees 1 GPUs"):
        encoders.Encoder(tensors, description, "cuda:1")


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_the_module_is_taken_where_it_finds_that_gpu(
    device: str, number: int, encoders: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    description, tensors = drawn_model("ath-l", 64, 40, monkeypatch, mirrors="horizontal")
    module = EncodingStandIn(2)
    install_cuda(module, monkeypatch)
    encoder = encoders.Encoder(tensors, description, device)
    assert module.made == [(64, number)]
    assert encoder.device == device
    assert pytest.approx(10 * TOLERANCE) == encoders.LOGIT_TOLERANCE
    squares = random_squares(3, 64, 1)
    expected = encoders.Encoder(tensors, description, "cpu").logits_of_squares(squares)
    assert len(module.made) == 1
    assert np.array_equal(encoder.logits_of_squares(squares), expected)
    assert encoder.encode(squares) == Codes.from_logits(expected, encoder.model_id)
    with pytest.raises(CheckpointError, match="do not fit"):
        encoders.Encoder({**tensors, "hash_layer.weight": tensors["hash_layer.weight"][:3]}, description, device)


def test_auto_takes_a_gpu_that_the_module_finds(encoders: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    description, tensors = drawn_model("ath-m", 64, 16, monkeypatch)
    monkeypatch.setattr("os.path.exists", lambda path: path == "/dev/nvidiactl")
    install_cuda(EncodingStandIn(1), monkeypatch)
    assert encoders.Encoder(tensors, description).device == "cuda"
    monkeypatch.setattr(encoders, "_has_torch", lambda: False)
    install_cuda(FailingStandIn(1), monkeypatch)
    assert encoders.Encoder(tensors, description).device == "cpu"
    install_cuda(StandIn(1, capability="7.5"), monkeypatch)
    assert encoders.Encoder(tensors, description).device == "cpu"


def test_auto_goes_on_with_torch_where_the_module_fails(encoders: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    description, tensors = drawn_model("ath-m", 64, 16, monkeypatch)
    monkeypatch.setattr("os.path.exists", lambda path: path == "/dev/nvidiactl")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(encoders.Encoder, "_torch_network", "torch's")  # there may be no GPU to put one on
    install_cuda(FailingStandIn(1), monkeypatch)
    with pytest.warns(UserWarning, match="torch computes without athsearch's CUDA module: the driver fails"):
        assert encoders.Encoder(tensors, description).device == "cuda"
    with pytest.raises(CudaError, match="the driver fails"):
        encoders.Encoder(tensors, description, "cuda")
    install_cuda(StandIn(1, capability="7.5"), monkeypatch)
    assert encoders.Encoder(tensors, description).device == "cuda"


def test_the_module_builds_a_network_only_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = pytest.importorskip("athsearch._cuda", reason="athsearch was built without its CUDA module")
    if REASON is None:
        pytest.skip("there is a GPU here")
    with pytest.raises(CudaError, match=r"cuda_device\.cpp:\d+: cuda\w+\(.*\): .+ \(CUDA error \d+\)"):
        cuda.Network(64, np.zeros((3, 256), np.float32), (0, 1, 2), 0)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("size", "bits"), [(64, 36), (72, 1), (96, 64), (256, 100), (520, 16)])
@needs_gpu
def test_logits_are_those_of_the_cpu(name: str, size: int, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    order = {"channels": "BGR"} if bits == 36 else {}
    description, tensors = drawn_model(name, size, bits, monkeypatch, **order)
    network = on_gpu(description, tensors)
    on_cpu = inference.build(description, tensors)
    for n in (1, 3, 0, 64 if size > 256 else 300):
        squares = random_squares(n, size, n)
        logits, words = network.encode(squares)
        assert words.shape == (n, (bits + 63) // 64)
        assert np.array_equal(network.run(squares), logits)
        assert np.array_equal(words, Codes.from_logits(logits).words)
        if n > 0:
            assert_close(logits, on_cpu.run(squares, 2))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("size", "bits"), [(64, 36), (88, 100), (256, 64)])
@needs_gpu
def test_logits_in_16_bits_are_near_those_of_the_cpu(
    name: str, size: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    description, tensors = drawn_model(name, size, bits, monkeypatch)
    network = on_gpu(description, tensors, "float16")
    assert network.precision() == "float16"
    assert on_gpu(description, tensors).precision() == "float32"
    squares = random_squares(70, size, 1)
    logits, words = network.encode(squares)
    assert np.array_equal(words, Codes.from_logits(logits).words)
    expected = inference.build(description, tensors).run(squares, 2)
    spread = float(np.sqrt(np.mean(expected**2)))
    difference = np.abs(logits - expected)
    assert float(np.sqrt(np.mean(difference**2))) < TYPICAL_FLOAT16 * spread
    assert float(difference.max()) < LARGEST_FLOAT16 * spread
    assert np.abs(expected[(logits > 0) != (expected > 0)]).max(initial=0) < LARGEST_FLOAT16 * spread
    assert np.array_equal(network.run(squares), logits)
    for image in (0, 33, 69):
        assert np.array_equal(network.run(squares[image : image + 1])[0], logits[image])


@needs_gpu
def test_networks_with_another_beginning_stay_with_32_bits() -> None:
    from athsearch import _cuda

    with pytest.raises(ValueError, match="precision must be float32 or float16, got bfloat16"):
        _cuda.Network(16, np.zeros((3, 256), np.float32), (0, 1, 2), 0, "bfloat16")  # type: ignore[arg-type]
    for kernel, stride, precision in ((3, 2, "float16"), (3, 1, "float32"), (1, 2, "float32")):
        network = _cuda.Network(16, np.zeros((3, 256), np.float32), (0, 1, 2), 0, "float16")
        plane = network.add_plane(16 // stride, 16 // stride, 8)
        weights = np.zeros((kernel, kernel, 3, 8), np.float32)
        network.convolve(0, plane, kernel, stride, weights, np.zeros(8, np.float32), True, None)
        network.summarise(plane)
        network.finish(8, np.zeros((16, 8), np.float32), np.zeros(8, np.float32))
        assert network.precision() == precision


@needs_gpu
def test_many_bits_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    description, tensors = drawn_model("ath-s", 64, 4096, monkeypatch)
    squares = random_squares(9, 64, 1)
    logits, words = on_gpu(description, tensors).encode(squares)
    assert_close(logits, inference.build(description, tensors).run(squares, 2))
    assert np.array_equal(words, Codes.from_logits(logits).words)


@needs_gpu
def test_the_encoder_runs_on_the_gpu(encoders: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    description, tensors = drawn_model("ath-l", 64, 48, monkeypatch, mirrors="both")
    squares = random_squares(70, 64, 1)
    found = encoders.Encoder(tensors, description, "cuda").logits(squares)
    assert_close(found, encoders.Encoder(tensors, description, "cpu").logits(squares))


@needs_gpu
def test_threads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    network = on_gpu(*drawn_model("ath-l", 96, 64, monkeypatch))
    batches = [random_squares(5 + seed, 96, seed) for seed in range(8)]
    expected = [network.run(batch) for batch in batches]
    wrong: list[int] = []

    def run(first: int) -> None:
        for number in list(range(first, 8, 2)) * 5:
            if not np.array_equal(network.run(batches[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=run, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("precision", ["float32", "float16"])
@needs_gpu
def test_networks_of_two_sizes_run_at_once(
    precision: Literal["float32", "float16"], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [drawn_model("ath-m", 64, 36, monkeypatch), drawn_model("ath-s", 256, 64, monkeypatch)]
    networks = [on_gpu(*model, precision) for model in models]
    batches = [random_squares(5, size, 1) for size in (64, 256)]
    alone = [network.run(batch) for network, batch in zip(networks, batches, strict=True)]

    def run_often(network: _cuda.Network, batch: Square, expected: Floats) -> None:
        for _ in range(200):
            assert np.array_equal(network.run(batch), expected)

    with ThreadPoolExecutor() as pool:
        list(pool.map(run_often, networks, batches, alone))


@needs_gpu
def test_what_does_not_fit_is_refused_and_the_gpu_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from athsearch import _cuda

    description, tensors = drawn_model("ath-m", 64, 36, monkeypatch)
    network = on_gpu(description, tensors)
    squares = random_squares(2, 64, 1)
    expected = network.run(squares)
    for wrong in (squares[..., :1], squares[0], np.zeros((1, 72, 64, 3), np.uint8)):
        message = re.escape(f"must be uint8 [n, 64, 64, 3], got uint8 {list(wrong.shape)}")
        with pytest.raises(ValueError, match=message):
            network.run(wrong)
    with pytest.raises(TypeError, match=r"must be uint8 \[n, 64, 64, 3\], got float32 \[2, 64, 64, 3\]"):
        network.run(squares.astype(np.float32))  # type: ignore[arg-type]
    unfinished = _cuda.Network(64, np.zeros((3, 256), np.float32), (0, 1, 2), 0)
    with pytest.raises(ValueError, match="not finished"):
        unfinished.run(squares)
    with pytest.raises(CudaError, match=r"CUDA error"):
        _cuda.Network(64, np.zeros((3, 256), np.float32), (0, 1, 2), 1000)
    with pytest.raises(CheckpointError, match="do not fit"):
        on_gpu(description, {})
    assert np.array_equal(network.run(squares[:, ::-1][:, ::-1]), expected)


@needs_gpu
def test_logits_are_those_of_torch_on_the_same_gpu(encoders: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")
    from athsearch.model.checkpoint import tensors_of
    from athsearch.model.network import NETWORKS as TORCH_NETWORKS

    for name in NETWORKS:
        torch.manual_seed(1)
        network = TORCH_NETWORKS[name](96, 64, 2).eval().double()
        description = ModelDescription(name, 64, ("a", "b"), Preprocessing(size=96))
        ours = on_gpu(description, tensors_of(network.float()))
        squares = random_squares(16, 96, 1)
        images = torch.from_numpy(description.preprocessing.normalise(squares)).double()
        with torch.inference_mode():
            expected = network.double()(images).logits.float().numpy()
        assert_close(ours.run(squares), expected)
        late, given = torch.cuda.Stream(), torch.from_numpy(squares).cuda()
        late.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(late):
            there = torch.zeros_like(given)
            logits = torch.full((16, 64), torch.nan, device="cuda")
            words = torch.full((16, 1), -1, dtype=torch.int64, device="cuda")
            torch.cuda._sleep(10**8)  # clocks
            there.copy_(given)
        ours.encode_on_gpu(there.data_ptr(), 16, logits.data_ptr(), words.data_ptr(), late.cuda_stream)
        assert np.array_equal(logits.cpu().numpy(), ours.run(squares))
        assert np.array_equal(words.cpu().numpy().view(np.uint64), Codes.from_logits(logits.cpu().numpy()).words)
