"""Builds the preloaded recorder, drives it from inside the process it watches, and reads its log."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_HEAD = struct.Struct("<cQqIII")


@dataclass(frozen=True)
class Operation:
    """One line of the log; see recorder.c for the kinds. Paths are relative to the folder that was watched."""

    kind: str
    inode: int
    offset: int
    path: str
    other: str
    data: bytes


def compiler() -> str | None:
    """The system's C compiler, if there is one."""
    return shutil.which("cc")


def build(folder: Path) -> Path:
    """Compiles the recorder into `folder`. Raises CalledProcessError where that fails."""
    library = folder / "recorder.so"
    source = Path(__file__).with_name("recorder.c")
    command = [str(compiler()), "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread", str(source)]
    subprocess.run([*command, "-o", str(library), "-ldl"], check=True)
    return library


def run_again_preloaded() -> None:
    """Runs this program in a child with the recorder in front of libc, and ends with it. Returns in the child."""
    if "recorder.so" in os.environ.get("LD_PRELOAD", ""):
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "LD_PRELOAD": str(build(Path(folder)))}
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)


class Recorder:
    """The recorder that was loaded into this process. Children that are forked have one of their own."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.recorder_count.restype = ctypes.c_long

    def start(self, folder: Path, log: Path | None) -> None:
        """Watches the files below a folder from now on. log: None only counts. Syncs are noted and not done."""
        self._library.recorder_start(os.fsencode(folder), None if log is None else os.fsencode(log))

    def mark(self, text: str) -> None:
        """Notes in the log what the program has come to."""
        self._library.recorder_mark(text.encode())

    def fail(self, kind: str, at: int) -> None:
        """Lets the at-th call fail: see "Faults" in recorder.c."""
        self._library.recorder_fault(ctypes.c_char(kind.encode()), ctypes.c_long(at))

    def count(self, kind: str) -> int:
        """How many calls of a kind of fault there were; for "f" only after `fail("f", ...)`."""
        return int(self._library.recorder_count(ctypes.c_char(kind.encode())))


def read_log(log: Path, folder: Path) -> list[Operation]:
    """All operations, in order. folder: the one that was watched."""
    content, operations, place = log.read_bytes(), [], 0
    while place < len(content):
        kind, inode, offset, *lengths = _HEAD.unpack_from(content, place)
        place += _HEAD.size
        parts = []
        for length in lengths:
            parts.append(content[place : place + length])
            place += length
        paths = [os.fsdecode(part).removeprefix(str(folder)).lstrip("/") for part in parts[:2]]
        operations.append(Operation(kind.decode(), inode, offset, *paths, parts[2]))
    return operations
