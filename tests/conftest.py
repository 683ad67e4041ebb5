"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from athsearch import _scan
from athsearch.data import Source, open_source
from athsearch.encoder import Encoder
from athsearch.model.checkpoint import ModelDescription, tensors_of
from athsearch.model.network import NETWORKS
from athsearch.preprocessing import Preprocessing


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


@pytest.fixture
def one_openmp_thread() -> Iterator[None]:
    """FAISS on one thread: where processes share few processors, threads that spin for each other take long."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    assert faiss.omp_get_max_threads() == 1
    faiss.omp_set_num_threads(before)


def hear_ctrl_c() -> None:
    """For preexec_fn: a process started from a shell's background would ignore SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def draw_image(seed: int, size: int = 40) -> NDArray[np.uint8]:
    """A smooth coloured pattern, uint8 [size, size, 3], another for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC))


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """An untrained network whose BatchNorm has seen images, so that its codes differ from image to image."""
    preprocessing = Preprocessing(size=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = NETWORKS["ath-m"](64, 36, 2)
    squares = np.stack([preprocessing.square(draw_image(seed)) for seed in range(64)])
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.momentum = None  # running statistics are those of all batches seen, here of one
    with torch.no_grad():
        network.train()(torch.from_numpy(preprocessing.normalise(squares)))
    return Encoder(tensors_of(network), ModelDescription("ath-m", 36, ("a", "b"), preprocessing), device="cpu")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Twelve images of two classes and six patients, with further columns, in the folder `images`."""
    folder = tmp_path / "images"
    folder.mkdir()
    rows = ["path,label,patient,age,eye"]
    for number in range(12):
        Image.fromarray(draw_image(number)).save(folder / f"{number:02d}.png")
        rows.append(
            f"{number:02d}.png,{'ab'[number % 2]},Meier{number // 2},{40 + number},{'left' if number % 2 else ''}"
        )
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return open_source(folder / "manifest.csv")
