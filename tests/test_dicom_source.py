"""DICOM files as a source: what their headers tell, what may be stored, and an archive that names nobody."""

from __future__ import annotations

import os
import unicodedata
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.fileset import FileSet

from athsearch.archive.archive import Archive
from athsearch.archive.catalogue import Catalogue
from athsearch.archive.intake import new_case
from athsearch.archive.segment import write_segment
from athsearch.codes import Codes
from athsearch.data import Item, Source, open_source, patient_of
from athsearch.data import frames as in_frames
from athsearch.encoder import Encoder
from athsearch.errors import SourceError, UnsupportedImage
from conftest import Run, draw_image
from dicom_files import dicom


def put(path: Path, seed: int = 0, n_frames: int = 0, **elements: object) -> Path:
    """A DICOM file of a drawn picture, which says that no name is burned in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = draw_image(seed)[..., 0]
    pixels = np.stack([np.roll(drawn, 7 * frame, axis=0) for frame in range(n_frames)]) if n_frames else drawn
    elements = {"BurnedInAnnotation": "NO", **({"NumberOfFrames": n_frames} if n_frames else {}), **elements}
    path.write_bytes(dicom(np.ascontiguousarray(pixels), **elements))  # type: ignore[arg-type]
    return path


@pytest.fixture
def pacs(tmp_path: Path) -> Path:
    """Six files of three patients and two classes, in folders and under names that tell who they are."""
    root = tmp_path / "pacs"
    for number in range(6):
        name = f"{'ab'[number % 2]}/Meier{number // 2}/{('1.2.3.%d', 'IM%d', 'scan%d.dcm')[number % 3] % number}"
        put(root / name, number, PatientID=f"Meier{number // 2}", StudyInstanceUID=f"1.2.{number}")
    return root


# ---- what headers tell


def test_a_tree_of_files_with_and_without_suffix(pacs: Path) -> None:
    (pacs / "a/README").write_text("no image at all, whatever its name says. " * 5)
    put(pacs / "a/DICOMDIR")
    source = open_source(pacs)
    assert [(item.source, item.label, item.patient, item.study) for item in source.items] == [
        ("a/Meier0/1.2.3.0", "a", "Meier0", "1.2.0"),
        ("a/Meier1/scan2.dcm", "a", "Meier1", "1.2.2"),
        ("a/Meier2/IM4", "a", "Meier2", "1.2.4"),
        ("b/Meier0/IM1", "b", "Meier0", "1.2.1"),
        ("b/Meier1/1.2.3.3", "b", "Meier1", "1.2.3"),
        ("b/Meier2/scan5.dcm", "b", "Meier2", "1.2.5"),
    ]
    assert all(item.record == {} and item.hides_name for item in source.items)
    assert source.skipped == ("a/DICOMDIR", "a/README")
    assert np.array_equal(source.pixels(source.items[3])[..., 0], draw_image(1)[..., 0])
    assert not any(item.hides_name for item in open_source(pacs, clear_names=True).items)


def test_a_patient_belongs_to_who_numbered_him(tmp_path: Path) -> None:
    assert patient_of(put(tmp_path / "a.dcm", PatientID=" 17 ", IssuerOfPatientID="North")) == "17^^^North"
    assert patient_of(put(tmp_path / "b.dcm", PatientID="17")) == "17"
    assert patient_of(put(tmp_path / "c.dcm", PatientID="")) is None
    assert patient_of(put(tmp_path / "d.dcm", 0, 3, PatientID="Müller", SpecificCharacterSet="ISO_IR 192")) == "Müller"
    assert patient_of(f"{tmp_path}/d.dcm#frame=2") == "Müller"
    assert patient_of(tmp_path / "gone.dcm") is None
    report = put(tmp_path / "e.dcm", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Rows=None, Columns=None)
    assert patient_of(report) is None
    (tmp_path / "IM9").write_bytes(dicom(draw_image(0)[..., 0].copy(), bare=True, PatientID="no preamble"))
    assert patient_of(tmp_path / "IM9") == "no preamble"
    assert patient_of(tmp_path) is None


def test_numbers_with_and_without_issuer_are_warned_of(tmp_path: Path) -> None:
    put(tmp_path / "a.dcm", PatientID="17", IssuerOfPatientID="NORTH")
    put(tmp_path / "b.dcm", PatientID="18", IssuerOfPatientID="NORTH")
    put(tmp_path / "c.dcm", PatientID="19")
    assert [item.patient for item in open_source(tmp_path).items] == ["17^^^NORTH", "18^^^NORTH", "19"]
    put(tmp_path / "d.dcm", PatientID="17")
    with pytest.warns(UserWarning, match=r"of 1 patients stand here with their issuer and without") as warned:
        assert [item.patient for item in open_source(tmp_path).items][::3] == ["17^^^NORTH", "17"]
    assert [os.path.basename(warning.filename) for warning in warned] == ["test_dicom_source.py"]
    assert "17" not in str(warned[0].message).removeprefix(str(tmp_path))


def test_what_a_manifest_says_goes_first(tmp_path: Path) -> None:
    put(tmp_path / "a.dcm", PatientID="header")
    put(tmp_path / "IM1", PatientID="header")
    (tmp_path / "cases.csv").write_text("path,label,patient\na.dcm,x,manifest\nIM1,x,\n")
    assert [item.patient for item in open_source(tmp_path / "cases.csv").items] == ["manifest", "header"]
    pattern = open_source(tmp_path, patient_pattern=r"(.+)\.dcm")
    assert [item.patient for item in pattern.items] == ["header", "header"]


def test_a_manifest_may_name_single_frames(tmp_path: Path, encoder: Encoder) -> None:
    put(tmp_path / "MEIER_ANNA.dcm", 0, 3, PatientID="Meier7", Modality="US", BurnedInAnnotation="YES")
    put(tmp_path / "SCHULZ", 1, PatientID="Schulz8")
    rows = "path,label\nMEIER_ANNA.dcm#frame=2,x\nMEIER_ANNA.dcm#frame=3,meier_anna\nSCHULZ#frame=1,y\n"
    (tmp_path / "cases.csv").write_text(rows)
    source = open_source(tmp_path / "cases.csv", frames="first", fields=["Modality"])
    assert [(item.source, item.label, item.patient, item.study, item.hides_name) for item in source.items] == [
        ("MEIER_ANNA.dcm#frame=2", "x", "Meier7", "1.2.3.4", True),
        ("MEIER_ANNA.dcm#frame=3", None, "Meier7", "1.2.3.4", True),
        ("SCHULZ#frame=1", "y", "Schulz8", "1.2.3.4", True),
    ]
    assert [item.record for item in source.items] == [{"Modality": "US"}, {"Modality": "US"}, {"Modality": "CT"}]
    assert [item.refusal is not None for item in source.items] == [True, True, False]
    allowed = open_source(tmp_path / "cases.csv", allow_burned_in=True)
    with Archive.create(tmp_path / "archive", encoder) as archive:
        assert len(archive.add(source).failed) == 2
        assert archive.add(allowed).n_added == 2
        assert archive.add(allowed).n_present == 3
    kept = bytes_of(tmp_path / "archive")
    assert not any(secret in kept.lower() for secret in (b"meier", b"anna", b"schulz"))


@pytest.mark.parametrize("rows", [("a.dcm", "a.dcm#frame=2"), ("b#frame=1", "b"), ("c.tif#frame=1", "c.tif")])
def test_an_image_that_is_named_by_itself_and_with_its_file_is_an_error(tmp_path: Path, rows: tuple[str, str]) -> None:
    put(tmp_path / "a.dcm", 0, 3)
    put(tmp_path / "b")
    Image.fromarray(draw_image(0)).save(tmp_path / "c.tif")
    (tmp_path / "cases.csv").write_text("\n".join(["path,label", *(f"{row},x" for row in rows)]))
    with pytest.raises(SourceError, match=r"is named twice, by itself and with its file"):
        open_source(tmp_path / "cases.csv")


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("Meier Anna", None), ("meier_17", None), ("P-00417", None), ("417", "417"), ("b", "b"),
        ("glaucoma", "glaucoma"), ("1.2.840.7.1", None), ("1.2.840.7.2", None), ("ACC4711", None), ("2024-01-31", None),
        ("19620501_x", None), ("2024", "2024"),
    ],
)  # fmt: skip
def test_a_folder_named_like_the_patient_or_the_examination_is_no_class(
    tmp_path: Path, folder: str, label: str | None
) -> None:
    put(tmp_path / folder / "a.dcm", PatientID="P00417", PatientName="Meier^Anna^B", StudyInstanceUID="1.2.840.7.1",
        SeriesInstanceUID="1.2.840.7.2", AccessionNumber="4711", StudyDate="20240131",
        PatientBirthDate="19620501")  # fmt: skip
    assert open_source(tmp_path).items[0].label == label


@pytest.mark.parametrize(
    ("folder", "name", "charset"),
    [
        (unicodedata.normalize("NFD", "Müller"), "Müller^Anna", "ISO_IR 192"),
        (unicodedata.normalize("NFC", "Müller"), unicodedata.normalize("NFD", "Müller^Anna"), "ISO_IR 192"),
        ("muller_anna", "Müller^Anna", "ISO_IR 100"),
        ("山田太郎", "Yamada^Tarou=山田^太郎", ["", "ISO 2022 IR 87"]),
        ("山田", "Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
        ("山田 太郎", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎", ["ISO 2022 IR 13", "ISO 2022 IR 87"]),
        ("ヤマダ", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎", ["ISO 2022 IR 13", "ISO 2022 IR 87"]),
        ("山田花子", "Yamada^Hanako=山田^花子", "ISO_IR 192"),
        ("김희중", "Hong^Gildong=金^希中=김^희중", ["", "ISO 2022 IR 149"]),
        ("金希中", "Hong^Gildong=金^希中=김^희중", ["", "ISO 2022 IR 149"]),
        ("张_小东", "Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab", ["", "ISO 2022 IR 58"]),
        ("王小东", "Wang^XiaoDong=王^小东", "GB18030"),
        ("Петров", "Петров^Пётр", "ISO_IR 144"),
        ("Петров", "Петров^Пётр", "ISO 2022 IR 144"),
        ("Διονυσιος", "Διονυσιος", ["", "ISO 2022 IR 126"]),
        ("min_lee", "Lee^Min", None),
        ("Li-Wang", "Wang^Li", None),
        ("min_j_lee", "Lee^Min^J", None),
        ("schulz", "Meier-Schulz^Al", None),
    ],
)  # fmt: skip
def test_names_are_told_from_folders_however_they_are_written(
    tmp_path: Path, folder: str, name: str, charset: str | list[str] | None
) -> None:
    put(tmp_path / folder / "a.dcm", PatientName=name, SpecificCharacterSet=charset)
    put(tmp_path / "lee_normal" / "b.dcm", PatientName=name, SpecificCharacterSet=charset)
    assert [item.label for item in open_source(tmp_path).items if item.label != "lee_normal"] == [None]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("COVID", "COVID-CT-0123"), ("COVID-19", "COVID-19-AR-16434409"), ("normal", "normal_012"),
        ("CT", "TCGA-CT-1234"), ("12", "Phantom-12"), ("no", "Case-no-17"), ("Left", "Hip_Left_003"),
        ("01", "Patient-01"),
    ],
)  # fmt: skip
def test_a_class_stays_where_a_number_stands_for_the_name(tmp_path: Path, label: str, name: str) -> None:
    put(tmp_path / label / "a.dcm", PatientName=name)
    assert open_source(tmp_path).items[0].label == label


def test_a_file_may_be_called_like_a_frame(tmp_path: Path) -> None:
    for name in ("IM1", "IM1#frame=1"):
        put(tmp_path / name)
    assert len(open_source(tmp_path).items) == 2


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("02.01.1940", None), ("01-02-1940", None), ("x02011940", None), ("19400102", None), ("31.01.2024", None),
        ("01.03.1940", "01.03.1940"), ("1940", "1940"),
    ],
)  # fmt: skip
def test_dates_are_told_from_folders_in_any_order(tmp_path: Path, folder: str, label: str | None) -> None:
    put(tmp_path / folder / "a.dcm", PatientBirthDate="19400102", StudyDate="20240131")
    assert open_source(tmp_path).items[0].label == label


def test_patients_whose_numbers_make_no_sense_are_told_apart(tmp_path: Path) -> None:
    for number, raw in enumerate((b"A\x1b$B\xff\xfe", b"A\x1b$B\xff\xfd", b"A\x1b%G", b"A\xff ", b"A\xfe ")):
        content = put(tmp_path / f"{number}.dcm", PatientID="#" * len(raw)).read_bytes()
        (tmp_path / f"{number}.dcm").write_bytes(content.replace(b"#" * len(raw), raw, 1))
        put(tmp_path / f"other/{number}.dcm", PatientID="A")
    assert len({item.patient for item in open_source(tmp_path).items}) == 6


def test_a_source_named_like_a_patient_is_warned_of_once(tmp_path: Path) -> None:
    put(tmp_path / "Meier_Anna/1/a.dcm", PatientID="QC", PatientName="Phantom")
    put(tmp_path / "Meier_Anna/1/b.dcm", PatientName="Meier^Anna")
    put(tmp_path / "Meier_Anna/1/c.dcm", PatientName="Meier^Anna")
    with pytest.warns(UserWarning, match="tells a patient or an examination") as warned:
        open_source(tmp_path / "Meier_Anna/1")
    assert [os.path.basename(warning.filename) for warning in warned] == ["test_dicom_source.py"]
    (tmp_path / "Meier_Anna/1/cases.csv").write_text("path,label\na.dcm,x\nb.dcm#frame=1,x\n")
    with pytest.warns(UserWarning, match="tells a patient or an examination"):
        open_source(tmp_path / "Meier_Anna/1/cases.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [item.label for item in open_source(tmp_path).items] == ["Meier_Anna", None, None]


def test_frames_are_items(tmp_path: Path) -> None:
    put(tmp_path / "film.dcm", 3, 4)
    put(tmp_path / "long", 0, in_frames.MAX_FRAMES + 1, Rows=8, Columns=8)
    source = open_source(tmp_path)
    assert [item.source for item in source.items] == [*(f"film.dcm#frame={number}" for number in (1, 2, 3, 4)), "long"]
    assert np.array_equal(source.pixels(source.items[2])[..., 0], np.roll(draw_image(3)[..., 0], 14, axis=0))
    assert len({source.read(item)[0] for item in source.items[:4]}) == 4
    with pytest.raises(UnsupportedImage, match=r"holds 1,001.*--frames middle"):
        source.read(source.items[4])
    chosen = {
        frames: [item.source for item in open_source(tmp_path, frames=frames).items] for frames in in_frames.FRAMES
    }
    assert chosen["middle"] == ["film.dcm#frame=2", "long#frame=501"]
    assert chosen["first"] == ["film.dcm#frame=1", "long#frame=1"]
    with pytest.raises(ValueError, match="all, middle, first"):
        open_source(tmp_path, frames="last")


def test_a_file_of_frames_that_was_replaced_is_read_again_though_its_time_was_set_back(tmp_path: Path) -> None:
    path = put(tmp_path / "film.dcm", 3, 2)
    source, before = open_source(path), path.stat()
    first = source.read(source.items[0])[0]
    replaced = np.roll(draw_image(4)[..., 0], 7)
    path.write_bytes(path.read_bytes()[: -2 * replaced.size] + 2 * replaced.tobytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert source.read(source.items[0])[0] != first
    assert np.array_equal(source.pixels(source.items[0])[..., 0], replaced)


def test_frames_of_one_file_stay_on_one_side() -> None:
    items = tuple(Item(f"{file}.dcm#frame={frame}", "x") for file in range(6) for frame in range(1, 6))
    divided = Source(Path("/"), items).divided({"train": 0.5, "test": 0.5})
    assert len({(item.source.split("#")[0], item.split) for item in divided.items}) == 6
    assert divided.splits == {"train", "test"}


def test_a_directory_lists_its_files(tmp_path: Path) -> None:
    files = FileSet()
    for number in range(3):
        files.add(put(tmp_path / f"{number}.dcm", number, PatientID=f"P{number}", StudyID="1", SeriesNumber=1,
                      InstanceNumber=number, SeriesInstanceUID=f"1.2.{number}", StudyDate="20240131",
                      StudyTime="1200", AccessionNumber="1"))  # fmt: skip
    files.write(tmp_path / "disc")
    files._stage["t"].cleanup()  # or else it warns, much later
    source = open_source(tmp_path / "disc/DICOMDIR")
    assert sorted(str(item.patient) for item in source.items) == ["P0", "P1", "P2"]
    assert {source.pixels(item).shape for item in source.items} == {(40, 40, 1)}
    (tmp_path / "DICOMDIR").write_bytes(b"nothing of the kind")
    with pytest.raises(SourceError, match="not a usable DICOMDIR"):
        open_source(tmp_path / "DICOMDIR")


def test_objects_without_image_are_passed_over_and_broken_headers_are_not(tmp_path: Path) -> None:
    report = "1.2.840.10008.5.1.4.1.1.88.11"
    put(tmp_path / "report.dcm", SOPClassUID=report, Rows=None, Columns=None)
    (tmp_path / "broken.dcm").write_bytes(put(tmp_path / "whole.dcm").read_bytes()[:200])
    source = open_source(tmp_path)
    assert [item.source for item in source.items] == ["broken.dcm", "whole.dcm"]
    assert source.skipped == ("report.dcm",)


@pytest.mark.parametrize(
    ("elements", "is_refused"),
    [
        ({"BurnedInAnnotation": "YES", "Modality": "CT"}, True),
        ({"BurnedInAnnotation": None, "Modality": "CT"}, False),
        ({"BurnedInAnnotation": None, "Modality": "US"}, True),
        ({"BurnedInAnnotation": "NO", "Modality": "US"}, False),
        ({"BurnedInAnnotation": None, "Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, True),
        ({"BurnedInAnnotation": None, "Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.5.1"}, False),
    ],
)
def test_images_that_may_show_names_are_refused(tmp_path: Path, elements: dict[str, str], is_refused: bool) -> None:
    path = put(tmp_path / "a.dcm", **elements)
    source = open_source(path)
    assert (source.items[0].refusal is not None) == is_refused
    if is_refused:
        with pytest.raises(UnsupportedImage, match=r"--allow-burned-in"):
            source.pixels(source.items[0])
    allowed = open_source(path, allow_burned_in=True)
    assert allowed.pixels(allowed.items[0]).shape == (40, 40, 1)


def test_only_fields_of_the_list_are_stored_and_only_when_named(tmp_path: Path) -> None:
    path = put(tmp_path / "a.dcm", StudyDate="20240131", SeriesNumber=7, ImageLaterality="")
    assert open_source(path).items[0].record == {}
    fields = ("modality", "StudyDate", "SeriesNumber", "ImageLaterality")
    assert open_source(path, fields=fields).items[0].record == {
        "Modality": "CT", "StudyDate": "20240131", "SeriesNumber": 7,
    }  # fmt: skip
    for name in ("PatientName", "StudyDescription"):
        with pytest.raises(ValueError, match=rf"'{name}' may not be stored; those that may: BodyPartExamined, .*Vie"):
            open_source(path, fields=(name,))


# ---- archives


def bytes_of(folder: Path) -> bytes:
    """All that an archive says, its file names too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() + os.fsencode(path) for path in files)


def test_an_archive_names_nobody_and_knows_its_files_again(tmp_path: Path, pacs: Path, encoder: Encoder) -> None:
    put(pacs / "a/film_Meier7.dcm", 9, 3, PatientID="Meier7")
    (pacs / "a/Meier8_broken.dcm").write_bytes(b"no DICOM file")
    with Archive.create(tmp_path / "archive", encoder) as archive:
        report = archive.add(open_source(pacs))
        assert (report.n_added, report.n_present) == (9, 0)
        assert [name for name, _ in report.failed] == ["a/Meier8_broken.dcm"]
        again = archive.add(open_source(pacs))
        assert (again.n_added, again.n_present, again.n_differing) == (0, 9, 0)
        sources = [str(archive.case(id).source) for id in range(1, 10)]
        assert all(len(name.split("#")[0]) == len("dicom:") + 32 and name.startswith("dicom:") for name in sources)
        assert [name.split("#")[1:] for name in sources if "#" in name] == [[f"frame={frame}"] for frame in (1, 2, 3)]
        case = archive.case(1)
        assert case.patient == archive.patient_key().pseudonym("Meier0")
        assert case.study == archive.patient_key().pseudonym("1.2.0", "study")
        place = archive.places()
        assert place(archive.case(sources.index(next(s for s in sources if s.endswith("=2"))) + 1)) == (
            pacs, "a/film_Meier7.dcm#frame=2",
        )  # fmt: skip
        os.rename(pacs, tmp_path / "moved")
        assert archive.places(tmp_path / "moved")(case) == (tmp_path / "moved", "a/Meier0/1.2.3.0")
        assert archive.places()(case) == (pacs, case.source)
    assert b"Meier" not in bytes_of(tmp_path / "archive")
    assert b"1.2.0" not in bytes_of(tmp_path / "archive")


def test_what_could_not_be_read_is_forgotten_when_it_is_gone_or_whole(
    tmp_path: Path, pacs: Path, encoder: Encoder
) -> None:
    whole = put(pacs / "a/film.dcm", 9, 3).read_bytes()
    for name in ("film.dcm", "gone.dcm", "stays.dcm"):
        (pacs / "a" / name).write_bytes(whole[:200])
    with Archive.create(tmp_path / "archive", encoder) as archive:
        assert len(archive.add(open_source(pacs)).failed) == 3
        assert len(archive.add(open_source(put(tmp_path / "other/a.dcm"))).failed) == 0  # of another root
        (pacs / "a/gone.dcm").unlink()
        (pacs / "a/film.dcm").write_bytes(whole)
        assert archive.add(open_source(pacs)).n_added == 3
        stays = archive.patient_key().source("a/stays.dcm")
        assert [source for _, source, _ in archive.unreadable] == [stays]
        archive.add(Source(pacs, open_source(pacs).items[:2]))  # leaves it out
        archive.add(Source(pacs, (Item("a/gone.png"),)))  # needs no key
        assert [source for _, source, _ in archive.unreadable] == ["a/gone.png", stays]


@pytest.mark.parametrize(("suffix", "is_told"), [(".19400102", False), (".webp", True)])
def test_a_suffix_that_may_tell_a_patient_is_not_stored(
    tmp_path: Path, encoder: Encoder, suffix: str, is_told: bool
) -> None:
    put(tmp_path / "pacs/a.dcm")
    (tmp_path / f"pacs/MEIER_ANNA{suffix}").write_bytes(b"overwritten " * 20)
    (tmp_path / "pacs/m.csv").write_text(f"path,label\na.dcm,x\nMEIER_ANNA{suffix},x\n")
    with Archive.create(tmp_path / "archive", encoder) as archive:
        ((_, reason),) = archive.add(open_source(tmp_path / "pacs/m.csv")).failed
    assert ("is not one of .bmp" in reason, suffix in reason) == (True, is_told)
    assert (suffix.encode() in bytes_of(tmp_path / "archive")) == is_told


def test_why_a_file_cannot_be_used_does_not_name_it(tmp_path: Path, encoder: Encoder) -> None:
    put(tmp_path / "pacs/Meier.dcm")
    put(tmp_path / "pacs/Schulz.dcm")
    source = open_source(tmp_path / "pacs")
    put(tmp_path / "pacs/Meier.dcm", 0, 3)
    with Archive.create(tmp_path / "archive", encoder) as archive:
        assert archive.add(source).failed == (("Meier.dcm", "holds 3 frames: name one, as in FILE#frame=1"),)
    assert b"Meier" not in bytes_of(tmp_path / "archive")


def test_ready_made_codes_hide_the_names_of_their_files_too(tmp_path: Path, pacs: Path, encoder: Encoder) -> None:
    source = open_source(pacs)
    with Archive.create(tmp_path / "archive", bits=encoder.bits) as archive:
        archive.add_codes(Codes(np.arange(6, dtype=np.uint64)[:, None], encoder.bits), cases=source)
        assert archive.places()(archive.case(2)) == (pacs, "a/Meier1/scan2.dcm")
    assert b"Meier" not in bytes_of(tmp_path / "archive")


def test_clear_names_are_stored_when_asked_for(tmp_path: Path, pacs: Path, encoder: Encoder) -> None:
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(open_source(pacs, clear_names=True, fields=["Modality"]))
        assert archive.case(1).source == "a/Meier0/1.2.3.0"
        assert archive.case(1).record == {"Modality": "CT"}
    assert b"Meier" in bytes_of(tmp_path / "archive")  # so that the test above can fail


@pytest.mark.parametrize("is_clear", [False, True])
def test_names_come_in_the_form_they_are_stored_in(
    tmp_path: Path, pacs: Path, encoder: Encoder, is_clear: bool, run: Run
) -> None:
    source, other = open_source(pacs, clear_names=is_clear), open_source(pacs, clear_names=not is_clear)
    codes = Codes(np.arange(6, dtype=np.uint64)[:, None], encoder.bits, encoder.model_id)
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    Image.fromarray(draw_image(1)).save(drawn / "a.png")
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(source)
        archive.delete(patient="Meier0")
        for _ in range(2):  # the second time, what was deleted is gone from the files
            with pytest.raises(SourceError, match="would recognise none of these"):
                archive.add(other)
            with pytest.raises(SourceError, match="would recognise none of these"):
                archive.add_codes(codes, cases=other)
            assert archive.add(source).n_deleted == 2
            assert archive.n_cases == 4
            archive.compact()
        assert archive.add(open_source(drawn)).n_added == 1
        assert archive.audit().unknown == ()
        option = [] if is_clear else ["--clear-names"]
        outcome = run("index", archive.path, pacs, *option)
        assert (outcome.status, "(--clear-names)" in outcome.error()) == (1, True)


def test_an_archive_that_has_both_forms_of_names_takes_both(tmp_path: Path, pacs: Path, encoder: Encoder) -> None:
    hidden, clear = open_source(pacs), open_source(pacs, clear_names=True)
    with Archive.create(tmp_path / "archive", encoder) as archive:

        def forget() -> None:
            catalogue = Catalogue(archive.path / "catalogue.sqlite", writable=True)
            with closing(catalogue), catalogue.transaction("IMMEDIATE"):
                catalogue.execute("DELETE FROM property WHERE name = 'dicom_names'")

        archive.add(hidden)
        forget()  # as one of before the form was noted
        with pytest.raises(SourceError, match="has the names of DICOM files hidden"):
            archive.add(clear)
        with closing(Catalogue(archive.path / "catalogue.sqlite", writable=True)) as catalogue:
            segment = write_segment(
                archive.path / "segments", [Codes(np.zeros((6, 1), np.uint64), 36)], 6, 36, catalogue.next_id()
            )
            catalogue.add(str(pacs), segment, [new_case(item, b"", None) for item in clear.items])
        for source in (clear, hidden, clear):
            assert archive.add(source).n_deleted == 0
        assert archive.n_cases == 18


def test_a_query_brings_its_patient(tmp_path: Path, pacs: Path, encoder: Encoder) -> None:
    query = put(tmp_path / "new.dcm", 0, PatientID="Meier0")
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(open_source(pacs))
        own = archive.patient_key().pseudonym("Meier0")
        found = archive.search(query, k=6)
        assert len(found) == 4
        assert own not in {hit.case.patient for hit in found}
        assert len(archive.search(query, k=6, exclude_same=())) == 6
        assert len(archive.search(query, k=6, patient="Meier9")) == 6


def test_numbers_of_headers_are_numbers_for_where(tmp_path: Path, pacs: Path, encoder: Encoder) -> None:
    for number, path in enumerate(sorted(pacs.rglob("Meier*/*"))):
        put(path, number, PatientID=path.parent.name, SeriesNumber=8 + number % 3)
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(open_source(pacs, fields=["SeriesNumber"]))
        assert len(archive.find(where="SeriesNumber = 10")) == 2
        assert len(archive.find(where="SeriesNumber < 10")) == 4


def test_commands_work_on_dicom(tmp_path: Path, pacs: Path, encoder: Encoder, run: Run) -> None:
    encoder.save(tmp_path / "weights.safetensors")
    put(pacs / "a/screen.dcm", Modality="US", BurnedInAnnotation=None)
    index = ("index", tmp_path / "archive", pacs)
    done = run(*index, "--weights", tmp_path / "weights.safetensors", "--field", "Modality", "--json")
    assert done.status == 0, done.err
    report = done.json()
    assert report["n_added"] == 6  # type: ignore[index]
    assert [failure["source"] for failure in report["failed"]] == ["a/screen.dcm"]  # type: ignore[index]
    assert run(*index, "--allow-burned-in", "--json").json()["n_added"] == 1  # type: ignore[index]
    assert "PatientName" in run(*index, "--field", "PatientName").err
    query = run("query", tmp_path / "archive", pacs / "a/Meier0/1.2.3.0", "--sheet", tmp_path / "hits.png", "--json")
    assert query.status == 0, query.err
    assert len(query.json()["hits"]) == 5  # type: ignore[index]  # without the two of the query's own patient
    assert (tmp_path / "hits.png").stat().st_size > 1000
    put(tmp_path / "new.dcm", 0, 2, PatientID="Meier0")
    framed = run("query", tmp_path / "archive", f"{tmp_path}/new.dcm#frame=1", "--json")
    assert len(framed.json()["hits"]) == 5  # type: ignore[index]
    scored = run("evaluate", tmp_path / "archive", pacs, "--resamples", "0", "-k", "3", "--near-duplicates", "--json")
    assert scored.status == 0, scored.err
    assert scored.json()["leaks"]["near_duplicates"]["n_cases_unread"] == 0  # type: ignore[index]


def test_a_network_is_trained_on_dicom_files_of_which_its_run_names_nobody(tmp_path: Path, run: Run) -> None:
    root = tmp_path / "pacs"
    for number in range(24):
        patient, label = f"Meier{number // 3}", "ab"[number // 3 % 2]
        picture = draw_image(number)[..., 0] // 2
        film = np.stack([255 - picture, 220 - picture] if label == "a" else [picture, picture // 2])
        elements = {"PatientID": patient, "BurnedInAnnotation": "NO", "NumberOfFrames": 2, "StudyInstanceUID": "1.2.77"}
        path = root / label / patient / f"IM{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom(film, **elements))  # type: ignore[arg-type]
    train = ("train", root, "--out", tmp_path / "run", "--epochs", 3, "--size", 64, "--bits", 16)
    done = run(*train, "--levels", "stored", "--json")  # for these classes differ in brightness alone
    assert done.status == 0, done.err
    assert (done.json()["n_unreadable"], done.json()["failed"]) == (0, [])  # type: ignore[index]
    weights = tmp_path / "run" / "weights.safetensors"
    assert Encoder.load(weights, "cpu").description.classes == ("a", "b")
    for secret in (b"Meier", b"1.2.77"):
        assert secret not in bytes_of(tmp_path / "run")
    added = run("index", tmp_path / "archive", root, "--weights", weights, "--json")
    assert added.json()["n_added"] == 48, added.err  # type: ignore[index]
    hits = run("query", tmp_path / "archive", f"{root}/b/Meier1/IM4#frame=2", "-k", 5, "--json").json()["hits"]  # type: ignore[index]
    assert [hit["label"] for hit in hits] == ["b"] * 5
