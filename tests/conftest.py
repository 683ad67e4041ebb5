"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from athsearch import _scan, cli
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


Run = Callable[..., "Outcome"]


class Outcome:
    """What a command left behind."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    def json(self) -> object:
        return json.loads(self.out)

    def error(self) -> str:
        """The one line that says what is wrong; progress lines aside."""
        lines = [line for line in self.err.splitlines() if line and not re.match(r"\w[\w ]*: [\d,]+ of ", line)]
        assert len(lines) == 1, self.err
        assert "Traceback" not in lines[0]
        return lines[0]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["athsearch", *map(str, arguments)])
        capsys.readouterr()
        status = cli._run()
        return Outcome(status, *capsys.readouterr())

    return run


def run_apart(*arguments: object, file_bytes: int | None = None, **options: object) -> Outcome:
    """Runs a command in a process of its own, which can write files of file_bytes at most."""

    def limit() -> None:
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    done = subprocess.run(
        [sys.executable, "-m", "athsearch", *map(str, arguments)],
        check=False, capture_output=True, text=True, preexec_fn=limit, **options,  # type: ignore[call-overload]
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr)


INTERRUPTED = """
import os, signal, sys
from athsearch.cli import main

told, sign = sys.argv.pop(1), int(sys.argv.pop(1))
write = sys.stderr.write

def write_and_press(text):
    if told in text:
        sys.stderr.write = write
        signal.setitimer(signal.ITIMER_REAL, 0.005)
    return write(text)

signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), sign))
sys.stderr.write = write_and_press
main()
"""


def interrupt_when(told: str, *arguments: object, sign: signal.Signals = signal.SIGINT) -> Outcome:
    """Runs a command that gets Ctrl-C, or worse, 5 ms after it writes `told` on standard error.

    It presses itself: another process may be late by more than the work takes.
    """
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, told, str(int(sign)), *map(str, arguments)],
        check=False, capture_output=True, text=True, preexec_fn=hear_ctrl_c,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr)
