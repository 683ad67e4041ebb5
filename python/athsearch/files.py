"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

READ_BYTES = 1 << 20  # at a time: fits a processor's cache


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError that names no file, as those of a full disk do, the name of `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def check_file(path: Path) -> None:
    """Raises an OSError that names `path` where a folder or device is there, or no folder for it."""
    if not path.name or path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if not path.parent.is_dir():
        code = errno.ENOTDIR if path.parent.exists() else errno.ENOENT
        raise OSError(code, os.strerror(code), str(path))


def check_folder(path: Path) -> None:
    """Raises NotADirectoryError, naming `path`, where no folder can be made there: it is a file, or lies below one."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder to write to. When the block ends it is flushed to disk and renamed to `path`,
    replacing what stood there, or what a link there leads to; when the block raises it is removed and `path` is as it
    was. Of threads and processes that write one path at a time, the last one's file stays. An OSError names a file.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    check_file(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with naming(path):
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flushes a file's bytes, or a folder's entries, so that they survive a power cut. An OSError names it."""
    with naming(path):
        _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, hexadecimal. progress: told how many bytes came, now and then. Raises OSError."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(READ_BYTES))
    with naming(path), path.open("rb", buffering=0) as file:
        while n_bytes := file.readinto(buffer):
            digest.update(buffer[:n_bytes])
            if progress:
                progress(n_bytes)
    return digest.hexdigest()
