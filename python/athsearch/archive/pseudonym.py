"""Patients and their studies under pseudonyms: HMAC-SHA256 with a key that lies outside the archive.

A pseudonym tells that two cases are of one patient, not which patient it is. The paths of DICOM files are hidden the
same way, for they often hold names and numbers. Other paths and further columns of a manifest are stored as they are:
where they name the patient, so does the archive.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ..errors import ArchiveError
from ..files import naming, sync

KEY_BYTES = 32
HIDDEN = "dicom:"  # how the sources of hidden files begin


def default_key(archive: Path) -> Path:
    """Where the key of an archive lies, unless another place is named: beside it."""
    return Path(f"{os.path.abspath(archive)}.key")


class PatientKey:
    """The secret that turns patients into pseudonyms. fingerprint tells keys apart without giving one away."""

    def __init__(self, key: bytes) -> None:
        # HMAC as RFC 2104 has it; copies of both hashes after their first block: a third of what `hmac.digest` takes.
        block = key.ljust(hashlib.sha256().block_size, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))
        self._cached = lru_cache(maxsize=1024)(self._digest)  # images of one patient come one after the other
        self.fingerprint = self._digest("fingerprint", "")[:16]

    def pseudonym(self, name: str, purpose: Literal["patient", "study"] = "patient") -> str:
        """32 hexadecimal digits, the same for the same name, purpose and key: a patient's and a study's never meet.

        An umlaut that one system writes as a letter and another as two is the same: names are brought to the form NFC.
        """
        return self._cached(purpose, unicodedata.normalize("NFC", name))[:32]

    def deletion_digest(self, source: str, content: bytes) -> bytes:
        """32 bytes by which a deleted image is recognised when it is added again, and by nothing else without the key.

        content: SHA-256 of its bytes.
        """
        return bytes.fromhex(self._digest("deleted", f"{content.hex()}:{source}"))

    def source(self, path: str) -> str:
        """What stands in the catalogue for the path of a file that may name a patient: "dicom:" and 32 digits."""
        return HIDDEN + self._digest("source", path)[:32]

    def mac(self, purpose: Literal["query", "where", "line", "head"], text: str) -> str:
        """32 hexadecimal digits for the query log, which nobody without the key can make or guess the text of."""
        return self._digest(purpose, text)[:32]

    def _digest(self, purpose: str, text: str) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(f"{purpose}:{text}".encode())
        outer.update(inner.digest())
        return outer.hexdigest()

    @classmethod
    def read(cls, path: Path) -> PatientKey:
        """From a key file. Raises ArchiveError when it is missing or not one."""
        try:
            key = bytes.fromhex(path.read_text("ascii").strip())
        except FileNotFoundError as error:
            raise ArchiveError(
                f"{path}: no such key file; patients are stored under a key kept outside the archive: say where it is"
            ) from error
        except ValueError as error:
            raise ArchiveError(f"{path}: not a key file") from error
        if len(key) != KEY_BYTES:
            raise ArchiveError(f"{path}: not a key file: {len(key)} bytes, a key has {KEY_BYTES}")
        return cls(key)

    @classmethod
    def of_archive(cls, path: Path, archive: Path, fingerprint: str | None, create: bool = False) -> PatientKey:
        """The key of `archive`, which knows it by `fingerprint`. create: makes one if the archive has none yet.

        Raises ArchiveError when the key file is missing or is another archive's.
        """
        if fingerprint is None and create and not path.exists():
            return cls.create(path)
        key = cls.read(path)
        if fingerprint not in (None, key.fingerprint):
            raise ArchiveError(f"{path}: the key of another archive; {archive} needs the one it was made with")
        return key

    @classmethod
    def passing(cls) -> PatientKey:
        """A new key that is written nowhere."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def create(cls, path: Path) -> PatientKey:
        """Makes a new key and its file, readable by its owner only. An existing file is never replaced."""
        key = secrets.token_bytes(KEY_BYTES)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with naming(path):
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(descriptor, "w", encoding="ascii") as file:
                    file.write(key.hex() + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.link(temporary, path)  # unlike a rename it fails where there is a file
                sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
        return cls(key)
