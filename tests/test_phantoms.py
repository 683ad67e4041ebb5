"""Phantoms are reproducible, skewed like the paper's set, split by patient, and marked where they are ill."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from athsearch.demo.phantoms import FREQUENCIES, Look, draw, write_phantoms


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), n_images=260, seed=3, size=64)


@pytest.mark.parametrize("label", FREQUENCIES)
@pytest.mark.parametrize("size", [64, 96, 131])
def test_pixels_and_lesions_have_the_size_and_only_normal_eyes_have_no_lesion(label: str, size: int) -> None:
    for seed in range(4):
        phantom = draw(label, np.random.default_rng(seed), size)
        assert phantom.pixels.shape == (size, size, 3)
        assert phantom.pixels.dtype == np.uint8
        assert phantom.lesions.shape == (size, size)
        assert phantom.lesions.dtype == np.bool_
        assert phantom.lesions.any() == (label != "normal")
        assert phantom.lesions.mean() < 0.25
        assert phantom.pixels[0, 0].max() == phantom.pixels[-1, -1].max() == 0
        assert phantom.pixels[size // 2, size // 2, 0] > 40


def test_the_same_seed_draws_the_same_pixels_and_another_does_not() -> None:
    one, again, other = (draw("amd", np.random.default_rng(seed), 64) for seed in (5, 5, 6))
    assert np.array_equal(one.pixels, again.pixels)
    assert np.array_equal(one.lesions, again.lesions)
    assert not np.array_equal(one.pixels, other.pixels)


def test_another_size_draws_the_same_eye() -> None:
    small, large = (draw("glaucoma", np.random.default_rng(7), size).pixels for size in (96, 192))
    shrunk = np.asarray(Image.fromarray(large).resize((96, 96), Image.Resampling.BOX))
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.98


def test_a_left_eye_has_its_disc_on_the_left() -> None:
    for seed in range(5):
        look = Look.of("glaucoma", np.random.default_rng(seed))
        for eye, side in (("left", -1), ("right", 1)):
            columns = np.nonzero(draw("glaucoma", np.random.default_rng(seed), 96, eye=eye, look=look).lesions)[1]
            assert (columns.mean() - 47.5) * side > 0


def test_lesions_are_where_each_disease_has_them() -> None:
    def middle(label: str) -> float:
        columns = [np.nonzero(draw(label, np.random.default_rng(seed), 96).lesions)[1] for seed in range(8)]
        return float(np.concatenate(columns).mean()) / 96 - 0.5

    assert middle("glaucoma") > 0.1  # in the disc, on the right of a right eye
    assert 0.05 < middle("myopia") < middle("glaucoma")  # on the disc's temporal side
    assert middle("amd") < -0.1  # around the macula


def test_classes_are_as_skewed_as_the_papers_and_each_is_in_both_splits(manifest: Path) -> None:
    rows = rows_of(manifest)
    counts = Counter(row["label"] for row in rows)
    assert counts == {"normal": 202, "myopia": 20, "amd": 18, "glaucoma": 12, "diabetic_retinopathy": 8}
    by_split = Counter((row["split"], row["label"]) for row in rows)
    assert set(by_split) == {(split, label) for split in ("train", "test") for label in FREQUENCIES}
    assert by_split["test", "normal"] == 40
    assert by_split["test", "diabetic_retinopathy"] == 2


def test_the_two_eyes_of_a_patient_are_in_one_split_and_one_class(manifest: Path) -> None:
    patients = defaultdict(list)
    for row in rows_of(manifest):
        patients[row["patient"]].append(row)
    assert len(patients) == 130
    for eyes in patients.values():
        assert sorted(row["eye"] for row in eyes) == ["left", "right"]
        assert len({(row["split"], row["label"], row["age"]) for row in eyes}) == 1


def test_the_manifest_lists_exactly_the_files_written(manifest: Path) -> None:
    rows = rows_of(manifest)
    assert list(rows[0]) == ["path", "label", "patient", "split", "eye", "age"]
    assert {row["path"] for row in rows} == set(contents(manifest.parent)) - {"manifest.csv"}
    for row in rows:
        assert row["path"] == f"{row['split']}/{row['label']}/{row['patient']}_{row['eye']}.jpg"
        assert 20 <= int(row["age"]) <= 95
    with Image.open(manifest.parent / rows[0]["path"]) as image:
        assert (image.size, image.mode) == ((64, 64), "RGB")


def test_writing_again_gives_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    calls: list[int] = []
    folders = [tmp_path / name for name in ("one", "again", "other")]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        assert write_phantoms(folder, 20, seed, 64, advance=calls.append) == folder / "manifest.csv"
    assert calls == [1] * 60
    one, again, other = map(contents, folders)
    assert one == again
    assert one != other


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"label must be one of normal, .*, got 'cataract'"):
        draw("cataract", rng)
    with pytest.raises(ValueError, match="eye must be 'left' or 'right', got 'both'"):
        draw("normal", rng, eye="both")
    with pytest.raises(ValueError, match="size must be at least 64, got 32"):
        draw("normal", rng, 32)
    for n_images in (18, 21):
        with pytest.raises(ValueError, match=f"at least 20, got {n_images}"):
            write_phantoms(tmp_path / "none", n_images)
    assert not (tmp_path / "none").exists()
