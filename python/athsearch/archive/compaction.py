"""Compaction: an archive's files are written anew without what was deleted, and small segments become large ones.

In this order, so that a crash leaves the old archive or the new one, and the next compaction ends what this one began:
new segments and the new index under names of their own; one transaction that lists them in the place of the old ones
and takes the deleted cases out; the old files are removed; the catalogue is written anew, because SQLite leaves bytes
of former rows between those there are. Processes that search the old files keep them mapped until they look again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..codes import Codes
from ..files import sync
from ..index.sorted import MAX_SORTED
from .catalogue import Catalogue
from .kept_index import FOLDER, KeptIndex, remove_unlisted, write_index
from .pseudonym import PatientKey
from .segment import FILE_NAME, Segment, map_segment, runs_of, write_segment
from .snapshot import Snapshot

PART_ROWS = 1 << 20
LARGE_CODES = 1 << 20  # a segment of so many is left as it is, unless some of it was deleted
MERGED_CODES = 1 << 22  # no more are merged into one


@dataclass(frozen=True)
class CompactReport:
    """What a compaction did. n_removed: codes that had been deleted or retired, and are gone from all files."""

    n_removed: int
    n_segments_before: int
    n_segments: int


def compact(
    path: Path, catalogue: Catalogue, like: Codes, find_key: Callable[[], PatientKey], progress: Callable[[str], None]
) -> CompactReport:
    """Compacts the archive at `path`, see `Archive.compact`. find_key: asked where images were deleted."""
    snapshot = Snapshot(path, catalogue, like, None)
    remove_unlisted_segments(path / "segments", snapshot.segments)  # of compactions that were stopped
    images = _deleted_images(catalogue)
    key = find_key() if images else None
    digests = [key.deletion_digest(source, content) for source, content in images] if key else []
    progress("writing segments")
    segments = [
        segment if begin is None else _rewritten(path, snapshot, begin, end, segment)
        for segment, begin, end in _plan(snapshot)
    ]
    listed = [segment for segment in segments if segment is not None]
    n_removed = len(snapshot.deleted_rows)
    kept = catalogue.kept_index()
    if n_removed and kept is not None:
        kept = _rebuilt(path, kept, [like, *(map_segment(path / "segments", part, like) for part in listed)], progress)
    _commit(catalogue, listed, kept, digests, key)
    remove_unlisted_segments(path / "segments", listed)
    remove_unlisted(path, kept)
    if (path / FOLDER).exists():
        sync(path / FOLDER)  # or a power cut could bring back what was removed
    progress("rewriting the catalogue")
    catalogue.vacuum()
    return CompactReport(n_removed, len(snapshot.segments), len(listed))


def remove_unlisted_segments(folder: Path, listed: Sequence[Segment]) -> None:
    """Removes the files of segments that are not listed (any more), and no others. Raises OSError."""
    names = {segment.file for segment in listed}
    for path in folder.iterdir():
        if FILE_NAME.fullmatch(path.name) and path.name not in names:
            path.unlink()
    sync(folder)


def _plan(snapshot: Snapshot) -> Iterator[tuple[Segment, int | None, int]]:
    """Segments that stay, as (segment, None, 0), and rows to be written as one, as (first segment, begin, end)."""
    group: list[Segment] = []
    begin = end = 0

    def flush() -> Iterator[tuple[Segment, int | None, int]]:
        if len(group) > 1 or snapshot.n_deleted(begin, end):
            yield group[0], begin, end
        elif group:
            yield group[0], None, 0
        group.clear()

    for segment in snapshot.segments:
        is_untouched = segment.n_codes >= LARGE_CODES and not snapshot.n_deleted(end, end + segment.n_codes)
        joins = group and not is_untouched and segment.has_cases == group[0].has_cases
        if not joins or end + segment.n_codes - begin > MERGED_CODES:
            yield from flush()
            begin = end
        end += segment.n_codes
        group.append(segment)
        if is_untouched:
            yield from flush()
            begin = end
    yield from flush()


def _rewritten(path: Path, snapshot: Snapshot, begin: int, end: int, like: Segment) -> Segment | None:
    """Writes the rows from begin to end, without deleted ones, as one segment; None where all were deleted."""
    parts = [(first, min(first + PART_ROWS, end)) for first in range(begin, end, PART_ROWS)]
    runs = runs_of(snapshot.alive_ids(*part) for part in parts)
    n_codes = int(runs[:, 1].sum())
    if not n_codes:
        return None
    first_id = int(runs[0, 0])
    return write_segment(
        path / "segments",
        (snapshot.part(*part)[1] for part in parts),
        n_codes,
        snapshot.codes[0].bits,
        first_id,
        like.has_cases,
        name=f"{first_id:012d}-{secrets.token_hex(4)}.npy",
        runs=runs,
    )


def _rebuilt(path: Path, kept: KeptIndex, codes: Sequence[Codes], progress: Callable[[str], None]) -> KeptIndex | None:
    """The kept index over other codes; None where there can be none."""
    if not kept.is_usable or not 0 < sum(map(len, codes)) <= MAX_SORTED:
        return None
    index, _ = write_index(path, codes, kept.kind, progress)
    return index and replace(index, reason=kept.reason)


def _deleted_images(catalogue: Catalogue) -> list[tuple[str, bytes]]:
    """(source, content) of the cases that were deleted; those that a changed file retired may come back."""
    with catalogue.transaction():
        images = "SELECT source, content FROM cases WHERE is_deleted AND retired_by IS NULL AND content != x''"
        return catalogue.execute(images).fetchall()


def _commit(
    catalogue: Catalogue,
    segments: Sequence[Segment],
    index: KeptIndex | None,
    digests: Sequence[bytes],
    key: PatientKey | None,
) -> None:
    """Lists the new segments and index in the place of the old ones, and takes out what was deleted, all at once."""
    # Content that is taken out is overwritten with zeros at once, in case that the catalogue cannot be written anew.
    catalogue.execute("PRAGMA secure_delete = ON")
    next_id = catalogue.next_id()
    with catalogue.transaction("IMMEDIATE"):
        properties = {"next_id": str(next_id)} | ({"key_fingerprint": key.fingerprint} if key else {})
        catalogue.execute_many("INSERT OR REPLACE INTO property (name, value) VALUES (?, ?)", list(properties.items()))
        catalogue.execute("DELETE FROM segment")
        for segment in segments:
            catalogue.list_segment(segment)
        catalogue.list_index(index)
        catalogue.execute_many("INSERT OR IGNORE INTO forgotten (digest) VALUES (?)", ((digest,) for digest in digests))
        catalogue.execute("DELETE FROM cases WHERE is_deleted")
        catalogue.execute("DELETE FROM deleted_code")
        catalogue.execute(
            "DELETE FROM root WHERE number NOT IN (SELECT root FROM cases UNION SELECT root FROM unreadable)"
        )
