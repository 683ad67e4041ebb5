"""Archives: what goes in comes out, whoever interrupts, and nothing else."""

from __future__ import annotations

import hmac
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from athsearch.archive.archive import Archive
from athsearch.archive.cases import NewCase
from athsearch.archive.catalogue import Catalogue, records_to_json, to_json
from athsearch.archive.pseudonym import PatientKey
from athsearch.archive.schema import RANGE_BITS
from athsearch.archive.segment import write_segment
from athsearch.archive.writing import writing
from athsearch.codes import Codes
from athsearch.data import Item, Source, open_source
from athsearch.encoder import Encoder
from athsearch.errors import (
    ArchiveError,
    ArchiveLocked,
    AthsearchError,
    CatalogueError,
    CorruptImage,
    FormatVersion,
    ModelMismatch,
    SegmentCorrupt,
    SourceError,
)
from athsearch.evaluation import evaluate_archive
from athsearch.index.reranking import quantised
from conftest import draw_image


@pytest.fixture
def archive(tmp_path: Path, encoder: Encoder, source: Source) -> Iterator[Archive]:
    """The twelve images of `source`, with ids 1 to 12."""
    with Archive.create(tmp_path / "archive", encoder) as archive:
        report = archive.add(source)
        assert (report.n_added, report.n_present, report.failed) == (12, 0, ())
        yield archive


def ids_of(hits: object) -> list[int]:
    return [hit.case.id for hit in hits]  # type: ignore[attr-defined]


def test_a_case_is_its_own_nearest_neighbour(archive: Archive, source: Source) -> None:
    assert archive.n_cases == 12
    for number in range(12):
        hits = archive.search(source.root / f"{number:02d}.png", k=12)
        assert (hits[0].distance, len(hits)) == (0, 12)
        assert number + 1 in [hit.case.id for hit in hits if hit.distance == 0]
        keys = [(hit.distance, hit.case.id) for hit in hits]
        assert keys == sorted(keys)


def test_cases_come_back_with_their_records(archive: Archive, source: Source) -> None:
    case = archive.case(4)
    assert (case.source, case.label, case.record) == ("03.png", "b", {"age": 43, "eye": "left"})
    assert case.root == str(source.root)
    assert archive.case(3).record == {"age": 42}
    assert archive.counts() == {"a": 6, "b": 6}
    with pytest.raises(KeyError):
        archive.case(13)


def test_search_by_image_code_and_id_agree(archive: Archive, encoder: Encoder) -> None:
    by_image = archive.search(draw_image(5), exclude_same=())
    assert by_image == archive.search(encoder.encode(draw_image(5)), exclude_same=())
    by_id = archive.search_case(6, k=12, exclude_same=())
    assert ids_of(by_id) == [id for id in ids_of(archive.search(draw_image(5), k=12, exclude_same=())) if id != 6]


def test_an_image_reranks_by_its_logits(archive: Archive, encoder: Encoder) -> None:
    image = draw_image(40)
    weights = quantised(encoder.logits(image))[0].astype(int)
    database = archive.database()
    scores = dict(
        zip(database.ids.tolist(), (np.where(database.codes.to_bits(), 1, -1) @ weights).tolist(), strict=True)
    )
    plain = archive.search(image, k=12)
    assert {hit.score for hit in plain} == {None}
    for k, depth in ((12, 1), (3, 5), (5, 12)):
        first = [replace(hit, score=scores[hit.case.id]) for hit in plain[: max(k, depth)]]
        ranked = sorted(first, key=lambda hit: (-(hit.score or 0), hit.distance, hit.case.id))[:k]
        assert archive.search(image, k, rerank="asymmetric", depth=depth) == ranked
        assert archive.search(image, k, kind="distinct", rerank="asymmetric", depth=depth) == ranked
        assert ids_of(ranked) != ids_of(plain[:k])
    some = archive.search(image, k=12, where="label = 'b'", rerank="asymmetric")
    assert ids_of(some) == [id for id in ids_of(archive.search(image, k=12, rerank="asymmetric")) if id % 2 == 0]
    for refused in (lambda: archive.search(encoder.encode(image), rerank="asymmetric"),
                    lambda: archive.search_case(1, rerank="asymmetric")):  # fmt: skip
        with pytest.raises(ValueError, match="re-ranking needs an image"):
            refused()
    with pytest.raises(ValueError, match="unknown re-ranking 'float'; known: asymmetric"):
        archive.search(image, rerank="float")


def test_where_is_an_expression_over_columns(archive: Archive) -> None:
    def found(where: str) -> list[int]:
        return sorted(ids_of(archive.search(draw_image(0), k=12, where=where)))

    assert found("label = 'b' AND age < 46") == [2, 4, 6]
    assert found("eye IS NULL -- right eyes") == [1, 3, 5, 7, 9, 11]
    assert found("source LIKE '1%' OR id = 3") == [3, 11, 12]
    assert found("age > 1000") == []
    assert found("id > 10") == [11, 12]
    assert found("1") == list(range(1, 13))


@pytest.mark.parametrize(
    "where",
    [
        "",
        "label = ",
        "weight > 3",
        "1) UNION SELECT value FROM property WHERE (1",
        "id IN (SELECT first_id FROM segment)",
        "1); DELETE FROM cases WHERE (1",
        "load_extension('x') IS NULL",
        "writefile('x', 'y')",
        "content IS NOT NULL",
    ],
)
def test_where_can_do_nothing_else(archive: Archive, where: str) -> None:
    with pytest.raises(ValueError, match="columns: id, source, label, patient, study, split, age, eye"):
        archive.search(draw_image(0), where=where)
    assert archive.n_cases == 12


def test_the_same_patient_is_left_out(archive: Archive) -> None:
    assert 2 not in ids_of(archive.search_case(1, k=12))
    assert ids_of(archive.search_case(1, k=12, exclude_same=())).count(2) == 1
    assert not {1, 2} & set(ids_of(archive.search(draw_image(0), k=12, patient="Meier0")))
    assert len(archive.search(draw_image(0), k=12, patient="somebody else")) == 12
    odd = archive.search_case(2, k=12, exclude_same=("eye",))
    assert sorted(ids_of(odd)) == [1, 3, 5, 7, 9, 11]
    assert 1 not in ids_of(archive.search(draw_image(0), k=12, exclude_same=("age",), record={"age": 40}))
    with pytest.raises(ValueError, match="no column 'weight'"):
        archive.search_case(1, exclude_same=("weight",))


def test_patients_are_stored_under_pseudonyms_only(archive: Archive, tmp_path: Path) -> None:
    stored = b"".join(path.read_bytes() for path in archive.path.rglob("*") if path.is_file())
    assert archive.case(1).patient == archive.case(2).patient != archive.case(3).patient
    assert b"Meier0" not in stored.replace(b"PNG", b"")
    key = tmp_path / "archive.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_bytes().strip() not in stored


def test_a_patient_is_one_however_his_name_is_encoded(archive: Archive, source: Source) -> None:
    forms = [unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    items = tuple(replace(item, patient=forms[number % 2]) for number, item in enumerate(source.items[:4]))
    archive.add(replace(source, items=items), update_records=True)
    for form in forms:
        found = archive.search(draw_image(0), k=12, patient=form)
        assert not {1, 2, 3, 4} & set(ids_of(found))
    assert archive.delete(patient=forms[1]) == 4


def test_a_study_is_a_pseudonym_of_its_own_and_a_column(tmp_path: Path, encoder: Encoder) -> None:
    for number in range(4):
        Image.fromarray(draw_image(number)).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,a,{'Meier' if number == 3 else ''},{'Meier' if number < 2 else ''}" for number in range(4)]
    (tmp_path / "cases.csv").write_text("\n".join(["path,label,patient,Study", *rows]))
    with Archive.create(tmp_path / "archive", encoder) as archive:
        source = open_source(tmp_path / "cases.csv")
        archive.add(source)
        cases = [archive.case(id) for id in range(1, 5)]
        assert cases[0].study == cases[1].study == archive.patient_key().pseudonym("Meier", "study")
        assert [case.study is None for case in cases] == [False, False, True, True]
        assert cases[3].patient not in (None, cases[0].study)
        assert ids_of(archive.search_case(1, exclude_same=("study",))) == ids_of(
            archive.search_case(1, where="study IS NULL")
        )
        assert [case.record for case in cases] == [{}] * 4
        assert archive.add(replace(source, items=source.items[::-1])).n_differing == 0
        others = tuple(replace(item, study="Meier") for item in source.items)
        assert archive.add(replace(source, items=others)).n_differing == 2
        assert b"Meier" not in (archive.path / "catalogue.sqlite").read_bytes()


def test_the_key_is_needed_and_must_be_the_right_one(archive: Archive, source: Source, tmp_path: Path) -> None:
    key = tmp_path / "archive.key"
    key.rename(tmp_path / "elsewhere.key")
    with pytest.raises(ArchiveError, match=r"archive\.key: no such key file"):
        archive.search(draw_image(0), patient="Meier0")
    with Archive.open(archive.path, tmp_path / "elsewhere.key", "cpu") as opened:
        assert 1 not in ids_of(opened.search(draw_image(0), k=12, patient="Meier0"))
    key.write_text("00" * 32 + "\n")
    with pytest.raises(ArchiveError, match="the key of another archive"):
        archive.add(source)
    key.write_text("abc")
    with pytest.raises(ArchiveError, match="not a key file"):
        archive.add(source)


def test_what_is_there_is_recognised(archive: Archive, source: Source) -> None:
    again = archive.add(source)
    assert (again.n_added, again.n_present) == (0, 12)
    Image.fromarray(draw_image(99)).save(source.root / "03.png")
    changed = archive.add(source)
    assert (changed.n_added, changed.n_changed, changed.n_present) == (0, 1, 11)
    assert archive.case(13).source == "03.png"


def test_what_is_there_under_another_label_is_counted_and_kept(archive: Archive, source: Source) -> None:
    items = tuple(replace(item, label="c" if item.source == "03.png" else None, patient=None) for item in source.items)
    report = archive.add(replace(source, items=items))
    assert (report.n_present, report.n_differing) == (12, 1)
    assert archive.case(4).label == "b"


def test_records_may_have_any_letters(tmp_path: Path, encoder: Encoder) -> None:
    Image.fromarray(draw_image(1)).save(tmp_path / "1.png")
    (tmp_path / "cases.csv").write_text("path,label,größe,Käse's\n1.png,ä,41,mürb\n", encoding="utf-8")
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(open_source(tmp_path / "cases.csv"))
        assert ids_of(archive.search(draw_image(1), where="größe > 40 AND label = 'ä'")) == [1]
        assert ids_of(archive.search(draw_image(1), where="\"Käse's\" = 'mürb'")) == [1]
        assert archive.search(draw_image(1), exclude_same=("größe",), record={"größe": 41}) == []


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ({"a": float("nan")}, "no number"),
        ({'a"b': 1}, "quote"),
        ({"a\\b": 1}, "backslash"),
        ({"AGE": 1}, "'AGE' cannot be stored beside 'age'"),
        ({"id": 1, "record_id": 2}, "cannot be stored beside"),
        ({"b": 1, "B": 2}, "cannot be stored beside"),
    ],
)
def test_records_that_cannot_be_stored_are_refused_before_anything_is_done(
    archive: Archive, source: Source, record: dict[str, float], word: str
) -> None:
    with pytest.raises(SourceError, match=word):
        archive.add(replace(source, items=(*source.items, Item("new.png", "a", None, None, record))))
    assert archive.n_cases == 12
    assert archive.columns == ["id", "source", "label", "patient", "study", "split", "age", "eye"]


def test_deleted_cases_are_gone_and_stay_so(archive: Archive, source: Source, encoder: Encoder) -> None:
    assert archive.delete([3, 5]) == 2
    assert archive.n_cases == 10
    assert not {3, 5} & set(ids_of(archive.search(draw_image(2), k=12)))
    assert 3 not in archive.database().ids
    with pytest.raises(KeyError):
        archive.case(3)
    with pytest.raises(KeyError):
        archive.delete([1, 3])
    assert archive.case(1).id == 1
    report = archive.add(source)
    assert (report.n_added, report.n_present, report.n_deleted) == (0, 10, 2)


def test_unusable_images_are_reported_and_never_become_codes(archive: Archive, source: Source) -> None:
    (source.root / "20.png").write_text("a text")
    (source.root / "21.png").write_bytes(b"")
    Image.fromarray(draw_image(22)).save(source.root / "22.png")
    report = archive.add(open_source(source.root))
    assert (report.n_added, report.n_present) == (1, 12)
    assert [name for name, _ in report.failed] == ["20.png", "21.png"]
    assert archive.n_cases == 13
    with pytest.raises(CorruptImage):
        archive.search(source.root / "20.png")


def test_an_interrupted_run_goes_on_and_ends_the_same(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(200):
        Image.fromarray(draw_image(number)).save(folder / f"{number:03d}.png")
    (folder / "100.png").write_text("a text")
    source = open_source(folder)
    whole = Archive.create(tmp_path / "whole", encoder)
    whole.add(source)

    def interrupt(n_done: int, _: int) -> None:
        if n_done >= 128:
            raise KeyboardInterrupt

    parts = Archive.create(tmp_path / "parts", encoder)
    with pytest.raises(KeyboardInterrupt):
        parts.add(source, interrupt)
    assert parts.n_cases == 127
    report = parts.add(source)
    assert (report.n_added, report.n_present, len(report.failed)) == (72, 127, 1)
    first, second = whole.database(), parts.database()
    assert first.codes == second.codes
    assert first.ids.tolist() == second.ids.tolist()
    assert [whole.case(id).source for id in first.ids.tolist()] == [parts.case(id).source for id in second.ids.tolist()]


def test_readers_see_whole_commits_as_they_come(archive: Archive, source: Source, encoder: Encoder) -> None:
    with Archive.open(archive.path, device="cpu") as reader:
        assert reader.n_cases == 12
        Image.fromarray(draw_image(50)).save(source.root / "50.png")
        archive.add(open_source(source.root))
        assert reader.n_cases == 13
        assert 13 in ids_of(reader.search(draw_image(50), k=1, exclude_same=()))
        archive.delete([13])
        assert reader.n_cases == 12


def test_searching_and_writing_in_threads_do_not_wait_for_each_other(
    archive: Archive, source: Source, encoder: Encoder
) -> None:
    for number in range(100, 400):
        Image.fromarray(draw_image(number)).save(source.root / f"{number}.png")
    grown = open_source(source.root)
    parts = [replace(grown, items=grown.items[:end]) for end in range(40, len(grown) + 1, 40)]
    n_searches = 0
    with ThreadPoolExecutor(1) as pool:
        begin = time.monotonic()
        added = pool.submit(lambda: [archive.add(part).n_added for part in parts])
        while not added.done():
            assert all(hit.case.id > 1 for hit in archive.search_case(1, k=20, where="id > 1"))
            n_searches += 1
        assert sum(added.result()) == 300 - (len(grown) - 40 * len(parts))
    assert n_searches > 1
    assert time.monotonic() - begin < 25  # a deadlock would end after 30 s


def test_a_query_does_not_find_itself_whoever_knows_its_patient(
    archive: Archive, source: Source, tmp_path: Path, encoder: Encoder
) -> None:
    strangers = replace(source, items=tuple(replace(item, patient=None) for item in source.items))
    known = evaluate_archive(archive, source, k=3)
    assert known.n_left_out == 12
    assert evaluate_archive(archive, strangers, k=3).scores.to_dict() == known.scores.to_dict()
    with Archive.create(tmp_path / "strangers", encoder) as other:
        other.add(strangers)
        # Either eye names its patient when it asks, so it leaves out what the other eye, an equal image, is.
        assert evaluate_archive(other, source, k=3).scores.to_dict() == known.scores.to_dict()
        alone = evaluate_archive(other, strangers, k=1).scores
        assert alone.micro.precision < 1


def test_a_second_writer_is_told_so(archive: Archive, source: Source) -> None:
    program = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, 2); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, archive.path / "writer.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for write in (lambda: archive.add(source), lambda: archive.delete([1])):
            with pytest.raises(ArchiveLocked, match="another process is writing"):
                write()
        assert archive.n_cases == 12
        other.kill()
        other.wait()
    assert archive.delete([1]) == 1


def test_a_file_that_nobody_lists_is_nothing(archive: Archive, source: Source) -> None:
    np.save(archive.path / "segments" / f"{13:012d}.npy", np.zeros((5, 1), np.uint64))
    assert archive.n_cases == 12
    Image.fromarray(draw_image(60)).save(source.root / "60.png")
    assert archive.add(open_source(source.root)).n_added == 1
    assert archive.search(draw_image(60), k=1, exclude_same=())[0].distance == 0


def test_codes_of_another_model_are_refused(archive: Archive, encoder: Encoder) -> None:
    codes = encoder.encode(draw_image(1))
    with pytest.raises(ModelMismatch, match="encode both with the same weights"):
        archive.search(Codes(codes.words, codes.bits, "another"))
    with pytest.raises(ModelMismatch, match="36-bit codes, the query 48"):
        archive.search(Codes.from_bits(np.zeros((1, 48), np.bool_)))
    with pytest.raises(ValueError, match="one query at a time, got 2"):
        archive.search(encoder.encode([draw_image(1), draw_image(2)]))


def test_weights_that_were_swapped_are_refused(archive: Archive, encoder: Encoder) -> None:
    other = Encoder(encoder.tensors, replace(encoder.description, preprocessing=replace(
        encoder.description.preprocessing, fit="stretch")), "cpu")  # fmt: skip
    other.save(archive.path / "weights.safetensors")
    with Archive.open(archive.path) as opened, pytest.raises(ModelMismatch, match="its weights file is"):
        opened.search(draw_image(1))


def test_damage_is_named_at_opening(archive: Archive, tmp_path: Path) -> None:
    def damaged(name: str) -> Path:
        copy = tmp_path / name
        shutil.copytree(archive.path, copy)
        return copy

    segment = f"segments/{1:012d}.npy"
    copy = damaged("missing")
    (copy / segment).unlink()
    with pytest.raises(SegmentCorrupt, match="missing"):
        Archive.open(copy)
    copy = damaged("cut")
    os.truncate(copy / segment, 150)
    with pytest.raises(SegmentCorrupt, match=r"000000000001\.npy"):
        Archive.open(copy)
    copy = damaged("other")
    np.save(copy / segment, np.zeros((11, 1), np.uint64))
    with pytest.raises(SegmentCorrupt, match=r"\[11, 1\], the catalogue says uint64 \[12, 1\]"):
        Archive.open(copy)
    copy = damaged("zip")
    np.savez(tmp_path / "zip.npz", np.zeros((12, 1), np.uint64))
    shutil.copy(tmp_path / "zip.npz", copy / segment)
    with pytest.raises(SegmentCorrupt, match="not a readable segment"):
        Archive.open(copy)
    copy = damaged("text")
    (copy / "catalogue.sqlite").write_text("nothing of the kind " * 500)
    with pytest.raises(CatalogueError, match="not a database"):
        Archive.open(copy)
    copy = damaged("newer")
    connection = sqlite3.connect(copy / "catalogue.sqlite")
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(FormatVersion, match="format 7, this version reads up to 3: upgrade"):
        Archive.open(copy)


def test_damage_is_an_error_never_a_crash(archive: Archive, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = archive.database().codes[:1]
    archive.close()
    outcomes = {True: 0, False: 0}
    for name in ("catalogue.sqlite", f"segments/{1:012d}.npy"):
        whole = (archive.path / name).read_bytes()
        for _ in range(150):
            damaged = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.2 else whole)
            for place in rng.integers(0, max(len(damaged), 1), rng.integers(1, 9)):
                if len(damaged):
                    # Mostly where structure lies: headers, and the text of the schema and of records.
                    place = place if rng.random() < 0.5 else place % min(len(damaged), 4096)
                    damaged[place] = rng.integers(256)
            (archive.path / name).write_bytes(damaged)
            try:
                with Archive.open(archive.path, device="cpu") as opened:
                    opened.search(codes)
                    opened.search(codes, where="age > 3")
                    opened.database()
                outcomes[True] += 1
            except AthsearchError:
                outcomes[False] += 1
        (archive.path / name).write_bytes(whole)
    assert min(outcomes.values()) > 20


def test_ids_are_whole_numbers_of_any_kind(archive: Archive) -> None:
    for id in archive.database().ids:
        assert archive.case(id).id == id
    assert archive.search_case(np.int64(1)) == archive.search_case(1)
    for wrong in (0, -1, 2**63, 2**70):
        with pytest.raises(KeyError):
            archive.case(wrong)
        with pytest.raises(KeyError):
            archive.delete([wrong])
    with pytest.raises(TypeError):
        archive.delete("12")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        archive.delete([3.9])  # type: ignore[list-item]
    assert archive.n_cases == 12


def test_wrong_types_are_named(archive: Archive) -> None:
    with pytest.raises(TypeError, match="expected a Source, got str; open_source makes one"):
        archive.add("images")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a path or an array of pixels, got bytes"):
        archive.search(b"image")  # type: ignore[arg-type]


def test_an_archive_stays_open_when_the_folder_changes(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Archive.open("archive", device="cpu") as opened:
        monkeypatch.chdir("/")
        assert len(opened.search(draw_image(1), patient="Meier0")) == 10


def test_opening_what_is_not_there_is_an_error(tmp_path: Path, encoder: Encoder) -> None:
    with pytest.raises(ArchiveError, match="no such folder"):
        Archive.open(tmp_path / "nowhere")
    with pytest.raises(ArchiveError, match="not an archive"):
        Archive.open(tmp_path)
    with pytest.raises(ArchiveError, match="exists already"):
        Archive.create(tmp_path, encoder)


def test_a_failed_creation_leaves_nothing(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Catalogue, "create", full)
    with pytest.raises(OSError, match="No space left"):
        Archive.create(tmp_path / "archive", encoder)
    assert list(tmp_path.iterdir()) == []


def test_columns_named_like_the_catalogues_own_are_renamed(tmp_path: Path, encoder: Encoder) -> None:
    Image.fromarray(draw_image(1)).save(tmp_path / "1.png")
    (tmp_path / "cases.csv").write_text("path,label,id,record\n1.png,a,77,x\n")
    archive = Archive.create(tmp_path / "archive", encoder)
    archive.add(open_source(tmp_path / "cases.csv"))
    assert archive.columns == ["id", "source", "label", "patient", "study", "split", "record_id", "record_record"]
    assert ids_of(archive.search(draw_image(1), where="record_id = 77 AND id = 1")) == [1]


def test_an_empty_archive_answers_nothing(tmp_path: Path, encoder: Encoder) -> None:
    archive = Archive.create(tmp_path / "archive", encoder)
    assert archive.n_cases == 0
    assert archive.search(draw_image(1)) == []
    assert archive.database().codes.n_codes == 0


def test_search_by_id_in_100_000_cases_is_quick(tmp_path: Path, encoder: Encoder) -> None:
    archive = Archive.create(tmp_path / "archive", encoder)
    codes = Codes.from_bits(np.random.default_rng(1).random((100_000, 36)) < 0.5, encoder.model_id)
    with writing(archive.path) as catalogue:
        segment = write_segment(archive.path / "segments", [codes], codes.n_codes, 36, first_id=1)
        cases = [NewCase(f"{n}.png", n.to_bytes(32, "big"), str(n % 5), record={"age": n % 90}) for n in range(100_000)]
        catalogue.add(str(tmp_path), segment, cases)
    archive.close()
    begin = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-m", "athsearch", "query", archive.path, "--id", "77", "--json"],
        check=True,
        capture_output=True,
    )
    wall = time.perf_counter() - begin
    assert run.stdout
    # Half a second is promised on an idle machine; this one may be busy.
    assert wall < 2


def test_a_patient_and_a_study_are_found_in_every_range_of_ids(tmp_path: Path) -> None:
    n_cases = 3 * (1 << RANGE_BITS) + 5
    items = tuple(Item(f"{n}.png", patient=f"P{n % 1000}", study=f"S{n % 4000}") for n in range(n_cases))
    with Archive.create(tmp_path / "archive", bits=8) as archive:
        codes = Codes(np.zeros((n_cases, 1), np.uint64), 8)
        archive.add_codes(codes[:5], cases=Source(tmp_path, items[:5]))
        assert archive._catalogue.ids_sharing("patient", [1]).tolist() == [1]
        archive.add_codes(codes[5:], cases=Source(tmp_path, items[5:]))
        key = PatientKey.read(tmp_path / "archive.key")
        of_patient, of_study = archive._catalogue.ids_of, archive._catalogue.ids_sharing
        assert of_patient("patient", key.pseudonym("P7")).tolist() == list(range(8, n_cases + 1, 1000))
        wanted = sorted([*range(1, n_cases + 1, 4000), *range(4000, n_cases + 1, 4000)])
        assert of_study("study", [1, 4000]).tolist() == wanted


@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
)
def test_records_become_json_all_at_once(records: list[dict[str, str | int | float]]) -> None:
    assert records_to_json(records) == [to_json(record) for record in records]


def test_a_pseudonym_is_an_hmac() -> None:
    key, text = bytes(range(32)), "patient:Müller^Ada"
    assert PatientKey(key).pseudonym("Müller^Ada") == hmac.digest(key, text.encode(), "sha256").hex()[:32]


def test_a_column_without_a_name_is_damage(archive: Archive) -> None:
    with sqlite3.connect(archive.path / "catalogue.sqlite") as connection:
        connection.execute("UPDATE record_column SET name = NULL WHERE name = 'age'")
    connection.close()
    with pytest.raises(CatalogueError, match="damaged: a record's column has no name"):
        _ = archive.columns
