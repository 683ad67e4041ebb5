"""Labelled sources: how each kind is read, what is refused with which words, and how patients are kept together."""

from __future__ import annotations

import csv
import io
import os
import pickle
import random
import shutil
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from athsearch import data
from athsearch.data import Item, Source, npz, open_source
from athsearch.errors import CorruptImage, ImageError, SourceError, UnsupportedImage


def put_image(path: Path, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 8), (value, 0, 0)).save(path)
    return path


def put_text(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(path: Path, **options: Any) -> str:
    """The one line that names the file."""
    with pytest.raises(SourceError) as caught:
        open_source(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def known(source: Source) -> list[tuple[str, str | None, str | None]]:
    return [(item.source, item.label, item.split) for item in source.items]


# ---- folder trees


def test_a_folder_of_classes(tmp_path: Path) -> None:
    for name in ("cat/b.png", "cat/a.JPG", "cat/deep/er/c.png", "dog/a.bmp"):
        put_image(tmp_path / name)
    source = open_source(tmp_path)
    assert source.root == tmp_path
    assert known(source) == [
        ("cat/a.JPG", "cat", None),
        ("cat/b.png", "cat", None),
        ("cat/deep/er/c.png", "cat", None),
        ("dog/a.bmp", "dog", None),
    ]
    assert len(source) == 4
    assert source.labels == ("cat", "dog")
    assert source.splits == frozenset()
    assert source.skipped == ()
    assert source.n_without_patient == 4


def test_a_folder_of_splits(tmp_path: Path) -> None:
    for name in ("Train/cat/a.png", "Validation/cat/x/b.png", "valid/dog/c.png", "TEST/dog/d.png", "Testing/e.png"):
        put_image(tmp_path / name)
    put_text(tmp_path / "docs/notes.txt", "not an image")
    source = open_source(tmp_path)
    assert known(source) == [
        ("TEST/dog/d.png", "dog", "test"),
        ("Testing/e.png", None, "test"),
        ("Train/cat/a.png", "cat", "train"),
        ("Validation/cat/x/b.png", "cat", "val"),
        ("valid/dog/c.png", "dog", "val"),
    ]
    assert [item.source for item in source.split("val").items] == ["Validation/cat/x/b.png", "valid/dog/c.png"]
    assert source.skipped == ("docs/notes.txt",)


def test_folders_named_like_splits_are_classes_beside_others(tmp_path: Path) -> None:
    for name in ("test/a.png", "control/b.png"):
        put_image(tmp_path / name)
    assert known(open_source(tmp_path)) == [("control/b.png", "control", None), ("test/a.png", "test", None)]


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    put_image(tmp_path / "train/cat/a.png")
    put_image(tmp_path / "val/cat/a.png")
    with pytest.raises(SourceError, match=r"no split 'test' \(there: train, val\)"):
        open_source(tmp_path).split("test")
    with pytest.raises(SourceError, match=r"there: none"):
        open_source(tmp_path / "train").split("test")


def test_images_outside_class_folders_have_no_label(tmp_path: Path) -> None:
    put_image(tmp_path / "b.png")
    assert known(open_source(tmp_path)) == [("b.png", None, None)]
    put_image(tmp_path / "cat/a.png")
    assert known(open_source(tmp_path)) == [("b.png", None, None), ("cat/a.png", "cat", None)]


def test_a_single_image_is_a_source(tmp_path: Path) -> None:
    source = open_source(put_image(tmp_path / "12_left.png"), patient_pattern=r"(\d+)_")
    assert source.items == (Item("12_left.png", patient="12"),)
    assert source.root == tmp_path
    assert source.pixels(source.items[0]).shape == (8, 9, 3)


def test_what_is_skipped_is_told(tmp_path: Path) -> None:
    put_image(tmp_path / "cat/a.png")
    for name in ("README.md", "cat/Thumbs.db", "cat/.hidden.png", "cat/scan.doc"):
        put_text(tmp_path / name, "x")
    put_image(tmp_path / ".cache/b.png")
    source = open_source(tmp_path)
    assert len(source) == 1
    assert source.skipped == (".cache/", "README.md", "cat/.hidden.png", "cat/Thumbs.db", "cat/scan.doc")
    assert source.divided({"train": 1.0}).split("train").skipped == source.skipped


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put_image(root / "cat/a.png")
    put_image(tmp_path / "elsewhere/b.png")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / "cat/linked.png").symlink_to(tmp_path / "elsewhere/b.png")
    (root / "cat/broken.png").symlink_to(tmp_path / "gone.png")
    (root / "cat/itself.png").symlink_to(root / "cat/itself.png")
    (root / "cat/up").symlink_to(root)
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "elsewhere")
    source = open_source(root)
    names = [item.source for item in source.items]
    assert names == ["cat/a.png", "cat/broken.png", "cat/itself.png", "cat/linked.png", "dog/b.png"]
    assert source.skipped == ("cat/up/", "dog/back/")
    with pytest.raises(CorruptImage, match=r"^cat/broken\.png: no such file in "):
        source.pixels(source.items[1])
    with pytest.raises(ImageError, match=r"^cat/itself\.png: "):
        source.read(source.items[2])


def test_pipes_are_skipped_and_names_that_are_not_text_are_refused(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    try:
        (Path(os.fsdecode(bytes(tmp_path) + b"/\xff.png"))).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system only takes names that are text")
    source = open_source(tmp_path)
    assert known(source) == [("\\xff.png", None, None), ("a.png", None, None)]
    assert source.skipped == ("pipe.png",)
    with pytest.raises(UnsupportedImage, match=r"^\\xff\.png: its name is not UTF-8"):
        source.read(source.items[0])
    assert open_source(os.fsdecode(bytes(tmp_path) + b"/\xff.png")).items == source.items[:1]


def test_pipes_without_suffix_are_never_read(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    os.mkfifo(tmp_path / "IM1")
    os.symlink("IM1", tmp_path / "IM2")
    os.symlink("IM1", tmp_path / "b.dcm")
    pipe, content = os.open(tmp_path / "IM1", os.O_RDWR | os.O_NONBLOCK), bytes(128) + b"DICM" + bytes(60_000)
    try:
        os.write(pipe, content)
        source = open_source(tmp_path)
        assert [item.source for item in source.items] == ["a.png"]
        assert source.skipped == ("IM1", "IM2", "b.dcm")
        for name in ("IM1", "b.dcm"):
            with pytest.raises(SourceError, match=rf"{name}: neither a folder nor a file"):
                open_source(tmp_path / name)
        assert os.read(pipe, 2 * len(content)) == content
    finally:
        os.close(pipe)


def test_folders_whose_names_are_not_text_are_walked(tmp_path: Path) -> None:
    bad = os.fsdecode(bytes(tmp_path) + b"/\xe4")
    try:
        os.mkdir(bad)
    except OSError:
        pytest.skip("this file system only takes names that are text")
    put_image(tmp_path / "train/x/a.png")
    for name in ("b.png", "deeper/c.png"):
        put_image(Path(bad) / name)
    put_text(Path(bad) / "notes.txt", "x")
    put_image(Path(os.fsdecode(bytes(tmp_path) + b"/train/x/\xff.png")))
    source = open_source(tmp_path)
    names = ["\\xe4/b.png", "\\xe4/deeper/c.png", "train/x/\\xff.png", "train/x/a.png"]
    assert [item.source for item in source.items] == names
    assert [(item.label, item.split) for item in source.items[2:]] == [("x", "train")] * 2
    assert [item.refusal is None for item in source.items] == [False] * 3 + [True]
    assert source.skipped == ("\\xe4/notes.txt",)
    shutil.rmtree(tmp_path / "train")
    assert len(open_source(tmp_path)) == 2


def test_useless_paths_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing")
    assert "no images" in refusal(tmp_path)
    put_text(tmp_path / "a/b.txt", "x")
    assert "among 1 other entries" in refusal(tmp_path)
    assert "not a folder" in refusal(tmp_path / "a/b.txt")


def test_a_folder_that_may_not_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_image(tmp_path / "a/b.png")
    listed = os.scandir

    def scandir(path: Path) -> Any:
        if path.name == "a":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SourceError, match=r"a: cannot be listed: Permission denied"):
        open_source(tmp_path)


def test_relative_paths_outlive_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_image(tmp_path / "set/cat/a.png")
    monkeypatch.chdir(tmp_path)
    source = open_source("set")
    monkeypatch.chdir("/")
    assert source.pixels(source.items[0]).shape == (8, 9, 3)


# ---- patients by pattern


def test_the_patient_comes_from_the_whole_source(tmp_path: Path) -> None:
    for name in ("p7/12_left.png", "p7/12_right.png", "p8/other.png"):
        put_image(tmp_path / name)

    def patients(pattern: str) -> list[str | None]:
        return [item.patient for item in open_source(tmp_path, patient_pattern=pattern).items]

    assert patients(r"(\d+)_(?:left|right)") == ["12", "12", None]
    assert patients(r"p(\d)/") == ["7", "7", "8"]
    assert patients(r"(left|right|other)\.(?P<patient>png)") == ["png"] * 3
    assert patients(r"12_(x*)") == [None] * 3  # an empty group names nobody
    assert patients(r"12_(x)?") == [None] * 3
    assert open_source(tmp_path, patient_pattern=r"(\d+)_").n_without_patient == 1


@pytest.mark.parametrize(("pattern", "words"), [("(", "not a regular expression"), (r"\d+", "no group")])
def test_a_pattern_without_a_group_is_refused_before_anything_is_read(pattern: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        open_source("/nowhere", patient_pattern=pattern)


# ---- manifests


def test_a_manifest_with_everything(tmp_path: Path) -> None:
    put_image(tmp_path / "set/a.png", value=7)
    text = (
        "\ufeffpath, label ,patient,split,age,weight,code,site,\r\n"
        "a.png,cat,P1,Train,61,70.50,007,left,x\r\n"
        '"sub/b, c.png",dog,,validation,,61,12,,y\r\n'
        "\r\n"
        f"{tmp_path}/set/x/../d.png,,P2,,-3,1e-05,3,right,z\r\n"
    )
    source = open_source(put_text(tmp_path / "set/m.csv", text))
    assert source.root == tmp_path / "set"
    assert source.items == (
        Item("a.png", "cat", "P1", "train", {"age": 61, "weight": 70.5, "code": "007", "site": "left"}),
        Item("sub/b, c.png", "dog", None, "val", {"weight": 61.0, "code": "12"}),
        Item("d.png", None, "P2", None, {"age": -3, "weight": 1e-05, "code": "3", "site": "right"}),
    )
    assert [type(value) for value in source.items[0].record.values()] == [int, float, str, str]
    assert source.pixels(source.items[0])[0, 0].tolist() == [7, 0, 0]
    with pytest.raises(CorruptImage, match="no such file"):
        source.pixels(source.items[1])


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["0", "-1", "9223372036854775807"], [0, -1, 2**63 - 1]),
        (["1", "9223372036854775808"], ["1", "9223372036854775808"]),
        (["1", "1.5", "-0.25"], [1.0, 1.5, -0.25]),
        (["0.1", "0.12345678901234567"], ["0.1", "0.12345678901234567"]),  # more digits than a double holds
        (["1e5"], ["1e5"]),
        (["100000.0", "1e+16"], [1e5, 1e16]),
        (["1", "01"], ["1", "01"]),
        (["1.2.840"], ["1.2.840"]),
        *[([text], [text]) for text in ("nan", "inf", "1_000", "+1", "-", "--1", "0x1", "\u0663", ".5", "5.", "1,5")],
    ],
)
def test_a_column_is_numeric_if_all_its_values_are(tmp_path: Path, texts: list[str], values: list[Any]) -> None:
    rows = "".join(f'{place}.png,c,"{text}"\n' for place, text in enumerate(texts))
    source = open_source(put_text(tmp_path / "m.csv", "path,label,value\n" + rows))
    read = [item.record["value"] for item in source.items]
    assert read == values
    assert list(map(type, read)) == list(map(type, values))


def test_capitals_in_column_names_make_no_difference(tmp_path: Path) -> None:
    path = put_text(tmp_path / "m.csv", "Path,LABEL,Patient,Split,Age\nx.png,a,Meier,Test,41\n")
    assert open_source(path).items == (Item("x.png", "a", "Meier", "test", {"Age": 41}),)
    path = put_text(tmp_path / "m.csv", "path,label,age,Age\nx.png,a,1,2\n")
    with pytest.raises(SourceError, match="'age' stands twice"):
        open_source(path)


@pytest.mark.parametrize("patient_column", ["mrn", ""])
def test_a_column_named_patient_never_becomes_a_record(tmp_path: Path, patient_column: str) -> None:
    path = put_text(tmp_path / "m.csv", "path,label,PATIENT,mrn\nx.png,a,Hans Meier,7\n")
    (item,) = open_source(path, patient_column=patient_column).items
    assert "Hans Meier" not in (item.patient, *item.record.values())


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\tb"])
def test_column_names_that_sql_cannot_say_are_refused(tmp_path: Path, name: str) -> None:
    with open(tmp_path / "m.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "label", name], ["x.png", "a", "1"]])
    with pytest.raises(SourceError, match="quote, backslash or control character"):
        open_source(tmp_path / "m.csv")


@pytest.mark.parametrize("column", ["path", "label", "patient", "split", "Study"])
@pytest.mark.parametrize("character", ["\n", "\t", "\x1b", "\0", "\x85", "\u2028"])
def test_cells_with_control_characters_are_refused(tmp_path: Path, column: str, character: str) -> None:
    row = {"path": "x.png", "label": "a", "patient": "p", "split": "test", "Study": "s", "Finding": "two\nlines"}
    with open(tmp_path / "m.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([row.keys(), row.values(), ["y.png", *list(row.values())[1:]]])
    assert len(open_source(tmp_path / "m.csv")) == 2
    bad = {**row, column: f"Me{character}ier"}
    with open(tmp_path / "m.csv", "a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(bad.values())
    with pytest.raises(SourceError, match=rf"row 4: column '{column.lower()}' holds a line break") as caught:
        open_source(tmp_path / "m.csv")
    assert "ier" not in str(caught.value)


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(SourceError, match="empty"):
        open_source("")


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    text = "Image\tGrade\tMRN\tFold\tpatient\nx.png\t3\tA\ttest\tq\n"
    path = put_text(tmp_path / "m.tsv", text)
    columns = {"path_column": "Image", "label_column": "Grade", "patient_column": "MRN", "split_column": "Fold"}
    assert open_source(path, **columns).items == (Item("x.png", "3", "A", "test"),)
    unused = {"label_column": None, "patient_column": "", "split_column": None}
    record: dict[str, data.Value] = {"Grade": 3, "MRN": "A", "Fold": "test"}
    assert open_source(path, path_column="Image", **unused).items == (Item("x.png", record=record),)


def test_the_pattern_fills_empty_patients(tmp_path: Path) -> None:
    path = put_text(tmp_path / "m.csv", "path,label,patient\n7_a.png,x,P1\n8_a.png,x,\n")
    assert [item.patient for item in open_source(path, patient_pattern=r"(\d)_").items] == ["P1", "8"]


def test_missing_columns_are_named_with_those_found_and_the_cure(tmp_path: Path) -> None:
    path = put_text(tmp_path / "m.csv", "file,label,class\na.png,x,y\n")
    message = refusal(path)
    assert "'path'" in message
    assert "file, label, class" in message
    assert "path_column" in message
    assert "path_column" in refusal(path, path_column="")
    assert "label_column (empty" in refusal(path, path_column="file", label_column="diagnosis")
    assert "patient_column" in refusal(path, path_column="file", patient_column="mrn")
    assert "split_column" in refusal(path, path_column="file", split_column="fold")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("", "no rows"),
        ("a.png,x\n\nb.png\n", "row 4 has 1 fields, the header has 2"),
        ("a.png,x,y\n", "row 2 has 3 fields"),
        ("a.png,x\nb.png,x\n./a.png,y\n", "rows 2 and 4 name the same image, a.png"),
        ("a.png,x\n,y\n", "row 3 names no image"),
        ("../a.png,x\n", "row 2: '../a.png' is not below"),
        ("/etc/a.png,x\n", "row 2: '/etc/a.png' is not below"),
        (".,x\n", "row 2: '.' is not below"),
        ('"a.png,x\nb.png,x\n', "not a table after line"),
        ('"a"b.png,x\n', "not a table after line"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: str, words: str) -> None:
    assert words in refusal(put_text(tmp_path / "m.csv", "path,label\n" + rows))


def test_other_bad_manifests(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    assert "empty" in refusal(put_text(path, ""))
    assert "stands twice" in refusal(put_text(path, "path,label,age,age\na.png,x,1,2\n"))
    assert "'fold1' is none of train, val, test" in refusal(put_text(path, "path,label,split\na.png,x,fold1\n"))
    assert "not UTF-8" in refusal(put_text(path, b"path,label\n\xe4.png,x\n"))
    assert "not UTF-8" in refusal(put_text(path, "path,label\na.png,x\n".encode("utf-16")))
    refusal(put_text(path, "path,label\na\0.png,x\n"))
    path.unlink()
    path.mkdir()
    assert "no images" in refusal(path)


# ---- MedMNIST


def arrays(**others: Any) -> dict[str, Any]:
    chance = np.random.default_rng(0)
    return {
        "train_images": chance.integers(0, 256, (5, 28, 28), np.uint8),
        "train_labels": np.array([[0], [1], [1], [0], [10]], np.uint8),
        "test_images": chance.integers(0, 256, (2, 28, 28), np.uint8),
        "test_labels": np.array([1, 0]),
    } | others


def put_npz(path: Path, values: dict[str, Any], compressed: bool = True) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **values)
    return path


@pytest.mark.parametrize("compressed", [True, False])
def test_a_medmnist_file(tmp_path: Path, compressed: bool) -> None:
    values = arrays(info=np.zeros(1))
    source = open_source(put_npz(tmp_path / "x.npz", values, compressed))
    assert source.root == tmp_path
    assert known(source)[-3:] == [
        ("x.npz/train/00004", "10", "train"),
        ("x.npz/test/00000", "1", "test"),
        ("x.npz/test/00001", "0", "test"),
    ]
    assert len(source) == 7
    assert source.labels == ("0", "1", "10")
    assert source.skipped == ("x.npz/info",)
    for split in ("train", "test"):
        for item, image in zip(source.split(split).items, values[f"{split}_images"], strict=True):
            assert np.array_equal(source.pixels(item), image[..., None])
            assert source.read(item)[0] == image.tobytes()


@pytest.mark.parametrize("shape", [(5, 28, 28, 1), (5, 28, 28, 3), (5, 64, 48), (5, 224, 224, 3)])
def test_medmnist_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    source = open_source(put_npz(tmp_path / "x.npz", arrays(train_images=images)))
    assert np.array_equal(source.pixels(source.items[3]), images[3].reshape(*shape[1:3], -1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_images": np.zeros((5, 28, 28), np.float32)}, "must be uint8"),
        ({"train_images": np.zeros((5, 784), np.uint8)}, "must be uint8 [N, H, W]"),
        ({"train_images": np.zeros((5, 7, 28), np.uint8)}, "at least 8 x 8"),
        ({"train_images": np.zeros((5, 28, 28, 28), np.uint8)}, "three-dimensional"),
        ({"train_images": np.zeros((5, 28, 28, 28, 1), np.uint8)}, "three-dimensional"),
        ({"train_images": np.array([object()] * 5)}, "pickled"),
        ({"train_labels": np.zeros((5, 14), np.uint8)}, "several labels"),
        ({"train_labels": np.zeros((4, 1), np.uint8)}, "train_labels must be integers [5]"),
        ({"train_labels": np.zeros(5)}, "must be integers"),
        ({"train_labels": np.array(list("abcde"))}, "must be integers"),
        ({"train_labels": np.array(3)}, "must be integers"),
    ],
)
def test_npz_files_of_another_kind_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    assert words in refusal(put_npz(tmp_path / "x.npz", arrays(**change)))


def test_npz_files_without_the_arrays_are_refused(tmp_path: Path) -> None:
    values = arrays()
    del values["test_labels"]
    assert "no array 'test_labels' (found: test_images, train_images" in refusal(put_npz(tmp_path / "a.npz", values))
    message = refusal(put_npz(tmp_path / "b.npz", {"codes": np.zeros(3)}))
    assert "train_images" in message
    assert "found: codes" in message
    empty = {"train_images": np.zeros((0, 28, 28), np.uint8), "train_labels": np.zeros(0, int)}
    assert "no images" in refusal(put_npz(tmp_path / "c.npz", empty))


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    path = put_npz(tmp_path / "x.npz", arrays())
    sound = path.read_bytes()
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w") as file:
        for name in ("train_images.npy", "train_labels.npy"):
            file.writestr(name, "text")
    lying = io.BytesIO()
    with zipfile.ZipFile(lying, "w") as file:  # a header that claims a terabyte
        claim = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            claim, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 1000, 1000)}
        )
        for name in ("train_images.npy", "train_labels.npy"):
            file.writestr(name, claim.getvalue())
    for content in (b"", b"text", pickle.dumps(arrays()), array.getvalue(), text.getvalue(), lying.getvalue()):
        assert "not a usable npz" in refusal(put_text(path, content))
    for length in range(0, len(sound), 97):
        assert "not a usable npz" in refusal(put_text(path, sound[:length]))


def test_damaged_npz_files_give_errors_and_never_other_pixels(tmp_path: Path) -> None:
    many = np.random.default_rng(3).integers(0, 256, (40, 28, 28), np.uint8)  # more than opening reads
    values = arrays(train_images=many, train_labels=np.arange(40))
    path = put_npz(tmp_path / "x.npz", values)
    sound = path.read_bytes()
    chance = random.Random(2)
    refused = corrupt = 0
    for _ in range(150):
        content = bytearray(sound)
        for _ in range(chance.choice((1, 3))):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        put_text(path, bytes(content))
        npz._images.cache_clear()  # the file changes faster than its time
        try:
            source = open_source(path)
        except SourceError:
            refused += 1
            continue
        for item in source.items[::41]:
            try:
                pixels = source.pixels(item)
            except CorruptImage:
                corrupt += 1
            else:
                split, place = item.source.split("/")[1:]
                assert np.array_equal(pixels[..., 0], values[f"{split}_images"][int(place)])
    assert refused
    assert corrupt


def test_npz_images_that_are_gone_are_corrupt(tmp_path: Path) -> None:
    path = put_npz(tmp_path / "x.npz", arrays())
    source = open_source(path)
    with pytest.raises(CorruptImage, match=r"^x\.npz/train/00099: "):
        data.read_pixels(tmp_path, "x.npz/train/00099")
    with pytest.raises(CorruptImage, match=r"^x\.npz/val/00000: "):
        data.read_pixels(tmp_path, "x.npz/val/00000")
    path.unlink()
    with pytest.raises(CorruptImage, match=r"^x\.npz/train/00000: no such file in "):
        source.pixels(source.items[0])
    with pytest.raises(CorruptImage, match="no such file"):
        source.read(source.items[0])[0]


def test_a_replaced_npz_is_read_again(tmp_path: Path) -> None:
    path = put_npz(tmp_path / "x.npz", arrays())
    source = open_source(path)
    before = source.pixels(source.items[0])
    put_npz(path, arrays(train_images=np.full((5, 28, 28), 9, np.uint8)))
    assert not np.array_equal(source.pixels(source.items[0]), before)
    assert (source.pixels(source.items[0]) == 9).all()


def test_threads_decompress_an_npz_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(put_npz(tmp_path / "x.npz", arrays()))
    npz._images.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(source.pixels, source.items * 20))
    assert npz._images.cache_info().misses == 2  # train and test
    images[0][:] = 0  # a copy: the next reader must not see this
    assert source.pixels(source.items[0]).any()


# ---- reading


def test_reading_tells_what_is_wrong_with_which_source(tmp_path: Path) -> None:
    put_text(tmp_path / "cat/text.png", "text")
    put_text(tmp_path / "cat/zero.png", "")
    put_text(tmp_path / "cat/scan.xyz", "")
    for name in ("cat/text.png", "cat/zero.png", "cat/gone.png", "cat/text.png/below.png"):
        with pytest.raises(CorruptImage, match=f"^{name}: "):
            data.read_pixels(tmp_path, name)
    with pytest.raises(UnsupportedImage, match=r"^cat/scan\.xyz: "):
        data.read_pixels(tmp_path, "cat/scan.xyz")
    with pytest.raises(ImageError, match=r"^cat: cannot be read"):
        data.read_image(tmp_path, "cat")
    assert data.read_image(tmp_path, "cat/text.png")[0] == b"text"


def test_no_permission_is_an_image_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_image(tmp_path / "a.png")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ImageError, match=r"^a\.png: cannot be read in .*: Permission denied"):
        data.read_image(tmp_path, "a.png")


def test_sources_travel_to_other_processes(tmp_path: Path) -> None:
    put_image(tmp_path / "cat/a.png")
    source = open_source(tmp_path)
    assert source.labels == ("cat",)
    assert pickle.loads(pickle.dumps(source)) == source


# ---- division

PEOPLE = st.lists(
    st.tuples(st.sampled_from([None, "a", "b", "c"]), st.sampled_from([None, *map(str, range(12))])), max_size=60
)
FRACTIONS = st.sampled_from(
    [{"train": 0.8, "test": 0.2}, {"test": 0.5, "train": 0.5}, {"train": 0.7, "val": 0.1, "test": 0.2}, {"val": 1.0}]
)


def people(pairs: list[tuple[str | None, str | None]]) -> Source:
    items = tuple(Item(f"{place}.png", label, patient, "test") for place, (label, patient) in enumerate(pairs))
    return Source(Path("/images"), items)


@settings(deadline=None, max_examples=150)
@given(PEOPLE, FRACTIONS, st.integers(0, 5), st.randoms(use_true_random=False))
def test_division_places_each_item_once_and_no_patient_twice(
    pairs: list[tuple[str | None, str | None]], fractions: dict[str, float], seed: int, chance: random.Random
) -> None:
    source = people(pairs)
    divided = source.divided(fractions, seed)
    assert [(item.source, item.label, item.patient) for item in divided.items] == [
        (item.source, item.label, item.patient) for item in source.items
    ]
    assert all(item.split in fractions for item in divided.items)
    assert divided.leaking_patients() == frozenset()
    assert sum(len(divided.split(split)) for split in divided.splits) == len(source)

    shuffled = list(source.items)
    chance.shuffle(shuffled)
    again = Source(source.root, tuple(shuffled)).divided(dict(reversed(fractions.items())), seed)
    assert {item.source: item.split for item in again.items} == {item.source: item.split for item in divided.items}


@settings(deadline=None, max_examples=150)
@given(PEOPLE, FRACTIONS, st.integers(0, 5))
def test_each_class_is_divided_by_its_shares(
    pairs: list[tuple[str | None, str | None]], fractions: dict[str, float], seed: int
) -> None:
    one_label = [(label, patient and f"{label}{patient}") for label, patient in pairs]
    divided = people(one_label).divided(fractions, seed)
    for label in {label for label, _ in one_label}:
        items = [item for item in divided.items if item.label == label]
        groups = Counter(item.patient or item.source for item in items)
        sides = Counter(item.split for item in items)
        assert len(sides) == min(len(groups), len(fractions))
        for split, share in fractions.items():
            assert sides[split] < share * len(items) + max(groups.values())


def test_images_of_a_study_come_to_the_side_of_the_patient_that_one_of_them_names() -> None:
    items = [Item(f"{place}.png", "x", (None, "p")[place % 2], None, {}, f"s{place // 4}") for place in range(16)]
    items += [Item(f"{place}.png", "x", f"p{place}", None, {}, "shared") for place in range(16, 30)]
    items.append(Item("30.png", "x", None, None, {}, "shared"))
    sides = {}
    for order in (1, -1):
        divided = Source(Path("/"), tuple(items[::order])).divided({"train": 0.5, "test": 0.5})
        assert len({item.split for item in divided.items if str(item.study)[1:].isdigit()}) == 1
        sides[order] = {item.source: item.split for item in divided.items}
    assert sides[1] == sides[-1]
    assert set(sides[1].values()) == {"train", "test"}


def test_the_seed_decides() -> None:
    source = people([("a", None)] * 100)
    divided = [[item.split for item in source.divided({"train": 0.5, "test": 0.5}, seed).items] for seed in (0, 0, 1)]
    assert divided[0] == divided[1]
    assert divided[0] != divided[2]
    assert divided[0].count("train") == 50


def test_division_is_the_same_on_every_machine() -> None:
    """The written-out answer also guards against a change that would mix old and new runs' patients."""
    source = people([("ab"[place % 2], f"p{place // 3}") for place in range(18)])
    divided = source.divided({"train": 0.5, "val": 0.25, "test": 0.25}, seed=7)
    assert "".join((item.split or "?")[1] for item in divided.items) == "rrraaarrraaaeeerrr"


@pytest.mark.parametrize(
    "fractions",
    [{}, {"train": 0.8}, {"train": 0.8, "test": 0.3}, {"train": 1.2, "test": -0.2}, {"train": 1, "test": 0},
     {"train": 0.5, "holdout": 0.5}, {"train": float("nan"), "test": 0.5}],
)  # fmt: skip
def test_impossible_fractions_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="fractions must"):
        people([("a", None)]).divided(fractions)


def test_leaking_patients_stand_in_several_splits() -> None:
    items = [Item("1", None, "p", "train"), Item("2", None, "p", "test"), Item("3", None, "q", "test")]
    items += [Item("4", None, "q", None), Item("5", None, None, "train"), Item("6", None, None, "test")]
    assert Source(Path("/"), tuple(items)).leaking_patients() == {"p"}


# ---- real images


@pytest.mark.parametrize(
    ("path", "n_items", "n_labels"),
    [
        ("fundus_eye4", {"train": 2375, "test": 598}, 4),
        ("rbc12", {"train": 4581, "test": 1208}, 12),
        ("pneumoniamnist/pneumoniamnist.npz", {"train": 3882, "val": 524, "test": 624}, 2),
    ],
)
def test_real_sources(real_data: Path, path: str, n_items: dict[str, int], n_labels: int) -> None:
    source = open_source(real_data / path, patient_pattern=r"(\d+)_(?:left|right)")
    assert {split: len(source.split(split)) for split in source.splits} == n_items
    assert len(source.labels) == n_labels
    for item in source.items[:: len(source) // 20]:
        pixels = source.pixels(item)
        assert pixels.dtype == np.uint8
        assert pixels.max() > pixels.min()
    if path == "fundus_eye4":
        assert source.n_without_patient == 201
    divided = source.divided({"train": 0.8, "test": 0.2})
    assert divided.leaking_patients() == frozenset()
    assert len(divided.split("test")) == pytest.approx(len(source) / 5, rel=0.02)
