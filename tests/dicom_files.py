"""DICOM files that the tests write themselves."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from athsearch.types import AnyArray

CT = "1.2.840.10008.5.1.4.1.1.2"


def dicom(
    pixels: AnyArray, photometric: str = "MONOCHROME2", syntax: str = ExplicitVRLittleEndian, *,
    frames: list[bytes] | None = None, bare: bool = False, **elements: Any,
) -> bytes:  # fmt: skip
    """pixels: [H, W], [H, W, 3] or, with NumberOfFrames, one dimension more. frames: compressed, instead of native.

    elements: by keyword, None to leave one out. bare: without preamble and meta information.
    """
    many = "NumberOfFrames" in elements
    shape = pixels.shape[1:] if many else pixels.shape
    bits = pixels.dtype.itemsize * 8
    dataset = Dataset()
    values = {
        "SOPClassUID": CT, "SOPInstanceUID": generate_uid(), "Modality": "CT", "PatientID": "P1",
        "PatientName": "Meier^Anna", "StudyInstanceUID": "1.2.3.4", "Rows": shape[0], "Columns": shape[1],
        "SamplesPerPixel": shape[2] if len(shape) == 3 else 1, "PhotometricInterpretation": photometric,
        "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"), **elements,
    }  # fmt: skip
    if values["SamplesPerPixel"] == 3:
        values.setdefault("PlanarConfiguration", 0)
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    is_big = syntax == "1.2.840.10008.1.2.2"
    native = pixels.astype(pixels.dtype.newbyteorder(">" if is_big else "<")).tobytes()
    dataset.PixelData = native + bytes(len(native) % 2) if frames is None else encapsulate(frames)
    dataset["PixelData"].VR = "OB" if frames is not None or bits == 8 else "OW"
    dataset["PixelData"].is_undefined_length = frames is not None
    file = io.BytesIO()
    if bare:
        dcmwrite(file, dataset, implicit_vr=True, little_endian=True)
        return file.getvalue()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, generate_uid()
    dataset.file_meta = meta
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def lut(keyword: str, entries: list[int], first: int, bits: int) -> Dataset:
    """An item of a VOI or modality LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    if keyword == "ModalityLUTSequence":
        item.ModalityLUTType = "US"
    return item
