"""The pages of a TIFF file, found by its chain of directories; each is read as if it were the only one.

A directory that is marked as a smaller copy of another page, or as a mask, is no page, unless there are only such.
"""

from __future__ import annotations

import contextlib
import io
import struct
from typing import BinaryIO

from ..errors import UnsupportedImage

MAX_PAGES = 1 << 16
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_SUBFILE_TYPE, _REDUCED_OR_MASK, _SHORT = 254, 1 | 4, 3


def page_heads(file: BinaryIO, name: str) -> list[bytes]:
    """For each page the first bytes of a file that begins with that page; at least one.

    A damaged directory ends the chain, and counts as a page: reading it tells. Raises UnsupportedImage beyond
    MAX_PAGES directories.
    """
    start = file.read(16)
    order, is_big = "<" if start[:2] == b"II" else ">", b"+" in start[2:4]
    count, entry, link = (f"{order}{kinds}" for kinds in (("Q", "HHQQ", "Q") if is_big else ("H", "HHLL", "L")))
    n_before = 8 if is_big else 4
    heads: dict[int, bytes] = {}  # by the place of the directory; a chain that leads back ends
    copies = set()
    with contextlib.suppress(struct.error, OverflowError, OSError, ValueError):  # cut short, or no place in a file
        (place,) = struct.unpack_from(link, start, n_before)
        while place and place not in heads:
            if len(heads) == MAX_PAGES:
                raise UnsupportedImage(name, f"more than {MAX_PAGES:,} pages")
            heads[place] = start[:n_before] + struct.pack(link, place)
            file.seek(place)
            (n_entries,) = _unpacked(file, count)
            tag, field_type, _, value = _unpacked(file, entry)  # the first: tags ascend, and hardly any is lower
            if field_type == _SHORT and order == ">":  # as some write it; it fills the first two bytes
                value >>= 48 if is_big else 16
            file.seek(place + struct.calcsize(count) + n_entries * struct.calcsize(entry))
            if tag == _SUBFILE_TYPE and value & _REDUCED_OR_MASK:
                copies.add(place)
            (place,) = _unpacked(file, link)
    return [head for place, head in heads.items() if place not in copies] or list(heads.values()) or [start[:8]]


def n_pages(file: BinaryIO, name: str) -> int:
    """How many pages a file has; 1 where it is no TIFF file, whatever its name says. Raises as `page_heads`."""
    is_tiff = file.read(4) in STARTS
    file.seek(0)
    return len(page_heads(file, name)) if is_tiff else 1


def _unpacked(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


class FromPage(io.BytesIO):
    """A TIFF file that begins with another of its pages, without a copy of it."""

    def __init__(self, content: bytes, head: bytes) -> None:
        super().__init__(content)
        self._head = head

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        place = self.tell()
        read = super().read(size)
        changed = self._head[place : place + len(read)]
        return changed + read[len(changed) :] if changed else read
