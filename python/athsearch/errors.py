"""Every error that athsearch raises for a reason a user can mend.

AthsearchError
├── ImageError              an image cannot be used; carries its path
│   ├── UnsupportedImage    sound, but of a kind or size we refuse
│   └── CorruptImage        truncated, empty, or not what its name says
├── SourceError             a labelled source (folder, manifest, npz) is not what it should be
├── ModelError
│   ├── CheckpointError     a weights or run file cannot be used
│   └── ModelMismatch       codes, weights and archive do not belong together
├── ArchiveError
│   ├── SegmentCorrupt      a segment's bytes are not those that were written
│   ├── FormatVersion       the archive was written by another version of athsearch
│   ├── CatalogueError      the catalogue cannot be read or written
│   └── ArchiveLocked       another process is writing or repairs it
├── FaissFileError          a file of a FAISS index is damaged, or of a kind that holds no codes
└── DeviceError
    ├── KernelUnavailable   a forced kernel is unknown or this machine cannot run it
    └── CudaError

Wrong dtypes, shapes and ranges are plain TypeError and ValueError.
"""

from __future__ import annotations


class AthsearchError(Exception):
    """The root: the command line turns any of these into one line and exit status 1."""


class ImageError(AthsearchError):
    """An image cannot be used. `path` names it; the message starts with it."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class UnsupportedImage(ImageError):
    """Sound, but of a kind or size that is refused."""


class CorruptImage(ImageError):
    """Truncated, empty, or not what its name says."""


class SourceError(AthsearchError):
    """A labelled source (folder tree, manifest, npz) is not what it should be."""


class ModelError(AthsearchError):
    """Something about a network or its weights."""


class CheckpointError(ModelError):
    """A weights or run file cannot be used."""


class ModelMismatch(ModelError):
    """Codes, weights and archive do not belong together."""


class ArchiveError(AthsearchError):
    """Something about an archive on disk."""


class SegmentCorrupt(ArchiveError):
    """A segment's bytes are not those that were written."""


class FormatVersion(ArchiveError):
    """The archive was written by another version of athsearch."""


class CatalogueError(ArchiveError):
    """The catalogue cannot be read or written."""


class ArchiveLocked(ArchiveError):
    """Another process is writing to the archive, or repairs it."""


class FaissFileError(AthsearchError):
    """A file of a FAISS index is damaged, or of a kind that holds no codes."""


class DeviceError(AthsearchError):
    """Something about the processor that was asked for."""


class KernelUnavailable(DeviceError):
    """A forced kernel is unknown, or this machine cannot run it."""


class CudaError(DeviceError):
    """The GPU or its driver reported an error."""
