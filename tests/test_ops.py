"""The operations of networks: plain torch is right, the kernels are as good, emulated and (`pytest -m gpu`) on a GPU.

These tests need torch, NumPy and pytest alone, not conftest.py, so that `make gpu` runs where little else is installed.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from athsearch.codes import Codes  # noqa: E402
from athsearch.gpus import find_gpus  # noqa: E402
from athsearch.model import ops  # noqa: E402
from athsearch.model.network import NETWORKS, ATHNet, ResidualATHNet, SpatialAttention  # noqa: E402
from cuda_stand_in import FailingStandIn, StandIn, install_cuda  # noqa: E402

ROOT = Path(__file__).parent.parent
Test = TypeVar("Test", bound=Callable[..., Any])
REASON = find_gpus().why_not(0) or (None if torch.cuda.is_available() else "torch finds no GPU")
LAYOUTS = (torch.contiguous_format, torch.channels_last)
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = ((1, 1, 1, 1), (2, 5, 7, 3), (3, 16, 40, 33), (2, 24, 17, 64), (1, 300, 3, 5))
LIMITS = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-5, torch.float64: 1e-12}  # times the largest


def needs_gpu(test: Test) -> Test:
    """Marks a test for `pytest -m gpu`, and skips it elsewhere."""
    return pytest.mark.gpu(pytest.mark.skipif(REASON is not None, reason=str(REASON))(test))


def drawn(*shape: int, dtype: Any = torch.float32, seed: int = 0, layout: Any = torch.contiguous_format) -> Any:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)
    return values.to(dtype).contiguous(memory_format=layout)


def expression(x: Any, weight: Any, offset: float) -> tuple[Any, Any]:
    """What networks compute where there are no kernels."""
    attention = SpatialAttention().to(x.device, x.dtype)
    attention.conv.weight = torch.nn.Parameter(weight.detach())
    gate = attention(x)
    return x * (gate if offset == 0 else offset + gate), gate


def assert_near(found: Any, expected: Any, dtype: Any, what: str, least: float = 1) -> None:
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    assert found.shape == expected.shape, what
    largest = float(expected.abs().max())
    assert float((found - expected).abs().max()) <= LIMITS[dtype] * max(largest, least), what


def assert_attention_is_right(
    forward: Any, backward: Any, shape: tuple[int, ...], dtype: Any, layout: Any, offset: float, device: str
) -> None:
    """forward and backward against autograd's answer to the formula, in double."""
    x, grad_y = (drawn(*shape, dtype=dtype, seed=seed, layout=layout).to(device) for seed in (1, 2))
    x[:, -1] = x[:, 0]  # of equal channels the lowest is the maximum
    weight = drawn(1, 2, 3, 3, dtype=ops.SUMS[dtype]).to(device)
    grad_attention = drawn(shape[0], 1, *shape[2:], dtype=dtype).to(device)
    exact_x, exact_weight = (value.cpu().double().requires_grad_() for value in (x, weight))
    exact = ops.spatial_attention(exact_x, exact_weight, offset)
    gradients = torch.autograd.grad(
        exact, (exact_x, exact_weight), (grad_y.cpu().double(), grad_attention.cpu().double())
    )

    y, attention, maps, argmax = forward(x, weight, offset, True)
    assert_near(y, exact[0], dtype, "y")
    assert_near(attention, exact[1], dtype, "attention")
    assert torch.equal(argmax.cpu().long(), x.cpu().max(dim=1, keepdim=True).indices)
    assert y.stride() == x.stride()
    unsaved = forward(x, weight, offset, False)
    assert torch.equal(unsaved[0], y)
    assert torch.equal(unsaved[1], attention)
    assert unsaved[2].numel() == unsaved[3].numel() == 0

    grad_x, grad_weight = backward(grad_y, grad_attention, x, weight, maps, argmax, offset)
    assert_near(grad_x, gradients[0], dtype, "grad_x")
    n_summed = x[:, 0].numel()  # of either sign, so that the sum may be small
    assert_near(grad_weight, gradients[1], dtype, "grad_weight", 2 * n_summed**0.5)
    assert grad_x.stride() == x.stride()
    assert torch.equal(grad_weight, backward(grad_y, grad_attention, x, weight, maps, argmax, offset)[1])
    only_y = backward(grad_y, None, x, weight, maps, argmax, offset)
    zero = backward(grad_y, torch.zeros_like(attention), x, weight, maps, argmax, offset)
    assert torch.equal(only_y[0], zero[0])


def assert_codes_are_right(pack: Any, n_images: int, n_features: int, bits: int, dtype: Any, device: str) -> None:
    """Bits whose logit is not near zero are those of `Codes.from_logits`, and most are not near."""
    features = drawn(n_images, n_features, dtype=dtype).to(device)
    weights, bias = drawn(bits, n_features, seed=1).to(device), drawn(bits, seed=2).to(device)
    words = pack(features, weights, bias).cpu().numpy().view(np.uint64)
    logits = features.cpu().double() @ weights.cpu().double().T + bias.cpu().double()
    differ = Codes(words, bits).to_bits() != Codes.from_logits(logits.numpy()).to_bits()
    is_near = np.abs(logits.numpy()) < 1e-4 * np.sqrt(n_features)
    assert not (differ & ~is_near).any()
    assert is_near.mean() < 0.01


def opcheck_all(device: str) -> None:
    weight = drawn(1, 2, 3, 3, dtype=torch.float64).to(device)
    for layout in LAYOUTS:
        x = drawn(2, 5, 4, 3, dtype=torch.float64, layout=layout).to(device)
        for is_gradient in (False, True):
            asked = (x.clone().requires_grad_(is_gradient), weight.clone().requires_grad_(is_gradient))
            torch.library.opcheck(torch.ops.athsearch.spatial_attention, (*asked, 1.0, is_gradient))
        _, _, *saved = torch.ops.athsearch.spatial_attention(x, weight, 1.0, True)
        asked = (x.clone(), None, x, weight, *saved, 1.0)
        torch.library.opcheck(torch.ops.athsearch.spatial_attention_backward, asked)
        strided = drawn(2, 5, 8, 3).to(device)[:, :, ::2]
        torch.library.opcheck(torch.ops.athsearch.spatial_attention, (strided, weight.float(), 0.0, False))
    asked = (drawn(3, 9).to(device), drawn(70, 9).to(device), drawn(70).to(device))
    torch.library.opcheck(torch.ops.athsearch.hash_pack, asked)


def gradcheck_all(device: str) -> None:
    for shape, layout, offset in (((1, 1, 1, 1), *(LAYOUTS[0], 0.0)), ((2, 5, 4, 3), *(LAYOUTS[1], 1.0))):
        x = drawn(*shape, dtype=torch.float64, layout=layout).to(device).requires_grad_()
        weight = drawn(1, 2, 3, 3, dtype=torch.float64).to(device).requires_grad_()

        def attend(x: Any, weight: Any, offset: float = offset) -> tuple[Any, Any]:
            return ops.spatial_attention(x, weight, offset)

        assert torch.autograd.gradcheck(attend, (x, weight))
        assert torch.autograd.gradcheck(lambda x, weight, attend=attend: attend(x, weight)[1], (x, weight))


def test_gradients_are_those_of_differences() -> None:
    gradcheck_all("cpu")


def test_operations_are_registered_as_torch_wants_it() -> None:
    opcheck_all("cpu")


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_plain_attention_is_the_networks_expression_bit_for_bit(dtype: Any, layout: Any, offset: int) -> None:
    x, weight = drawn(2, 24, 12, 9, dtype=dtype, layout=layout), drawn(1, 2, 3, 3, dtype=dtype)
    for found, expected in zip(ops.spatial_attention(x, weight, offset), expression(x, weight, offset), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("network", NETWORKS.values())
def test_a_network_gives_the_same_bits_through_the_operation(
    network: type[ATHNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    built, images = network(64, 16, 3), drawn(4, 3, 64, 64)
    built.train()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    plain = built(images)
    plain_gradients = torch.autograd.grad(plain.logits.square().sum(), built.hash_layer.weight)
    built.load_state_dict(before)
    called: list[torch.Size] = []
    operation = ops.spatial_attention
    monkeypatch.setattr(ops, "has_kernels", lambda x: True)
    monkeypatch.setattr(ops, "spatial_attention", lambda x, *rest: called.append(x.shape) or operation(x, *rest))
    through = built(images)
    assert len(called) == (1 if network is ATHNet else 3)
    assert all(torch.equal(*pair) for pair in zip(plain, through, strict=True))
    gradients = torch.autograd.grad(through.logits.square().sum(), built.hash_layer.weight)
    assert torch.equal(plain_gradients[0], gradients[0])


def test_attention_of_another_kind_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere(SpatialAttention):
        def forward(self, x: Any) -> Any:
            return super().forward(x) * 0

    monkeypatch.setattr(ops, "has_kernels", lambda x: True)
    network = ResidualATHNet(64, 8, 2).eval()
    network.second_attention = Nowhere()
    with torch.inference_mode():
        assert not network(drawn(1, 3, 64, 64)).attention.any()


def test_nan_and_equal_channels_are_as_in_torch() -> None:
    x, weight = torch.ones(1, 3, 4, 4), drawn(1, 2, 3, 3)
    x[0, 1, 0, 0] = torch.nan
    y, attention, _, argmax = torch.ops.athsearch.spatial_attention(x, weight, 1.0, True)
    assert argmax[0, 0, 0, 0] == 1
    assert argmax.sum() == 1
    assert attention.isnan().sum() == 4
    assert y.isnan().sum() == 3 * 4


def test_a_network_in_half_precision_works_under_autocast() -> None:
    x, weight = drawn(2, 5, 6, 7, dtype=torch.bfloat16).requires_grad_(), drawn(1, 2, 3, 3).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, attention = ops.spatial_attention(x, weight, 1)
    (y.float().sum() + attention.float().sum()).backward()
    assert y.dtype == attention.dtype == x.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32
    exact = ops.spatial_attention(x.detach().double(), weight.detach().double(), 1)
    assert_near(y, exact[0], torch.bfloat16, "y")


@pytest.mark.filterwarnings("default")
def test_compiling_keeps_the_answer_and_the_gradient() -> None:
    x, weight = drawn(2, 5, 6, 7).requires_grad_(), drawn(1, 2, 3, 3).requires_grad_()
    compiled = torch.compile(ops.spatial_attention, backend="aot_eager", fullgraph=True)
    for found, expected in zip(compiled(x, weight, 1.0), ops.spatial_attention(x, weight, 1.0), strict=True):
        assert torch.equal(found, expected)
    gradients = [
        torch.autograd.grad(of(x, weight, 1.0), (x, weight), (x, x[:, :1])) for of in (compiled, ops.spatial_attention)
    ]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("bits", [1, 7, 64, 65, 4096])
def test_packed_signs_are_codes(bits: int) -> None:
    features, weights, bias = drawn(9, 33), drawn(bits, 33), drawn(bits)
    logits = torch.nn.functional.linear(features, weights, bias).numpy()
    words = ops.hash_pack(features, weights, bias).numpy().view(np.uint64)
    assert Codes(words, bits) == Codes.from_logits(logits)
    half = ops.hash_pack(features.half(), weights, bias).numpy().view(np.uint64)
    logits = torch.nn.functional.linear(features.half().float(), weights, bias).numpy()
    assert Codes(half, bits) == Codes.from_logits(logits)


def bad_attention(device: str) -> list[tuple[type[Exception], str, Any, Any]]:
    x, weight = drawn(2, 3, 4, 5).to(device), drawn(1, 2, 3, 3).to(device)
    return [
        (TypeError, r"x must be float16, bfloat16, float32 or float64, got torch\.int32", x.int(), weight),
        (TypeError, r"weight must be torch\.float32 for x of torch\.float32, got torch\.float16", x, weight.half()),
        (
            TypeError,
            r"weight must be torch\.float16 or torch\.float32 for x of torch\.float16",
            x.half(),
            weight.double(),
        ),
        (ValueError, r"x must be \[B, C, H, W\].*got \[3, 4, 5\]", x[0], weight),
        (ValueError, r"x must be \[B, C, H, W\].*got \[2, 0, 4, 5\]", x[:, :0], weight),
        (ValueError, r"x must be \[B, C, H, W\].*got \[2, 3, 4, 0\]", x[..., :0], weight),
        (ValueError, r"C from 1 to 32767.*got \[1, 32768, 1, 1\]", torch.zeros(1, 32768, 1, 1, device=device), weight),
        (ValueError, r"weight must be \[1, 2, 3, 3\], got \[2, 3, 3\]", x, weight[0]),
        (ValueError, r"one device, got x on .*, weight on meta", x, weight.to("meta")),
    ]


def bad_hashes(device: str) -> list[tuple[type[Exception], str, Any, Any, Any]]:
    features, weights, bias = drawn(2, 9).to(device), drawn(5, 9).to(device), drawn(5).to(device)
    return [
        (
            TypeError,
            r"features must be float16, bfloat16 or float32, got torch\.float64",
            features.double(),
            weights,
            bias,
        ),
        (TypeError, r"weights and bias must be float32, got torch\.float16 and", features, weights.half(), bias),
        (
            ValueError,
            r"features must be \[B, F\] and weights \[bits, F\], F from 1, got \[2, 8\] and",
            features[:, :8],
            weights,
            bias,
        ),
        (ValueError, r"bits must be from 1 to 4096, got 0", features, weights[:0], bias[:0]),
        (ValueError, r"bias must be \[5\] for weights \[5, 9\], got \[4\]", features, weights, bias[:4]),
        (ValueError, r"one device, got .*bias on meta", features, weights, bias.to("meta")),
    ]


def assert_all_are_refused(device: str) -> None:
    for error, message, x, weight in bad_attention(device):
        with pytest.raises(error, match=message):
            ops.spatial_attention(x, weight, 1)
    for error, message, *values in bad_hashes(device):
        with pytest.raises(error, match=message):
            ops.hash_pack(*values)


def test_what_cannot_be_is_refused() -> None:
    assert_all_are_refused("cpu")
    x, weight = drawn(2, 3, 4, 5).requires_grad_(), drawn(1, 2, 3, 3)
    with pytest.raises(RuntimeError, match="nothing was saved for gradients"):
        torch.ops.athsearch.spatial_attention(x, weight, 1.0, False)[0].sum().backward()


def test_no_images_give_nothing() -> None:
    x, weight = drawn(0, 3, 4, 5).requires_grad_(), drawn(1, 2, 3, 3).requires_grad_()
    y, attention = ops.spatial_attention(x, weight, 1)
    (y.sum() + attention.sum()).backward()
    assert y.shape == (0, 3, 4, 5)
    assert not weight.grad.any()
    assert ops.hash_pack(drawn(0, 9), drawn(70, 9), drawn(70)).shape == (0, 2)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (StandIn(0), "CUDA finds no GPU: CUDA driver version is insufficient"),
        (StandIn(1, capability="7.5"), r"GPU 0 \(stand-in\) is of compute capability 7\.5: the kernels need 8\.0"),
        (FailingStandIn(1), "the driver fails"),
    ],
)
def test_torch_computes_on_gpus_that_the_module_cannot_use(
    module: StandIn, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_cuda(module, monkeypatch)
    monkeypatch.setattr(ops, "CUDA", module)  # which has none of the operations
    first_gpu, runs_on = torch.device("cuda", 0), ops._runs_on.__wrapped__
    monkeypatch.setattr(ops, "_runs_on", functools.cache(lambda device: runs_on(first_gpu)))
    x, weight = drawn(2, 3, 4, 5), drawn(1, 2, 3, 3)
    with pytest.warns(UserWarning, match=f"torch computes without athsearch's CUDA module: {reason}"):
        found = ops._attention_cuda(x, weight, 1.0, True)
    expected = ops._attention_plain(x, weight, 1.0, True)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    gradients = ops._attention_gradients_cuda(x, None, x, weight, *found[2:], 1.0)  # warned of once
    assert torch.equal(gradients[0], ops._attention_gradients_plain(x, None, x, weight, *found[2:], 1.0)[0])
    hashed = drawn(4, 9), drawn(70, 9), drawn(70)
    assert torch.equal(ops._hash_cuda(*hashed), ops._hash_plain(*hashed))


class Emulated:
    """athsearch._cuda's operations on ordinary memory: the kernels' phases, compiled for the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = getattr(self.library, name)

        def call(**arguments: Any) -> int:
            values = [ctypes.c_double(value) if isinstance(value, float) else value for value in arguments.values()]
            return int(function(*(ctypes.c_uint64(value) if isinstance(value, int) else value for value in values)))

        return call


@pytest.fixture(scope="module")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler on the path")
    library = tmp_path_factory.mktemp("ops") / "emulated_ops.so"
    source = ROOT / "tests/csrc/emulated_ops.cpp"
    subprocess.run(["c++", "-std=c++17", "-O1", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture
def emulated(emulated_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "CUDA", Emulated(emulated_library))
    monkeypatch.setattr(ops, "_runs_on", lambda device: True)
    monkeypatch.setattr(ops, "_place", lambda x: {"stream": 0, "device": 0})


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_emulated_kernels_compute_the_formula(dtype: Any, layout: Any, offset: float) -> None:
    for shape in SHAPES:
        kernels = (ops._attention_cuda, ops._attention_gradients_cuda)
        assert_attention_is_right(*kernels, shape, dtype, layout, offset, "cpu")


@pytest.mark.usefixtures("emulated")
def test_emulated_kernels_take_any_strides() -> None:
    x, weight = drawn(2, 6, 8, 5)[:, ::2, :, ::2], drawn(1, 2, 3, 3).transpose(2, 3)
    found, expected = (of(x, weight, 1.0, True) for of in (ops._attention_cuda, ops._attention_plain))
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, torch.float32, "strides")
    grad_y = drawn(1, 1, 1, 1).expand(x.shape)
    rest = (x, weight, *expected[2:], 1.0)
    pairs = zip(
        ops._attention_gradients_cuda(grad_y, None, *rest),
        ops._attention_gradients_plain(grad_y, None, *rest),
        strict=True,
    )
    for one, other in pairs:
        assert_near(one, other, torch.float32, "strides of gradients")


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("dtype", TYPES[:3], ids=str)
def test_emulated_kernels_pack_signs(dtype: Any) -> None:
    for n_images, n_features, bits in ((1, 1, 1), (9, 100, 65), (3, 64, 4096), (130, 33, 4096)):
        assert_codes_are_right(ops._hash_cuda, n_images, n_features, bits, dtype, "cpu")


@pytest.mark.gpu
def test_the_gpu_module_takes_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = pytest.importorskip("athsearch._cuda", reason="athsearch was built without its CUDA module")
    assert ops.CUDA is cuda
    monkeypatch.setattr(ops, "_runs_on", lambda device: True)
    monkeypatch.setattr(ops, "_place", lambda x: {"stream": 0, "device": 0})
    x, weight = drawn(0, 3, 40, 50), drawn(1, 2, 3, 3)
    y, _, *saved = ops._attention_cuda(x, weight, 1.0, True)
    assert not ops._attention_gradients_cuda(y, None, x, weight, *saved, 1.0)[1].any()
    assert ops._hash_cuda(drawn(0, 9), drawn(70, 9), drawn(70)).shape == (0, 2)
    assert cuda.attention_blocks(2, 40, 50) == 2 * 3 * 2
    assert cuda.attention_blocks(10**6, 40, 50) == 4096
    with pytest.raises(ValueError, match="more tiles"):
        cuda.attention_blocks(2**40, 2**30, 2**30)
    given = ops._described(drawn(1, 3, 4, 5)) | {"offset": 1.0, "stream": 0, "device": 0}
    given |= dict.fromkeys(("x", "weight", "y", "attention", "maps", "argmax"), 0)
    for name, value, message in (
        ("dtype", 4, "dtype must be from 0 to 3, got 4"),
        ("n_channels", 32768, "n_channels must be from 1 to 32767, got 32768"),
        ("height", 0, "height must be from 1 to 2147483647, got 0"),
        ("pixel_stride", 2, r"must be \(height \* width, 1\) or \(1, n_channels\), got \(20, 2\)"),
        ("maps", 16, "saved together"),
    ):
        with pytest.raises(ValueError, match=message):
            cuda.attention_forward(**{**given, name: value})


@needs_gpu
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_gpu_computes_the_formula_of_small_images(dtype: Any, layout: Any, offset: float) -> None:
    kernels = (torch.ops.athsearch.spatial_attention, torch.ops.athsearch.spatial_attention_backward)
    for shape in SHAPES:
        assert_attention_is_right(*kernels, shape, dtype, layout, offset, "cuda")


@needs_gpu
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_gpu_computes_the_formula_of_many_images(dtype: Any, layout: Any) -> None:
    kernels = (torch.ops.athsearch.spatial_attention, torch.ops.athsearch.spatial_attention_backward)
    for shape in ((64, 16, 128, 128), (257, 128, 6, 6), (5000, 2, 1, 1)):
        assert_attention_is_right(*kernels, shape, dtype, layout, 1.0, "cuda")


@needs_gpu
@pytest.mark.filterwarnings("default")
def test_gpu_gradients_are_those_of_differences() -> None:
    gradcheck_all("cuda")


@needs_gpu
@pytest.mark.filterwarnings("default")
def test_gpu_operations_are_registered_as_torch_wants_it() -> None:
    opcheck_all("cuda")


@needs_gpu
@pytest.mark.parametrize("dtype", TYPES[:3], ids=str)
def test_gpu_packs_signs_of_small_numbers_of_images(dtype: Any) -> None:
    for n_images, n_features, bits in ((1, 1, 1), (1, 1024, 36), (70, 1024, 64), (9, 100, 4096)):
        assert_codes_are_right(ops.hash_pack, n_images, n_features, bits, dtype, "cuda")


@needs_gpu
@pytest.mark.parametrize("dtype", TYPES[:3], ids=str)
def test_gpu_packs_signs_of_many_images(dtype: Any) -> None:
    for n_images, n_features, bits in ((20_000, 1024, 65), (8191, 33, 64)):
        assert_codes_are_right(ops.hash_pack, n_images, n_features, bits, dtype, "cuda")


@needs_gpu
def test_nan_and_equal_channels_are_the_same_on_a_gpu() -> None:
    x, weight = drawn(3, 24, 19, 40).round(), drawn(1, 2, 3, 3)
    x[0, 5:7, 3, 3] = torch.nan
    for layout in LAYOUTS:
        expected = torch.ops.athsearch.spatial_attention(x, weight, 1.0, True)
        on_gpu = x.cuda().contiguous(memory_format=layout)
        found = torch.ops.athsearch.spatial_attention(on_gpu, weight.cuda(), 1.0, True)
        assert torch.equal(found[0].isnan().cpu(), expected[0].isnan())
        assert torch.equal(found[3].cpu(), expected[3])


@needs_gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("network", NETWORKS.values())
def test_a_network_on_a_gpu_is_near_its_expression(network: type[ATHNet], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    built, images = network(64, 16, 3).double().cuda().train(), drawn(4, 3, 64, 64, dtype=torch.float64).cuda()
    assert ops.has_kernels(images)
    found = {}
    for name, has in (("kernels", True), ("expression", False)):
        monkeypatch.setattr(ops, "has_kernels", lambda x, has=has: has)
        built.zero_grad()
        output = built(images)
        (output.logits.square().sum() + output.attention.sum()).backward()
        found[name] = [*output, *(parameter.grad for parameter in built.parameters() if parameter.grad is not None)]
    for one, other in zip(found["kernels"], found["expression"], strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-8)


@needs_gpu
@pytest.mark.filterwarnings("default")
def test_gpu_works_in_another_stream_and_compiled() -> None:
    network, images = ResidualATHNet(64, 16, 3).double().cuda().eval(), drawn(4, 3, 64, 64, dtype=torch.float64).cuda()
    with torch.inference_mode():
        expected = network(images).logits
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.inference_mode():
        found = network(images).logits
    torch.cuda.synchronize()
    assert torch.allclose(found, expected)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(images).logits, expected)


@needs_gpu
@pytest.mark.filterwarnings("default")
def test_gpu_trains_under_autocast() -> None:
    network, images = ResidualATHNet(64, 16, 3).cuda().eval(), drawn(4, 3, 64, 64).cuda()
    with torch.inference_mode():
        expected = network(images).logits
    with torch.autocast("cuda", dtype=torch.float16):
        output = network(images)
        output.logits.float().square().sum().backward()
    assert torch.allclose(output.logits.float(), expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))
    gradients = [attention.conv.weight.grad for attention in (network.first_attention, network.third_attention)]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)


@needs_gpu
def test_a_gpu_is_of_use_after_bad_input() -> None:
    assert_all_are_refused("cuda")
    x, weight = drawn(2, 3, 4, 5).cuda(), drawn(1, 2, 3, 3).cuda()
    with pytest.raises(ValueError, match="one device, got x on cuda:0, weight on cpu"):
        ops.spatial_attention(x, weight.cpu(), 1)
    with pytest.raises(ValueError, match="one device, got x on cpu, weight on cuda:0"):
        ops.spatial_attention(x.cpu(), weight, 1)
    with pytest.raises(ValueError, match="one device"):
        torch.ops.athsearch.spatial_attention(x, weight.cpu(), 1.0, False)
    strided = drawn(2, 6, 8, 5).cuda()[:, ::2, ::2]  # copied
    found, expected = ops.spatial_attention(strided, weight, 1), ops.spatial_attention(strided.cpu(), weight.cpu(), 1)
    assert_near(found[0], expected[0], torch.float32, "strides")
    torch.cuda.synchronize()


@needs_gpu
def test_gpu_reaches_past_2_to_the_31_values() -> None:
    free = torch.cuda.mem_get_info()[0]
    if free < 16 << 30:
        pytest.skip(f"needs 16 GiB of free GPU memory, there are {free / 2**30:.0f}")
    weight = drawn(1, 2, 3, 3).cuda()
    for layout in LAYOUTS:
        x = torch.empty(260, 128, 256, 256, dtype=torch.float16, device="cuda", memory_format=layout)
        x.normal_()
        y, attention = ops.spatial_attention(x, weight, 1)
        last = ops.spatial_attention(x[-1:], weight, 1)
        assert torch.equal(y[-1:], last[0])
        assert torch.equal(attention[-1:], last[1])
        del x, y
