"""What a result was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = ("athsearch", "numpy", "torch", "pillow", "faiss-cpu", "usearch", "onnxruntime", "openvino")


def describe_machine() -> dict[str, object]:
    """Processor, number of processors, system, compiler, commit and versions of those packages that are there."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True)
    compiler = subprocess.run(["c++", "--version"], check=False, capture_output=True, text=True)
    installed = {name: _version(name) for name in PACKAGES}
    return {
        "cpu": cpu_name(),
        "processors": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "compiler": compiler.stdout.splitlines()[0] if compiler.stdout else "",
        "commit": commit.stdout.strip(),
        "packages": {name: version for name, version in installed.items() if version},
    }


def cpu_name() -> str:
    """The processor's name as Linux has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
