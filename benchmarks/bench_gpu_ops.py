"""How fast the GPU's operations of networks are, beside torch on the same GPU, eager and compiled.

Needs a GPU with 8 GB of free memory, athsearch with its CUDA module, and torch. Times are of one call, from and to the
GPU's memory, by CUDA events: medians. Inputs take turns, so that no call finds its own in the caches. The share of the
bandwidth is that of what copying on the GPU reads and writes, measured in the same run; the least bytes are those of x
and y (forward), and of grad_y, x and grad_x too (training: forward and backward). torch.compile, which takes its time,
has one case an operation and type, and these come first. The results are written after every case, to
results/gpu-ops.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import describe_gpu_machine, write_results
from torch.nn import functional

from athsearch.model import ops

RESULT = Path(__file__).parent / "results" / "gpu-ops.json"
ATTENTION_CASES = (  # shape, channels last, offset: the networks' stages; the first also compiled
    ((256, 16, 128, 128), False, 0.0),  # ath-s at 256 px
    ((256, 32, 56, 56), True, 1.0),  # ath-m at 224 px
    ((256, 64, 28, 28), True, 1.0),
    ((256, 128, 14, 14), True, 1.0),
    ((1, 16, 128, 128), False, 0.0),
)
DTYPES = (torch.float16, torch.float32)
HASH_CASES = ((65536, 1024, 64), (1, 1024, 64), (256, 1024, 64), (65536, 256, 48))  # images, features, bits; likewise
ROTATED_BYTES = 256 << 20
CALLS = 10  # between two events
RUNS = 25


def seconds_of(run: Callable[[], Any]) -> float:
    """Median of the seconds of a call, after some that are not counted."""
    for _ in range(CALLS):
        run()
    taken = []
    for _ in range(RUNS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(CALLS):
            run()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3 / CALLS)
    return statistics.median(taken)


def copy_bandwidth() -> float:
    """Bytes read and written a second by a copy of 2 GiB on the GPU."""
    data = torch.randint(-(2**62), 2**62, (1 << 28,), dtype=torch.int64, device="cuda")
    other = torch.empty_like(data)
    return 2 * data.nbytes / seconds_of(lambda: other.copy_(data))


def eager_attention(x: torch.Tensor, weight: torch.Tensor, offset: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The networks' expression."""
    statistics_of = torch.cat([x.mean(dim=1, keepdim=True), x.max(dim=1, keepdim=True).values], dim=1)
    attention = torch.sigmoid(functional.conv2d(statistics_of, weight.to(x.dtype), padding=1))
    return x * (attention if offset == 0 else offset + attention), attention


def eager_hash(features: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Linear layer, signs, packing; bits a multiple of 64 or fewer than 64."""
    bits = functional.linear(features.float(), weights, bias) > 0
    places = torch.arange(min(bits.shape[1], 64), device=bits.device)
    return (bits.view(len(bits), -1, len(places)).long() << places).sum(dim=2)


def compiled(run: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled anew, whole, or an error: what is compiled for many shapes would at last run as it is, in silence."""
    torch.compiler.reset()
    return torch.compile(run, dynamic=False, fullgraph=True)


@contextmanager
def what_torch_compiles(name: str) -> Iterator[None]:
    """Where the contender is the compiled one and fails, for whatever reason, that is said and it is left out."""
    try:
        yield
    except Exception as error:
        if name != "compiled":
            raise
        print(f"torch.compile: {type(error).__name__}: {str(error).splitlines()[0]}")


def in_turn(make: Callable[[], Any], n_bytes: int) -> Callable[[], Any]:
    """The next of as many inputs as together are beyond the caches, or of 500."""
    return itertools.cycle([make() for _ in range(min(max(2, ROTATED_BYTES // n_bytes), 500))]).__next__


def measure_attention(
    case: tuple[tuple[int, ...], bool, float], dtype: torch.dtype, bandwidth: float
) -> dict[str, Any]:
    """One of ATTENTION_CASES: seconds of each contender. Exits where ours is far from the expression."""
    shape, is_last, offset = case
    layout = torch.channels_last if is_last else torch.contiguous_format
    weight = torch.randn(1, 2, 3, 3, device="cuda").requires_grad_()

    def make() -> tuple[torch.Tensor, torch.Tensor]:
        x, grad = (torch.randn(shape, dtype=dtype, device="cuda").contiguous(memory_format=layout) for _ in range(2))
        return x.requires_grad_(), grad

    x, _ = make()
    unit = x.nbytes
    following = in_turn(make, 2 * unit)
    contenders = {"athsearch": ops.spatial_attention, "eager": eager_attention}
    if case == ATTENTION_CASES[0]:
        contenders["compiled"] = compiled(eager_attention)
    with torch.no_grad():
        exact = eager_attention(x.double(), weight.double(), offset)[0]
        if not torch.allclose(ops.spatial_attention(x, weight, offset)[0].double(), exact, rtol=2e-3, atol=1e-3):
            raise SystemExit(f"{list(shape)} {dtype}: the operation is not the expression")
    del exact
    seconds: dict[str, dict[str, float]] = {"forward": {}, "training": {}}
    for name, attend in contenders.items():

        def forward(attend: Callable[..., Any] = attend) -> None:
            with torch.no_grad():
                attend(following()[0], weight, offset)

        def training(attend: Callable[..., Any] = attend) -> None:
            x, grad = following()
            torch.autograd.grad(attend(x, weight, offset)[0], (x, weight), grad)

        with what_torch_compiles(name):
            seconds["forward"][name], seconds["training"][name] = seconds_of(forward), seconds_of(training)
    least = {"forward": 2 * unit, "training": 5 * unit}
    return {
        **{"operation": "spatial_attention", "shape": shape, "channels_last": is_last, "dtype": str(dtype)[6:]},
        "seconds": seconds,
        "share_of_copy_bandwidth": {
            of: {name: least[of] / each / bandwidth for name, each in found.items()} for of, found in seconds.items()
        },
        **{
            f"times_{rival}": {of: found[rival] / found["athsearch"] for of, found in seconds.items()}
            for rival in list(seconds["forward"])[1:]
        },
    }


def measure_hash(case: tuple[int, int, int], dtype: torch.dtype, bandwidth: float) -> dict[str, Any]:
    """One of HASH_CASES: seconds of each contender, and how many bits differ from those of logits in double."""
    n_images, n_features, n_bits = case
    weights = torch.randn(n_bits, n_features, device="cuda")
    bias = torch.randn(n_bits, device="cuda")

    def make() -> torch.Tensor:
        return torch.randn(n_images, n_features, dtype=dtype, device="cuda")

    features = make()
    following = in_turn(make, features.nbytes)
    exact = functional.linear(features.double(), weights.double(), bias.double())
    places = torch.arange(n_bits, device="cuda")
    found = ops.hash_pack(features, weights, bias)[:, places // 64] >> (places % 64) & 1
    differ = found.bool() != (exact > 0)
    if bool((differ & (exact.abs() > 1e-4 * n_features**0.5)).any()):
        raise SystemExit(f"{n_images} images, {n_bits} bits, {dtype}: bits differ whose logits are not near zero")
    contenders = {"athsearch": ops.hash_pack, "eager": eager_hash}
    if case == HASH_CASES[0]:
        contenders["compiled"] = compiled(eager_hash)
    seconds: dict[str, float] = {}
    for name, pack in contenders.items():
        with what_torch_compiles(name), torch.no_grad():
            seconds[name] = seconds_of(lambda pack=pack: pack(following(), weights, bias))  # type: ignore[misc]
    ours = seconds["athsearch"]
    return {
        **{"operation": "hash_pack", "n_images": n_images, "n_features": n_features, "bits": n_bits},
        **{"dtype": str(dtype)[6:], "n_bits_that_differ_from_double": int(differ.sum()), "seconds": seconds},
        "share_of_copy_bandwidth": features.nbytes / ours / bandwidth,
        "multiply_adds_per_s": n_images * n_features * n_bits / ours,
        **{f"times_{rival}": seconds[rival] / ours for rival in list(seconds)[1:]},
    }


def main() -> None:
    """Measures every case and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if ops.CUDA is None:
        raise SystemExit("athsearch was built without its CUDA module: build it with ATH_CUDA=ON pip install .")
    torch.manual_seed(0)
    machine, bandwidth = describe_gpu_machine(), copy_bandwidth()
    results: list[dict[str, Any]] = []
    for which in (slice(0, 1), slice(1, None)):
        for dtype in DTYPES:
            runs = [partial(measure_attention, case) for case in ATTENTION_CASES[which]]
            runs += [partial(measure_hash, case) for case in HASH_CASES[which]]
            for run in runs:
                results.append(run(dtype, bandwidth))
                print(json.dumps(results[-1]), flush=True)
                write_results(arguments.out, {"machine": machine, "copy_bytes_per_s": bandwidth, "results": results})
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
