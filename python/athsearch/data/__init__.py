"""Labelled sources of images: folders, CSV manifests, MedMNIST npz, DICOM, NIfTI; splits keep a patient on one side."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from .. import images
from ..errors import SourceError
from ..images import split_frame
from . import dicom, folder, manifest, npz
from . import frames as in_frames
from .dicom import patient_of
from .source import SPLITS, Item, Source, Value, file_of, locate, read_image, read_pixels

__all__ = [
    "SPLITS", "Item", "Source", "Value", "file_of", "locate", "open_source", "patient_finder", "patient_of",
    "read_image", "read_pixels", "split_frame",
]  # fmt: skip


def open_source(
    path: str | os.PathLike[str],
    *,
    patient_pattern: str | None = None,
    path_column: str = "path",
    label_column: str | None = "label",
    patient_column: str | None = "patient",
    split_column: str | None = "split",
    fields: Sequence[str] = (),
    frames: str = "all",
    allow_burned_in: bool = False,
    clear_names: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Source:
    """Open a folder, a manifest, a MedMNIST file, a DICOMDIR or a single image. No image is read; a manifest's are not
    looked for.

    Folder: `class/.../file`, or `split/class/.../file` if every top folder with images is named like a split (train,
    training, val, valid, validation, test, testing, in any case). An image beside the class folders has no label, so a
    flat folder is an unlabelled source. Links are followed. Items are sorted by source. One whose path is not UTF-8 has
    it escaped, as in "\\xff.png", and is refused when read.

    Manifest: UTF-8 with a header row; commas in .csv, tabs in .tsv. Items stand in its order. Paths are relative to the
    manifest's folder, or absolute and below it. The columns of path and label must be there, those of patient and split
    only if another name than the usual one is given; None or "" instead of a name: there is no such column. A column
    `study` names the examination. Capitals in names make no difference. Empty cells mean "not known"; in these columns
    none may hold a line break or another control character. The further columns that have a name, and not one of those
    five, become the record: int or float where all values of the column are plain numbers that survive the way there
    and back ("007" does not), text otherwise.

    MedMNIST npz: arrays `{train,val,test}_images`, uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3] from 8 x 8, and
    `{train,val,test}_labels`, integers [N] or [N, 1]. Whole splits may be missing. A label is the number as text.

    DICOM: files named .dcm, .dicom or .ima, and those without suffix that begin as DICOM files do. Their headers are
    read: patient (with the issuer of his number, if named) and study where a manifest names none, and the number of
    frames. fields: names of `data.dicom.FIELDS` to keep in the record, none by default. Images that may
    show the patient's name (Burned In Annotation is YES, or not said for ultrasound and secondary captures) are
    refused when read, unless allow_burned_in. A label that tells the patient or the examination is none. Archives keep
    the file's name under their key, unless clear_names. progress: called with (done, all) now and then.

    Several images a file: each frame of DICOM, page of TIFF and axial slice of NIfTI (.nii, .nii.gz) is an item of its
    own, as in "file.dcm#frame=3", counted from 1, if there are two or more. frames: "all", up to MAX_FRAMES of
    `data.frames` a file, or "middle" or "first" of each file.

    patient_pattern: a regular expression, searched in an item's whole source. Its group named "patient", or else its
    first group, is the patient of items whose manifest names none; where it does not match, there is none.

    Raises SourceError, naming file and row, if the source is not such or holds no images; ValueError if the pattern is
    not a regular expression with a group, a field may not be stored or `frames` is none of the three.
    """
    fields = dicom.checked_fields(fields)
    if frames not in in_frames.FRAMES:
        raise ValueError(f"frames must be one of {', '.join(in_frames.FRAMES)}, got {frames!r}")
    if not os.fspath(path):
        raise SourceError("the source's path is empty")
    find_patient = patient_finder(patient_pattern)
    whole = Path(os.path.abspath(path))
    suffix = whole.suffix.lower()
    if not os.path.exists(whole):
        raise SourceError(f"{whole}: no such file or folder")
    if os.path.isdir(whole):
        source = folder.read(whole)
    elif not os.path.isfile(whole):  # opening a pipe would wait for who writes into it
        raise SourceError(f"{whole}: neither a folder nor a file")
    elif suffix in (".csv", ".tsv"):
        source = manifest.read(whole, path_column, label_column, patient_column, split_column)
    elif suffix == ".npz":
        source = _open_npz(whole)
    elif whole.name.upper() == "DICOMDIR":
        source = dicom.read_directory(whole)
    elif images.is_image(whole.name) or images.is_dicom(whole):
        source = folder.read_file(whole)
    else:
        raise SourceError(f"{whole}: not a folder, a .csv or .tsv manifest, a MedMNIST .npz, a DICOMDIR or an image")
    source = in_frames.described(source, fields, frames, allow_burned_in, clear_names, progress)
    if find_patient is None:
        return source
    found = (item if item.patient else replace(item, patient=find_patient(item.source)) for item in source.items)
    return replace(source, items=tuple(found))


def _open_npz(path: Path) -> Source:
    labels, others = npz.read_labels(path, SPLITS)
    items = (
        Item(f"{path.name}/{split}/{place:05d}", label, None, split)
        for split in labels
        for place, label in enumerate(labels[split])
    )
    return Source(path.parent, tuple(items), tuple(f"{path.name}/{name}" for name in others))


def patient_finder(pattern: str | None) -> Callable[[str], str | None] | None:
    """What `patient_pattern` stands for, see `open_source`: source -> patient. Raises ValueError if it is unusable."""
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"patient_pattern {pattern!r} is not a regular expression: {error}") from error
    if not compiled.groups:
        raise ValueError(f"patient_pattern {pattern!r} has no group; mark the patient, as in '(\\d+)_left'")
    group = compiled.groupindex.get("patient", 1)

    def find(source: str) -> str | None:
        match = compiled.search(source)
        return (match[group] or None) if match else None

    return find
