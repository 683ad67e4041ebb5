"""What GPUs there are, and the module that computes on them, athsearch._cuda, which is built on request."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from .errors import CudaError

if TYPE_CHECKING:
    from . import _cuda

LEAST_CAPABILITY = (8, 0)  # earlier GPUs lack instructions of the kernels


@dataclass(frozen=True)
class Gpus:
    """What CUDA sees. reason: why there is none, or None.

    driver, runtime: the newest CUDA that the driver knows and that the module was built with, as in "13.0"; None
    without one.
    """

    devices: tuple[_cuda.DeviceFacts, ...]
    reason: str | None
    driver: str | None = None
    runtime: str | None = None

    def why_not(self, number: int) -> str | None:
        """Why the module cannot compute on the GPU of that number, or None where it can."""
        if self.reason is not None:
            return self.reason
        if not 0 <= number < len(self.devices):
            return f"CUDA sees {len(self.devices)} GPUs: there is no GPU {number}"
        facts = self.devices[number]
        if tuple(map(int, facts["compute_capability"].split("."))) < LEAST_CAPABILITY:
            return (
                f"GPU {number} ({facts['name']}) is of compute capability {facts['compute_capability']}: "
                f"the kernels need {'.'.join(map(str, LEAST_CAPABILITY))}"
            )
        return None


def find_gpus() -> Gpus:
    """The GPUs there are, or why there are none. Raises CudaError where the module or the driver fails.

    None of them is made use of for that: it takes no memory of theirs.
    """
    try:
        module = cuda_module()
    except ImportError as error:
        raise CudaError(f"athsearch's CUDA module cannot be loaded: {error}") from error
    if module is None:
        return Gpus(
            (), "athsearch was built without its CUDA module: build it with ATH_CUDA=ON pip install . (docs/cuda.md)"
        )
    found, why_none = module.devices()
    driver, runtime = map(_version, module.versions())
    return Gpus(tuple(found), f"CUDA finds no GPU: {why_none}" if why_none else None, driver, runtime)


def free_bytes(number: int) -> int | None:
    """Free memory of a GPU, or None where it does not tell, as one that another process has for itself.

    To be told, this process makes use of the GPU, which takes some of its memory as long as the process runs.
    """
    module = cuda_module()
    try:
        return None if module is None else int(module.free_bytes(number))
    except CudaError:
        return None


def cuda_module() -> ModuleType | None:
    """athsearch._cuda, or None where it was not built. Raises ImportError where it was and cannot be loaded."""
    try:
        return import_module("athsearch._cuda")
    except ModuleNotFoundError as error:
        if error.name != "athsearch._cuda":
            raise
        return None


def _version(number: int) -> str | None:
    return f"{number // 1000}.{number % 1000 // 10}" if number else None
