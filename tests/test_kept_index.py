"""Indexes kept in archives: the same answers, opened in no time, renewed as archives grow, and lost to no accident."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import pytest

from athsearch.archive.archive import Archive
from athsearch.codes import Codes
from athsearch.errors import SegmentCorrupt
from athsearch.index import FlatIndex
from conftest import Run, interrupt_when, run_apart

KINDS = ("distinct", "mih")


def learned_codes(n_codes: int, n_distinct: int, seed: int = 0) -> Codes:
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2**64, (n_distinct, 1), np.uint64)
    return Codes(words[rng.integers(0, n_distinct, n_codes)], 64)


def found(archive: Archive, id: int, kind: str | None = None, k: int = 30) -> list[tuple[int, int]]:
    return [(hit.case.id, hit.distance) for hit in archive.search_case(id, k, kind=kind)]


def folders(archive: Archive) -> list[str]:
    return sorted(path.name for path in (archive.path / "indexes").iterdir())


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """8,000 codes in two segments; half of them are different; one in five hundred was deleted."""
    with Archive.create(tmp_path / "archive", bits=64) as archive:
        archive.add_codes(learned_codes(5000, 3500))
        archive.add_codes(learned_codes(3000, 1500, 1))
        archive.delete(range(1, 8001, 500))
    return Archive.open(tmp_path / "archive")


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_a_scan(archive: Archive, kind: str) -> None:
    ids = range(2, 8000, 100)
    truth = {id: found(archive, id, "flat") for id in ids}
    plan = archive.build_index(kind)
    assert (plan.kind, archive.index_plan.kind) == (kind, kind)
    with Archive.open(archive.path) as again:
        for id in ids:
            assert found(archive, id) == found(again, id) == truth[id]
            assert found(again, id, "flat") == found(again, id, "auto") == truth[id]
    assert archive.build_index("flat").kind == "flat"
    assert archive.index_plan.kind == "flat"
    assert folders(archive) == []
    assert found(archive, 2) == truth[2]


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_is_renewed_once_many_codes_were_added(archive: Archive, kind: str) -> None:
    archive.build_index(kind)
    before = folders(archive)
    archive.add_codes(learned_codes(500, 100, 2))  # a sixteenth
    assert folders(archive) == before
    assert found(archive, 8200) == found(archive, 8200, "flat")
    archive.delete([8200, 17])
    archive.add_codes(learned_codes(1, 1, 3))
    assert len(folders(archive)) == 2
    archive.delete([18])  # the next to write removes the old one
    after = folders(archive)
    assert len(after) == 1
    assert after != before
    assert found(archive, 8201) == found(archive, 8201, "flat")
    index = archive._snapshot.kept_index if archive._snapshot else None
    assert index is not None
    assert index.n_rows == 8501
    digests = {path.name: hashlib.sha256(path.read_bytes()) for path in (archive.path / "indexes" / after[0]).iterdir()}
    assert dict(index.files) == {name: digest.hexdigest() for name, digest in digests.items()}


@pytest.mark.parametrize("kind", ["distinct", "mih"])
def test_compaction_may_merge_what_the_index_covers_with_what_came_later(archive: Archive, kind: str) -> None:
    archive.build_index(kind)
    archive.add_codes(learned_codes(100, 50, 6))
    assert archive.compact().n_removed == 16
    archive.add_codes(learned_codes(100, 50, 7))
    assert archive.compact().n_segments == 1
    with Archive.open(archive.path) as opened:
        assert opened.index_plan.kind == kind
        for id in (2, 8000, 8050, 8150):
            assert found(opened, id) == found(opened, id, "flat")


def test_one_process_sees_the_index_that_another_builds(archive: Archive) -> None:
    truth = found(archive, 2)
    with Archive.open(archive.path) as other:
        for kind in ("mih", "distinct", "auto"):
            other.build_index(kind)
            assert found(archive, 2) == truth
    assert archive.index_plan.kind == "flat"  # 8,000 codes are few


@pytest.mark.parametrize("damage", ["missing", "short", "shape", "values", "header"])
def test_a_damaged_index_is_named_and_can_be_built_anew(archive: Archive, damage: str, run: Run) -> None:
    archive.build_index("mih")
    truth = found(archive, 2, "flat")
    path = archive.path / "indexes" / folders(archive)[0] / "table0_begins.npy"
    begins = np.load(path)
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        os.truncate(path, path.stat().st_size - 8)
    elif damage == "header":
        path.write_bytes(path.read_bytes().replace(b"}", b"|", 1))
    else:
        np.save(path, begins[:100] if damage == "shape" else np.full_like(begins, 2**32 - 1))
    with Archive.open(archive.path) as opened:
        assert opened.n_cases == 7984
        with pytest.raises(SegmentCorrupt, match="damaged" if damage == "values" else "--kind auto"):
            found(opened, 2)
        assert found(opened, 2, "flat") == truth
        assert run("query", archive.path, "--id", 2).status == 1
        told = run("verify", archive.path).err
        assert f"{archive.path}: 1 problem; `athsearch index {archive.path} --kind auto` builds the index anew" in told
        opened.build_index("mih")
        assert found(opened, 2) == truth


def test_an_index_that_cannot_be_written_leaves_the_old_one(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.build_index("distinct")
    before = folders(archive)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("athsearch.archive.kept_index.os.rename", full)
    with pytest.raises(OSError, match="No space left"):
        archive.build_index("mih")
    with pytest.warns(RuntimeWarning, match="its index could not be renewed .*No space left"):
        assert archive.add_codes(learned_codes(4000, 100, 4)) == range(8001, 12001)
    assert folders(archive) == before
    assert found(archive, 9000) == found(archive, 9000, "flat")
    monkeypatch.undo()
    archive.add_codes(learned_codes(1, 1, 5))
    assert folders(archive) != before
    assert found(archive, 12001) == found(archive, 12001, "flat")
    with pytest.raises(ValueError, match="keeps no index of kind 'hnsw'; known: auto, flat, distinct, mih"):
        archive.build_index("hnsw")


def test_a_full_disk_is_an_error_before_anything_is_written_through_a_map(archive: Archive) -> None:
    archive.close()
    outcome = run_apart("index", archive.path, "--kind", "mih", file_bytes=30_000)
    assert outcome.status == 1
    assert "File too large" in outcome.err
    assert "athsearch index" in outcome.err
    with Archive.open(archive.path) as opened:
        assert opened.index_plan.kind == "flat"
        assert not list((archive.path / "indexes").iterdir())


@pytest.mark.parametrize(
    ("column", "value"),
    [("kind", "hnsw"), ("folder", "../segments"), ("n_rows", 8060), ("n_rows", 5000), ("n_rows", "many"),
     ("files", "not json"), ("files", "{}"), ("files", '{"../../x.npy": ""}')],
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_catalogue_says_of_an_index_is_not_trusted(
    archive: Archive, kind: str, column: str, value: object
) -> None:
    archive.build_index(kind)
    truth = found(archive, 2)
    with sqlite3.connect(archive.path / "catalogue.sqlite") as catalogue:
        catalogue.execute(f"UPDATE kept_index SET {column} = ?", [value])
    with Archive.open(archive.path) as opened:
        with pytest.raises(SegmentCorrupt, match="--kind auto"):
            found(opened, 2)
        assert found(opened, 2, "flat") == truth
        assert opened.add_codes(learned_codes(1000, 10, 6)) == range(8001, 9001)
        opened.build_index(kind)
        assert found(opened, 8500) == found(opened, 8500, "flat")


def test_other_files_among_the_indexes_do_no_harm(archive: Archive) -> None:
    archive.build_index("distinct")
    (archive.path / "indexes" / ".DS_Store").touch()
    (archive.path / "indexes" / "notes").mkdir()
    assert archive.delete([2]) == 1
    archive.build_index("flat")
    assert folders(archive) == [".DS_Store", "notes"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_archive_and_long_codes_keep_what_they_can(tmp_path: Path, kind: str) -> None:
    with Archive.create(tmp_path / "empty", bits=64) as archive:
        archive.build_index(kind)
        assert archive.search(learned_codes(1, 1)) == []
        archive.add_codes(learned_codes(5, 2))
        assert found(archive, 1) == found(archive, 1, "flat")
    long = Codes.from_bits(np.random.default_rng(7).random((300, 4096)) < 0.5)
    with Archive.create(tmp_path / "long", bits=4096) as archive:
        archive.add_codes(long)
        assert archive.build_index(kind).kind == ("flat" if kind == "mih" else kind)
        assert found(archive, 1) == found(archive, 1, "flat") == found(archive, 1, kind)


def test_killed_at_twenty_moments_a_build_leaves_the_archive_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with Archive.create(path, bits=64) as archive:
        archive.add_codes(learned_codes(400_000, 300_000))
        archive.build_index("distinct")
        truth = [found(archive, id) for id in (1, 1000)]
        kept = archive.index_plan, folders(archive)
    program = (
        "import sys; from athsearch import Archive; archive = Archive.open(sys.argv[1]); print(flush=True); "
        "archive.build_index('mih'); print('built', flush=True)"
    )

    def build(seconds: float | None) -> tuple[bool, float]:
        with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            begin = time.monotonic()
            if seconds is not None:
                time.sleep(seconds)
                process.send_signal(signal.SIGKILL)
            is_built = "built" in process.stdout.read()
        return is_built, time.monotonic() - begin

    with Archive.open(path) as archive:
        is_built, whole_s = build(None)
        assert is_built
        archive.build_index("distinct")
        kept = archive.index_plan, folders(archive)
        n_killed, moments = 0, random.Random(1)
        for _ in range(20):
            is_built, _ = build(moments.uniform(0, whole_s))
            with Archive.open(path) as opened:
                if opened.index_plan.kind == "mih":  # it had been listed already
                    opened.build_index("distinct")
                    kept = opened.index_plan, folders(opened)
                n_killed += not is_built
                assert opened.index_plan == kept[0]
                assert kept[1][0] in folders(opened)
                assert [found(opened, id) for id in (1, 1000)] == truth
        assert n_killed >= 10
        archive.build_index("mih")
        assert len(folders(archive)) == 1
        assert [found(archive, id) for id in (1, 1000)] == truth


def test_a_large_archive_with_an_index_opens_at_once(tmp_path: Path) -> None:
    with Archive.create(tmp_path / "archive", bits=64) as archive:
        archive.add_codes(learned_codes(2_000_000, 1_900_000))
        archive.build_index("mih")
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        with Archive.open(tmp_path / "archive") as archive:
            hits = archive.search_case(5, k=3)
        times.append(time.perf_counter() - begin)
    assert len(hits) == 3
    assert min(times) < 0.2


def test_the_command_line_builds_shows_and_uses_indexes(run: Run, tmp_path: Path) -> None:
    path, npy, codes = tmp_path / "archive", tmp_path / "codes.npy", learned_codes(3000, 2000)
    np.save(npy, codes.words)
    report = run("index", path, npy, "--bits", 64, "--kind", "mih", "--json").json()
    assert (report["index"], report["index_reason"], report["n_added"]) == ("mih", "chosen by name", 3000)  # type: ignore[index]
    assert run("info", path, "--json").json()["index"] == "mih: chosen by name"  # type: ignore[index]
    answers = {}
    for kind in ("flat", "distinct", "mih", "auto", "faiss-flat"):
        answers[kind] = run("query", path, "--id", 9, "--kind", kind, "--json").json()["hits"]  # type: ignore[index]
    assert len(answers["flat"]) == 10
    assert all(answer == answers["flat"] for answer in answers.values())
    outcome = run("index", path, "--kind", "auto")
    assert outcome.out == "index flat: 3,000 codes are scanned before anything else pays\n"
    assert run("info", path, "--json").json()["index"] == "flat: none is kept"  # type: ignore[index]
    assert "--bits goes with a SOURCE" in run("index", path, "--kind", "mih", "--bits", 64).err
    assert "faiss-hash is approximate" in run("query", path, "--id", 9, "--kind", "faiss-hash").err
    assert "give a SOURCE to add, or --kind" in run("index", path).err
    assert run("query", path, "--id", 9, "--kind", "hnsw").status == 2


def test_codes_come_from_faiss_files_and_go_there(run: Run, tmp_path: Path) -> None:
    codes, path = learned_codes(500, 400), tmp_path / "archive"
    faiss.write_index_binary(codes.to_faiss("ivf"), str(tmp_path / "in.faiss"))
    assert run("index", path, tmp_path / "in.faiss", "--json").json()["n_added"] == 500  # type: ignore[index]
    with Archive.open(path) as archive:
        assert archive.database().codes == codes
        archive.delete([3])
    report = run("export", path, tmp_path / "out.faiss", "--to", "faiss", "--json").json()
    assert report["n_cases"] == 499  # type: ignore[index]
    index = faiss.read_index_binary(str(tmp_path / "out.faiss"))
    truth = FlatIndex(codes[np.delete(np.arange(500), 2)], np.delete(np.arange(1, 501), 2)).search(codes[7:8], 1)
    distances, ids = index.search(np.ascontiguousarray(codes[7:8].to_bytes()), 1)
    assert (ids[0, 0] in [8, *truth.ids.tolist()], distances[0, 0]) == (True, 0)
    (tmp_path / "bad.faiss").write_bytes(b"IBxF" + bytes(40))
    outcome = run("index", tmp_path / "other", tmp_path / "bad.faiss")
    assert outcome.status == 1
    assert "bad.faiss" in outcome.err
    assert not (tmp_path / "other").exists()


def test_ctrl_c_while_sorting_keeps_the_old_index(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with Archive.create(path, bits=64) as archive:
        archive.add_codes(learned_codes(3_000_000, 3_000_000))
    outcome = interrupt_when("index: sorting", "index", path, "--kind", "mih")
    assert outcome.status == 1
    assert "the index is the one there was before" in outcome.err
    with Archive.open(path) as archive:
        assert archive.index_plan.kind == "flat"
        archive.build_index("flat")
        assert folders(archive) == []
