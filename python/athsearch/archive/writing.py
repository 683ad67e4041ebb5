"""How an archive comes to be, and the one process that may write to it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ArchiveError, ArchiveLocked
from ..files import naming, replacing, sync
from .catalogue import WEIGHTS, Catalogue
from .kept_index import remove_unlisted

if TYPE_CHECKING:
    from ..encoder import Encoder


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A folder under another name, to be filled with an archive, names flushed. When the block ends it is `path`, and
    so are the folders above it that had to be made; when the block raises it is removed. An OSError names a file; where
    `path` came to be meanwhile, an ArchiveError says so.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        with naming(path):
            (unfinished / "segments").mkdir(parents=True)
            (unfinished / "writer.lock").touch()
            yield unfinished
            try:
                os.rename(unfinished, path)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    raise ArchiveError(f"{path}: exists already; another process has just made it") from error
                raise
            for folder in (path, *missing):
                sync(folder.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def write_empty(path: Path, properties: Mapping[str, str], encoder: Encoder | None) -> None:
    """Makes the folder of an archive without cases, whole or not at all."""
    with appearing(path) as unfinished:
        weights = None if encoder is None else encoder.to_bytes()
        if weights is not None:
            properties = {**properties, "weights_sha256": hashlib.sha256(weights).hexdigest()}
        Catalogue.create(unfinished / "catalogue.sqlite", properties)
        if weights is None:
            sync(unfinished)
        else:
            with replacing(unfinished / WEIGHTS) as temporary:  # flushes all names in the folder
                temporary.write_bytes(weights)


@contextmanager
def writing(path: Path) -> Iterator[Catalogue]:
    """The catalogue of the archive at `path`, to write to, for as long as the block lasts. Removes what a writer that
    was killed left unfinished. Raises ArchiveLocked when another process is writing or repairs the archive.
    """
    # The system drops the lock when its process ends, however that happens: a lock is never stale. The file holds
    # nothing of the archive: a copy without it is whole.
    with open(os.open(path / "writer.lock", os.O_RDWR | os.O_CREAT, 0o666), "rb+", buffering=0) as lock:
        _take(lock, fcntl.LOCK_EX, path)
        with naming(path / "writer.lock"):
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n".encode())
        for unfinished in (path / "segments").glob(".*.tmp"):
            unfinished.unlink()
        catalogue = Catalogue(path / "catalogue.sqlite", writable=True)
        try:
            remove_unlisted(path, catalogue.kept_index())
            yield catalogue
        finally:
            catalogue.close()


@contextmanager
def without_writers(path: Path) -> Iterator[None]:
    """Keeps writers out of the archive at `path` for as long as the block lasts, and changes nothing of it. A damaged
    one may lack the lock; then this does nothing. Raises ArchiveLocked when another process is writing.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            lock = stack.enter_context((path / "writer.lock").open("rb", buffering=0))
            _take(lock, fcntl.LOCK_SH, path)
        yield


def _take(lock: FileIO, operation: int, path: Path) -> None:
    try:
        fcntl.flock(lock, operation | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = lock.read().decode("ascii", "replace").strip() or "unknown"
        raise ArchiveLocked(
            f"{path}: another process is writing to it (process {holder}) or repairs it; try again when it is done"
        ) from error
