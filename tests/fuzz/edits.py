"""Damage to a file, described so that it can be drawn by a random generator or by hypothesis, and repeated."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

INTERESTING = (0, 1, *(2**n_bits + step for n_bits in (7, 8, 15, 16, 31, 32, 62, 64) for step in (-1, 0)))
N_KINDS = 9


class Edit(NamedTuple):
    """One change. kind: 0 to N_KINDS - 1; place, length and value are taken modulo what there is."""

    kind: int
    place: int
    length: int
    value: int


def edited(content: bytes, edits: Sequence[Edit], tokens: Sequence[bytes], other: bytes) -> bytes:
    """The content after all edits, one after the other. tokens: words that mean something in such a file.

    other: a second file, of which parts are taken.
    """
    for kind, place, length, value in edits:
        at = place % (len(content) + 1)
        end = min(len(content), at + 1 + length % 64)
        number = INTERESTING[value % len(INTERESTING)]
        width = (1, 2, 4, 8)[length % 4]
        if kind == 0 and content:  # one bit
            at %= len(content)
            content = content[:at] + bytes([content[at] ^ 1 << value % 8]) + content[at + 1 :]
        elif kind == 1:  # an integer at the border of its range, in either byte order
            packed = (number % (1 << 8 * width)).to_bytes(width, "little" if value % 2 else "big")
            content = content[:at] + packed + content[at + width :]
        elif kind == 2:  # cut short
            content = content[:at]
        elif kind == 3:  # a part is missing
            content = content[:at] + content[end:]
        elif kind == 4:  # a part comes twice, or many times
            content = content[:end] + content[at:end] * (1 + value % 9) + content[end:]
        elif kind == 5:  # a part of the other file
            content = content[:at] + other[at : at + 1 + length] + content[end:]
        elif kind == 6 and tokens:  # a word
            content = content[:at] + tokens[value % len(tokens)] + content[at:]
        elif kind == 7:  # bytes of any value
            content = content[:at] + random.Random(value).randbytes(1 + length % 16) + content[end:]
        elif kind == 8 and content:  # one byte
            at %= len(content)
            content = content[:at] + bytes([value % 256]) + content[at + 1 :]
    return content


def drawn_edits(rng: random.Random) -> list[Edit]:
    """One to eight edits, few more often than many."""
    n_edits = 1 + int(rng.random() ** 2 * 8)
    return [
        Edit(rng.randrange(N_KINDS), rng.randrange(1 << 24), rng.randrange(1 << 10), rng.randrange(1 << 16))
        for _ in range(n_edits)
    ]


def with_png_checksums(content: bytes) -> bytes:
    """The same with each chunk's checksum put right, as far as the chunks can be followed: else no decoder looks on."""
    out, at = content[:8], 8
    while at + 12 <= len(content):
        length = int(struct.unpack(">I", content[at : at + 4])[0])
        if at + 12 + length > len(content):
            break
        body = content[at + 4 : at + 8 + length]
        out += content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return out + content[at:]
