"""Which files are DICOM, by their names and first bytes."""

from __future__ import annotations

import os
import re

SUFFIXES = (".dcm", ".dicom", ".ima")
PREAMBLE_BYTES = 132  # 128 of anything, then DICM
_NO_SUFFIX = re.compile(r"(\.[0-9]+)?").fullmatch  # "IM_0001"; "1.2.840.113619.2.55" is named by a UID


def may_be_dicom(name: str) -> bool:
    """Whether a file of this name is DICOM by its suffix, or may be, having none. A directory of others is not."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in SUFFIXES or (bool(_NO_SUFFIX(suffix)) and os.path.basename(name).upper() != "DICOMDIR")


def has_preamble(start: bytes) -> bool:
    """Whether a file that begins with these bytes, at least PREAMBLE_BYTES of them, says that it is DICOM."""
    return start[128:PREAMBLE_BYTES] == b"DICM"


def begins_like_dicom(start: bytes) -> bool:
    """Whether a file may be DICOM: by a preamble, or without one by a first element of group 2 or 8."""
    return has_preamble(start) or (len(start) >= 16 and start[0] in (2, 8) and start[1] == 0)


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a file is DICOM by its suffix or, without one, by its preamble. What cannot be read is not."""
    if not may_be_dicom(os.fspath(path)):
        return False
    if os.path.splitext(path)[1].lower() in SUFFIXES:
        return True
    if not os.path.isfile(path):  # opening a pipe would wait for who writes into it
        return False
    try:
        with open(path, "rb") as file:
            return has_preamble(file.read(PREAMBLE_BYTES))
    except OSError:
        return False
