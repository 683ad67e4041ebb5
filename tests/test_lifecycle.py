"""What becomes of an archive over the years: cases deleted and changed, files compacted, trees indexed every night."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image

from athsearch.archive.archive import Archive
from athsearch.archive.catalogue import Catalogue
from athsearch.archive.repairing import repair
from athsearch.codes import Codes
from athsearch.data import Source, open_source
from athsearch.data import source as source_module
from athsearch.encoder import Encoder
from athsearch.errors import ArchiveError, SourceError
from athsearch.index import FlatIndex
from conftest import Run, draw_image, run_apart
from dicom_files import dicom


@pytest.fixture
def archive(tmp_path: Path, encoder: Encoder, source: Source) -> Iterator[Archive]:
    """The twelve images of `source`, with ids 1 to 12, of the patients Meier0 to Meier5."""
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(source)
        yield archive


def ids_of(archive: Archive) -> list[int]:
    """What a search finds, sorted; and the same by every other way to ask."""
    found = sorted(hit.case.id for hit in archive.search(draw_image(0), k=1000, exclude_same=()))
    assert found == archive.database().ids.tolist()
    assert found == [id for part in archive.parts(n_rows=5) for id in part.ids.tolist()]
    assert len(found) == archive.n_cases
    return found


def draw(path: Path, seed: int) -> None:
    Image.fromarray(draw_image(seed)).save(path)


def bytes_of(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_cases_are_deleted_by_id_expression_and_patient(archive: Archive) -> None:
    with Archive.open(archive.path) as reader:
        assert archive.find(where="label = 'a' AND age > 44").tolist() == [7, 9, 11]
        with pytest.raises(TypeError, match="parameters are those of where"):
            archive.delete([7], parameters=("a",))
        assert archive.find(where="label = :label", parameters={"label": "a' OR 'a' = 'a"}).tolist() == []
        assert archive.delete(where="label = ? AND age > ?", parameters=("a", 44)) == 3
        assert ids_of(reader) == [1, 2, 3, 4, 5, 6, 8, 10, 12]
        assert archive.delete(patient="Meier1") == 2
        assert ids_of(reader) == [1, 2, 5, 6, 8, 10, 12]
        assert archive.delete([2, 1]) == 2
        assert ids_of(reader) == [5, 6, 8, 10, 12]
        for nobody in ({"patient": "Meier1"}, {"patient": "Nobody"}, {"where": "id = 1"}, {"ids": []}):
            assert archive.delete(**nobody) == 0  # type: ignore[arg-type]
        with pytest.raises(KeyError, match="1"):
            archive.find([5, 1])
    for wrong in ({}, {"ids": [5], "where": "1"}, {"where": "1", "patient": "Meier1"}):
        with pytest.raises(TypeError, match="one of them only"):
            archive.delete(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="columns: id, source"):
        archive.delete(where="weight > 3")
    archive.path.with_name("archive.key").rename(archive.path.with_name("elsewhere.key"))
    with pytest.raises(ArchiveError, match="no such key file"):
        archive.delete(patient="Meier5")
    assert ids_of(archive) == [5, 6, 8, 10, 12]


def test_a_changed_file_is_a_new_case_that_retires_the_old(archive: Archive, source: Source) -> None:
    draw(source.root / "03.png", 99)
    with Archive.open(archive.path, device="cpu") as reader:
        report = archive.add(source)
        assert (report.n_added, report.n_changed, report.n_present) == (0, 1, 11)
        assert ids_of(reader) == [1, 2, 3, *range(5, 14)]
        assert reader.search(draw_image(99), k=1)[0].case.source == "03.png"
        assert (reader.n_deleted, reader.case(13).record) == (1, {"age": 43, "eye": "left"})
    draw(source.root / "03.png", 3)  # changed back: new once more, for ids never return
    assert archive.add(source).n_changed == 1
    assert ids_of(archive) == [1, 2, 3, *range(5, 13), 14]
    assert archive.add(source).n_present == 12
    archive.delete([14])
    draw(source.root / "03.png", 3)
    assert archive.add(source).n_deleted == 1


def test_the_same_source_of_another_root_is_another_file(
    archive: Archive, source: Source, tmp_path: Path, encoder: Encoder
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    draw(other / "03.png", 99)
    assert archive.add(open_source(other)).n_added == 1
    assert ids_of(archive) == list(range(1, 14))
    draw(source.root / "03.png", 99)  # changed to what the other root has
    assert archive.add(source).n_changed == 1
    assert ids_of(archive) == [1, 2, 3, *range(5, 15)]
    assert [archive.case(id).root for id in (13, 14)] == [str(other), str(source.root)]
    draw(other / "00.png", 0)  # the same as it is there: known
    assert archive.add(open_source(other)).n_present == 2


def test_changed_records_are_stored_when_asked_for(archive: Archive, source: Source) -> None:
    items = tuple(
        replace(item, label="c", patient="Schulz", record={"weight": 70}) if item.source == "03.png" else item
        for item in source.items
    )
    changed = replace(source, items=items)
    assert (archive.add(changed).n_differing, archive.case(4).label) == (1, "b")
    assert (archive.add(changed, update_records=True).n_differing, archive.case(4).label) == (1, "c")
    assert (archive.case(4).record, archive.find(patient="Schulz").tolist()) == ({"weight": 70}, [4])
    assert archive.find(where="weight = 70").tolist() == [4]
    assert archive.add(changed).n_differing == 0


def test_what_a_source_does_not_say_stays_when_records_are_stored_anew(archive: Archive, source: Source) -> None:
    before = archive.case(4)
    studied = tuple(replace(item, study="S1", split="test") for item in source.items)
    archive.add(replace(source, items=studied), update_records=True)
    items = tuple(
        replace(item, label="c", patient=None, record={}) if item.source == "03.png" else replace(item, label=None)
        for item in source.items
    )
    report = archive.add(replace(source, items=items), update_records=True)
    assert (report.n_present, report.n_differing) == (12, 1)
    after = archive.case(4)
    assert (after.label, after.patient, after.split, after.record) == ("c", before.patient, "test", before.record)
    assert after.study is not None
    assert archive.delete(patient="Meier1") == 2


@pytest.mark.parametrize("kind", ["flat", "distinct", "mih"])
def test_compaction_leaves_no_byte_of_deleted_cases(
    archive: Archive, source: Source, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Catalogue._connect

    def careless(catalogue: Catalogue, writable: bool) -> sqlite3.Connection:
        connection = connect(catalogue, writable)
        connection.execute("PRAGMA secure_delete = OFF")  # as SQLite begins where it was not built otherwise
        return connection

    monkeypatch.setattr(Catalogue, "_connect", careless)
    archive.build_index(kind)
    draw(source.root / "09.png", 99)
    archive.add(source)  # retires case 10
    (source.root / "manifest.csv").write_text("path,label,patient,notes\n00.png,unusual,Vogel,sings at night\n")
    before = archive.database()
    assert len(set(before.codes.words[:, 0].tolist())) == 12
    archive.add(open_source(source.root / "manifest.csv"), update_records=True)
    code = before.codes.words[0].tobytes()
    pseudonym = archive.case(1).patient or ""
    # Wider than a word of noise would be: these bytes are there by purpose, and are gone by purpose.
    former = str(before.patients[0])  # that was case 1's until its record was changed, and is case 2's
    texts = ["00.png", "unusual", pseudonym, former, "sings at night"]
    secrets = [*map(str.encode, texts), bytes.fromhex(str(before.contents[0]))]
    assert all(secret in bytes_of(archive.path) for secret in [*secrets, code])
    reader = Archive.open(archive.path, device="cpu")
    parts = reader.parts(("label",), n_rows=4)
    old = next(parts).ids.tolist()
    archive.delete(patient="Vogel")
    archive.delete([2, 12])
    report = archive.compact()
    assert (report.n_removed, report.n_segments_before, report.n_segments) == (4, 2, 1)
    left = [3, 4, 5, 6, 7, 8, 9, 11, 13]
    content = bytes_of(archive.path)
    assert not [secret for secret in [*secrets, code] if secret in content]
    assert before.codes.words[2].tobytes() in content
    assert sorted(path.name for path in archive.path.iterdir() if path.name.startswith("cat")) == ["catalogue.sqlite"]
    assert ids_of(archive) == ids_of(reader) == left
    assert archive.index_plan.kind == kind
    # The reader goes on with what it had mapped; what is gone from the catalogue meanwhile is left out.
    assert old + [id for part in parts for id in part.ids.tolist()] == [1, 2, 3, 4, *left[2:]]
    for gone in (1, 2, 10, 12):
        with pytest.raises(KeyError):
            archive.case(gone)
        with pytest.raises(KeyError):
            archive.delete([gone])
    assert archive.n_deleted == 0
    # Deleted images stay away, one that was changed may come back, and ids go on.
    draw(source.root / "09.png", 9)
    again = archive.add(open_source(source.root))
    assert (again.n_added, again.n_changed, again.n_present, again.n_deleted) == (0, 1, 8, 3)
    assert ids_of(archive) == [3, 4, 5, 6, 7, 8, 9, 11, 14]
    assert b"00.png" not in bytes_of(archive.path)
    archive.delete(where="1")
    archive.compact()
    assert (archive.n_cases, archive.n_segments, list((archive.path / "segments").iterdir())) == (0, 0, [])
    draw(source.root / "new.png", 100)
    assert archive.add(open_source(source.root)).n_added == 1
    assert ids_of(archive) == [15]


def test_what_was_deleted_needs_the_key(archive: Archive, source: Source, tmp_path: Path, encoder: Encoder) -> None:
    archive.delete([5])
    key = archive.path.with_name("archive.key")
    key.rename(tmp_path / "away")
    with pytest.raises(ArchiveError, match="no such key file"):
        archive.compact()
    assert (archive.n_cases, archive.n_deleted) == (11, 1)
    (tmp_path / "away").rename(key)
    archive.compact()
    key.unlink()
    with pytest.raises(ArchiveError, match="no such key file"):
        archive.add(open_source(source.root))
    assert len(archive.search(draw_image(0), k=20, exclude_same=())) == 11
    with Archive.create(tmp_path / "strangers", encoder) as strangers:  # without patients a key is made when needed
        strangers.add(open_source(source.root))
        strangers.compact()
        assert not (tmp_path / "strangers.key").exists()
        strangers.delete([5])
        strangers.compact()
        assert strangers.add(open_source(source.root)).n_deleted == 1
        assert (tmp_path / "strangers.key").exists()


def damage(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_repair_does_not_forget_what_was_deleted(
    archive: Archive, source: Source, tmp_path: Path, encoder: Encoder, run: Run
) -> None:
    draw(source.root / "09.png", 99)
    assert archive.add(source).n_changed == 1  # retires case 10
    archive.delete(patient="Meier1")
    archive.delete([13])
    damage(archive.path / "segments" / "000000000001.npy")
    new, key = tmp_path / "new", archive.path.with_name("archive.key")
    error = run("repair", archive.path, "--into", new, "--key", tmp_path / "gone.key").error()
    assert "gone.key: no such key file" in error
    assert "without it 2 deleted images could come back" in error
    assert not new.exists()
    assert archive.repair(new).lost == ((1, 12),)
    with Archive.open(new, key, "cpu") as repaired:
        assert (repaired.n_cases, repaired.n_deleted) == (0, 1)
        report = repaired.add(source)
        assert (report.n_added, report.n_deleted, report.n_present) == (9, 3, 0)
        draw(source.root / "09.png", 9)
        assert repaired.add(source).n_deleted == 2  # what was retired, not deleted, comes back
        assert repaired.verify().problems == ()
    with Archive.create(tmp_path / "strangers", encoder) as strangers:
        strangers.add(open_source(source.root))
        strangers.delete([5])
        damage(tmp_path / "strangers" / "segments" / "000000000001.npy")
        strangers.repair(tmp_path / "again")
    with Archive.open(tmp_path / "again", tmp_path / "strangers.key", "cpu") as repaired:
        assert repaired.add(open_source(source.root)).n_deleted == 1


def test_repair_misses_the_key_of_hidden_names_too(tmp_path: Path, encoder: Encoder) -> None:
    for number in range(2):
        content = dicom(draw_image(number)[..., 0].copy(), PatientID=None, StudyInstanceUID=None)
        (tmp_path / f"{number}.dcm").write_bytes(content)
    source = open_source(tmp_path)
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(source)
        archive.delete([1])
    with sqlite3.connect(tmp_path / "archive" / "catalogue.sqlite") as catalogue:
        catalogue.execute("UPDATE property SET check_sum = check_sum + 1 WHERE name = 'key_fingerprint'")
    catalogue.close()
    repair(tmp_path / "archive", tmp_path / "new", tmp_path / "archive.key")
    with Archive.open(tmp_path / "new", tmp_path / "archive.key", "cpu") as repaired:
        report = repaired.add(source)
        assert (report.n_present, report.n_deleted, report.n_added) == (1, 1, 0)


def test_repair_starts_no_log_that_was_never_begun(archive: Archive, tmp_path: Path) -> None:
    (archive.path / "queries.log").touch()  # as where the disk was full
    archive.repair(tmp_path / "new")
    with Archive.open(tmp_path / "new", archive.path.with_name("archive.key"), "cpu") as repaired:
        assert not repaired.logs_queries


def test_an_archive_copied_without_its_lock_is_whole(archive: Archive) -> None:
    (archive.path / "writer.lock").unlink()
    archive.delete([1])
    assert archive.n_cases == 11


def test_a_folder_that_may_not_be_listed_stops_no_run(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = dicom(draw_image(1)[..., 0].copy())
    (tmp_path / "0.dcm").write_bytes(content)
    (tmp_path / "1.dcm").write_bytes(content[:300])
    source = open_source(tmp_path)

    def refuse(root: Path) -> NoReturn:
        raise SourceError(f"{root}/private: cannot be listed")

    with Archive.create(tmp_path / "archive", encoder) as archive:
        assert len(archive.add(source).failed) == 1
        monkeypatch.setattr("athsearch.archive.recognition.names_below", refuse)
        assert archive.add(replace(source, items=source.items[:1])).n_present == 1
        assert len(archive.unreadable) == 1


def test_ids_of_codes_alone_have_gaps_after_compaction(tmp_path: Path) -> None:
    words = np.random.default_rng(0).integers(0, 2**36, (500, 1), np.uint64)
    codes = Codes(words, 36)
    with Archive.create(tmp_path / "codes", bits=36) as archive:
        for begin in range(0, 500, 50):
            archive.add_codes(codes[begin : begin + 50])
        gone = [1, 2, 3, 77, *range(100, 250, 2), 500]
        archive.delete(gone)
        report = archive.compact()
        assert (report.n_removed, report.n_segments_before, report.n_segments) == (len(gone), 10, 1)
        left = np.setdiff1d(np.arange(1, 501), gone)
        truth = FlatIndex(codes[left - 1], left)
        for query in range(0, 500, 37):
            hits = archive.search(codes[query : query + 1], k=60)
            assert [(hit.case.id, hit.distance) for hit in hits] == truth.search(codes[query : query + 1], k=60)[0]
        assert archive.database().codes == codes[left - 1]
        assert (archive.n_cases, archive.n_codes_alone, archive.n_deleted) == (len(left), len(left), 0)
        with pytest.raises(KeyError):
            archive.case(102)
        assert archive.case(101).id == 101
        assert archive.delete([4, 101]) == 2
        assert archive.add_codes(codes[:3]) == range(501, 504)
        assert archive.compact().n_removed == 2
        assert archive.database().ids.tolist() == [id for id in [*left, 501, 502, 503] if id not in (4, 101)]
        before = {path.name for path in (archive.path / "segments").iterdir()}
        assert archive.compact().n_removed == 0
        assert {path.name for path in (archive.path / "segments").iterdir()} == before


def test_merging_without_deletions_keeps_the_index(tmp_path: Path) -> None:
    codes = Codes(np.arange(3000, dtype=np.uint64)[:, None], 36)
    with Archive.create(tmp_path / "codes", bits=36) as archive:
        for begin in range(0, 3000, 1000):
            archive.add_codes(codes[begin : begin + 1000])
        archive.build_index("distinct")
        before = {path: path.stat().st_ino for path in (archive.path / "indexes").rglob("*.npy")}
        assert archive.compact().n_segments == 1
        assert {path: path.stat().st_ino for path in (archive.path / "indexes").rglob("*.npy")} == before
        assert [hit.case.id for hit in archive.search(codes[7:8], k=1)] == [8]


def reads_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources whose files are read from now on."""
    reads: list[str] = []
    read = Source.read
    monkeypatch.setattr(Source, "read", lambda self, item: (reads.append(item.source), read(self, item))[1])
    return reads


def test_unchanged_files_are_not_read(
    archive: Archive, source: Source, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = reads_of(monkeypatch)
    archive.add(source)
    assert len(reads) == 12  # written a moment ago: what is written in this very moment would look the same
    monkeypatch.setattr(source_module, "QUIET_S", 0)
    archive.add(source)
    assert len(reads) == 24
    assert archive.add(source).n_present == 12
    assert len(reads) == 24
    os.utime(source.root / "05.png")
    content, status = (source.root / "06.png").read_bytes(), (source.root / "06.png").stat()
    (source.root / "06.png").write_bytes(content[:-20] + bytes(20))  # the same size, and the time is set back
    os.utime(source.root / "06.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    draw(source.root / "50.png", 50)
    report = archive.add(open_source(source.root))
    assert (report.n_added, report.n_changed, report.n_present, len(report.failed)) == (1, 0, 11, 1)
    assert sorted(reads[24:]) == ["05.png", "06.png", "50.png"]
    assert archive.add(open_source(source.root)).n_present == 12
    assert reads[27:] == ["06.png"]  # what could not be used is tried again
    assert archive.add(source, recheck=True).n_present == 11
    assert len(reads) == 28 + 12


def test_what_could_not_be_used_is_kept_until_it_can_be(archive: Archive, source: Source, run: Run) -> None:
    (source.root / "20.png").write_text("a text")
    (source.root / "21.png").write_bytes(b"")
    failed = archive.add(open_source(source.root)).failed
    assert [name for name, _ in failed] == ["20.png", "21.png"]
    root = str(source.root)
    assert archive.unreadable == [(root, *image) for image in failed]
    assert archive.add(source).failed == ()  # a source that leaves them out says nothing about them
    assert len(archive.unreadable) == 2
    facts = run("info", archive.path, "--json").json()
    assert facts["unreadable"] == [{"root": root, "source": name, "reason": reason} for name, reason in failed]  # type: ignore[index]
    outcome = run("info", archive.path)
    assert "unreadable  2\n" in outcome.out
    assert f"cannot use {root}/20.png: {failed[0][1]}" in outcome.err
    draw(source.root / "20.png", 20)
    (source.root / "21.png").unlink()
    assert archive.add(open_source(source.root)).n_added == 1
    assert archive.unreadable == []


def test_images_whose_names_are_not_text_are_counted_and_named(archive: Archive, source: Source, run: Run) -> None:
    bad = Path(os.fsdecode(bytes(source.root) + b"/\xe4"))
    try:
        bad.mkdir()
    except OSError:
        pytest.skip("this file system only takes names that are text")
    for name in ("30.png", "31.png"):
        draw(bad / name, 30)
    for _ in range(2):
        outcome = run("index", archive.path, source.root)
        assert [line.split() for line in outcome.out.splitlines() if "unreadable" in line] == [["2", "unreadable"]]
        assert "cannot use \\xe4/30.png: its name is not UTF-8" in outcome.err
        assert [name for _, name, _ in archive.unreadable] == ["\\xe4/30.png", "\\xe4/31.png"]
    bad.rename(source.root / "named")
    assert run("index", archive.path, source.root, "--json").json()["n_added"] == 2  # type: ignore[index]
    assert archive.unreadable == []


def test_delete_asks_counts_and_deletes(archive: Archive, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    dry = run("delete", archive.path, "--where", "age > 49", "--dry-run", "--json").json()
    assert dry == {"archive": str(archive.path), "n_found": 2, "n_deleted": 0, "n_cases": 12, "ids": [11, 12]}
    refused = run("delete", archive.path, "--where", "age > 49")
    assert refused.status == 2
    assert "2 of 12 cases would be deleted; --yes" in refused.err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr("click.termui.visible_prompt_func", lambda _: "n")
        unsure = run("delete", archive.path, "--where", "age > 49")
    assert (unsure.status, unsure.error()) == (1, f"athsearch: {archive.path}: nothing was deleted")
    monkeypatch.setattr("click.confirm", lambda text, **_: pytest.fail(text))
    with pytest.raises(pytest.fail.Exception, match="Delete 2 of 12 cases"):
        run("delete", archive.path, "--where", "age > 49")
    assert ids_of(archive) == list(range(1, 13))
    assert run("delete", archive.path, "--where", "age > 49", "--yes").out.endswith("2 deleted; 10 cases\n")
    assert run("delete", archive.path, "--patient", "Meier0", "--yes").status == 0
    assert run("delete", archive.path, "--id", 3, "--id", 4, "--yes", "--json").json()["ids"] == [3, 4]  # type: ignore[index]
    assert run("delete", archive.path, "--id", 5, "--id", 4, "--yes").error().endswith("no case 4; nothing was deleted")
    nobody = run("delete", archive.path, "--patient", "Meier0")
    assert nobody.out.endswith("0 deleted; 6 cases\n")
    assert "no case is of a patient of that name" in nobody.err
    assert ids_of(archive) == [5, 6, 7, 8, 9, 10]
    for wrong in ((), ("--id", 5, "--where", "1"), ("--where", "weight > 3")):
        assert run("delete", archive.path, *wrong, "--yes").status == 2
    report = run("compact", archive.path, "--json").json()
    counts = {"n_removed": 6, "n_segments_before": 1, "n_segments": 1}
    assert report == {"archive": str(archive.path), "n_cases": 6, **counts}
    assert run("compact", archive.path).out.endswith("0 deleted removed, 1 segments became 1; 6 cases\n")


def many(folder: Path, n_images: int) -> Source:
    folder.mkdir()
    for number in range(n_images):
        draw(folder / f"{number:03d}.png", number)
    return open_source(folder)


def test_killed_at_random_moments_indexing_goes_on(tmp_path: Path, encoder: Encoder) -> None:
    source = many(tmp_path / "images", 90)
    path = tmp_path / "archive"
    Archive.create(path, encoder).close()
    program = (
        "import sys\nfrom athsearch import Archive\nfrom athsearch.archive import intake\nfrom athsearch.data import "
        "open_source\nintake.BATCH_SIZE = intake.COMMIT_BATCHES = 1\n"
        "Archive.open(sys.argv[1], device='cpu').add(open_source(sys.argv[2]), lambda *done: print(*done, flush=True))"
    )
    chance = random.Random(0)
    n_before, n_killed = 0, 0
    for _ in range(12):
        with subprocess.Popen([sys.executable, "-c", program, path, source.root], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(n_before + chance.randint(1, 8)):
                process.stdout.readline()
            time.sleep(chance.uniform(0, 0.01))
            process.send_signal(signal.SIGKILL)
        n_killed += process.returncode == -signal.SIGKILL
        with Archive.open(path, device="cpu") as archive:
            assert ids_of(archive) == list(range(1, archive.n_cases + 1))
            assert archive.n_cases >= n_before
            n_before = archive.n_cases
    assert n_killed >= 6
    with Archive.open(path, device="cpu") as archive, Archive.create(tmp_path / "whole", encoder) as whole:
        report = archive.add(source)
        assert (report.n_present, report.n_added) == (n_before, 90 - n_before)
        whole.add(source)
        assert archive.database().codes == whole.database().codes
        assert archive.database().contents == whole.database().contents


def test_killed_at_random_moments_compaction_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    codes = Codes(np.random.default_rng(1).integers(0, 2**63, (60_000, 1), np.uint64), 64)
    path = tmp_path / "archive"
    with Archive.create(path, bits=64) as archive:
        for begin in range(0, 60_000, 3000):
            archive.add_codes(codes[begin : begin + 3000])
        archive.build_index("distinct")
    program = (
        "import sys\nfrom athsearch import Archive\nimport athsearch.archive.compaction\nprint('ready', flush=True)\n"
        "Archive.open(sys.argv[1]).compact()"
    )
    chance = random.Random(1)
    gone: set[int] = set()
    for turn in range(15):
        with Archive.open(path) as archive:
            gone |= set(archive.database().ids[turn::97].tolist())
            archive.delete(np.setdiff1d(sorted(gone), np.setdiff1d(np.arange(1, 60_001), archive.database().ids)))
        with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0, 0.12))
            process.send_signal(signal.SIGKILL)
        left = np.setdiff1d(np.arange(1, 60_001), sorted(gone))
        with Archive.open(path) as archive:
            assert archive.database().ids.tolist() == left.tolist()
            assert archive.database().codes == codes[left - 1]
            assert archive.search(codes[left[5:6] - 1], k=1)[0].case.id == left[5]
    with Archive.open(path) as archive:
        archive.compact()
        assert archive.database().codes == codes[left - 1]
        assert [file.name for file in (path / "segments").iterdir()] == [archive_segment(path)]
        assert len(list((path / "indexes").iterdir())) == 1
        deleted = codes[np.array(sorted(gone)) - 1].words[:, 0].tolist()
        kept = set(np.frombuffer(b"".join(file.read_bytes()[64:] for file in path.rglob("*.npy"))[: 8 * 60_000], "<u8"))
        assert not kept & set(deleted)


def test_compactions_that_are_stopped_leave_one_copy_at_most(tmp_path: Path) -> None:
    def stop(step: str) -> None:
        if step == "sorting":
            raise KeyboardInterrupt

    path = tmp_path / "archive"
    with Archive.create(path, bits=64) as archive:
        archive.add_codes(Codes(np.arange(1000, dtype=np.uint64)[:, None], 64))
        archive.build_index("distinct")
        archive.delete([5])
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                archive.compact(stop)
            assert len(list((path / "segments").iterdir())) == 2
        archive.compact()
        assert [file.name for file in (path / "segments").iterdir()] == [archive_segment(path)]


def archive_segment(path: Path) -> str:
    with Archive.open(path) as archive, archive._reading() as snapshot:
        return snapshot.segments[0].file


def test_a_full_disk_leaves_an_archive_that_goes_on(tmp_path: Path, encoder: Encoder) -> None:
    source = many(tmp_path / "images", 150)
    path = tmp_path / "archive"
    with Archive.create(path, encoder) as archive:
        archive.add(replace(source, items=source.items[:100]))
        archive.delete(range(1, 60))
    full = (path / "catalogue.sqlite").stat().st_size
    for command in (("index", path, source.root), ("compact", path)):
        for file_bytes in (300, full // 2, full - 4096):
            outcome = run_apart(*command, "--json", file_bytes=file_bytes)
            assert outcome.status == 1, outcome.out
            with Archive.open(path, device="cpu") as archive:
                assert ids_of(archive) == list(range(60, 101))
    with Archive.open(path, device="cpu") as archive:
        # The largest of these disks was full when the catalogue was to be written anew: all was taken out by then.
        assert archive.compact().n_removed in (0, 59)
        content = (path / "catalogue.sqlite").read_bytes()
        assert [item.source.encode() in content for item in source.items[:100]] == [False] * 59 + [True] * 41
        report = archive.add(source)
        assert (report.n_added, report.n_present, report.n_deleted) == (50, 41, 59)
        assert ids_of(archive) == list(range(60, 151))
