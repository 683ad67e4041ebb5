"""What GPUs there are, and the module that computes on them, athsearch._cuda, which is built on request."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from .errors import CudaError

if TYPE_CHECKING:
    from . import _cuda


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


def find_gpus() -> Gpus:
    """The GPUs that can be used, or why there are none. Raises CudaError where the module or the driver fails."""
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
