"""How fast a GPU turns images into logits and codes, beside PyTorch's ways to run the same network on the same GPU.

    python benchmarks/bench_gpu_encode.py [--seconds 0.3] [--mode max-autotune]

Needs a GPU with 8 GB of free memory, athsearch with its CUDA module, and torch. Contenders take turns on the same batch
of squares (uint8): ours from the GPU's memory, in 32 and in 16-bit floats, and from main memory, with codes packed;
eager PyTorch in 32-bit floats (TF32 where its defaults say so), the same with images channels last, and, in the first
case alone, for it takes its time, torch.compile in 16-bit floats, each from squares in the GPU's memory to logits.
Images a second from medians of CUDA events; ours from main memory by the clock. Our logits are compared with those of
the CPU's network first: where they are too far off, a case has no figures, and the script fails in the end. The results
are written after every case, to results/gpu-encode.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_gpu_machine, write_results
from numpy.typing import NDArray
from torch import nn

from athsearch import _cuda
from athsearch.model import ops
from athsearch.model.checkpoint import ModelDescription, tensors_of
from athsearch.model.inference import build, build_with
from athsearch.model.network import NETWORKS
from athsearch.preprocessing import Preprocessing

RESULTS = Path(__file__).parent / "results" / "gpu-encode.json"
CASES = (("ath-s", 256, 36), ("ath-m", 96, 32), ("ath-l", 96, 32), ("ath-l", 256, 64))  # network, size, bits
BATCHES = (1024, 64, 1)
COMPARED = 8  # images
TOLERANCES = {"float32": 1e-4, "float16": 5e-3}  # root mean square of what logits are off, in that of the logits
Run = Callable[[], Any]


class FromSquares(nn.Module):
    """The part of a network that makes codes, behind the normalising of squares that are on the GPU."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, dtype: torch.dtype, is_last: bool) -> None:
        super().__init__()
        layout = torch.channels_last if is_last else torch.contiguous_format
        self.network = copy.deepcopy(network).to("cuda", dtype, memory_format=layout)
        self.layout, self.dtype = layout, dtype
        self.mean = torch.tensor(preprocessing.mean, device="cuda").view(1, 3, 1, 1)
        self.std = torch.tensor(preprocessing.std, device="cuda").view(1, 3, 1, 1)

    def forward(self, squares: torch.Tensor) -> torch.Tensor:
        """squares: uint8 [B, size, size, 3]. Returns [B, bits]."""
        images = (squares.permute(0, 3, 1, 2).float() - self.mean) / self.std
        logits: torch.Tensor = self.network(images.to(self.dtype).contiguous(memory_format=self.layout)).logits
        return logits


def main() -> None:
    """Measures every case and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each contender")
    parser.add_argument("--mode", default="reduce-overhead", help="torch.compile's; max-autotune takes minutes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    ops.CUDA = None  # torch's ways are torch's alone: its networks would take our attention where they find it
    machine, mode = describe_gpu_machine(), arguments.mode
    results: list[dict[str, Any]] = []
    case: dict[str, Any]
    for name, size, bits in CASES:
        torch.manual_seed(0)
        network = NETWORKS[name](size, bits, 5).eval()
        description = ModelDescription(name, bits, tuple("abcde"), Preprocessing(size=size))
        tensors = tensors_of(network)
        ours = build_with(partial(_cuda.Network, device=0), description, tensors)
        ours16 = build_with(partial(_cuda.Network, device=0, precision="float16"), description, tensors)
        launches = {"float32": ours.n_launches(), "float16": ours16.n_launches()}
        for batch in BATCHES:
            squares = np.random.default_rng(batch).integers(0, 256, (batch, size, size, 3), np.uint8)
            case = {"network": name, "size": size, "bits": bits, "batch": batch, "launches": launches}
            case["logits_off"] = {one.precision(): off(description, tensors, one, squares) for one in (ours, ours16)}
            if all(case["logits_off"][precision] < limit for precision, limit in TOLERANCES.items()):
                way = None if results else mode
                case["images_per_s"] = measure(network, description, ours, ours16, squares, arguments.seconds, way)
            results.append(case)
            print(json.dumps(results[-1]), flush=True)
            write_results(arguments.out, {"machine": machine, "compile_mode": mode, "results": results})
            torch.cuda.empty_cache()
    if wrong := [case for case in results if "images_per_s" not in case]:
        raise SystemExit(f"{len(wrong)} of {len(results)} cases are wrong: their logits are too far off")


def measure(
    network: nn.Module,
    description: ModelDescription,
    ours: _cuda.Network,
    ours16: _cuda.Network,
    squares: NDArray[np.uint8],
    seconds: float,
    mode: str | None,
) -> dict[str, float]:
    """Images a second by contender: medians, all taking turns. mode: torch.compile's; None: it takes no part."""
    batch, bits = len(squares), description.bits
    there = torch.from_numpy(squares).cuda()
    logits = torch.empty((batch, bits), device="cuda")
    words = torch.empty((batch, (bits + 63) // 64), dtype=torch.int64, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    addresses = (there.data_ptr(), batch, logits.data_ptr(), words.data_ptr(), stream)
    contenders: dict[str, Run] = {
        "athsearch, from the GPU's memory": lambda: ours.encode_on_gpu(*addresses),
        "athsearch, 16 bits, from the GPU's memory": lambda: ours16.encode_on_gpu(*addresses),
    }
    contenders |= dict(torch_ways(network, description.preprocessing, there, mode))
    main_memory = "athsearch, from main memory"
    times: dict[str, list[float]] = {way: [] for way in [*contenders, main_memory]}
    with torch.inference_mode():
        for run in [*contenders.values(), lambda: ours.encode(squares)]:
            run()
        torch.cuda.synchronize()
        end = time.perf_counter() + seconds * len(times)
        while time.perf_counter() < end or len(times[main_memory]) < 5:
            for way, run in contenders.items():
                times[way].append(seconds_of_events(run))
            begin = time.perf_counter()
            ours.encode(squares)
            times[main_memory].append(time.perf_counter() - begin)
    return {way: batch / statistics.median(taken) for way, taken in times.items()}


def seconds_of_events(run: Run) -> float:
    """Seconds between two events on torch's stream. Ours runs on its own and returns when it is done."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def off(
    description: ModelDescription, tensors: dict[str, Any], ours: _cuda.Network, squares: NDArray[np.uint8]
) -> float:
    """How far our logits of the first COMPARED squares are off those of the CPU, see TOLERANCES."""
    expected = build(description, tensors).run(squares[:COMPARED], 8)
    return float(np.sqrt(np.mean((ours.run(squares[:COMPARED]) - expected) ** 2) / np.mean(expected**2)))


def torch_ways(
    network: nn.Module, preprocessing: Preprocessing, squares: torch.Tensor, mode: str | None
) -> Iterator[tuple[str, Run]]:
    """Ways to run a torch network on squares, as far as this machine has them. mode: as for `measure`."""
    eager = FromSquares(network, preprocessing, torch.float32, False)
    yield "eager, 32 bits", lambda: eager(squares)
    last = FromSquares(network, preprocessing, torch.float32, True)
    yield "eager, 32 bits, channels last", lambda: last(squares)
    if mode is None:
        return
    try:
        compiled = torch.compile(FromSquares(network, preprocessing, torch.float16, True), mode=mode, fullgraph=True)
        with torch.inference_mode():
            compiled(squares)
    except Exception as error:  # whatever it is, this way is not to be had here: said, and left out
        print(f"torch.compile: {type(error).__name__}: {str(error).splitlines()[0]}")
    else:
        yield "torch.compile, 16 bits", lambda: compiled(squares)


if __name__ == "__main__":
    main()
