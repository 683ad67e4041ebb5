"""What a result was measured on, and where it goes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

from athsearch.files import replacing
from athsearch.gpus import find_gpus

PACKAGES = ("athsearch", "numpy", "torch", "pillow", "faiss-cpu", "usearch", "onnxruntime", "openvino")


def describe_machine() -> dict[str, object]:
    """Processor, number of processors, system, and those of compiler, commit and packages that are there."""
    installed = {name: _version(name) for name in PACKAGES}
    return {
        "cpu": cpu_name(),
        "processors": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "compiler": _first_line("c++", "--version"),
        "commit": _first_line("git", "rev-parse", "--short", "HEAD"),
        "packages": {name: version for name, version in installed.items() if version},
    }


def describe_gpu_machine() -> dict[str, object]:
    """The same, the GPUs, and the CUDA of the driver and of athsearch's module."""
    gpus = find_gpus()
    return {**describe_machine(), "gpus": gpus.devices, "cuda_driver": gpus.driver, "cuda_runtime": gpus.runtime}


def write_results(path: Path, content: object) -> None:
    """As JSON, whole or not at all, so that it can be done after every case."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def cpu_name() -> str:
    """The processor's name as Linux has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _first_line(*command: str) -> str:
    try:
        lines = subprocess.run(command, check=False, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:
        return ""
    return lines[0] if lines else ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
