"""What a disk may hold after a power cut, given the log of what a program did.

The model is of a POSIX disk that keeps what it was told to sync, and nothing else it need keep:
- The data of a file is there as it was at its last fsync. Of what was written since, each piece between borders of 512
  bytes may be there or not, in any order and whatever became of other files; so may each change of the file's length.
  Where a length is there and the data is not, zeros are.
- The names in a folder are as they were at the folder's last fsync. Of what was made, renamed and removed since,
  some is done; a rename is done whole. An fsync of a file does not keep its name, nor one of a folder the folder's own
  name, though ext4 would keep both: an archive may lie on another file system.
- What was written through a map counts as written when the file is synced or unmapped.

How the choices are made has a name, one of MODES:
  lost       nothing that was not synced is there
  names      all names are there, no unsynced data: files as long as they were at their last fsync
  data       all data is there, no unsynced name
  hole       all is there, but for one piece of every other file's unsynced data
  torn       data as chance has it; of each folder's changes the first few
  reordered  data as chance has it; of each folder's changes any
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from recorder import Operation

SECTOR = 512
PAGE = 4096
SHARES = (*3 * [0.0], *3 * [1.0], 0.2, 0.5, 0.8, 0.97)  # of a file's unsynced pieces that are there
MODES = ("lost", "names", "data", "hole", "torn", "reordered")


@dataclass
class File:
    """synced: its bytes on the disk. pending: (offset, data) written since, or (length, None) to which it was cut."""

    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        self.synced, self.pending = self.now(), []

    def now(self) -> bytes:
        """What a program sees."""
        return self._with(self.pending)

    def pieces(self) -> list[tuple[int, bytes | None]]:
        """What is pending, in the order of its doing: each piece is on the disk or not."""
        pieces: list[tuple[int, bytes | None]] = []
        for offset, data in self.pending:
            if data is None:
                pieces.append((offset, None))
                continue
            borders = [0, *range(SECTOR - offset % SECTOR, len(data), SECTOR), len(data)]
            pieces += [(offset + begin, data[begin:end]) for begin, end in pairwise(borders)]
        return pieces

    def with_hole(self, rng: random.Random) -> bytes:
        """What a disk may hold: all but one piece."""
        pieces, size = self.pieces(), len(self.now())
        if pieces and rng.random() < 0.5:
            del pieces[rng.randrange(len(pieces))]
        return self._with(pieces).ljust(size, b"\0")[:size]

    def torn(self, rng: random.Random) -> bytes:
        """What a disk may hold: some pieces; at its end zeros or nothing."""
        share = rng.choice(SHARES)
        content = self._with([piece for piece in self.pieces() if rng.random() < share])
        return content.ljust(len(self.now()) if rng.random() < share else 0, b"\0")

    def _with(self, pieces: list[tuple[int, bytes | None]]) -> bytes:
        content = bytearray(self.synced)
        for offset, data in pieces:
            _change(content, offset, data)
        return bytes(content)


@dataclass
class Folder:
    """synced: its names on the disk. pending: changes since, each name -> what it stands for, None for nothing."""

    synced: dict[str, Node] = field(default_factory=dict)
    pending: list[dict[str, Node | None]] = field(default_factory=list)

    def sync(self) -> None:
        self.synced, self.pending = self.after(self.pending), []

    def after(self, changes: Iterable[dict[str, Node | None]]) -> dict[str, Node]:
        """The names when some of the changes were made."""
        names: dict[str, Node | None] = dict(self.synced)
        for change in changes:
            names.update(change)
        return {name: node for name, node in names.items() if node is not None}

    def now(self) -> dict[str, Node]:
        """What a program sees."""
        return self.after(self.pending)


Node: TypeAlias = File | Folder


class Disk:
    """A folder that was empty when the log began. Operations are applied to it one by one."""

    def __init__(self) -> None:
        self.root = Folder()
        self._by_inode: dict[int, Node] = {}

    def apply(self, operation: Operation) -> None:
        """One operation of the log; a mark changes nothing. To leave a sync out is to see the disk without it."""
        kind, inode = operation.kind, operation.inode
        if kind in "CD":
            self._by_inode[inode] = File() if kind == "C" else Folder()
            self._rename(operation.path, self._by_inode[inode])
        elif kind in "WT":
            self._file(operation).pending.append((operation.offset, operation.data if kind == "W" else None))
        elif kind == "P":
            file, data = self._file(operation), operation.data
            before = file.now()
            for begin in range(0, len(data), PAGE):
                if before[begin : begin + PAGE] != data[begin : begin + PAGE]:
                    file.pending.append((begin, data[begin : begin + PAGE]))
        elif kind in "RL":
            self._rename(operation.other, self._by_inode[inode], operation.path if kind == "R" else None)
        elif kind == "U":
            self._rename(operation.path, None)
        elif kind == "S":
            (self._by_inode[inode] if operation.path else self.root).sync()

    def _file(self, operation: Operation) -> File:
        file = self._by_inode[operation.inode]
        assert isinstance(file, File), operation
        return file

    def _rename(self, path: str, node: Node | None, earlier: str | None = None) -> None:
        folder = self._folder_of(path)
        change = {Path(path).name: node}
        if earlier is not None:
            assert self._folder_of(earlier) is folder, f"{earlier} moves to another folder: not in the model"
            change = {Path(earlier).name: None, **change}
        folder.pending.append(change)

    def _folder_of(self, path: str) -> Folder:
        folder = self.root
        for name in Path(path).parts[:-1]:
            inner = folder.now()[name]
            assert isinstance(inner, Folder), path
            folder = inner
        return folder

    def write(self, folder: Path, mode: str | None, rng: random.Random) -> None:
        """Makes `folder`, empty so far, what the disk may hold after a crash now; mode None: what a program sees."""
        _write(self.root, folder, mode, rng)


def _write(node: Folder, folder: Path, mode: str | None, rng: random.Random) -> None:
    changes = node.pending
    if mode in ("lost", "data"):
        changes = []
    elif mode == "torn":
        changes = changes[: rng.randint(0, len(changes))]
    elif mode == "reordered":
        changes = [change for change in changes if rng.random() < 0.5]
    for name, inner in sorted(node.after(changes).items()):
        path = folder / name
        if isinstance(inner, Folder):
            path.mkdir()
            _write(inner, path, mode, rng)
        elif mode in ("lost", "names"):
            path.write_bytes(inner.synced)
        elif mode in (None, "data"):
            path.write_bytes(inner.now())
        elif mode == "hole":
            path.write_bytes(inner.with_hole(rng))
        else:
            path.write_bytes(inner.torn(rng))


def _change(content: bytearray, offset: int, data: bytes | None) -> None:
    """Writes data at an offset, or cuts or stretches to a length, in place."""
    length = offset if data is None else max(len(content), offset)
    del content[length:]
    content.extend(bytes(length - len(content)))
    if data is not None:
        content[offset : offset + len(data)] = data
