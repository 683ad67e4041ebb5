"""What the headers of DICOM files tell of a source's items: patient, study, and fields asked for by name.

Nothing else of a header is kept. A header that cannot be read changes nothing: reading the image will tell why.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from .. import images
from ..errors import ImageError, SourceError
from .source import Item, Source, Value, file_of

if TYPE_CHECKING:
    from ..images.dicom_header import Header

FIELDS: Mapping[str, tuple[int, str]] = {  # what a record may hold, when asked for by name: its tag, and what it tells
    "BodyPartExamined": (0x00180015, "body part, as CHEST"),
    "ImageLaterality": (0x00200062, "side: R, L, U (unpaired) or B (both)"),
    "InstanceNumber": (0x00200013, "number within the series"),
    "Laterality": (0x00200060, "side of a paired body part: R or L"),
    "Manufacturer": (0x00080070, "maker of the device"),
    "ManufacturerModelName": (0x00081090, "model of the device"),
    "Modality": (0x00080060, "kind of device, as CT"),
    "PatientAge": (0x00101010, "age, as 034Y; tells something of the patient"),
    "PatientSex": (0x00100040, "M, F or O; tells something of the patient"),
    "PhotometricInterpretation": (0x00280004, "meaning of the pixels, as MONOCHROME2"),
    "SOPInstanceUID": (0x00080018, "UID of the image; leads to the patient for who has the PACS"),
    "SeriesInstanceUID": (0x0020000E, "UID of the series; leads to the patient for who has the PACS"),
    "SeriesNumber": (0x00200011, "number within the study"),
    "StudyDate": (0x00080020, "date of the study, as 20240131"),
    "StudyInstanceUID": (0x0020000D, "UID of the study; leads to the patient for who has the PACS"),
    "ViewPosition": (0x00185101, "view of a radiograph, as PA"),
}

_NUMBERS = ("InstanceNumber", "SeriesNumber")
_CHARSET, _CLASS, _MODALITY = 0x00080005, 0x00080016, 0x00080060
_NAME, _PATIENT, _ISSUER, _STUDY = 0x00100010, 0x00100020, 0x00100021, 0x0020000D
_N_FRAMES, _ROWS, _BURNED_IN = 0x00280008, 0x00280010, 0x00280301
_DATES = (0x00080020, 0x00100030)  # of study, birth
_TELLING = (_PATIENT, _STUDY, 0x0020000E, 0x00080050, *_DATES)  # series, accession
_TAGS = (_CHARSET, _CLASS, _MODALITY, _NAME, _ISSUER, _N_FRAMES, _ROWS, _BURNED_IN, *_TELLING)

_DATE = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})").fullmatch  # year, month, day

_SCREENS = ("US", "IVUS", "XC", "OT", "SC")  # modalities whose images are often copies of a screen, with its texts
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and those below it
_NO_IMAGES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("9.", "11.", "66", "88.", "104.", "481.3", "481.4", "481.5", "481.8")
)  # curves, states, reports, documents, plans


def checked_fields(names: Sequence[str]) -> tuple[str, ...]:
    """The fields meant, capitals aside. Raises ValueError, with those there are, for another or a string alone."""
    if isinstance(names, str):
        raise ValueError(f"fields must be a sequence of names, got {names!r}")
    known = {name.casefold(): name for name in FIELDS}
    for name in names:
        if name.casefold() not in known:
            raise ValueError(f"field {name!r} may not be stored; those that may: {', '.join(FIELDS)}")
    return tuple(dict.fromkeys(known[name.casefold()] for name in names))


def warn_of_root(root: Path) -> None:
    """A UserWarning that the path of a source's root tells of whom one of its files is."""
    warnings.warn(
        f"{root}: this path tells a patient or an examination, and an archive stores it as it is: choose a folder "
        "above it",
        UserWarning,
        stacklevel=4,  # who called open_source
    )


def warn_of_issuers(root: Path, items: Iterable[Item]) -> None:
    """A UserWarning where numbers of patients stand with an issuer and without, which names none of them."""
    patients = {item.patient for item in items if item.patient is not None}
    n_patients = len(patients & {patient.partition("^^^")[0] for patient in patients if "^^^" in patient})
    if n_patients:
        warnings.warn(
            f"{root}: numbers of {n_patients:,} patients stand here with their issuer and without: each counts as two "
            "patients, unless a manifest names them (column patient)",
            UserWarning,
            stacklevel=4,  # who called open_source
        )


def describe(
    root: Path, fields: Sequence[str], allow_burned_in: bool, clear_names: bool, item: Item
) -> tuple[Item | None, int, bool]:
    """An item that may be DICOM with what its file says, how many frames that has, and whether the root's path tells of
    whom it is; see `open_source`.

    What the item says goes first. None if the file is of a kind that holds no image, such as reports.
    """
    from ..images.dicom_frames import frame_count

    item = replace(item, hides_name=not clear_names)
    header = _header(file_of(root, item.source), fields)
    if header is None:
        return item, 1, False  # reading it will tell
    n_frames = frame_count(header)
    told = _Told(header)
    tells_root = any(map(told.are_in, root.parts))
    kind = header.text(_CLASS) or ""
    if kind.startswith(_NO_IMAGES) and _ROWS not in header:
        return None, 0, tells_root
    patient, issuer = header.text(_PATIENT), header.text(_ISSUER)
    record = {name: value for name in fields if (value := _field(header, name)) is not None}
    item = replace(
        item,
        label=None if item.label and told.are_in(item.label) else item.label,
        patient=item.patient or (f"{patient}^^^{issuer}" if patient and issuer else patient),
        study=item.study or header.text(_STUDY),
        record={**record, **item.record},
    )
    if not allow_burned_in:
        reason = _burned_in(header.text(_BURNED_IN), header.text(_MODALITY), kind)
        item = replace(item, refusal=reason)
    return item, n_frames, tells_root


def _header(path: Path, fields: Sequence[str] = ()) -> Header | None:
    """What a file says of itself as far as it is needed here; None where it cannot be read."""
    from ..images.dicom_header import read_header

    tags = [*_TAGS, *(FIELDS[name][0] for name in fields)]
    if not path.is_file():  # opening a pipe would wait for who writes into it
        return None
    try:
        with open(path, "rb") as file:
            return read_header(file, path.name, tags, max(tags))
    except (OSError, ValueError, ImageError, ModuleNotFoundError):
        return None


def _field(header: Header, name: str) -> Value | None:
    """What a header has in one of FIELDS: numbers as such, so that `where` compares them as numbers."""
    if name in _NUMBERS:
        number = header.decimal(FIELDS[name][0])
        return int(number) if number is not None and number == int(number) and abs(number) < 2**63 else None
    value = header.text(FIELDS[name][0])
    return value if value and value.isprintable() else None


class _Told:
    """What tells of whom a file is: the patient's number, name and birthday, number, UIDs and date of the examination.

    Exports often have a folder for each. Blanks, signs, accents and capitals aside; dates in the usual orders too.
    """

    def __init__(self, header: Header) -> None:
        name = header.text(_NAME) or ""
        texts = [*map(header.text, _TELLING), name, *name.split("="), *re.split(r"[\^= ]", name)]
        plain = {"".join(_words(text)) for text in texts if text}
        dates = [match.groups() for text in map(header.text, _DATES) if (match := _DATE("".join(_words(text or ""))))]
        turned = {text for year, month, day in dates for text in (day + month + year, month + day + year)}
        self._texts = plain | turned
        self._name = _words_of_name(name)

    def are_in(self, text: str) -> bool:
        """Whether a label, or a folder's name, is one of these or consists of parts of the name.

        Single characters do not count, and within a longer label four are needed.
        """
        words = _words(text)
        shown = "".join(words)
        is_named = any(told == shown or (len(told) > 3 and told in shown) for told in self._texts)
        return len(shown) > 1 and (is_named or self._name.issuperset(words))


def _words_of_name(name: str) -> frozenset[str]:
    """The words of a person's name; not those of a number in its place, such as COVID-CT-0123, which may be a class."""
    if "^" not in name and "=" not in name:
        name = " ".join(part for part in name.split() if not re.search("[0-9_-]", part))
    return frozenset(word for word in _words(name) if not word.isdigit())


@lru_cache(maxsize=1000)  # the files of a folder have most of them in common
def _words(text: str) -> tuple[str, ...]:
    """Letters and digits as they come together, without accents and capitals, for one name is written in many ways."""
    parts = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return tuple(re.findall(r"[^\W_]+", unicodedata.normalize("NFC", parts).casefold()))


def patient_of(path: str | Path) -> str | None:
    """The patient that a DICOM file, or the file of a frame, names; None for all else."""
    whole = Path(images.split_frame(str(path))[0])
    if not images.may_be_dicom(whole.name):
        return None
    item, _, _ = describe(whole.parent, (), True, True, Item(whole.name))
    return item.patient if item else None


def _burned_in(said: str | None, modality: str | None, kind: str) -> str | None:
    """Why an image may show the patient's name, or None if nothing says so."""
    cure = "allow_burned_in=True (--allow-burned-in) takes it"
    if said is not None and said.upper() != "NO":
        return f"its header says that texts are burned into the image, which may name the patient; {cure}"
    is_capture = kind == _SECONDARY_CAPTURE or kind.startswith(_SECONDARY_CAPTURE + ".")
    if said is None and (modality in _SCREENS or is_capture):
        what = f"modality {modality}" if modality in _SCREENS else "a secondary capture"
        return f"{what}, and its header does not say that no texts are burned into the image; {cure}"
    return None


def read_directory(path: Path) -> Source:
    """The images that a DICOMDIR lists, in its order; those missing will be told when they are read.

    Raises SourceError if it is not one, or lists none.
    """
    from ..images.dicom_header import BAD_BYTES, read_header

    records, file_id = 0x00041220, 0x00041500
    try:
        with open(path, "rb") as file:
            items = read_header(file, path.name, [records], records).items(records)
        names = [name for item in items if (name := "/".join(item.texts(file_id)))]
    except ModuleNotFoundError:
        raise SourceError(f"{path}: a DICOMDIR needs pydicom: pip install 'athsearch[dicom]'") from None
    except (*BAD_BYTES, ImageError) as error:
        raise SourceError(f"{path}: not a usable DICOMDIR ({type(error).__name__})") from None
    names = [name for name in dict.fromkeys(names) if ".." not in name.split("/") and not name.startswith("/")]
    if not names:
        raise SourceError(f"{path}: a DICOMDIR that lists no files")
    return Source(path.parent, tuple(Item(_as_on_disk(path.parent, name)) for name in names))


def _as_on_disk(root: Path, name: str) -> str:
    """Names in a directory are capitals; some systems write the files themselves in small letters."""
    return name.lower() if not (root / name).exists() and (root / name.lower()).exists() else name
