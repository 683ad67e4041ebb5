"""What database and queries share is told, and what could not be looked at as well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from athsearch._training_images import divide
from athsearch.archive.archive import Archive
from athsearch.codes import Codes
from athsearch.data import Item, Source, open_source
from athsearch.demo.phantoms import write_phantoms
from athsearch.encoder import Encoder
from athsearch.evaluation import evaluate_archive
from athsearch.evaluation.near import SIDE, find_near_duplicates, perceptual_bits
from athsearch.recipes import recipe_settings
from conftest import Run, draw_image
from dicom_files import dicom

N_TRAIN, N_TEST = 94, 26


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of phantoms of 60 patients, of the splits train and test."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), N_TRAIN + N_TEST, seed=5, size=160).parent


@pytest.fixture
def indexed(tmp_path: Path, encoder: Encoder, phantoms: Path) -> Iterator[Archive]:
    """An archive of the phantoms' split train."""
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(open_source(phantoms / "manifest.csv").split("train"))
        yield archive


def copies(folder: Path, phantoms: Path) -> Source:
    """Eight phantoms of the archive, each changed in another way, as a source of their own."""
    chosen = open_source(phantoms / "manifest.csv").split("train").items[:8]
    changes = {
        "again.jpg": lambda image: image,
        "half.png": lambda image: image.resize((80, 80), Image.Resampling.LANCZOS),
        "twice.png": lambda image: image.resize((320, 320), Image.Resampling.BICUBIC),
        "stretched.png": lambda image: image.resize((160, 120), Image.Resampling.BILINEAR),
        "bright.png": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
        "dark.png": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
        "contrast.png": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
        "grey.png": lambda image: image.convert("L"),
    }
    rows = ["path,label"]
    for item, (name, change) in zip(chosen, changes.items(), strict=True):
        with Image.open(phantoms / item.source) as image:
            change(image).save(folder / name, quality=60)
        rows.append(f"{name},{item.label}")
    (folder / "copies.csv").write_text("\n".join(rows))
    return open_source(folder / "copies.csv")


def test_changed_copies_are_found_and_phantoms_that_differ_are_not(
    tmp_path: Path, indexed: Archive, phantoms: Path
) -> None:
    source = open_source(phantoms / "manifest.csv")
    done: list[tuple[int, int]] = []
    found = find_near_duplicates(indexed, source.split("test"), progress=lambda *counts: done.append(counts))
    assert (found.n_queries, found.n_queries_compared, found.n_cases_compared) == (0, N_TEST, N_TRAIN)
    assert (found.n_queries_unread, found.n_cases_unread, found.pairs) == (0, 0, ())
    n_images = N_TRAIN + N_TEST
    assert done == [(number, n_images) for number in range(1, n_images + 1)]
    assert found.line() == "Near duplicates: none found among 26 queries and 94 cases."

    changed = copies(tmp_path, phantoms)
    found = find_near_duplicates(indexed, changed)
    expected = [item.source for item in source.split("train").items[:8]]
    assert [(pair.query, pair.case) for pair in found.pairs] == [
        (item.source, case) for item, case in zip(changed.items, expected, strict=True)
    ]
    assert found.line().startswith("Near duplicates: 8 of 8 queries look like one of 94 cases, such as again.jpg (")
    # Equal bytes are the business of another line: the archive's own images are no near duplicates of themselves.
    assert find_near_duplicates(indexed, source.split("train")).n_queries == 0


def test_images_that_cannot_be_read_are_counted_not_passed_over(
    tmp_path: Path, indexed: Archive, phantoms: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(phantoms, moved)
    source = open_source(phantoms / "manifest.csv")
    gone = source.split("train").items[3].source
    (moved / gone).unlink()
    (moved / source.split("train").items[5].source).write_text("no image")
    found = find_near_duplicates(indexed, source.split("test"), images=moved)
    assert (found.n_queries, found.n_cases_compared, found.n_cases_unread) == (0, N_TRAIN - 2, 2)
    assert found.line().endswith("none found among 26 queries and 92 cases; 0 queries and 2 cases could not be read.")
    nothing = find_near_duplicates(indexed, source.split("test"), images=tmp_path / "nowhere")
    assert (nothing.n_cases_compared, nothing.n_cases_unread) == (0, N_TRAIN)


def test_near_duplicates_of_hidden_files_have_the_names_the_archive_has(tmp_path: Path, encoder: Encoder) -> None:
    for folder, name, instance in (("cases", "MEIER_HANS", "1.2.3"), ("asked", "q", "1.2.4"), ("asked", "us", "1.2.5")):
        path = tmp_path / folder / "mr" / f"{name}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        burned_in = "YES" if name == "us" else "NO"
        pixels = draw_image(1)[..., 0].copy()
        path.write_bytes(dicom(pixels, SOPInstanceUID=instance, BurnedInAnnotation=burned_in))
    done: list[tuple[int, int]] = []
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(open_source(tmp_path / "cases"))
        found = find_near_duplicates(archive, open_source(tmp_path / "asked"), progress=lambda *at: done.append(at))
        assert [(pair.query, pair.case) for pair in found.pairs] == [("mr/q.dcm", archive.case(1).source)]
    assert (found.n_queries_compared, found.n_queries_unread) == (1, 1)
    assert done[-1] == (3, 3)
    assert "MEIER" not in str(found)


def stacks(folder: Path, n_files: int, n_pages: int = 3) -> Path:
    """TIFF files, each of several pages, in the folders of two classes."""
    for seed in range(n_files):
        pages = [draw_image(100 * seed + page)[..., 0] for page in range(n_pages)]
        path = folder / "ab"[seed % 2] / f"{seed}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        first, *others = map(Image.fromarray, pages)
        first.save(path, "TIFF", save_all=True, append_images=others)
    return folder


def test_without_patients_a_query_finds_no_other_page_of_its_file_and_no_other_image_of_its_study(
    tmp_path: Path, encoder: Encoder
) -> None:
    source = open_source(stacks(tmp_path / "stacks", 4))
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(source)
        found = evaluate_archive(archive, source, k=3)
        assert (found.n_left_out, found.n_cases_left_out) == (12, 4 * 3 * 3)
        assert found.scores.intervals is not None
        assert found.scores.intervals.n_units == 4
        of_two = tuple(replace(item, study=f"s{number // 6}") for number, item in enumerate(source.items))
        studied = replace(source, items=of_two)
        archive.add(studied, update_records=True)
        found = evaluate_archive(archive, studied, k=3)
        assert (found.n_left_out, found.n_cases_left_out) == (12, 2 * 6 * 6)
        assert found.scores.intervals is not None
        assert found.scores.intervals.n_units == 2
        moved = open_source(shutil.copytree(tmp_path / "stacks" / "a", tmp_path / "moved" / "a").parent)
        assert evaluate_archive(archive, moved, k=3).n_cases_left_out == 2 * 3 * 3


def test_a_picture_that_many_patients_have_does_not_join_them(tmp_path: Path, encoder: Encoder, source: Source) -> None:
    for patient in range(6):
        black = source.root / f"black{patient}.png"
        Image.new("L", (64, 64)).save(black)
    items = tuple(Item(f"black{patient}.png", "ab"[patient % 2], f"Meier{patient}") for patient in range(6))
    named = replace(source, items=(*source.items, *items))
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(named)
        found = evaluate_archive(archive, named, k=3)
        assert found.scores.intervals is not None
        assert found.scores.intervals.n_units == 6
        # A patient's own three images, and the black ones of the five others by black queries.
        assert found.n_cases_left_out == 18 * 3 + 6 * 5
        assert found.leaks.images.n_of_other_patients == 6
        assert "; 6 of them of another patient there." in found.leaks.lines()[0]


def test_codes_whose_images_the_archive_never_saw_are_not_taken_for_one_image(
    tmp_path: Path, encoder: Encoder, source: Source
) -> None:
    asked = replace(source, items=source.items[8:])
    known = replace(source, items=source.items[:10])
    with Archive.create(tmp_path / "added", encoder) as added, Archive.create(tmp_path / "codes", encoder) as coded:
        added.add(known)
        coded.add_codes(encoder.encode(known), cases=known)
        found = evaluate_archive(coded, asked, k=3)
        assert found.n_cases_left_out == evaluate_archive(added, asked, k=3).n_cases_left_out == 2 * 2
        assert found.leaks.lines()[0] == "Equal images: not known, for all cases are ready-made codes."
        coded.add(replace(source, items=source.items[10:]))
        assert evaluate_archive(coded, asked, k=3).leaks.lines()[0] == (
            "Equal images: 2 of 4 queries are cases of the archive too, such as 10.png (10.png); "
            "not known for 10 of 12 cases, ready-made codes."
        )


def plain_transform(picture: NDArray[np.uint8]) -> list[bool]:
    """The signs of the lowest coefficients of the cosine transform, by its definition."""
    signs = []
    for v in range(8):
        for u in range(8):
            row = np.cos(np.pi / SIDE * (np.arange(SIDE) + 0.5) * u)
            column = np.cos(np.pi / SIDE * (np.arange(SIDE) + 0.5) * v)
            signs.append(bool((np.outer(column, row) * picture).sum() > 0))
    return signs[1:]


def test_perceptual_bits_equal_the_transforms_definition() -> None:
    pictures = np.stack([draw_image(seed, SIDE)[..., 0] for seed in range(5)])
    assert perceptual_bits(pictures).tolist() == [plain_transform(picture) for picture in pictures]
    assert Codes.from_bits(perceptual_bits(pictures)).bits == 63


def test_equal_images_and_shared_patients_are_told_without_naming_a_patient(
    tmp_path: Path, encoder: Encoder, source: Source
) -> None:
    halves = [replace(source, items=source.items[:7]), replace(source, items=source.items[6:])]
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(halves[0])
        strangers = tuple(replace(item, patient=None) for item in source.items[10:])
        asked = replace(source, items=(*source.items[6:10], *strangers))
        leaks = evaluate_archive(archive, asked, k=3).leaks
    assert (leaks.n_queries, leaks.n_cases, leaks.images.n_queries) == (6, 7, 1)
    assert [(pair.query, pair.case) for pair in leaks.images.pairs] == [("06.png", "06.png")]
    patients = leaks.patients
    assert (patients.n_patients, patients.n_queries) == (1, 2)  # both eyes of the patient of 06.png
    assert (patients.n_queries_unknown, patients.n_cases_unknown) == (2, 0)
    assert [(pair.query, pair.case) for pair in patients.pairs] == [("06.png", "06.png"), ("07.png", "06.png")]
    assert leaks.lines() == [
        "Equal images: 1 of 6 queries are cases of the archive too, such as 06.png (06.png).",
        "Shared patients: 1, with 2 of 6 queries; not known for 2 queries and 0 of 7 cases.",
    ]
    assert "Meier" not in json.dumps(asdict(leaks))


def test_what_is_not_known_is_not_called_none(tmp_path: Path, encoder: Encoder, source: Source) -> None:
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(replace(source, items=source.items[:6]))
        strangers = tuple(replace(item, patient=None) for item in source.items[6:])
        leaks = evaluate_archive(archive, replace(source, items=strangers), k=3).leaks
    assert leaks.lines() == [
        "Equal images: none of 6 queries is a case of the archive.",
        "Shared patients: not known, for no query names its patient.",
    ]


def test_evaluate_tells_and_writes_everything(tmp_path: Path, indexed: Archive, phantoms: Path, run: Run) -> None:
    assert indexed.n_cases == N_TRAIN
    changed = copies(tmp_path, phantoms)
    command = ("evaluate", tmp_path / "archive", tmp_path / "copies.csv", "--near-duplicates", "--resamples", 200)
    outcome = run(*command, "--json", "--latex", tmp_path / "table.tex", "--plots", tmp_path / "figures")
    found = outcome.json()
    assert outcome.status == 0
    assert found["leaks"]["near_duplicates"]["n_queries"] == 8  # type: ignore[index]
    assert found["leaks"]["near_duplicates"]["pairs"][0]["query"] == changed.items[0].source  # type: ignore[index]
    assert found["intervals"]["n_resamples"] == 200  # type: ignore[index]
    assert "\\begin{tabular}" in (tmp_path / "table.tex").read_text()
    assert len(list((tmp_path / "figures").glob("*.png"))) == 4
    text = run(*command).out
    for start in ("Equal images: none of 8", "Shared patients: not known", "Near duplicates: 8 of 8"):
        assert f"\n{start}" in text
    assert "\nNear duplicates: not looked for" in run(*command[:3], "--resamples", 0).out
    for wrong, word in ((("--resamples", 5), "at least 100"), (("--images", tmp_path), "goes with --near-duplicates")):
        outcome = run(*command[:3], *wrong)
        assert outcome.status == 2
        assert word in outcome.err


def test_figures_without_matplotlib_are_refused_before_anything_is_done(
    tmp_path: Path, indexed: Archive, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = run("evaluate", indexed.path, tmp_path / "nowhere", "--plots", tmp_path / "figures")
    assert outcome.status == 1
    assert "needs matplotlib: pip install 'athsearch[train]'" in outcome.error()
    assert not (tmp_path / "figures").exists()


SETTINGS = recipe_settings("default", size=64, bits=16, epochs=1)


def test_a_split_that_leaks_patients_warns_and_names_none(source: Source, tmp_path: Path) -> None:
    splits = ("train", "train", "train", "train", "train", "train", "train", "test", "val", "test", "test", "train")
    items = tuple(replace(item, split=split) for item, split in zip(source.items, splits, strict=True))
    with pytest.warns(UserWarning, match="3 of 6 patients have images in more than one split") as caught:
        divide(replace(source, items=items), None, SETTINGS)
    assert "one of them 1 in train and 1 in test" in str(caught[0].message)
    assert "Meier" not in str(caught[0].message)
    kept = tuple(replace(item, split="test" if number >= 10 else "train") for number, item in enumerate(source.items))
    divide(replace(source, items=kept), None, SETTINGS)  # a warning would be an error
    apart = replace(source, items=source.items[5:])
    with pytest.warns(UserWarning, match="1 of 6 patients .* 1 in train and 1 in val"):
        divide(replace(source, items=source.items[:5]), apart, SETTINGS)


@pytest.mark.filterwarnings("default::UserWarning")
def test_the_command_shows_the_warning_as_a_line(source: Source, tmp_path: Path, run: Run) -> None:
    rows = (source.root / "manifest.csv").read_text().splitlines()
    leaking = [f"{rows[0]},split", *(f"{row},{('train', 'train', 'test')[n % 3]}" for n, row in enumerate(rows[1:]))]
    (source.root / "manifest.csv").write_text("\n".join(leaking))
    outcome = run("train", source.root / "manifest.csv", "--out", tmp_path / "run", "--epochs", 1, "--size", 64)
    assert outcome.status == 0
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert "patients have images in more than one split" in line
    assert ".py" not in line
