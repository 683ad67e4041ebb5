"""The command line for codes that come ready-made, and for what leaves an archive."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from pyarrow import parquet

from athsearch.archive.archive import Archive
from athsearch.archive.exports import export
from athsearch.archive.imports import CodeFile, open_codes
from athsearch.archive.writing import appearing, writing
from athsearch.codes import Codes
from athsearch.data import Source
from athsearch.encoder import Encoder
from athsearch.errors import ArchiveError
from conftest import Run, interrupt_when, run_apart


@pytest.fixture
def codes() -> Codes:
    return Codes.from_bits(np.random.default_rng(3).random((1000, 48)) < 0.5)


@pytest.fixture
def npy(tmp_path: Path, codes: Codes) -> Path:
    np.save(tmp_path / "codes.npy", codes.words)
    return tmp_path / "codes.npy"


@pytest.fixture
def archive(tmp_path: Path, encoder: Encoder, source: Source) -> Path:
    """Codes 1 and 2, the twelve cases of `source` as 3 to 14, of which 4 and 2 are deleted."""
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add_codes(Codes(np.array([[5], [6]], np.uint64), 36))
        archive.add(source)
        archive.delete([2, 4])
    return tmp_path / "archive"


def test_codes_are_imported_and_found(run: Run, npy: Path, codes: Codes, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    report = run("index", path, npy, "--bits", 48, "--json").json()
    kept = {"index": "flat", "index_reason": "none is kept"}
    assert report == {"archive": str(path), "n_cases": 1000, "n_added": 1000, "first_id": 1, **kept}
    hits = run("query", path, "--id", 8, "-k", 3, "--json").json()["hits"]  # type: ignore[index]
    with Archive.open(path) as opened:
        assert [(hit.case.id, hit.distance) for hit in opened.search_case(8, k=3)] == [
            (hit["id"], hit["distance"]) for hit in hits
        ]
    assert (hits[0]["source"], hits[0]["label"], hits[0]["record"]) == (None, None, {})
    code = codes[7:8].to_bytes().tobytes().hex()
    table = run("query", path, "--code", code, "-k", 1).out.splitlines()
    assert [line.split() for line in table] == [["rank", "distance", "id", "label", "source"], ["1", "0", "8"]]
    outcome = run("index", path, npy)
    assert "1,000 codes added as ids 1001 to 2000; 2,000 cases" in outcome.out
    facts = run("info", path, "--json").json()
    assert (facts["cases"], facts["without_record"], facts["segments"]) == (2000, 2000, 2)  # type: ignore[index]
    assert (facts["labels"], facts["model"]) == ({"(none)": 2000}, None)  # type: ignore[index]
    assert "without_record" in run("info", path).out


@pytest.mark.parametrize("layout", ["words", "bytes", "big-endian", "fortran", "one column", "none"])
def test_arrays_of_other_layouts_hold_the_same_codes(run: Run, codes: Codes, tmp_path: Path, layout: str) -> None:
    bits = 8 if layout == "one column" else 100
    codes = Codes.from_bits(np.random.default_rng(4).random((0 if layout == "none" else 50, bits)) < 0.5)
    arrays = {
        "bytes": codes.to_bytes(),
        "big-endian": codes.words.astype(">u8"),
        "fortran": np.asfortranarray(codes.words),
        "one column": codes.to_bytes()[:, 0],
    }
    np.save(tmp_path / "codes.npy", arrays.get(layout, codes.words))
    assert run("index", tmp_path / "archive", tmp_path / "codes.npy", "--bits", bits).status == 0
    with Archive.open(tmp_path / "archive") as archive:
        assert archive.database().codes == codes


def test_codes_join_an_archive_of_images(run: Run, archive: Path, tmp_path: Path, encoder: Encoder) -> None:
    np.save(tmp_path / "more.npy", np.arange(9, dtype=np.uint64)[:, None])
    assert run("index", archive, tmp_path / "more.npy", "--json").json()["first_id"] == 15  # type: ignore[index]
    encoder.save(tmp_path / "weights.safetensors")
    command = ("index", tmp_path / "new", tmp_path / "more.npy", "--weights", tmp_path / "weights.safetensors")
    outcome = run(*command, "--bits", 40)
    assert (outcome.status, "makes 36-bit codes, not 40" in outcome.error()) == (1, True)
    assert run(*command, "--bits", 36).status == 0
    assert run("info", tmp_path / "new", "--json").json()["model"]["model_id"] == encoder.model_id  # type: ignore[index]


def test_what_is_wrong_with_a_file_of_codes_is_said_and_makes_no_archive(run: Run, npy: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "signed.npy", np.zeros((5, 1), np.int64))
    np.save(tmp_path / "cube.npy", np.zeros((5, 1, 1), np.uint64))
    np.savez(tmp_path / "zip.npz", np.zeros(3))
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    (tmp_path / "text.npy").write_text("codes")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "cut.npy").write_bytes(npy.read_bytes()[:-1])
    for name, bits, words in (
        ("signed.npy", 48, "holds int64 [5, 1]; 48 bits are uint64 [n, 1] or uint8 [n, 6]"),
        ("cube.npy", 48, "holds uint64 [5, 1, 1]"),
        ("codes.npy", 65, "holds uint64 [1000, 1]; 65 bits are uint64 [n, 2]"),
        ("zip.npy", 48, "not a whole .npy file"),
        ("text.npy", 48, "not a whole .npy file"),
        ("empty.npy", 48, "not a whole .npy file"),
        ("cut.npy", 48, "not a whole .npy file"),
        ("missing.npy", 48, "No such file"),
    ):
        outcome = run("index", tmp_path / "archive", tmp_path / name, "--bits", bits)
        assert (outcome.status, name in outcome.error(), words in outcome.error()) == (1, True, True), outcome.err
    outcome = run("index", tmp_path / "archive", npy)
    assert (outcome.status, "how many bits" in outcome.error()) == (1, True)
    assert not (tmp_path / "archive").exists()
    outcome = run("index", tmp_path / "archive", npy, "--bits", 40)
    assert (outcome.status, "bits set past bit 40" in outcome.error()) == (1, True)
    assert "(rows 0 to 999)" in outcome.err
    assert not (tmp_path / "archive").exists()
    assert run("index", tmp_path / "archive", npy, "--bits", 48).status == 0
    outcome = run("index", tmp_path / "archive", npy, "--bits", 40)
    assert (outcome.status, "holds 48-bit codes, not 40" in outcome.error()) == (1, True)
    for wrong, words in (
        (("index", tmp_path / "new", npy, "--bits", 48, "--split", "train"), "--split goes with images"),
        (("index", tmp_path / "new", npy, "--bits", 48, "--device", "cpu"), "--device goes with images"),
        (("index", tmp_path / "new", npy, "--bits", 48, "--key", "x"), "--key goes with images"),
        (("index", tmp_path / "new", tmp_path, "--bits", 48), "--bits goes with ready-made codes"),
    ):
        outcome = run(*wrong)
        assert outcome.status == 2
        assert words in click.unstyle(outcome.err)


def test_an_archive_of_codes_says_what_it_cannot_do(
    run: Run, npy: Path, source: Source, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATHSEARCH_KEY", str(tmp_path / "nightly.key"))  # which no option is
    assert run("index", tmp_path / "archive", npy, "--bits", 48).status == 0
    image = source.root / "00.png"
    for command in (
        ("query", tmp_path / "archive", image),
        ("index", tmp_path / "archive", source.root),
        ("query", tmp_path / "archive", "--id", 3, "--sheet", tmp_path / "sheet.png"),
    ):
        outcome = run(*command)
        assert (outcome.status, "ready-made codes of no known network" in outcome.error()) == (1, True)
    assert outcome.error().endswith(", which have no sheet")
    encoder.save(tmp_path / "weights.safetensors")
    outcome = run("index", tmp_path / "archive", npy, "--weights", tmp_path / "weights.safetensors")
    assert outcome.error().endswith("archive holds ready-made codes of no known network: leave --weights out")
    outcome = run("evaluate", tmp_path / "archive", source.root / "manifest.csv")
    assert (outcome.status, "scoring needs cases" in outcome.error()) == (1, True)


def test_a_sheet_shows_where_codes_have_no_image(run: Run, archive: Path, tmp_path: Path) -> None:
    assert run("query", archive, "--id", 3, "--sheet", tmp_path / "sheet.png").status == 0
    assert run("query", archive, "--id", 1, "--sheet", tmp_path / "other.png").status == 0
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_ctrl_c_while_importing_leaves_the_archive_as_it_was(run: Run, tmp_path: Path) -> None:
    words = np.lib.format.open_memmap(tmp_path / "many.npy", "w+", np.uint64, (60_000_000, 1))  # a file of holes
    words.flush()
    with Archive.create(tmp_path / "archive", bits=64) as archive:
        archive.add_codes(Codes(words[:3], 64))
    for name in ("archive", "new"):
        outcome = interrupt_when("importing: 2,097,152 ", "index", tmp_path / name, tmp_path / "many.npy", "--bits", 64)
        assert (outcome.status, "interrupted;" in outcome.error()) == (1, True)
    assert "holds what it held" in outcome.err
    assert run("info", tmp_path / "archive", "--json").json()["cases"] == 3  # type: ignore[index]
    assert len(list((tmp_path / "archive" / "segments").iterdir())) == 1
    assert not (tmp_path / "new").exists()


def test_a_failed_import_removes_no_archive_of_another_process(
    run: Run, npy: Path, codes: Codes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, path, first = importlib.import_module("athsearch.cli.index"), tmp_path / "archive", ExitStack()

    def opening(*arguments: Any) -> CodeFile:
        Archive.create(path, bits=48).close()  # by another process, while the file is read
        first.enter_context(writing(path))
        return open_codes(*arguments)

    with monkeypatch.context() as patched, first:
        patched.setattr(command, "open_codes", opening)
        outcome = run("index", path, npy, "--bits", 48)
        assert (outcome.status, "another process is writing" in outcome.error()) == (1, True)
    with Archive.open(path) as archive:
        assert archive.n_cases == 0
    shutil.rmtree(path)

    def late(archive: Archive, *_: Any) -> range:
        with Archive.open(path) as other:
            add_codes(other, codes[:10])
        raise OSError(errno.ENOSPC, "no space left")

    add_codes = Archive.add_codes
    with monkeypatch.context() as patched:
        patched.setattr(Archive, "add_codes", late)
        assert run("index", path, npy, "--bits", 48).status == 1
    with Archive.open(path) as archive:
        assert archive.n_cases == 10


def test_two_processes_that_make_one_archive_make_it_once(codes: Codes, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with Archive.create(tmp_path / "made meanwhile", bits=48) as archive:
        archive.add_codes(codes)
    with pytest.raises(ArchiveError, match="archive: exists already; another process"), appearing(path):
        (tmp_path / "made meanwhile").rename(path)
    assert [each.name for each in tmp_path.iterdir()] == ["archive"]
    with Archive.open(path) as archive:
        assert archive.n_cases == len(codes)


def test_export_to_npy_and_back(run: Run, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    report = run("export", archive, out, "--to", "npy", "--json").json()
    files = [str(out), str(tmp_path / "out.ids.npy")]
    assert report == {"archive": str(archive), "files": files, "n_cases": 12}
    with Archive.open(archive) as opened:
        whole = opened.database()
    assert np.array_equal(np.load(out), whole.codes.words)
    assert np.load(out).dtype == np.uint64
    assert np.load(tmp_path / "out.ids.npy").tolist() == whole.ids.tolist() == [1, 3, *range(5, 15)]
    assert run("index", tmp_path / "again", out, "--bits", 36).status == 0
    with Archive.open(tmp_path / "again") as again:
        assert again.database().codes == whole.codes


def test_export_to_parquet_holds_what_was_asked_for(run: Run, archive: Path, tmp_path: Path) -> None:
    outcome = run("export", archive, tmp_path / "a.parquet", "--to", "parquet")
    assert "a.parquet: 12 cases" in outcome.out
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["id", "code", "label", "split"]
    with Archive.open(archive) as opened:
        whole = opened.database()
        patient = opened.case(3).patient
    assert table["id"].to_pylist() == whole.ids.tolist()
    assert table["code"].to_pylist() == [row.tobytes() for row in whole.codes.to_bytes()]
    assert table["label"].to_pylist() == list(whole.labels) == [None, "a", *"ab" * 5]
    assert table.schema.metadata[b"athsearch.bits"] == b"36"
    fields = "label,source,patient, age,eye"
    assert run("export", archive, tmp_path / "b.parquet", "--to", "parquet", "--fields", fields).status == 0
    rows = parquet.read_table(tmp_path / "b.parquet").to_pylist()
    assert rows[1] == {
        **{"id": 3, "code": rows[1]["code"], "label": "a", "source": "00.png"},
        **{"patient": patient, "age": 40, "eye": None},
    }
    assert rows[0] == {"id": 1, "code": b"\x05\0\0\0\0"} | dict.fromkeys(("label", "source", "patient", "age", "eye"))
    assert run("export", archive, tmp_path / "c.parquet", "--to", "parquet", "--fields", "").status == 0
    assert parquet.read_table(tmp_path / "c.parquet").column_names == ["id", "code"]


def test_columns_of_several_kinds_become_the_kind_that_holds_them_all(
    tmp_path: Path, encoder: Encoder, source: Source
) -> None:
    records = [{"n": 1, "x": 1, "s": 1}, {"n": 2, "x": 2.5, "s": "b"}, {"s": 2.5}]
    items = tuple(replace(item, record=record) for item, record in zip(source.items, records, strict=False))
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(replace(source, items=items))
        export(archive, tmp_path / "out.parquet", "parquet", ["n", "x", "s"])
    table = parquet.read_table(tmp_path / "out.parquet")
    assert [str(table.schema.field(name).type) for name in "nxs"] == ["int64", "double", "string"]
    assert table["n"].to_pylist() == [1, 2, None]
    assert table["x"].to_pylist() == [1.0, 2.5, None]
    assert table["s"].to_pylist() == ["1", "b", "2.5"]


def test_export_writes_many_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = Codes.from_bits(np.random.default_rng(5).random((1000, 70)) < 0.5)
    told = []
    with Archive.create(tmp_path / "archive", bits=70) as archive:
        archive.add_codes(codes)
        archive.delete([500])
        read = archive.parts
        monkeypatch.setattr(archive, "parts", lambda columns=(): read(columns, n_rows=130))
        for kind, name in (("npy", "out.npy"), ("parquet", "out.parquet")):
            files, n_cases = export(archive, tmp_path / name, kind, progress=lambda *counts: told.append(counts))
            assert (files[0], n_cases, told[-1]) == (tmp_path / name, 999, (999, 999))
    assert np.array_equal(np.load(tmp_path / "out.npy"), np.delete(codes.words, 499, 0))
    assert len(parquet.ParquetFile(tmp_path / "out.parquet").metadata.to_dict()["row_groups"]) == 8
    assert parquet.read_table(tmp_path / "out.parquet")["id"].to_pylist() == [id for id in range(1, 1001) if id != 500]
    assert len(told) == 16


def test_export_replaces_only_when_told_and_never_by_half(run: Run, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    (tmp_path / "out.ids.npy").write_text("mine")
    for kind, path in (("npy", out), ("parquet", tmp_path / "out.ids.npy")):
        outcome = run("export", archive, path, "--to", kind)
        assert (outcome.status, "out.ids.npy: exists already; --force replaces it" in outcome.error()) == (1, True)
    assert (tmp_path / "out.ids.npy").read_text() == "mine"
    assert not out.exists()
    assert run("export", archive, out, "--to", "npy", "--force").status == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("out*")}
    for kind in ("npy", "parquet"):
        outcome = run_apart("export", archive, out, "--to", kind, "--force", file_bytes=150)
        assert (outcome.status, "File too large" in outcome.error()) == (1, True)
        assert {path: path.read_bytes() for path in tmp_path.glob("*out*")} == before
    outcome = run("export", archive, tmp_path / "nowhere" / "out.npy", "--to", "npy")
    assert (outcome.status, "nowhere" in outcome.error()) == (1, True)
    for wrong, words in (
        (("--to", "parquet", "--fields", "weight"), "no column 'weight'"),
        (("--to", "npy", "--fields", "label"), "columns go with parquet"),
        (("--to", "csv"), "--to"),
    ):
        outcome = run("export", archive, tmp_path / "new", *wrong)
        assert outcome.status == 2
        assert words in click.unstyle(outcome.err)
    assert not (tmp_path / "new").exists()


def test_parquet_says_what_to_install(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text("import sys; sys.modules['pyarrow'] = None\n")
    outcome = run_apart(
        "export", archive, tmp_path / "x", "--to", "parquet",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "bare")},
    )  # fmt: skip
    assert (outcome.status, "pip install 'athsearch[parquet]'" in outcome.error()) == (1, True)
