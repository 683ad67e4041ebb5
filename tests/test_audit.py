"""The audit: everything an archive stores is known to it, and what should not be there is found."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from athsearch.archive.archive import Archive
from athsearch.archive.looks import looks
from athsearch.archive.schema import SCHEMA
from athsearch.archive.stored import CLEAR, DIGEST, KEYED, PSEUDONYM, TABLES
from athsearch.data import Source
from athsearch.encoder import Encoder
from conftest import Run, draw_image

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def path(tmp_path: Path, encoder: Encoder, source: Source) -> Path:
    """Twelve cases of six patients, two codes alone, an index, and a query log with a line."""
    path = tmp_path / "archive"
    with Archive.create(path, encoder) as archive:
        archive.add(source)
        archive.add_codes(encoder.encode([draw_image(90), draw_image(91)]))
        archive.build_index("distinct")
        archive.set_query_log(True)
        archive.search(draw_image(5), user="dr. x")
    return path


def unknown(path: Path) -> tuple[str, ...]:
    with Archive.open(path, device="cpu") as archive:
        return archive.audit().unknown


def test_every_column_of_the_schema_is_known() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
        assert {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")} <= set(TABLES[table])
    connection.close()


def test_an_archive_holds_what_the_audit_says_and_nothing_else(path: Path) -> None:
    with Archive.open(path, device="cpu") as archive:
        report = archive.audit()
    assert (report.unknown, report.remains) == ((), ())
    kinds = {(column.table, column.column): (column.kind, column.n_values) for column in report.columns}
    assert kinds["cases", "patient"] == (PSEUDONYM, 12)
    assert kinds["cases", "study"] == (PSEUDONYM, 0)
    assert kinds["cases", "content"] == (DIGEST, 12)
    assert kinds["record", "age"] == (CLEAR, 12)
    assert kinds["record", "eye"] == (CLEAR, 6)
    assert KEYED not in {kind for kind, n_values in kinds.values() if n_values}
    names = {file.name for file in report.files}
    on_disk = {entry.relative_to(path).as_posix() for entry in path.rglob("*") if entry.is_file()}
    assert names == on_disk
    assert {"catalogue.sqlite", "queries.log", "queries.head", "weights.safetensors", "writer.lock"} < names
    # Only what many share is shown.
    assert {column.example for column in report.columns} == {None, "a", "left"}


def test_hidden_names_are_pseudonyms_and_look_like_nothing(path: Path) -> None:
    hidden = "dicom:" + "1234567a" * 4
    in_catalogue(f"UPDATE cases SET source = '{hidden}' WHERE id < 5")(path)
    in_catalogue(f"UPDATE cases SET source = '{hidden}#frame=12' WHERE id IN (5, 6)")(path)
    in_catalogue(f"UPDATE cases SET source = '{hidden}#frame=Meier_1234567' WHERE id = 7")(path)
    in_catalogue("UPDATE cases SET source = 'dicom:Meier_1234567' WHERE id = 8")(path)
    with Archive.open(path, device="cpu") as archive:
        found = [column for column in archive.audit().columns if (column.table, column.column) == ("cases", "source")]
    assert [(column.kind, column.n_values) for column in found] == [(CLEAR, 6), (PSEUDONYM, 6)]
    assert [column.looks for column in found] == [(("patient numbers", 2),), ()]


@pytest.mark.parametrize("version", [1, 2])
def test_archives_of_earlier_formats_are_known(tmp_path: Path, version: int) -> None:
    shutil.copytree(GOLDEN / f"format-{version}", tmp_path / "golden")
    assert unknown(tmp_path / "golden" / "archive") == ()


def in_catalogue(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        connection = sqlite3.connect(path / "catalogue.sqlite")
        with connection:
            connection.execute(statement)
        connection.close()

    return change


def append_to_segment(path: Path) -> None:
    with next((path / "segments").iterdir()).open("ab") as file:
        file.write(b"Hans Meier" * 100)


def append_to_log(path: Path) -> None:
    with (path / "queries.log").open("ab") as file:
        file.write(b'{"n": 3, "name": "Hans Meier"}\n')


def add_tensor(path: Path) -> None:
    with safe_open(path / "weights.safetensors", "np") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in list(file.keys())}, file.metadata()
    (path / "weights.safetensors").unlink()
    save_file({**tensors, "meier": np.zeros(3)}, path / "weights.safetensors", metadata)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (in_catalogue("UPDATE cases SET patient = 'Hans Meier' WHERE id = 3"), "cases.patient: 1 values are not what"),
        (in_catalogue("UPDATE cases SET study = 'Hans Meier'"), "cases.study: 12 values are not what"),
        (in_catalogue("UPDATE cases SET content = 'Hans Meier'"), "cases.content: 12 values are not what"),
        (in_catalogue("UPDATE cases SET split = 'Hans Meier' WHERE id < 3"), "cases.split: 2 values are not what"),
        (in_catalogue("UPDATE cases SET is_deleted = 'Hans Meier' WHERE id = 1"), "cases.is_deleted: 1 values"),
        (in_catalogue("UPDATE cases SET check_sum = 'Hans Meier' WHERE id = 1"), "cases.check_sum: 1 values"),
        (in_catalogue("""UPDATE cases SET record = '{"Hans Meier": 1}' WHERE id = 1"""), "1 columns of records that"),
        (in_catalogue("CREATE TABLE names (name TEXT)"), "table names in the catalogue"),
        (in_catalogue("CREATE VIEW meier AS SELECT 1"), "view meier in the catalogue"),
        (in_catalogue("CREATE INDEX by_label ON cases (label)"), "index by_label in the catalogue"),
        (in_catalogue("ALTER TABLE cases ADD COLUMN name TEXT"), "column cases.name"),
        (in_catalogue("INSERT INTO property (name, value) VALUES ('note', 'Hans Meier')"), "property note"),
        (
            in_catalogue("UPDATE property SET value = 'Hans Meier' WHERE name = 'key_fingerprint'"),
            "property key_finger",
        ),
        (add_tensor, "file weights.safetensors: holds 1 tensors and metadata"),
        (append_to_log, "file queries.log: 1 lines have fields that are not a query's"),
        (append_to_segment, "file segments/0000000000"),
        (lambda path: (path / "names.txt").touch(), "file names.txt"),
        (lambda path: (path / "segments" / ".note").touch(), "file segments/.note"),
        (lambda path: (path / "more").mkdir(), "file more"),
        (lambda path: (path / "link").symlink_to("/etc"), "file link"),
        (lambda path: os.link(path.with_name("archive.key"), path / "archive.key"), "file archive.key"),
        (lambda path: (path / "writer.lock").write_text("Hans Meier"), "file writer.lock: holds more than a number"),
    ],
)
def test_what_should_not_be_there_is_found_and_not_shown(
    path: Path, run: Run, change: Callable[[Path], object], found: str
) -> None:
    change(path)
    (line,) = unknown(path)
    assert line.startswith(found)
    outcome = run("audit", path)
    assert outcome.status == 1
    assert found in outcome.error()
    assert "Hans Meier" not in outcome.out + outcome.err


def test_what_is_left_of_earlier_times_is_told(path: Path) -> None:
    with Archive.open(path, device="cpu") as archive:
        archive.delete([3, 13])
        (path / "segments" / ".000000000099.npy.1.tmp").write_bytes(b"12345")
        (path / "segments" / "000000000098.npy").touch()
        report = archive.audit()
    assert report.unknown == ()
    assert [line.partition(",")[0] for line in report.remains] == [
        "segments/.000000000099.npy.1.tmp: unfinished work of a writer",
        "segments/000000000098.npy: not listed (any more)",
        "2 deleted cases",
    ]


@pytest.mark.parametrize(
    ("value", "look"),
    [
        ("2024-05-01", "dates"), ("scan_20240501.png", "dates"), ("1.5.1962", "dates"), ("31/12/1999", "dates"),
        ("1.2.840.113619.2.55.3.604688.1", "DICOM identifiers"),
        ("MEIER^HANS", "names of persons"), ("Meier, Hans", "names of persons"), ("Frau Müller", "names of persons"),
        ("MRN 00123", "patient numbers"), ("pat_0412.png", "patient numbers"), ("4711081", "patient numbers"),
        ("glaucoma", None), ("Diabetic retinopathy", None), ("00000123.png", None), ("0.7312345", None), ("left", None),
        ("images/2024/07.png", None), ("3.14.15", None),
    ],
)  # fmt: skip
def test_what_looks_like_a_patient_is_warned_of(value: str, look: str | None) -> None:
    found = looks("column", [value, "x"], 9, True)
    assert found == (((look, 1),) if look else ())


def test_a_column_that_names_each_row_is_warned_of() -> None:
    assert looks("eye", [f"v{number}" for number in range(20)], 20, True) == (("a value of its own in each row", 20),)
    assert looks("eye", [f"v{number}" for number in range(20)], 21, True) == ()
    assert looks("weight", [number / 7 for number in range(20)], 20, True) == ()
    assert looks("Birth date", ["x"], 3, True) == (("its name", 1),)


def test_the_command_lists_and_warns_and_shows_no_patient(path: Path, run: Run) -> None:
    in_catalogue("""UPDATE cases SET label = 'Meier, Hans' WHERE id = 3""")(path)
    outcome = run("audit", path)
    assert outcome.status == 0
    assert "warning: cases.label: 1 values look like what names a patient: names of persons" in outcome.err
    assert re.search(r"pseudonym +12  cases\.patient", outcome.out)
    report = run("audit", path, "--json")
    assert report.status == 0
    with Archive.open(path, device="cpu") as archive:
        secrets = {archive.case(3).patient, archive.case(3).root, "Meier", "03.png", "dr. x"}
    assert not [secret for secret in secrets if str(secret) in outcome.out + outcome.err + report.out]


def test_the_command_starts_checks_and_stops_the_log(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "archive"
    Archive.create(path, bits=64).close()
    assert run("audit", path, "--log").out == "the query log was never started\n"
    assert run("audit", path, "--start-log", "--user", "root").out == "query log: on\n"
    assert run("query", path, "--code", "00" * 8, "--user", "dr. x").status == 0
    outcome = run("audit", path, "--log", "--json")
    assert outcome.status == 0
    report = outcome.json()
    assert [line["user"] for line in report["lines"]] == ["root", "dr. x"]  # type: ignore[index]
    assert report["head"]["n_lines"] == 2  # type: ignore[index]
    content = (path / "queries.log").read_bytes()
    (path / "queries.log").write_bytes(content.replace(b"dr. x", b"dr. y"))
    outcome = run("audit", path, "--log")
    assert (outcome.status, "line 2 is broken" in outcome.error()) == (1, True)
    (path / "queries.log").write_bytes(content)
    in_catalogue("UPDATE property SET value = 'off' WHERE name = 'query_log'")(path)
    assert "the log was started, the catalogue says it is off" in run("audit", path, "--log").error()
    assert run("audit", path, "--start-log").status == run("audit", path, "--stop-log").status == 0
    assert run("audit", path, "--log").out.startswith("lines  4\n")
    assert run("audit", path, "--log", "--stop-log").status == 2
    assert run("audit", path, "--user", "x").status == 2
