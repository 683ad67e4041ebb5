"""Verify names every flipped bit, and repair keeps exactly what is sound."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from athsearch.archive.archive import Archive
from athsearch.archive.cases import Case
from athsearch.archive.catalogue import Catalogue
from athsearch.archive.query_log import HEAD, LOG, QueryLog
from athsearch.archive.repairing import repair
from athsearch.archive.salvage import Problem
from athsearch.archive.schema import PAGE_BYTES
from athsearch.archive.verifying import verify
from athsearch.archive.writing import writing
from athsearch.codes import Codes
from athsearch.data import Item, Source
from athsearch.encoder import Encoder
from athsearch.errors import ArchiveError, ArchiveLocked, AthsearchError, FormatVersion
from athsearch.files import sha256_of
from conftest import Run

GOLDEN = Path(__file__).parent / "golden"
ITEMS = tuple(
    Item(f"{n:03d}.png", "ab"[n % 2], f"P{n // 4}", None, {"age": n, "note": "x" * 20}, f"S{n // 2}") for n in range(60)
)
WORDS = np.random.default_rng(1).integers(0, 2**64, (90, 1), np.uint64)


@pytest.fixture
def archive(tmp_path: Path, encoder: Encoder) -> Path:
    """Cases 1 to 40, codes alone 41 to 70, cases 71 to 90; 3 and 50 deleted; an index; weights, though not of them."""
    path = tmp_path / "archive"
    with Archive.create(path, encoder) as made:
        codes = Codes(WORDS & np.uint64(2**36 - 1), 36)
        made.add_codes(codes[:40], cases=Source(Path("/images"), ITEMS[:40]))
        made.add_codes(codes[40:70])
        made.add_codes(codes[70:], cases=Source(Path("/images"), ITEMS[40:]))
        made.delete([3, 50])
        made.build_index("distinct")
    return path


def dead_bytes(path: Path) -> np.ndarray:
    """Of each byte, whether SQLite neither reads nor cares: space of a page that no cell takes, and its counters."""
    with sqlite3.connect(path) as connection:
        (number,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'kept_index'").fetchone()
    connection.close()
    catalogue, kept_index = path.read_bytes(), (number - 1) * PAGE_BYTES
    dead = np.zeros(len(catalogue), np.bool_)
    for begin, end in ((24, 28), (40, 44), (92, 100)):  # change counter, schema cookie, version that last wrote
        dead[begin:end] = True
    for page in range(0, len(catalogue), PAGE_BYTES):
        header = page + (100 if page == 0 else 0)
        first_block, n_cells, content = (
            int.from_bytes(catalogue[header + at : header + at + 2], "big") for at in (1, 3, 5)
        )
        assert catalogue[header] in (2, 5, 10, 13)  # a b-tree's page: there are no free ones yet
        cells = header + (12 if catalogue[header] < 10 else 8)
        dead[cells + 2 * n_cells : page + (content or 65536)] = True
        for cell in range(cells, cells + 2 * n_cells, 2):
            at = page + int.from_bytes(catalogue[cell : cell + 2], "big")
            if catalogue[header] == 13:  # size, rowid, length of the header, and the kinds of its values
                at = after_varint(catalogue, at)
                dead[at] = page == kept_index  # it has no id, and no index that would tell its rowid
                at = after_varint(catalogue, after_varint(catalogue, at))
                dead[at] = catalogue[at] == 0  # an id is the rowid; that NULL stands in its place matters to nobody
        blocks = []
        while first_block:  # a chain of free blocks between cells: where the next is, how long this one is
            blocks.append(page + first_block)
            size = int.from_bytes(catalogue[page + first_block + 2 : page + first_block + 4], "big")
            dead[page + first_block + 4 : page + first_block + size] = True
            first_block = int.from_bytes(catalogue[page + first_block : page + first_block + 2], "big")
        begins = [
            page + int.from_bytes(catalogue[cell : cell + 2], "big") for cell in range(cells, cells + 2 * n_cells, 2)
        ]
        for begin in begins:  # up to three bytes behind a cell are too few for a block
            end = max(end_of_cell(catalogue, catalogue[header], begin), begin + 4)
            after = min((other for other in [*begins, *blocks] if other >= end), default=page + PAGE_BYTES)
            assert after - end < 4
            dead[end:after] = True
    return dead


def end_of_cell(content: bytes, kind: int, at: int) -> int:
    """Of a page of this kind; no cell here goes on in another page."""
    at += 4 if kind < 10 else 0  # the page below
    end = after_varint(content, at)
    if kind == 5:
        return end
    size = 0
    for byte in content[at:end]:
        size = size << 7 | byte & 0x7F
    return size + (after_varint(content, end) if kind == 13 else end)


def after_varint(content: bytes, at: int) -> int:
    while content[at] & 0x80:
        at += 1
    return at + 1


def flip(path: Path, whole: bytes, place: int, bit: int) -> None:
    damaged = bytearray(whole)
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)


def test_a_flipped_bit_is_found_wherever_it_is(archive: Path) -> None:
    rng = np.random.default_rng(0)
    assert verify(archive).problems == ()
    names = ["catalogue.sqlite", *(str(path.relative_to(archive)) for path in archive.rglob("*.npy"))]
    assert len(names) == 1 + 3 + 3
    for name in names:
        whole = (archive / name).read_bytes()
        places = np.arange(len(whole))
        if name == "catalogue.sqlite":
            alive = np.flatnonzero(~dead_bytes(archive / name))
            places = np.union1d(alive[alive < 100], rng.choice(alive, 350, replace=False))
        else:
            places = rng.choice(places, 40, replace=False)
        for place in places.tolist():
            flip(archive / name, whole, place, int(rng.integers(8)))
            try:
                problems = verify(archive).problems
            except FormatVersion:
                assert name == "catalogue.sqlite"
                assert place in range(60, 64)
                continue
            assert name in {problem.file for problem in problems}, place
        (archive / name).write_bytes(whole)
    assert verify(archive).problems == ()


def test_a_flipped_bit_of_the_weights_is_found(archive: Path) -> None:
    whole = (archive / "weights.safetensors").read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 20).tolist():
        flip(archive / "weights.safetensors", whole, place, 3)
        assert [problem.file for problem in verify(archive).problems] == ["weights.safetensors"]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE cases SET label = 'c' WHERE id = 7", ("cases", 7)),
        ("UPDATE cases SET is_deleted = 0 WHERE id = 3", ("cases", 3)),
        ("DELETE FROM cases WHERE id = 7", ("cases", None)),
        ("INSERT INTO cases (id, root, source, content, record) VALUES (91, 1, 'x', '', '{}')", ("cases", 91)),
        ("DELETE FROM deleted_code", ("deleted_code", None)),
        ("DELETE FROM segment WHERE first_id = 41", ("segment", None)),
        ("UPDATE property SET value = '37' WHERE name = 'bits'", ("property", 1)),
        ("DROP INDEX cases_source", ("sqlite_schema", None)),
    ],
)
def test_what_another_program_changes_is_found(archive: Path, statement: str, expected: tuple[str, int | None]) -> None:
    with sqlite3.connect(archive / "catalogue.sqlite") as connection:
        connection.execute(statement)
    connection.close()
    assert expected in {(problem.table, problem.row) for problem in verify(archive).problems}


def test_a_row_that_goes_back_to_what_it_was_is_found(archive: Path) -> None:
    with sqlite3.connect(archive / "catalogue.sqlite") as connection:
        before = connection.execute("SELECT * FROM cases WHERE id = 7").fetchone()
    with Archive.open(archive) as opened:
        opened.delete([7])
    with connection:
        connection.execute(f"INSERT OR REPLACE INTO cases VALUES ({','.join('?' * len(before))})", before)
    connection.close()
    assert [problem.table for problem in verify(archive).problems] == ["cases"]


def test_files_that_are_missing_or_do_not_belong_are_named(archive: Path) -> None:
    key = archive.with_name("archive.key")
    assert verify(archive, key).is_sound
    (archive / "segments" / "000000000091.npy").write_bytes(b"what a killed writer leaves")
    (archive / "notes.txt").write_text("not ours")
    (archive / "segments" / "000000000041.npy").unlink()
    key.write_text("00" * 32 + "\n")
    report = verify(archive, key)
    assert report.leftovers == ("segments/000000000091.npy",)
    assert set(report.problems) == {
        Problem("segments/000000000041.npy", "the file is missing"),
        Problem("notes.txt", "does not belong to the archive: nobody lists it"),
        Problem("archive.key", "is the key of another archive"),
    }


@pytest.mark.parametrize("format", [1, 2])
def test_golden_archives_are_sound(format: int, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / f"format-{format}", tmp_path / "golden")
    path = tmp_path / "golden" / "archive"
    report = verify(path, path.with_name("archive.key"))
    assert (report.problems, report.format, report.n_rows, report.n_cases) == ((), format, 0, 20)
    with Archive.open(path) as opened:
        opened.delete([5])
        report = opened.verify()
        assert (report.problems, report.format, report.n_rows > 20) == ((), 3, True)
        assert opened.repair(tmp_path / "repaired").n_cases == 20
        with Archive.open(tmp_path / "repaired", path.with_name("archive.key"), "cpu") as repaired:
            assert repaired.database().ids.tolist() == opened.database().ids.tolist()
            assert [repaired.case(id) for id in (1, 20)] == [opened.case(id) for id in (1, 20)]


def cases_of(archive: Archive) -> dict[int, tuple[Case, bytes]]:
    database = archive.database()
    return {id: (archive.case(id), database.codes.words[row].tobytes()) for row, id in enumerate(database.ids.tolist())}


def stored_ids(path: Path) -> set[int]:
    with closing(sqlite3.connect(path / "catalogue.sqlite")) as connection:
        return {id for (id,) in connection.execute("SELECT id FROM cases NOT INDEXED")}


def test_repair_returns_exactly_the_sound_cases(archive: Path, tmp_path: Path) -> None:
    with Archive.open(archive) as opened:
        before = cases_of(opened)
    rng = np.random.default_rng(3)
    catalogue = (archive / "catalogue.sqlite").read_bytes()
    alive = np.flatnonzero(~dead_bytes(archive / "catalogue.sqlite"))
    alive = alive[alive >= PAGE_BYTES]
    ids, n_repaired, n_partly = stored_ids(archive), 0, 0
    for _ in range(40):
        flip(archive / "catalogue.sqlite", catalogue, int(rng.choice(alive)), int(rng.integers(8)))
        lost = {problem.row for problem in verify(archive).problems if problem.table == "cases"}
        try:
            with Archive.open(archive) as damaged:
                report = damaged.repair(tmp_path / "repaired")
        except AthsearchError:
            continue
        assert verify(tmp_path / "repaired").problems == ()
        with Archive.open(tmp_path / "repaired") as repaired:
            after = cases_of(repaired)
            assert repaired.add_codes(Codes(np.zeros((1, 1), np.uint64), 36)) == range(91, 92)
        assert after.items() <= before.items()
        gone = {id for first, last in report.lost for id in range(first, last + 1)}
        assert before.keys() - after.keys() <= gone
        if len(lost) == 1 and None not in lost and not any(p.table == "segment" for p in report.problems):
            missing = ids - stored_ids(archive)  # where the bit was of a case's id, that case is told of under another
            assert before.keys() - after.keys() == (missing or lost) - {3}
            n_partly += 1
        n_repaired += 1
        shutil.rmtree(tmp_path / "repaired")
    assert n_repaired > 20
    assert n_partly > 2


def test_nobody_writes_while_an_archive_is_repaired(archive: Path, tmp_path: Path) -> None:
    writes: tuple[Callable[[Archive], object], ...] = (
        Archive.compact,
        lambda opened: opened.delete([5]),
        lambda opened: opened.add_codes(Codes(np.zeros((7, 1), np.uint64), 36)),
    )
    n_refused = 0

    def write(n_done: int, n_all: int) -> None:
        nonlocal n_refused
        with Archive.open(archive) as opened:
            for each in writes:
                with pytest.raises(ArchiveLocked, match="repairs it"):
                    each(opened)
                n_refused += 1

    report = repair(archive, tmp_path / "repaired", progress=write)
    assert (report.n_cases, report.n_codes_alone, report.lost, n_refused) == (60, 30, (), 9)
    with writing(archive), pytest.raises(ArchiveLocked, match="another process is writing"):
        repair(archive, tmp_path / "again")
    (archive / "writer.lock").unlink()
    assert repair(archive, tmp_path / "again").n_cases == 60


def test_repair_keeps_no_code_of_a_damaged_segment(archive: Path, tmp_path: Path) -> None:
    segment = archive / "segments" / "000000000001.npy"
    flip(segment, segment.read_bytes(), 200, 0)
    run = [sys.executable, "-m", "athsearch"]
    found = subprocess.run([*run, "verify", archive, "--json"], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert [problem["file"] for problem in json.loads(found.stdout)["problems"]] == ["segments/000000000001.npy"]
    made = subprocess.run(
        [*run, "repair", archive, "--into", tmp_path / "new", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(made.stdout)["lost"] == [[1, 40]]
    with Archive.open(tmp_path / "new") as repaired:
        assert repaired.database().ids.tolist() == [id for id in range(41, 91) if id != 50]
        assert repaired.case(71).label == "a"
    again = subprocess.run([*run, "repair", archive, "--into", tmp_path / "new"], capture_output=True, check=False)
    assert again.returncode == 1
    with pytest.raises(ArchiveError, match="lies in the archive"):
        repair(archive, archive / "segments" / "new")


def test_a_compacted_archive_is_verified_and_repaired_with_its_gaps(archive: Path, tmp_path: Path) -> None:
    with Archive.open(archive) as opened:
        opened.set_query_log(True)
        opened.search_case(7)
        opened.delete([10, 11, 60])
        opened.compact()
        before = cases_of(opened)
        assert [len(row) for row in opened._catalogue.execute("SELECT runs FROM segment").fetchall() if row[0]]
    assert verify(archive).problems == ()
    assert set(before) == set(range(1, 91)) - {3, 10, 11, 50, 60}
    writer = Catalogue(archive / "catalogue.sqlite", writable=True)
    with closing(writer), writer.transaction("IMMEDIATE"):
        writer.execute("INSERT INTO forgotten (digest) VALUES (?)", bytes(range(32)))
    with sqlite3.connect(archive / "catalogue.sqlite") as connection:
        connection.execute("UPDATE cases SET label = 'c' WHERE id = 20")
    connection.close()
    with Archive.open(archive) as damaged:
        report = damaged.repair(tmp_path / "repaired")
    assert report.lost == ((20, 20),)
    assert verify(tmp_path / "repaired").problems == ()
    with Archive.open(tmp_path / "repaired", tmp_path / "archive.key") as repaired:
        assert cases_of(repaired) == {id: case for id, case in before.items() if id != 20}
        assert repaired.add_codes(Codes(np.zeros((1, 1), np.uint64), 36)) == range(91, 92)
        log = repaired.check_query_log()
        assert log is not None
        assert (log.problem, log.head.n_lines) == (None, 2)
        assert repaired._catalogue.execute("SELECT digest FROM forgotten").fetchall() == [(bytes(range(32)),)]


def test_repair_keeps_a_segment_with_gaps_as_one_file(tmp_path: Path) -> None:
    codes = Codes(np.random.default_rng(2).integers(0, 2**63, (3000, 1), np.uint64), 64)
    items = tuple(Item(f"{n}.png") for n in range(1000))
    with Archive.create(tmp_path / "archive", bits=64) as made:
        made.add_codes(codes[:1000], cases=Source(Path("/images"), items))
        made.add_codes(codes[1000:])
        made.delete(range(1, 3001, 2))
        made.compact()
        before = made.database()
        assert made.n_segments == 2
    with sqlite3.connect(tmp_path / "archive" / "catalogue.sqlite") as connection:
        connection.execute("UPDATE cases SET label = 'c' WHERE id = 500")
    connection.close()
    assert repair(tmp_path / "archive", tmp_path / "new").lost == ((500, 500),)
    assert verify(tmp_path / "new").problems == ()
    with Archive.open(tmp_path / "new") as repaired:
        is_kept = before.ids != 500
        assert repaired.database().ids.tolist() == before.ids[is_kept].tolist()
        assert repaired.database().codes == before.codes[is_kept]
        assert repaired.n_segments == 2


@pytest.mark.parametrize("name", ["catalogue.sqlite", "000000000001.npy"])
def test_what_may_not_be_read_is_not_taken_for_damage(
    archive: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refusing(opened: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(path: str | Path, *arguments: Any, **options: Any) -> Any:
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *arguments, **options)

        return refuse

    monkeypatch.setattr(os, "open", refusing(os.open))
    monkeypatch.setattr("athsearch.archive.verifying.sha256_of", refusing(sha256_of))
    for command in (("repair", archive, "--into", tmp_path / "new"), ("verify", archive)):
        outcome = run(*command)
        assert (outcome.status, outcome.out) == (1, "")
        assert outcome.error().endswith(f"{name}: Permission denied")
    assert not (tmp_path / "new").exists()


def test_a_catalogue_that_is_busy_is_not_taken_for_damage(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("athsearch.archive.salvage.BUSY_TIMEOUT_S", 0.2)
    with Archive.open(archive) as opened:
        writer = sqlite3.connect(archive / "catalogue.sqlite", isolation_level=None)
        writer.execute("BEGIN EXCLUSIVE")
        for work in (opened.verify, lambda: repair(archive, tmp_path / "new")):
            with pytest.raises(ArchiveLocked, match="busy"):
                work()
        writer.execute("ROLLBACK")
        writer.close()
        assert opened.verify().is_sound


def test_a_repair_that_kept_nothing_does_not_succeed(archive: Path, tmp_path: Path, run: Run) -> None:
    for first_id in (41, 1, 71):
        (archive / "segments" / f"{first_id:012d}.npy").unlink()
        outcome = run("repair", archive, "--into", tmp_path / f"new{first_id}", "--json")
        assert outcome.status == (1 if first_id == 71 else 0)
        assert run("verify", tmp_path / f"new{first_id}").status == 0
    assert outcome.json()["lost"] == [[1, 40], [41, 70], [71, 90]]  # type: ignore[index]
    assert "none of the cases and codes" in outcome.error()
    Archive.create(tmp_path / "empty", bits=36).close()
    assert run("repair", tmp_path / "empty", "--into", tmp_path / "also-empty").status == 0


def test_a_repair_is_advised_where_it_helps(archive: Path, tmp_path: Path, run: Run) -> None:
    wrong = tmp_path / "wrong.key"
    wrong.write_text("00" * 32 + "\n")
    outcome = run("verify", archive, "--key", wrong)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.error().endswith(f"{wrong}: the key of another archive; {archive} needs the one it was made with")
    (archive / "notes.txt").write_text("not ours")
    assert run("verify", archive).err.endswith("archive: 1 problem\n")
    (archive / "weights.safetensors").unlink()
    assert "2 problems; `athsearch repair" in run("verify", archive).err
    damage_row(archive, 71)
    assert "`athsearch repair" in run("verify", archive).err
    (archive / "catalogue.sqlite").write_bytes(b"what is no catalogue" * 100)
    assert run("verify", archive).err.endswith("archive: 1 problem\n")
    assert run("repair", archive, "--into", tmp_path / "new").status == 1


def damage_row(archive: Path, first_id: int) -> None:
    """A bit of the SHA-256 that stands in a segment's row."""
    path = archive / "catalogue.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        (sha256,) = connection.execute("SELECT sha256 FROM segment WHERE first_id = ?", [first_id]).fetchone()
    whole = path.read_bytes()
    flip(path, whole, whole.index(sha256.encode()), 0)


def test_ids_of_segments_whose_rows_are_lost_never_return(tmp_path: Path, run: Run) -> None:
    codes, path = Codes(WORDS, 64), tmp_path / "archive"
    with Archive.create(path, bits=64) as made:
        made.add_codes(codes[:20])
        made.add_codes(codes[20:25])
        made.delete([3, 23])
    damage_row(path, 21)
    problem = Problem("segments/000000000021.npy", "nobody lists it: the row of its segment may be one that is damaged")
    report = verify(path)
    assert (report.leftovers, problem in report.problems) == ((), True)
    assert "harmless" not in run("verify", path).err
    assert repair(path, tmp_path / "new").lost == ((21, 25),)
    with Archive.open(tmp_path / "new") as repaired:
        assert repaired.database().ids.tolist() == [id for id in range(1, 21) if id != 3]
        assert repaired.add_codes(codes[:5]) == range(26, 31)
        assert repaired.case(28).id == 28
        assert (repaired.n_cases, repaired.n_deleted) == (24, 1)
    (path / "segments" / "000000000021.npy").unlink()  # then what was deleted tells of ids alone
    assert repair(path, tmp_path / "new2").lost == ((21, 23),)
    (path / "segments" / "000000000030.npy").write_bytes(b"cut off")
    assert repair(path, tmp_path / "new3").lost == ((21, 30),)
    damage_row(path, 1)
    assert repair(path, tmp_path / "new4").lost == ((1, 30),)
    assert verify(tmp_path / "new4").is_sound


def test_ids_of_cases_whose_segment_is_lost_never_return(archive: Path, tmp_path: Path) -> None:
    damage_row(archive, 71)
    (archive / "segments" / "000000000071.npy").unlink()
    assert repair(archive, tmp_path / "new").lost == ((71, 90),)
    with Archive.open(tmp_path / "new") as repaired:
        assert repaired.add_codes(Codes(np.zeros((1, 1), np.uint64), 36)) == range(91, 92)


def test_a_query_log_that_is_not_what_was_written_is_told_and_kept(archive: Path, tmp_path: Path, run: Run) -> None:
    key = archive.with_name("archive.key")
    with Archive.open(archive) as opened:
        opened.set_query_log(True, "root")
        for id in (7, 8):
            opened.search_case(id, user="dr. x")
    assert verify(archive, key).problems == ()
    without_key = verify(archive, tmp_path / "elsewhere.key")
    assert without_key.is_sound
    assert without_key.unchecked == (f"{LOG}: its chain needs the key of the patients",)
    whole = (archive / LOG).read_bytes()
    (archive / LOG).write_bytes(whole.replace(b"dr. x", b"dr. y", 1))
    broken = Problem(LOG, "line 2 is broken, or one before it is missing")
    assert verify(archive, key).problems == (broken,)
    assert verify(archive).problems == ()  # without the key nothing can be said
    outcome = run("repair", archive, "--into", tmp_path / "new")
    assert outcome.status == 0
    assert f"  {broken}" in outcome.err.splitlines()
    shutil.copy(key, tmp_path / "new.key")
    assert (tmp_path / "new" / LOG).read_bytes() == (archive / LOG).read_bytes()
    assert "line 2 is broken" in run("audit", tmp_path / "new", "--log").error()
    outcome = run("repair", archive, "--into", tmp_path / "new2", "--key", tmp_path / "gone.key", "--json")
    assert "gone.key: no such key file" in outcome.json()["problems"][0]["reason"]  # type: ignore[index]
    (archive / LOG).unlink()
    (archive / HEAD).unlink()
    with Archive.open(archive) as opened:
        (problem,) = opened.repair(tmp_path / "new3").problems
    assert "queries.head: the query log's head is missing" in problem.reason


def test_what_cannot_be_checked_is_not_called_sound(archive: Path, tmp_path: Path, run: Run) -> None:
    key = archive.with_name("archive.key")
    assert "gone.key: no such key file" in run("verify", archive, "--key", tmp_path / "gone.key").error()
    outcome = run("verify", archive)
    assert outcome.out.endswith(" rows: all is sound\n")
    assert " 60 cases and 30 codes without a case, " in outcome.out
    key.rename(tmp_path / "away.key")
    key.mkdir()  # a file that may not be read, for the superuser too
    assert verify(archive, key).unchecked == (f"{key}, which cannot be read (Is a directory)",)
    outcome = run("verify", archive)
    assert outcome.out.endswith("all that could be checked is sound\n")
    assert "archive.key, which cannot be read (Is a directory): not checked" in outcome.err
    flip(archive / "segments" / "000000000001.npy", (archive / "segments" / "000000000001.npy").read_bytes(), 200, 0)
    assert [problem.file for problem in verify(archive, key).problems] == ["segments/000000000001.npy"]


@pytest.mark.parametrize("is_on", [True, False])
def test_a_query_log_that_was_taken_away_is_missed_without_the_key(archive: Path, is_on: bool) -> None:
    with Archive.open(archive) as opened:
        opened.set_query_log(True)
        opened.set_query_log(is_on)
    (archive / HEAD).unlink()
    assert verify(archive).problems == (Problem(HEAD, "the file is missing"),)
    (archive / LOG).unlink()
    assert verify(archive).problems == tuple(Problem(name, "the file is missing") for name in (LOG, HEAD))
    assert [problem.file for problem in verify(archive, archive.with_name("archive.key")).problems] == [LOG]


def test_the_key_lies_beside_the_archive_however_that_is_named(
    archive: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name in ((archive, "."), (archive / "segments", ".."), (archive.parent, "archive/")):
        monkeypatch.chdir(folder)
        assert run("verify", name).out.endswith("all is sound\n")
        with Archive.open(name) as opened:
            assert len(opened.find(patient="P1")) == 4
    archive.with_name("archive.key").write_text("00" * 32 + "\n")
    monkeypatch.chdir(archive / "segments")
    assert "archive.key: is the key of another archive" in run("verify", "..").out


@pytest.mark.parametrize("has_key", [True, False])
def test_a_repaired_archive_does_not_forget_that_it_has_a_key_and_a_log(
    archive: Path, tmp_path: Path, has_key: bool
) -> None:
    key, new = archive.with_name("archive.key"), tmp_path / "new"
    with Archive.open(archive) as opened:
        opened.set_query_log(True)
    with sqlite3.connect(archive / "catalogue.sqlite") as connection:
        connection.execute("UPDATE property SET value = 'x' WHERE name IN ('key_fingerprint', 'query_log')")
    connection.close()
    report = repair(archive, new, key if has_key else tmp_path / "gone.key")
    assert "does not say which key made its pseudonyms" in report.problems[-1].reason
    with Archive.open(new, key) as repaired:
        if has_key:
            assert len(repaired.search(Codes(WORDS[:1] & np.uint64(2**36 - 1), 36), k=90, patient="P0")) == 85
            assert repaired.delete(patient="P0") == 3
            assert QueryLog(new, repaired.patient_key()).check().head.n_lines == 2
        else:
            with pytest.raises(ArchiveError, match="the key of another archive"):
                repaired.delete(patient="P0")


@pytest.mark.parametrize("name", ["bits", "model_id"])
def test_what_the_catalogue_forgot_of_its_model_the_weights_know(archive: Path, tmp_path: Path, name: str) -> None:
    with Archive.open(archive) as opened:
        before = cases_of(opened)
    with sqlite3.connect(archive / "catalogue.sqlite") as connection:
        connection.execute("UPDATE property SET value = '7' WHERE name = ?", [name])
    connection.close()
    repair(archive, tmp_path / "new")
    with Archive.open(tmp_path / "new", device="cpu") as repaired:
        assert cases_of(repaired) == before
        assert repaired.encoder.model_id == repaired.model_id
    (archive / "weights.safetensors").unlink()
    with pytest.raises(ArchiveError, match="nothing says how long"):
        repair(archive, tmp_path / "other")


def test_a_catalogue_that_may_not_be_read_is_an_error_of_ours(
    archive: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    assert "unable to open database file" in run("repair", archive, "--into", archive.with_name("new")).error()
    outcome = run("verify", archive)
    assert (outcome.status, "cannot be read (unable to open" in outcome.out) == (1, True)


def test_a_commit_that_was_broken_off_on_write_protected_media_is_told(
    archive: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = sqlite3.connect(archive / "catalogue.sqlite", isolation_level=None)
    with closing(writer):
        writer.execute("PRAGMA cache_size = 1")  # so that pages go to the file before the commit
        writer.execute("BEGIN")
        writer.execute("UPDATE cases SET record = record || ?", [" " * 5000])
        shutil.copytree(archive, tmp_path / "crashed")
    assert (tmp_path / "crashed" / "catalogue.sqlite-journal").stat().st_size
    connect = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda name, **options: connect(name.replace("=rw", "=ro"), **options))
        for command in (("query", tmp_path / "crashed", "--id", 7), ("verify", tmp_path / "crashed")):
            outcome = run(*command)
            assert outcome.status == 1
            assert "a crash broke off a commit" in outcome.out + outcome.err
    assert verify(tmp_path / "crashed").problems == ()
    assert not (tmp_path / "crashed" / "catalogue.sqlite-journal").exists()
