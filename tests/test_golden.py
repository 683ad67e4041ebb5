"""Archives that earlier versions wrote: read as they are, and brought up to date by the first change."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from athsearch.archive.archive import Archive
from athsearch.archive.schema import FORMAT, UPGRADES
from athsearch.codes import Codes
from athsearch.data import open_source
from conftest import draw_image

GOLDEN = Path(__file__).parent / "golden"
WORDS = [
    *(0x7CB91B7DD, 0x75D90338D, 0x75F93379D, 0x75F90B7DD, 0x75F9337CD, 0xF5F92B7DD, 0x75F93B7CD, 0x75F91B7CD),
    *(0x75F9337CD, 0x75B91B78D, 0x75B90379D, 0x75B91B7DD, 0x75990339D, 0x75F91B7DD, 0x75F9337DD, 0xF5F90B7DD),
    *(0xE5F90B3D5, 0x65F90378D, 0x75F92B39D),
]
IDS = [id for id in range(1, 21) if id != 2]


def found(archive: Archive, id: int, **options: object) -> list[tuple[int, int]]:
    return [(hit.case.id, hit.distance) for hit in archive.search_case(id, k=5, **options)]  # type: ignore[arg-type]


def format_of(path: Path) -> int:
    connection = sqlite3.connect(path / "catalogue.sqlite")
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


@pytest.fixture(params=[1])
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of each format's archive: twenty phantoms of five classes, the second deleted."""
    folder = GOLDEN / f"format-{request.param}"
    shutil.copytree(folder, tmp_path / "golden")
    assert format_of(folder / "archive") == request.param
    return tmp_path / "golden" / "archive"


def check_what_is_found(archive: Archive) -> None:
    """What the version that wrote the archive found."""
    assert found(archive, 3) == [(14, 2), (19, 3), (12, 4), (20, 4), (5, 5)]
    assert found(archive, 3, exclude_same=()) == [(14, 2), (19, 3), (12, 4), (20, 4), (4, 5)]
    assert found(archive, 3, where="age < 60 AND eye = 'left'") == [(9, 5), (11, 5), (15, 6), (7, 7), (13, 7)]
    code = Codes(np.array([[0x7CB91B7DD]], np.uint64), 36)
    assert [(hit.case.id, hit.distance) for hit in archive.search(code, k=3)] == [(1, 0), (13, 2), (15, 3)]
    case = archive.case(3)
    assert (case.source, case.label, case.split) == ("test/amd/p00001_left.jpg", "amd", "train")
    assert (case.patient, case.record) == ("a7430d6147d2a65c6f5b0c5e793fc137", {"eye": "left", "age": 73})
    with pytest.raises(KeyError):
        archive.case(2)


def test_every_format_has_a_golden_archive() -> None:
    assert sorted(UPGRADES) == sorted(int(path.name.removeprefix("format-")) for path in GOLDEN.glob("format-*"))
    assert max(UPGRADES) + 1 == FORMAT


def test_an_earlier_format_is_read_as_it_is(golden: Path) -> None:
    before = (golden / "catalogue.sqlite").read_bytes()
    for path in (golden, *golden.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    with Archive.open(golden, device="cpu") as archive:
        check_what_is_found(archive)
        assert (archive.n_cases, archive.n_deleted, archive.n_segments, archive.n_codes_alone) == (19, 1, 2, 0)
        assert archive.database().ids.tolist() == IDS
        assert archive.database().codes.words[:, 0].tolist() == WORDS
        assert archive.counts() == {"amd": 4, "diabetic_retinopathy": 3, "glaucoma": 4, "myopia": 4, "normal": 4}
        assert archive.patient_key().pseudonym("p00001") == archive.case(3).patient
        archive.encoder.check_probes()
    assert (golden / "catalogue.sqlite").read_bytes() == before


def test_the_first_change_brings_the_format_up_to_date(golden: Path, tmp_path: Path) -> None:
    Image.fromarray(draw_image(1, 64)).save(tmp_path / "new.png")
    with Archive.open(golden, device="cpu") as reader, Archive.open(golden, device="cpu") as archive:
        check_what_is_found(reader)
        assert archive.delete([14]) == 1
        assert format_of(golden) == FORMAT
        assert found(reader, 3)[0] == (19, 3)
        assert archive.add(open_source(tmp_path / "new.png")).n_added == 1
        assert archive.add_codes(Codes(np.array([[0x75D90338D ^ 1]], np.uint64), 36)) == range(22, 23)
        assert found(reader, 3)[0] == (22, 1)
        assert reader.case(21).source == "new.png"
        assert reader.n_cases == 20


def test_adding_is_a_first_change_too(golden: Path) -> None:
    with Archive.open(golden, device="cpu") as archive:
        check_what_is_found(archive)
        archive.add_codes(Codes(np.array([[1 << 35]], np.uint64), 36))
        check_what_is_found(archive)
    assert format_of(golden) == FORMAT


def test_a_failed_change_leaves_the_format_as_it_was(golden: Path) -> None:
    before = format_of(golden)
    with Archive.open(golden, device="cpu") as archive:
        with pytest.raises(KeyError):
            archive.delete([1, 2])
        check_what_is_found(archive)
    assert format_of(golden) == before


def test_killed_in_the_middle_of_the_upgrade_it_is_the_earlier_format_still(golden: Path) -> None:
    before = format_of(golden)
    program = (
        "import os, sys, pathlib; from athsearch.archive.writing import writing\n"
        "with writing(pathlib.Path(sys.argv[1])) as catalogue, catalogue.transaction('IMMEDIATE'):\n"
        "    assert catalogue._format() > int(sys.argv[2])\n"
        "    catalogue._connection.execute('PRAGMA cache_spill = 1'); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, golden, str(before)], check=False, env=os.environ)
    assert done.returncode == -9
    with Archive.open(golden, device="cpu") as archive:
        check_what_is_found(archive)
    assert format_of(golden) == before


def test_a_record_called_study_is_kept_beside_the_study_that_format_3_brings(golden: Path) -> None:
    connection = sqlite3.connect(golden / "catalogue.sqlite")
    with connection:
        connection.execute("INSERT INTO record_column VALUES ('Study')")
        connection.execute("""UPDATE cases SET record = json_set(record, '$."Study"', 'S-' || id) WHERE id > 10""")
    connection.close()
    with Archive.open(golden, device="cpu") as archive:
        assert {id for id, _ in found(archive, 3, where="study IN ('S-12', 'S-14')")} == {12, 14}
        archive.delete([1])
        assert {id for id, _ in found(archive, 3, where="record_Study IN ('S-12', 'S-14')")} == {12, 14}
        assert found(archive, 3, where="study IS NOT NULL") == []
        assert archive.case(14).record["record_Study"] == "S-14"
        assert archive.case(3).record == {"eye": "left", "age": 73}
