"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from athsearch import _scan


@pytest.fixture(params=_scan.kernel_names())
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each kernel this machine can run, forced for the test."""
    monkeypatch.setenv("ATHSEARCH_KERNEL", request.param)
    assert _scan.selected_kernel() == request.param
    return str(request.param)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real image sets; the test is skipped without it."""
    folder = os.environ.get("ATHSEARCH_DATA")
    if not folder:
        pytest.skip("ATHSEARCH_DATA does not name a folder of real image sets")
    return Path(folder)
