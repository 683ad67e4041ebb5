"""The README's examples do what they say."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from PIL import Image

from conftest import draw_image
from dicom_files import dicom

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images/split/class/file, new.png, codes.npy and pacs/, and it is the current one."""
    for number in range(40):
        split, label = ("test" if number % 10 > 7 else "train"), "ab"[number % 2]
        (tmp_path / "images" / split / label).mkdir(parents=True, exist_ok=True)
        image = draw_image(number)
        image = image // 2 if label == "a" else 255 - image // 2
        Image.fromarray(image).save(tmp_path / "images" / split / label / f"{number}.png")
    Image.fromarray(draw_image(99)).save(tmp_path / "new.png")
    (tmp_path / "pacs").mkdir()
    (tmp_path / "pacs" / "IM_0001").write_bytes(dicom(np.ascontiguousarray(draw_image(98)[..., 0])))
    np.save(tmp_path / "codes.npy", np.arange(100, dtype=np.uint64)[:, None])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_example_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {"packed": np.arange(800, dtype=np.uint8).reshape(100, 8)})
    first, *hits = capsys.readouterr().out.splitlines()
    assert first == "40"
    assert len(hits) == 5
    assert (folder / "archive" / "catalogue.sqlite").exists()


def test_the_commands_run(folder: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("athsearch ")]
    others = ("index", "query", "info", "export", "verify", "repair", "delete", "compact", "audit")
    generic = [line for line in lines if "images/" in line or line.split()[1] in others]
    assert len(generic) >= 16
    for line in generic:
        words = shlex.split(line, comments=True)
        subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    assert (folder / "hits.png").exists()


def test_the_recipes_figures_are_those_of_the_results() -> None:
    results = json.loads((Path(__file__).parent.parent / "benchmarks/results/recipes.json").read_text())

    def plain(value: float) -> str:
        return f"{value:.3f}".lstrip("0")

    for name in ("fundus_eye4", "rbc12", "pneumoniamnist"):
        lines = [line for line in results if line["recipe"] == "default" and line["set"] == name]
        found = sorted(line["macro"]["precision"] for line in lines)
        assert sorted(line["seed"] for line in lines) == [0, 1, 2, 3, 4]
        (row,) = (line for line in README.splitlines() if line.startswith("| ") and name in line)
        assert row.endswith(f"| {plain(mean(found))} ({plain(found[0])} to {plain(found[-1])}), five seeds |")
