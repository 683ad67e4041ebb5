"""What an archive recognises of a source that comes again: what is there, was changed, deleted, or could not be read.

An image is what its bytes are: content, a SHA-256, decides. A file is read again only where its stamp (size and times,
see `Source.stamp`) is not the one it had when its bytes were last read. That is trusted because a stamp is kept only of
files that had not been changed for some seconds when they were read, and because the time of the last change of a
file's attributes, which is part of it, cannot be set back as the time of its last change can.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from contextlib import suppress
from typing import TYPE_CHECKING

from ..data import Source, file_of, frames, split_frame
from ..data.folder import names_below
from ..errors import SourceError
from .cases import KnownCase
from .catalogue import Catalogue
from .pseudonym import HIDDEN, PatientKey

if TYPE_CHECKING:
    from .intake import LoadedImage


class Recognition:
    """What is known of the images of one root. Looked up for some sources at a time, then asked about each."""

    def __init__(self, catalogue: Catalogue, root: str, key: PatientKey | None, recheck: bool = False) -> None:
        """recheck: reads every file again, whatever its stamp. key: needed where images were deleted and compacted."""
        self._catalogue = catalogue
        self._root = root
        self._key = key
        self._trusts_stamps = not recheck
        self._forgotten = forgotten(catalogue)
        self._known: dict[tuple[str, bytes], KnownCase] = {}
        self._contents: dict[tuple[str, str], bytes] = {}
        self._unreadable = {source: reason for path, source, reason in catalogue.unreadable() if path == root}

    def look_up(self, sources: Sequence[str]) -> None:
        """Reads what the catalogue has of these sources."""
        found = _known(self._catalogue, self._root, sources)
        # A file that is known here with other bytes was changed, even if another root has a case of its new bytes.
        at_home = {source for source, content, known in found if content and known.is_own and not known.is_deleted}
        for source, content, known in found:
            if known.is_own or known.is_deleted or source not in at_home:
                self._known[source, content] = known
            if known.is_own and known.stamp is not None and self._trusts_stamps:
                self._contents[source, known.stamp] = content

    def content(self, source: str, stamp: str | None) -> bytes | None:
        """The content of a file that need not be read, because it has the stamp it had when it was."""
        return None if stamp is None else self._contents.get((source, stamp))

    def known(self, source: str, content: bytes) -> KnownCase | None:
        """The case of this source and content: one that can be found if there is one, or else a deleted one."""
        known = self._known.get((source, content))
        if known is None and self._forgotten and self._key is not None:
            is_forgotten = self._key.deletion_digest(source, content) in self._forgotten
            return KnownCase(is_deleted=True) if is_forgotten else None
        return known

    def outdated(self, images: Sequence[LoadedImage], listed: Set[str], first_id: int) -> list[tuple[int, int]]:
        """(id, id of the new case) of those that such a new case takes the place of, though its source is another: of
        its file as it was, which held more or fewer images. listed: the sources that still come.

        images: the new ones, which get ids from first_id on.
        """
        files: dict[str, tuple[bytes, int]] = {}
        for id, image in enumerate(images, first_id):
            if image.file:
                files.setdefault(split_frame(image.item.source)[0], (image.file, id))
        found = []
        for id, source, content in _living(self._catalogue, self._root, list(files)) if files else ():
            digest, new_id = files[split_frame(source)[0]]
            if source not in listed and content != frames.content_digest(source, digest):
                found.append((id, new_id))
        return found

    def note(self, images: Sequence[LoadedImage]) -> None:
        """Keeps the stamps of these images where they are new, and which of them cannot be used, and no longer which
        could not.
        """
        stamps, failed, mended = [], [], []
        for image in images:
            source, known = image.item.source, image.known
            if image.error is not None:
                if self._unreadable.get(source) != image.error.reason:
                    failed.append((source, image.error.reason))
            elif source in self._unreadable:
                mended.append(source)
            if known is not None and known.is_own and image.stamp is not None and image.stamp != known.stamp:
                stamps.append((image.stamp, known.id))
        self._write(stamps, failed, mended)

    def note_gone(self, source: Source) -> None:
        """Forgets unusable images whose files are no longer there, or are now told of frame by frame, or no longer so;
        one that this source merely leaves out stays, and without the key one whose name is hidden.
        """
        there = {item.source for item in source.items}
        missing = [name for name in self._unreadable if name not in there]
        files = {split_frame(name)[0] for name in there} if missing else set()
        hidden: set[str] | None = None
        if self._key is not None and any(name.startswith(HIDDEN) for name in missing):
            with suppress(SourceError):  # a folder that cannot be listed: what is in it may be there
                hidden = {self._key.source(name) for name in names_below(source.root)}

        def is_gone(name: str) -> bool:
            file, frame = split_frame(name)
            if file in (files if frame is None else there):
                return True
            if name.startswith(HIDDEN):
                return hidden is not None and file not in hidden
            return not file_of(source.root, name).exists()

        self._write([], [], [name for name in missing if is_gone(name)])

    def _write(self, stamps: list[tuple[str, int]], failed: list[tuple[str, str]], mended: list[str]) -> None:
        if not (stamps or failed or mended):
            return
        catalogue = self._catalogue
        with catalogue.transaction("IMMEDIATE"):
            number = catalogue.root_number(self._root)
            catalogue.execute_many("UPDATE cases SET stamp = ? WHERE id = ?", stamps)
            columns = "(root, source, reason)"
            catalogue.execute_many(f"INSERT OR REPLACE INTO unreadable {columns} VALUES ({number}, ?, ?)", failed)
            gone = ((source,) for source in mended)
            catalogue.execute_many(f"DELETE FROM unreadable WHERE root = {number} AND source = ?", gone)
        self._unreadable.update(failed)
        for source in mended:
            del self._unreadable[source]


def forgotten(catalogue: Catalogue) -> frozenset[bytes]:
    """The digests of deleted images that were compacted away, see `PatientKey.deletion_digest`."""
    with catalogue.transaction():
        return frozenset(digest for (digest,) in catalogue.execute("SELECT digest FROM forgotten"))


def _living(catalogue: Catalogue, root: str, files: Sequence[str]) -> list[tuple[int, str, bytes]]:
    """(id, source, content) of the images of these files that can be found, and that were read from this root."""
    files_and_cases = "SELECT cases.id, source, content FROM json_each(?1) AS file CROSS JOIN cases ON"
    of_frames = "source > file.value || '#frame=' AND source < file.value || '#frame>'"
    living = "WHERE cases.root = (SELECT number FROM root WHERE path = ?2) AND NOT is_deleted AND content != x''"
    with catalogue.transaction():
        return catalogue.execute(
            f"{files_and_cases} source = file.value {living} UNION ALL {files_and_cases} {of_frames} {living}",
            json.dumps(list(files)),
            root,
        ).fetchall()


def _known(catalogue: Catalogue, root: str, sources: Sequence[str]) -> list[tuple[str, bytes, KnownCase]]:
    """(source, content, case) of what there is of these sources in any root, those that can be found last.

    A case that a changed file retired is not known: the file may change back.
    """
    with catalogue.transaction():
        rows = catalogue.execute(
            "SELECT source, content, is_deleted, label, patient, split, record, study, stamp, id, path = ? FROM cases "
            "JOIN root ON number = root WHERE source IN (SELECT value FROM json_each(?)) AND retired_by IS NULL "
            "ORDER BY is_deleted DESC, id",
            root,
            json.dumps(list(sources)),
        )
        return [
            (
                *(source, content),
                KnownCase(bool(is_deleted), label, patient, split, json.loads(record), study, stamp, id, bool(is_own)),
            )
            for source, content, is_deleted, label, patient, split, record, study, stamp, id, is_own in rows
        ]
