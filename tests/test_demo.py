"""The demonstration with images of one's own: none is lost without a word, and every hit is seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from athsearch import explanation
from conftest import Run, draw_image
from dicom_files import dicom


def test_a_demo_names_what_it_could_not_use_and_shows_every_hit(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, shown = tmp_path / "images", []
    for seed in range(48):
        path = images / ("train", "test")[seed // 24] / "ab"[seed % 2] / f"Meier{seed}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom(draw_image(seed)[..., 0].copy(), PatientID=path.stem, BurnedInAnnotation="NO"))
    broken = ("train/b/Meier5.dcm", "test/a/Meier24.dcm", "test/b/Meier47.dcm")
    for name in broken:
        (images / name).write_bytes((images / name).read_bytes()[:-100])

    def sheet(query: explanation.Tile, hits: Sequence[explanation.Tile], title: str) -> Image.Image:
        shown.append([query, *hits])
        return Image.new("RGB", (9, 9))

    monkeypatch.setattr(explanation, "contact_sheet", sheet)
    done = run("demo", "--data", images, "--out", tmp_path / "out", "--epochs", 1, "--json")
    assert done.status == 0, done.err
    found = done.json()
    assert isinstance(found, dict)
    assert len(found["failed"]) == len(broken)
    assert found["evaluation"]["n_queries"] == 22
    assert [len(tiles) for tiles in shown] == [6, 6]
    assert all(tile.image is not None for tiles in shown for tile in tiles)
    assert not any("Meier" in line for tiles in shown for tile in tiles for line in tile.lines)
    assert Path(found["report"]).stat().st_size > 1000
    again = run("demo", "--data", images, "--out", tmp_path / "out", "--epochs", 1)
    assert again.err.count("cannot use") == len(broken)
