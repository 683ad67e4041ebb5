"""The command line: what people type, what they read, and what is left on disk when something is wrong."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

from athsearch import cli
from athsearch.archive.archive import Archive
from athsearch.codes import Codes
from athsearch.data import Item, Source
from athsearch.encoder import Encoder
from athsearch.evaluation import evaluate
from conftest import Run, draw_image, interrupt_when, run_apart
from cuda_stand_in import StandIn, install_cuda


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten images of each of two classes, left and right eyes of ten patients, in split/class/file."""
    for number in range(20):
        split, label = ("test" if number % 10 in (8, 9) else "train"), "ab"[number // 10]
        folder = tmp_path / "images" / split / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_image(number)).save(folder / f"{number // 2}_{('left', 'right')[number % 2]}.png")
    return tmp_path / "images"


@pytest.fixture
def weights(tmp_path: Path, encoder: Encoder) -> Path:
    encoder.save(tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture
def archive(tmp_path: Path, weights: Path, images: Path, run: Run) -> Path:
    path = tmp_path / "archive"
    assert run("index", path, images, "--weights", weights, "--patient-pattern", r"(\d+)_").status == 0
    return path


@pytest.mark.parametrize("command", cli._COMMANDS)
def test_every_command_has_help_with_an_example(command: str, run: Run) -> None:
    outcome = run(command, "--help")
    assert outcome.status == 0
    assert f"athsearch {command} " in outcome.out or f"athsearch {command}\n" in outcome.out
    assert re.search("Examples?:", outcome.out)
    assert "--json" in outcome.out


def test_help_names_every_command(run: Run) -> None:
    outcome = run("--help")
    assert outcome.status == 0
    for command in cli._COMMANDS:
        assert f"\n  {command} " in outcome.out


def test_index_counts_and_goes_on(run: Run, archive: Path, images: Path) -> None:
    again = run("index", archive, images, "--json").json()
    assert again == {
        **{"archive": str(archive), "n_cases": 20, "n_added": 0, "n_changed": 0, "n_present": 20, "n_deleted": 0},
        **{"n_differing": 0, "failed": [], "skipped": []},
        "columns": ["id", "source", "label", "patient", "study", "split"],
        **{"index": "flat", "index_reason": "none is kept"},
    }
    Image.fromarray(draw_image(77)).save(images / "train" / "a" / "77.png")
    outcome = run("index", archive, images)
    assert outcome.status == 0
    table = [line.split(maxsplit=1) for line in outcome.out.splitlines()]
    assert table[1:6] == [
        *(["1", "added"], ["0", "changed"], ["20", "there already"], ["0", "deleted earlier"], ["0", "unreadable"]),
    ]
    assert outcome.out.endswith(": 21 cases\n")


def test_query_by_image_id_and_code_agree(run: Run, archive: Path, images: Path, encoder: Encoder) -> None:
    path = images / "train" / "a" / "1_left.png"
    by_image = run("query", archive, path, "-k", 5, "--json").json()
    code = encoder.encode(path).to_bytes().tobytes().hex()
    by_code = run("query", archive, "--code", code, "-k", 5, "--json").json()
    assert by_image["hits"] == by_code["hits"]  # type: ignore[index]
    assert by_image["hits"][0]["distance"] == 0  # type: ignore[index]
    assert len(by_image["hits"]) == 5  # type: ignore[index]
    by_id = run("query", archive, "--id", 3, "-k", 50)
    assert by_id.out.splitlines()[0].split() == ["rank", "distance", "id", "label", "source"]
    # The case itself and its patient's other eye are left out.
    assert len(by_id.out.splitlines()) == 1 + 20 - 2
    assert len(run("query", archive, "--id", 3, "-k", 50, "--where", "label = 'b'").out.splitlines()) == 1 + 10 - 2
    assert len(run("query", archive, "--id", 3, "-k", 10**30, "--same-patient").out.splitlines()) == 1 + 20 - 1
    assert len(run("query", archive, "--id", 3, "-k", 50, "--exclude-same", "label").out.splitlines()) == 1 + 10


def test_query_shows_the_scores_it_reranks_by(run: Run, archive: Path, images: Path) -> None:
    path = images / "train" / "a" / "1_left.png"
    ranked = run("query", archive, path, "-k", 5, "--rerank", "asymmetric", "--depth", 20, "--json").json()
    plain = run("query", archive, path, "-k", 5, "--json").json()
    assert (ranked["rerank"], plain["rerank"]) == ("asymmetric", None)  # type: ignore[index]
    assert {hit["score"] for hit in plain["hits"]} == {None}  # type: ignore[index]
    with Archive.open(archive) as opened:
        hits = opened.search(path, 5, rerank="asymmetric", depth=20)
    facts = [(hit["id"], hit["distance"], hit["score"]) for hit in ranked["hits"]]  # type: ignore[index]
    assert facts == [(hit.case.id, hit.distance, hit.score) for hit in hits]
    table = run("query", archive, path, "-k", 5, "--rerank", "asymmetric").out.splitlines()
    assert table[0].split() == ["rank", "distance", "score", "id", "label", "source"]
    assert [line.split()[2] for line in table[1:]] == [str(hit.score) for hit in hits]


def test_query_shows_a_case_on_one_line_whatever_its_record_holds(
    run: Run, weights: Path, images: Path, tmp_path: Path
) -> None:
    rows = [f'{path.relative_to(images)},a,"two\nlines\x1b[2J"' for path in sorted(images.rglob("*.png"))[:3]]
    (images / "m.csv").write_text("\n".join(["path,label,finding", *rows]))
    assert run("index", tmp_path / "notes", images / "m.csv", "--weights", weights).status == 0
    titles, *lines = run("query", tmp_path / "notes", "--id", 1).out.splitlines()
    assert titles.split() == ["rank", "distance", "id", "label", "finding", "source"]
    assert len(lines) == 2
    assert all("two lines [2J" in line for line in lines)


def test_query_writes_a_contact_sheet(run: Run, archive: Path, images: Path, tmp_path: Path) -> None:
    whole = run("query", archive, "--id", 1, "-k", 12, "--sheet", tmp_path / "whole.png")
    gone = images / archive_case(archive, 1)
    gone.unlink()
    outcome = run("query", archive, "--id", 1, "-k", 12, "--sheet", tmp_path / "sheet.png")
    assert outcome.status == whole.status == 0
    assert outcome.out == whole.out
    assert (tmp_path / "sheet.png").read_bytes() != (tmp_path / "whole.png").read_bytes()
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 500
        assert len(np.unique(np.asarray(sheet.convert("L")))) > 100


@pytest.mark.parametrize(
    ("option", "path", "error"),
    [
        *((option, ".", ".: Is a directory") for option in ("--sheet", "--latex")),
        *((option, "", ".: Is a directory") for option in ("--sheet", "--latex")),
        *((option, "/", "/: Is a directory") for option in ("--sheet", "--latex")),
        *((option, "gone/x.png", "gone/x.png: No such file or directory") for option in ("--sheet", "--latex")),
        ("--plots", "file", "file: Not a directory"),
        ("--plots", "file/plots/new", "file/plots/new: Not a directory"),
    ],
)
def test_where_nothing_can_be_written_is_told_before_the_work(
    run: Run, archive: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    option: str, path: str, error: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(Archive, "open", lambda *_: pytest.fail("the work was begun"))
    asked = ("query", archive, "--id", 1) if option == "--sheet" else ("evaluate", archive, images)
    outcome = run(*asked, option, path)
    assert (outcome.status, outcome.error()) == (1, f"athsearch: {error}")
    assert (tmp_path / "file").read_text() == "mine"


def test_without_torch_a_sheet_has_no_overlays(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    # A package path that hides torch from the command, as on a machine that has none.
    (tmp_path / "bare" / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'torch' else find(name, package)\n"
        "sys.modules['torch'] = None\n"
    )
    command = ("query", archive, "--id", 1, "--sheet", tmp_path / "sheet.png")
    outcome = run_apart(*command, env={**os.environ, "PYTHONPATH": str(tmp_path / "bare")})
    assert outcome.status == 0
    assert "without overlays: they need torch" in outcome.err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 500


def test_evaluate_prints_what_the_library_finds(run: Run, archive: Path, images: Path, encoder: Encoder) -> None:
    outcome = run("evaluate", archive, images, "--json", "--patient-pattern", r"(\d+)_", "-k", 3)
    found = outcome.json()
    with Archive.open(archive) as opened:
        database = opened.database()
    codes = [encoder.encode(images / "test" / name) for name in ("a/4_left.png", "a/4_right.png")]
    codes += [encoder.encode(images / "test" / name) for name in ("b/9_left.png", "b/9_right.png")]
    assert found["n_queries"] == 4  # type: ignore[index]
    assert (found["n_left_out"], found["n_cases_left_out"]) == (4, 8)  # type: ignore[index]
    by_hand = []
    for code, patient, label in zip(codes, (4, 4, 9, 9), "aabb", strict=True):
        rows = [row for row in range(20) if database.patients[row] != database.patients[_row_of(archive, patient)]]
        labels = [str(database.labels[row]) for row in rows]
        by_hand.append(evaluate(database.codes[np.array(rows)], labels, code, [label], 3).micro.precision)
    assert found["micro"]["precision"] == pytest.approx(np.mean(by_hand))  # type: ignore[index]
    table = run("evaluate", archive, images, "--patient-pattern", r"(\d+)_").out
    for row in ("macro", "micro", "chance, macro", "majority, macro", "a ", "b "):
        assert f"\n{row}" in table
    assert "4 queries or their patients are in the archive too: each was scored without its own (8 cases" in table
    # The same query images, with nothing known of their patients: they are in the archive, whose cases have patients.
    assert run("evaluate", archive, images, "--json", "-k", 3).json()["macro"] == found["macro"]  # type: ignore[index]


def archive_case(archive: Path, id: int) -> str:
    with Archive.open(archive) as opened:
        return opened.case(id).source


def _row_of(archive: Path, patient: int) -> int:
    with Archive.open(archive) as opened:
        hits = [opened.case(id) for id in opened.database().ids.tolist()]
    return next(row for row, case in enumerate(hits) if f"/{patient}_left" in case.source)


def test_an_image_of_a_medmnist_file_can_be_asked_for(run: Run, weights: Path, tmp_path: Path) -> None:
    pixels = np.stack([draw_image(number, 28) for number in range(6)])
    np.savez(tmp_path / "mm.npz", train_images=pixels, train_labels=np.arange(6) % 2)
    assert run("index", tmp_path / "archive", tmp_path / "mm.npz", "--weights", weights).status == 0
    hits = run("query", tmp_path / "archive", tmp_path / "mm.npz" / "train" / "00004", "-k", 1, "--json").json()["hits"]  # type: ignore[index]
    assert (hits[0]["distance"], hits[0]["label"]) == (0, "0")


def test_an_archive_is_found_from_inside(run: Run, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archive)
    assert run("info", ".", "--json").json()["cases"] == 20  # type: ignore[index]
    assert run("query", ".", "--id", 1).status == 0
    assert not list(archive.rglob("*.key"))


def test_info_knows_archives_weights_and_runs(run: Run, archive: Path, weights: Path, tmp_path: Path) -> None:
    facts = run("info", archive, "--json").json()
    assert (facts["cases"], facts["labels"], facts["bits"]) == (20, {"a": 10, "b": 10}, 36)  # type: ignore[index]
    facts = run("info", weights, "--json").json()
    assert (facts["network"], facts["classes"]) == ("ath-m", ["a", "b"])  # type: ignore[index]
    assert "ath-m" in run("info", weights).out
    assert "cases" in run("info", archive).out


def test_train_writes_a_run_that_index_takes(run: Run, images: Path, tmp_path: Path) -> None:
    train = ("train", images, "--out", tmp_path / "run", "--epochs", 2, "--size", 64, "--bits", 16)
    summary = run(*train, "--json").json()
    assert summary["weights"] == str(tmp_path / "run" / "weights.safetensors")  # type: ignore[index]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"weights.safetensors", "history.json", "curves.png"}
    assert run(*train, "--json").json() == summary
    assert run("index", tmp_path / "archive", images, "--weights", tmp_path / "run" / "weights.safetensors").status == 0
    assert "another bits" in run(*train[:-1], 24).error()


def test_which_images_a_finished_run_could_not_use_is_not_known(run: Run, images: Path, tmp_path: Path) -> None:
    for number in range(40, 46):  # so that one is not more than one in twenty
        Image.fromarray(draw_image(number)).save(images / "train" / "a" / f"{number}.png")
    (images / "train" / "a" / "46.png").write_bytes(b"")
    train = ("train", images, "--out", tmp_path / "run", "--epochs", 1, "--size", 64, "--bits", 16, "--json")
    facts = [(found["n_unreadable"], found["failed"]) for found in (run(*train).json(), run(*train).json())]  # type: ignore[index]
    assert facts == [(1, [{"source": "train/a/46.png", "reason": "the file is empty"}]), (1, None)]
    assert b"46.png" not in (tmp_path / "run" / "history.json").read_bytes()


def test_without_matplotlib_no_training_begins(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = run("train", images, "--out", tmp_path / "run", "--epochs", 1, "--size", 64)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "athsearch: this command needs matplotlib: pip install 'athsearch[train]'\n"
    assert not list((tmp_path / "run").iterdir())


def test_answers_reach_streams_that_are_closed_or_know_few_characters(archive: Path, tmp_path: Path, run: Run) -> None:
    with Archive.open(archive) as opened:
        opened.add_codes(Codes(np.zeros((1, 1), np.uint64), 36), cases=Source(Path("/images"), (Item("x", "日本"),)))
    streams = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    assert "\\u65e5\\u672c 1" in run_apart("info", archive, env=streams).out
    assert run_apart("info", archive, "--json", env=streams).json()["labels"]["日本"] == 1  # type: ignore[index]
    assert run("info", archive, "--json").out.isascii()
    command = f"{sys.executable} -m athsearch verify {archive}"
    closed = subprocess.run([*("sh", "-c"), f"{command} 2>&-"], check=False, capture_output=True, text=True)
    assert (closed.returncode, "all is sound" in closed.stdout) == (0, True)
    command = f"{sys.executable} -m athsearch delete {archive} --id"
    closed = subprocess.run([*("sh", "-c"), f"{command} 1 <&-"], check=False, capture_output=True, text=True)
    assert (closed.returncode, "--yes deletes them" in closed.stderr) == (2, True)
    full = subprocess.run([*("sh", "-c"), f"{command} 1 --yes >/dev/full"], check=False, capture_output=True, text=True)
    assert full.stderr == f"athsearch: standard output: No space left on device; {archive}: 1 deleted; 20 cases\n"
    assert (full.returncode, run("info", archive, "--json").json()["deleted"]) == (1, 1)  # type: ignore[index]
    np.save(tmp_path / "codes.npy", np.zeros((3, 1), np.uint64))
    command = f"{sys.executable} -m athsearch index {tmp_path / 'codes'} {tmp_path / 'codes.npy'} --bits 64 >/dev/full"
    full = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True)
    assert (full.returncode, "3 were added, so do not add them again" in full.stderr) == (1, True)


# ---- bad input: one line that names the culprit, status 1 or 2, nothing lost or half-written


def big_png() -> bytes:
    """20,000 x 20,000 grey pixels, as far as the header goes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.fixture
def bad_images(tmp_path: Path) -> dict[str, str]:
    """Bad images by name, in the folder `bad`, and a word of what is said about each."""
    folder = tmp_path / "bad"
    folder.mkdir()
    Image.fromarray(draw_image(1, 200)).save(folder / "truncated.jpg")
    whole = (folder / "truncated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    Image.fromarray(draw_image(1)[:1, :1]).save(folder / "tiny.png")
    (folder / "huge.png").write_bytes(big_png())
    (folder / "text.png").write_text("a text")
    return {
        "truncated.jpg": "truncated",
        "empty.png": "empty",
        "tiny.png": "1 x 1 px",
        "huge.png": "20000 x 20000 px",
        "text.png": "not that of",
    }


def test_bad_images_are_refused_one_by_one(run: Run, archive: Path, bad_images: dict[str, str], tmp_path: Path) -> None:
    for name, word in bad_images.items():
        outcome = run("query", archive, tmp_path / "bad" / name)
        assert outcome.status == 1
        assert name in outcome.error()
        assert word in outcome.error()


def test_bad_images_become_lines_of_the_report(
    run: Run, archive: Path, bad_images: dict[str, str], tmp_path: Path
) -> None:
    Image.fromarray(draw_image(30)).save(tmp_path / "bad" / "good.png")
    report = run("index", archive, tmp_path / "bad", "--json")
    assert report.status == 0
    assert report.json()["n_added"] == 1  # type: ignore[index]
    assert {entry["source"] for entry in report.json()["failed"]} == set(bad_images)  # type: ignore[index]
    (tmp_path / "bad" / "good.png").unlink()
    outcome = run("index", archive, tmp_path / "bad")
    assert outcome.status == 1
    assert "none of its 5 images can be used" in outcome.err


def test_sources_that_are_none_are_refused(run: Run, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    (tmp_path / "no.csv").write_text("file,class\na.png,x\n")
    np.savez(tmp_path / "shape.npz", train_images=np.zeros((4, 9), np.uint8), train_labels=np.zeros(4, np.uint8))
    (tmp_path / "text.npz").write_text("no archive")
    for name, word in {
        "missing": "no such file or folder",
        "void": "no images",
        "no.csv": "no column 'path' (found: file, class)",
        "shape.npz": "train_images",
        "text.npz": "text.npz",
    }.items():
        for command in (
            ("index", tmp_path / "new", tmp_path / name, "--weights", weights),
            ("train", tmp_path / name, "--out", tmp_path / "run"),
        ):
            outcome = run(*command)
            assert outcome.status == 1
            assert name in outcome.error()
            assert word in outcome.error()
            assert not (tmp_path / "new").exists()
            assert not (tmp_path / "run").exists()


def test_classes_that_cannot_be_trained_on_are_named(run: Run, tmp_path: Path) -> None:
    for label in ("many", "lonely"):
        (tmp_path / "images" / label).mkdir(parents=True)
    for number in range(6):
        Image.fromarray(draw_image(number)).save(tmp_path / "images" / "many" / f"{number}.png")
    outcome = run("train", tmp_path / "images", "--out", tmp_path / "run")
    assert (outcome.status, "two classes" in outcome.error()) == (1, True)
    Image.fromarray(draw_image(9)).save(tmp_path / "images" / "lonely" / "9.png")
    outcome = run("train", tmp_path / "images", "--out", tmp_path / "run")
    assert (outcome.status, "'lonely' has one image" in outcome.error()) == (1, True)
    assert not (tmp_path / "run").exists()


def test_wrong_usage_has_status_2(run: Run, archive: Path, images: Path, tmp_path: Path) -> None:
    for arguments, word in (
        (("query", archive), "give one of IMAGE, --id and --code"),
        (("query", archive, "--id", 1, "--where", "nonsense"), "no such column"),
        (("query", archive, "--id", 1, "--exclude-same", "weight"), "no column 'weight'"),
        (("query", archive, images / "test" / "a" / "4_left.png", "--exclude-same", "label"), "go with --id"),
        (("query", archive, "--id", 1, "--patient", "4"), "--patient goes with IMAGE"),
        (("query", archive, "--code", "zz"), "hexadecimal bytes of 36 bits"),
        (("query", archive, "--id", 1, "-k", 0), "-k"),
        (("query", archive, "--id", 1, "--rerank", "asymmetric"), "re-ranking needs an image"),
        (("query", archive, "--code", "0000000000", "--rerank", "asymmetric"), "re-ranking needs an image"),
        (("query", archive, images / "test" / "a" / "4_left.png", "--depth", 5), "--depth goes with --rerank"),
        (("query", archive, images / "test" / "a" / "4_left.png", "--rerank", "float"), "asymmetric"),
        (("query", archive, "--id", 1, "--images", images), "--images goes with --sheet"),
        (("query", archive, "--id", 1, "--sheet", tmp_path / "x.png", "--images", tmp_path / "gone"), "does not exist"),
        (("query", archive, "--id", 1, "--device", "cpu"), "--device goes with IMAGE or --sheet"),
        (("index", archive, "--kind", "flat", "--device", "cpu"), "--device goes with a SOURCE"),
        (("index", archive, "--kind", "flat", "--key", "x"), "--key goes with a SOURCE"),
        (("index", archive, images, "--path-column", "p"), "--path-column goes with a manifest"),
        (("train", images, "--out", tmp_path / "run", "--label-column", "p"), "--label-column goes with a manifest"),
        (("index", tmp_path / "new", images), "give --weights to make it"),
        (("index", archive, images, "--patient-pattern", "("), "--patient-pattern"),
        (("index", archive, images, "--test-share", 0.5), "has splits of its own"),
        (("train", images, "--out", tmp_path / "run", "--size", 65), "divisible by 8"),
        (("train", images, "--out", tmp_path / "run", "--bits", 0), "bits"),
        (("train", images, "--out", tmp_path / "run", "--loss", "hinge"), "orthohash"),
        (("train", images, "--out", tmp_path / "run", "--network", "vgg"), "ath-m"),
        (("nonsense",), "No such command"),
    ):
        outcome = run(*arguments)
        assert outcome.status == 2
        assert word in click.unstyle(outcome.err), outcome.err


def test_a_folder_that_cannot_be_stored_makes_no_archive(run: Run, images: Path, weights: Path, tmp_path: Path) -> None:
    bad = Path(os.fsdecode(bytes(tmp_path) + b"/\xfc"))
    try:
        images.rename(bad)
    except OSError:
        pytest.skip("this file system only takes names that are text")
    outcome = run("index", tmp_path / "new", bad / "train", "--weights", weights)
    assert (
        outcome.error()
        == rf"athsearch: {tmp_path}/\xfc/train: the folder's name is not UTF-8, which the catalogue needs"
    )
    assert not (tmp_path / "new").exists()


def test_the_depth_of_a_reranking_is_said_to_be_k_at_least(run: Run) -> None:
    assert "at least -k" in " ".join(run("query", "--help").out.split())


def test_archives_and_weights_that_do_not_fit_are_refused(
    run: Run, archive: Path, images: Path, weights: Path, encoder: Encoder, tmp_path: Path
) -> None:
    outcome = run("query", tmp_path / "nowhere", "--id", 1)
    assert (outcome.status, "no such folder" in outcome.error()) == (1, True)
    outcome = run("query", images, "--id", 1)
    assert (outcome.status, "not an archive" in outcome.error()) == (1, True)
    outcome = run("query", archive, "--id", 99)
    assert (outcome.status, "no case 99" in outcome.error()) == (1, True)
    outcome = run("query", archive, "--id", 10**20)
    assert (outcome.status, f"no case {10**20}" in outcome.error()) == (1, True)
    outcome = run("index", tmp_path / "new", images, "--weights", tmp_path)
    assert (outcome.status, str(tmp_path) in outcome.error()) == (1, True)
    outcome = run("info", tmp_path / "nowhere")
    assert (outcome.status, "no such file or folder" in outcome.error()) == (1, True)
    weights.write_bytes(weights.read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 2'))
    for command in (("info", weights), ("index", tmp_path / "new", images, "--weights", weights)):
        outcome = run(*command)
        assert (outcome.status, "weights of format 2" in outcome.error()) == (1, True)
    assert not (tmp_path / "new").exists()
    assert run("train", images, "--out", tmp_path / "run", "--epochs", 1, "--size", 64).status == 0
    outcome = run("index", archive, images, "--weights", tmp_path / "run" / "weights.safetensors")
    assert (outcome.status, "holds codes of model" in outcome.error()) == (1, True)


def test_a_place_that_cannot_be_written_is_named(run: Run, images: Path, weights: Path) -> None:
    place = Path("/sys/athsearch")
    for command in (
        ("index", place, images, "--weights", weights),
        ("train", images, "--out", place, "--epochs", 1),
        ("demo", "--data", images, "--out", place),
    ):
        outcome = run(*command)
        assert outcome.status == 1
        assert "/sys/" in outcome.error()


def test_a_key_that_could_not_be_written_is_not_there(images: Path, weights: Path, tmp_path: Path, run: Run) -> None:
    assert run("index", tmp_path / "archive", images / "test" / "a", "--weights", weights).status == 0
    command = ("index", tmp_path / "archive", images, "--patient-pattern", r"(\d+)_")
    outcome = run_apart(*command, file_bytes=40)
    assert (outcome.status, "archive.key: File too large" in outcome.error()) == (1, True)
    assert not (tmp_path / "archive.key").exists()
    assert run(*command).status == 0
    assert len((tmp_path / "archive.key").read_text()) == 65


def test_killed_at_any_moment_an_index_run_goes_on(run: Run, images: Path, weights: Path, tmp_path: Path) -> None:
    for number in range(3000, 3300):
        Image.fromarray(draw_image(number)).save(images / "train" / "a" / f"{number}.png")
    command = ("index", tmp_path / "parts", images)
    run("index", tmp_path / "parts", images / "test" / "a", "--weights", weights)
    for told in ("indexing: 64 ", "indexing: 320 "):
        interrupt_when(told, *command, sign=signal.SIGKILL)
        assert run("info", tmp_path / "parts").status == 0
    assert run(*command).status == 0
    assert run("index", tmp_path / "whole", images / "test" / "a", "--weights", weights).status == 0
    assert run("index", tmp_path / "whole", images).status == 0
    with Archive.open(tmp_path / "parts") as parts, Archive.open(tmp_path / "whole") as whole:
        assert parts.database().codes == whole.database().codes
        assert parts.database().contents == whole.database().contents


def test_a_full_disk_loses_nothing(images: Path, archive: Path, weights: Path, tmp_path: Path, run: Run) -> None:
    def facts() -> dict[str, object]:
        """Without the bytes: a segment may be there that nobody lists."""
        return {name: value for name, value in run("info", archive, "--json").json().items() if name != "bytes"}  # type: ignore[attr-defined]

    before = facts()
    for number in range(3000, 3200):
        Image.fromarray(draw_image(number)).save(images / "train" / "a" / f"{number}.png")
    # A limit on the size of files fails the same calls that a full disk does, at every point in turn.
    statuses = []
    for file_bytes in (10, 1000, 30_000, 60_000):
        outcome = run_apart("index", archive, images, file_bytes=file_bytes)
        statuses.append(outcome.status)
        assert outcome.status == 0 or len(outcome.error()) > 20
        if outcome.status:
            assert facts() == before
    assert statuses[0] == 1
    assert run("index", archive, images, "--json").json()["n_cases"] == 220  # type: ignore[index]

    outcome = run_apart("index", tmp_path / "new", images, "--weights", weights, file_bytes=1000)
    assert (outcome.status, "new" in outcome.error()) == (1, True)
    outcome = run_apart("train", images, "--out", tmp_path / "run", "--epochs", 1, "--size", 64, file_bytes=1000)
    assert (outcome.status, "run" in outcome.error()) == (1, True)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_ctrl_c_while_indexing_loses_nothing(run: Run, images: Path, weights: Path, tmp_path: Path) -> None:
    for number in range(3000, 3600):
        Image.fromarray(draw_image(number)).save(images / "train" / "a" / f"{number}.png")
    command = ("index", tmp_path / "parts", images)
    outcome = interrupt_when("indexing: 64 of 620", *command, "--weights", weights)
    assert outcome.status == 1
    assert "the same command goes on from there" in outcome.error()
    report = run(*command, "--json").json()
    assert report["n_present"] >= 64  # type: ignore[index]
    assert report["n_added"] > 0  # type: ignore[index]
    assert run("index", tmp_path / "whole", images, "--weights", weights).status == 0
    with Archive.open(tmp_path / "parts") as parts, Archive.open(tmp_path / "whole") as whole:
        first, second = parts.database(), whole.database()
        assert first.codes == second.codes
        assert first.contents == second.contents
        assert first.labels == second.labels
        assert first.ids.tolist() == second.ids.tolist()


def test_ctrl_c_while_training_loses_nothing(run: Run, images: Path, tmp_path: Path) -> None:
    command = ("train", images, "--epochs", 6, "--size", 64, "--out")
    outcome = interrupt_when("epoch 3/6", *command, tmp_path / "parts")
    assert outcome.status == 1
    assert "the same command goes on from there" in outcome.error()
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    assert run(*command, tmp_path / "parts").status == 0
    assert run(*command, tmp_path / "whole").status == 0
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("parts", "whole")]
    assert weights[0] == weights[1]


def test_ctrl_c_where_nothing_goes_on_says_so_much(
    run: Run, archive: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Archive, "search_case", press)
    outcome = run("query", archive, "--id", 1)
    assert (outcome.status, outcome.err.strip()) == (1, "athsearch: interrupted")
    monkeypatch.setattr("athsearch.demo.run.demonstrate", press)
    assert "the same command goes on from there" in run("demo", "--data", images, "--out", archive / "x").error()


def test_device_says_what_there_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    facts: Any = run("device", "--json").json()
    assert facts["cpu"]["kernel"] in facts["cpu"]["available"]
    assert bool(facts["gpus"]) == (facts["gpu_reason"] is None)
    install_cuda(None, monkeypatch)
    outcome = run("device")
    assert outcome.status == 0
    assert "gpu    none: athsearch was built without its CUDA module: build it with ATH_CUDA=ON" in outcome.out
    install_cuda(StandIn(1), monkeypatch)
    assert run("device", "--json").json()["gpus"][0]["free_bytes"] is None
    assert "132 multiprocessors, unknown of 80.0 GB free\n" in run("device").out
    install_cuda(StandIn(1, capability="7.5"), monkeypatch)
    assert (
        "GB free; not usable: GPU 0 (stand-in) is of compute capability 7.5: the kernels need 8.0" in run("device").out
    )


def test_a_search_on_a_gpu_that_is_not_there_is_one_line(
    run: Run, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_cuda(None, monkeypatch)
    outcome = run("query", archive, "--id", 1, "--kind", "gpu")
    assert outcome.status == 1
    assert "no index of kind gpu" in outcome.error()
