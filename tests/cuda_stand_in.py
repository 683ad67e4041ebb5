"""A stand-in for the CUDA module, for machines without it. Needs pytest alone."""

from __future__ import annotations

import sys

import pytest

import athsearch
from athsearch.errors import CudaError


class StandIn:
    """The CUDA module where it was built and CUDA sees so many GPUs, none of which tells of its free memory."""

    def __init__(self, n_devices: int, capability: str = "9.0") -> None:
        facts = {"name": "stand-in", "compute_capability": capability, "multiprocessors": 132}
        self.facts = [{**facts, "memory_bytes": 80 * 10**9}] * n_devices

    def devices(self) -> object:
        return self.facts, "" if self.facts else "CUDA driver version is insufficient for CUDA runtime version"

    def free_bytes(self, device: int) -> int:
        raise CudaError("all CUDA-capable devices are busy or unavailable")

    def versions(self) -> tuple[int, int]:
        return (13_000 if self.facts else 0), 13_020


class FailingStandIn(StandIn):
    def devices(self) -> object:
        raise CudaError("the driver fails")


def install_cuda(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts it in the CUDA module's place; None: the module was not built."""
    monkeypatch.setitem(sys.modules, "athsearch._cuda", module)  # type: ignore[arg-type]
    monkeypatch.setattr(athsearch, "_cuda", module, raising=False)
