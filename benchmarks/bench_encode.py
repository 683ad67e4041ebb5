"""How fast do images become codes on the CPU, beside PyTorch's ways to run the same network?

    python benchmarks/bench_encode.py [--seconds 3]

Contenders take turns on the same batch of 32 images, which are in memory and preprocessed: eager PyTorch with images
channels first and channels last, the same with BatchNorm folded into the convolutions, torch.compile where there is a
compiler for it, ONNX Runtime and OpenVINO where they are installed, and our C++ network on every CPU level.
Writes results/encode.json.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from athsearch import _network
from athsearch.model.checkpoint import ModelDescription, tensors_of
from athsearch.model.inference import build
from athsearch.model.network import NETWORKS
from athsearch.preprocessing import Preprocessing

RESULTS = Path(__file__).parent / "results" / "encode.json"
CASES = (("ath-s", 256, 36), ("ath-m", 96, 32), ("ath-l", 96, 32))  # network, size, bits
BATCH = 32
Run = Callable[[], Any]


class Logits(nn.Module):
    """The part of a network that makes codes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, 3, size, size]. Returns [B, bits]."""
        logits: torch.Tensor = self.network(x).logits
        return logits


def main() -> None:
    """Measures every case on one and on two threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each contender")
    seconds = parser.parse_args().seconds
    results = []
    for name, size, bits in CASES:
        for threads in (1, 2):
            rates = measure(name, size, bits, threads, seconds)
            results.append({"network": name, "size": size, "threads": threads, "images_per_s": rates})
            print(name, size, "threads", threads, {way: round(rate) for way, rate in rates.items()}, flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": describe_machine(), "results": results}, indent=1) + "\n")


def measure(name: str, size: int, bits: int, threads: int, seconds: float) -> dict[str, float]:
    """Images a second by contender: medians of batches, all taking turns."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = NETWORKS[name](size, bits, 5).eval()
    description = ModelDescription(name, bits, tuple("abcde"), Preprocessing(size=size))
    squares = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), np.uint8)
    contenders = dict(torch_ways(network, torch.from_numpy(description.preprocessing.normalise(squares)), threads))
    for level in _network.level_names():
        ours = build(description, tensors_of(network), level)
        contenders[f"athsearch {level}"] = lambda ours=ours: ours.run(squares, threads)
    times: dict[str, list[float]] = {way: [] for way in contenders}
    with torch.inference_mode():
        for run in contenders.values():
            run()
        begin = time.perf_counter()
        while time.perf_counter() < begin + seconds * len(contenders) or len(times["eager"]) < 5:
            for way, run in contenders.items():
                start = time.perf_counter()
                run()
                times[way].append(time.perf_counter() - start)
    return {way: BATCH / statistics.median(taken) for way, taken in times.items()}


def torch_ways(network: nn.Module, batch: torch.Tensor, threads: int) -> Iterator[tuple[str, Run]]:
    """Ways to run a torch network on a batch, as far as this machine has them."""
    logits = Logits(network)
    last = batch.contiguous(memory_format=torch.channels_last)
    yield "eager", lambda: logits(batch)
    lying = Logits(copy.deepcopy(network).to(memory_format=torch.channels_last))
    yield "channels last", lambda: lying(last)
    folded = Logits(fold(copy.deepcopy(network)).to(memory_format=torch.channels_last))
    yield "channels last, folded", lambda: folded(last)
    try:
        compiled = torch.compile(Logits(copy.deepcopy(network)))
        with torch.inference_mode():
            compiled(last)
    except Exception as error:  # whatever it is, this way is not to be had here: said, and left out
        print(f"torch.compile: {type(error).__name__}: {str(error).splitlines()[0]}")
    else:
        yield "torch.compile", lambda: compiled(last)
    yield from onnx_ways(logits, batch, threads)


def onnx_ways(logits: nn.Module, batch: torch.Tensor, threads: int) -> Iterator[tuple[str, Run]]:
    """ONNX Runtime and OpenVINO."""
    try:
        import onnx  # noqa: F401 (torch's exporter needs it)
        import onnxruntime
    except ModuleNotFoundError as error:
        print(f"not installed: {error.name}")
        return
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(logits, (batch,), file, dynamo=False, input_names=["x"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    array = batch.numpy()
    yield "ONNX Runtime", lambda: session.run(None, {"x": array})
    try:
        import openvino
    except ModuleNotFoundError:
        print("not installed: openvino")
        return
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(io.BytesIO(file.getvalue())), "CPU", settings)
    yield "OpenVINO", lambda: model(array)


def fold(network: nn.Module) -> nn.Module:
    """The network with each BatchNorm that follows a convolution, by name, folded into it."""
    for module in list(network.modules()):
        for name, part in list(module.named_children()):
            norm = getattr(module, f"{name}_norm", None)
            if isinstance(part, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(part, norm))
                setattr(module, f"{name}_norm", nn.Identity())
    return network


if __name__ == "__main__":
    main()
