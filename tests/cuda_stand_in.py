"""A stand-in for the CUDA module, for machines without it. Needs pytest alone."""

from __future__ import annotations

import sys

import pytest

import athsearch


def install_cuda(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts it in the CUDA module's place; None: the module was not built."""
    monkeypatch.setitem(sys.modules, "athsearch._cuda", module)  # type: ignore[arg-type]
    monkeypatch.setattr(athsearch, "_cuda", module, raising=False)
