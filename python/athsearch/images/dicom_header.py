"""The elements of a DICOM file, as far as they are wanted, without converting any that is not.

pydicom finds the elements; their values are read from the bytes here, for pydicom's own conversion quotes values in its
warnings, and a value may name a patient. No message of this module holds one.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from ..errors import CorruptImage, UnsupportedImage
from ..types import AnyArray
from .dicom_names import PREAMBLE_BYTES, begins_like_dicom, has_preamble

PIXEL_DATA = 0x7FE00010
FLOAT_PIXEL_DATA, DOUBLE_PIXEL_DATA = 0x7FE00008, 0x7FE00009
MAX_INFLATED = 1 << 28  # bytes of a deflated data set; a file of a thousandth of that can say that it has them

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"

# What damaged bytes make pydicom's parser raise, found by fuzzing; UserWarning only where warnings are made errors.
BAD_BYTES = (
    OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, NotImplementedError,
    RecursionError, struct.error, zlib.error, UserWarning,
)  # fmt: skip


class Elements:
    """Elements by tag (group << 16 | element), and what they hold. One that is absent or empty holds nothing."""

    def __init__(self, elements: Mapping[int, Any], is_little_endian: bool, charset: str | None = None) -> None:
        self._elements = elements
        self._items: dict[int, list[Elements]] = {}  # of sequences that were asked for: each frame asks for the same
        self._order = "<" if is_little_endian else ">"
        self._charset = charset or self.raw(0x00080005).decode("latin-1")

    def __contains__(self, tag: int) -> bool:
        return tag in self._elements

    def raw(self, tag: int) -> bytes:
        """The bytes of an element, b"" where it is not there."""
        value = getattr(self._elements.get(tag), "value", None)
        return bytes(value) if isinstance(value, bytes | bytearray) else b""

    def is_word(self, tag: int) -> bool:
        """Whether the file says that an element is made of 16-bit words."""
        return getattr(self._elements.get(tag), "VR", None) == "OW"

    def is_signed_word(self, tag: int) -> bool:
        """Whether the file says that the first value of an element is a signed word."""
        return getattr(self._elements.get(tag), "VR", None) == "SS"

    def is_encapsulated(self, tag: int) -> bool:
        """Whether an element came in fragments, as compressed pixels do."""
        return getattr(self._elements.get(tag), "length", 0) == 0xFFFFFFFF

    def text(self, tag: int) -> str | None:
        """A text without the blanks and zeros around it; None if nothing is left."""
        return _decoded(self.raw(tag), self._charset).strip(" \0\t\r\n") or None

    def texts(self, tag: int) -> list[str]:
        """The values of a text element, which a backslash parts."""
        return [part.strip(" \0") for part in (self.text(tag) or "").split("\\") if part.strip(" \0")]

    def decimals(self, tag: int) -> list[float]:
        """The values of a DS or IS element, those of them that are finite numbers."""
        values = [float(text) for text in self.texts(tag) if _NUMBER(text)]
        return [value for value in values if np.isfinite(value)]

    def decimal(self, tag: int) -> float | None:
        """The first such value."""
        return next(iter(self.decimals(tag)), None)

    def words(self, tag: int, is_signed: bool = False) -> AnyArray:
        """The values of a US, SS or OW element, uint16 or int16 [n]."""
        raw = self.raw(tag)
        return np.frombuffer(raw[: len(raw) // 2 * 2], f"{self._order}{'i' if is_signed else 'u'}2")

    def word(self, tag: int, default: int | None = None) -> int | None:
        """The first such value."""
        words = self.words(tag)
        return int(words[0]) if len(words) else default

    def items(self, tag: int) -> list[Elements]:
        """The items of a sequence. Raises what BAD_BYTES names where it is damaged."""
        if tag not in self._items:
            self._items[tag] = self._parsed(tag)
        return self._items[tag]

    def _parsed(self, tag: int) -> list[Elements]:
        element = self._elements.get(tag)
        if element is None:
            return []
        value = element.value
        if isinstance(value, bytes):  # of defined length, and not parsed yet
            from pydicom.filereader import read_sequence

            little = self._order == "<"
            value = read_sequence(io.BytesIO(value), element.is_implicit_VR, little, len(value), "iso8859")
        return [Elements(item._dict, self._order == "<", self._charset) for item in value or ()]


class Header(Elements):
    """The elements of a file, and its transfer syntax (a UID)."""

    def __init__(self, elements: Mapping[int, Any], syntax: str) -> None:
        super().__init__(elements, syntax != BIG_ENDIAN)
        self.syntax = syntax


def _decoded(raw: bytes, charset: str) -> str:
    """A text in the first of a file's character sets, and after escape sequences in those that they name (PS3.5 6.1.2).

    What is unknown is taken byte by byte, and what makes no sense is escaped, which tells patients apart as well.
    """
    from pydicom.charset import CODES_TO_ENCODINGS, python_encoding

    first = python_encoding.get(charset.split("\\")[0].strip(" \0"), "latin-1")
    start, *switched = re.split(b"(?=\x1b)", raw)
    texts = [start.decode(first, "backslashreplace")]
    for part in switched:
        code = next((code for code in CODES_TO_ENCODINGS if part.startswith(code)), b"")
        encoding = CODES_TO_ENCODINGS.get(code, first)
        shown = part if encoding.startswith("iso2022") else part[len(code) :]  # which keep the sequence
        texts.append(shown.decode(encoding, "backslashreplace"))
    return "".join(texts)


def read_header(file: BinaryIO, name: str, tags: Iterable[int], last_tag: int) -> Header:
    """The elements of these tags up to last_tag, of a file with or without preamble. It is read no further.

    Raises CorruptImage if it is no DICOM file or damaged, UnsupportedImage if it is a directory of others; either
    carries `name` and never a value of the file. ModuleNotFoundError without pydicom.
    """
    import pydicom  # noqa: F401  (its absence is no damage)
    from pydicom.filereader import data_element_generator

    try:
        syntax = _syntax(file)
        if syntax == DEFLATED:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            file = io.BytesIO(inflater.decompress(file.read(), MAX_INFLATED))
            if inflater.unconsumed_tail:
                raise UnsupportedImage(name, f"more than {MAX_INFLATED:,} bytes when inflated")
        elements = {
            int(element.tag): element
            for element in data_element_generator(
                file,
                is_implicit_VR=syntax == IMPLICIT,
                is_little_endian=syntax != BIG_ENDIAN,
                stop_when=lambda tag, vr, length: int(tag) > last_tag,  # as plain numbers: a tag compares slowly
                specific_tags=list(tags),
            )
        }
    except EOFError:
        raise CorruptImage(name, "cut short: it ends in the middle of an element") from None
    except BAD_BYTES as error:
        raise CorruptImage(name, f"cannot be parsed as DICOM ({type(error).__name__})") from None
    return Header(elements, syntax)


def _syntax(file: BinaryIO) -> str:
    """The transfer syntax; the file then stands where the data set begins.

    Without a preamble it is implicit VR, or explicit VR where the first element has two capitals in its place.
    """
    from pydicom.filereader import data_element_generator

    start = file.read(PREAMBLE_BYTES)
    if not has_preamble(start):
        file.seek(0)
        if not begins_like_dicom(start):
            raise ValueError("neither a preamble nor a data set")
        if start[0] == 8:
            return EXPLICIT if re.match(b"[A-Z]{2}", start[4:6]) else IMPLICIT
    begin = file.tell()
    found = data_element_generator(file, False, True, lambda tag, vr, length: tag > 0x0002FFFF)
    meta = Elements({int(element.tag): element for element in found}, True)
    if file.tell() == begin:
        raise ValueError("no meta information")
    return meta.text(0x00020010) or EXPLICIT


_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?").fullmatch
