"""Whether every fsync is needed: each is left out of a recorded run, and a crash is sought that does harm then."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from crash_points import Recording, harm
from disk import MODES, Disk
from recorder import Operation
from steps import World

MOST_A_SITE, MOST_TRIES = 4, 600
LONG_SEARCHES = (
    "catalogue: ",
    "compaction: ",
    "query log: name",
)  # harm needs a page that is torn at one of few places

# What is flushed, by the path and by the operation before it that concerns the same folder; the first that fits.
SITES = (
    (r"new/\.archive\.\d+\.tmp/\.weights.*", r"", "new archive: weights"),
    (r"new/\.archive\.\d+\.tmp/catalogue\.sqlite", r"", "new archive: catalogue"),
    (r"new/\.archive\.\d+\.tmp", r"R .*weights.*", "new archive: name of the weights"),
    (r"new", r"R .*", "new archive: its own name"),
    (r"", r"", "new archive: name of a folder that was made for it"),
    (r"new/\.archive\.key.*", r"", "key"),
    (r"new", r"L .*", "name of the key"),
    (r"new/archive/segments/.*", r"", "segment"),
    (r"new/archive/segments", r"R", "name of the segment"),
    (r"new/archive/indexes/.*\.npy", r"", "index: an array"),
    (r"new/archive/indexes/.*", r"", "index: names of the arrays"),
    (r"new/archive/indexes", r"R", "index: its own name"),
    (r"new/archive/queries\.head", r"", "query log: its head when it is made"),
    (r"new/archive", r"C .*queries\.head", "query log: name of its head"),
    (r"new/archive/queries\.log", r"", "query log: a line"),
    (r"new/archive/catalogue\.sqlite-journal", r"W", "catalogue: journal, pages"),
    (r"new/archive/catalogue\.sqlite-journal", r"", "catalogue: journal, number of pages"),
    (r"new/archive/catalogue\.sqlite", r"", "catalogue"),
    (r"new/archive", r"C .*-journal", "catalogue: name of the journal"),
    (r"new/archive/segments", r"U", "compaction: removal of segments"),
    (r"new/archive/indexes", r"U", "compaction: removal of the index"),
    (r"new/archive", r"U .*-journal", "catalogue: removal of the journal"),
)


@dataclass(frozen=True)
class Sync:
    """The number of a sync in the log, and what it flushes."""

    number: int
    site: str


def syncs(recording: Recording) -> list[Sync]:
    """All syncs of a recording."""
    found, latest = [], {}
    for number, operation in enumerate(recording.operations):
        if operation.kind == "S":
            before = latest.get(operation.path, "")
            if operation.path.endswith("-journal"):  # synced twice: the pages, then their number in its head
                before, latest[operation.path] = ("", "") if before == "synced" else ("W", "synced")
            found.append(Sync(number, site_of(operation, before)))
        elif operation.kind in "CDRLU":
            name = operation.other or operation.path
            latest[name.rpartition("/")[0]] = f"{operation.kind} {name}"
    return found


def site_of(operation: Operation, before: str) -> str:
    """The name of what an operation flushes. Raises KeyError where SITES does not know."""
    for path, earlier, site in SITES:
        if re.fullmatch(path, operation.path) and re.match(earlier, before):
            return site
    raise KeyError(f"{operation.path} after {before!r}")


def is_relied_on(operations: list[Operation], dropped: int) -> bool:
    """Whether something was acknowledged while only this sync had flushed what it did."""
    return any(operations[point - 1].data == b"acknowledged" for point in _points(operations, dropped))


def first_harm(world: World, recording: Recording, dropped: int, seed: int) -> tuple[int, str | None]:
    """Crashes until one does harm when a sync is dropped. Returns how many were tried, and what the last one harmed."""
    rng = random.Random(seed)
    tries = 0
    for n_done, mode in _crashes(recording.operations, dropped, rng):
        disk = Disk()
        for number, operation in enumerate(recording.operations[:n_done]):
            if number != dropped:
                disk.apply(operation)
        tries += 1
        if reason := harm(world, disk, recording.possible(n_done), mode, rng.randrange(2**32)):
            return tries, f"{mode}: {reason}"
        if tries == MOST_TRIES:
            break
    return tries, None


def _points(operations: list[Operation], dropped: int) -> list[int]:
    """Numbers of operations done while what was dropped may matter: until the next sync of the same file or folder, or
    until a journal is removed.
    """
    inode, path, end = operations[dropped].inode, operations[dropped].path, dropped + 1
    while end < len(operations):
        operation = operations[end]
        if (operation.kind == "S" and operation.inode == inode) or (
            operation.kind == "U" and operation.path == path and path.endswith("-journal")
        ):
            break
        end += 1
    return list(range(dropped + 1, end + 1))


def _crashes(operations: list[Operation], dropped: int, rng: random.Random) -> Iterator[tuple[int, str]]:
    """(number of operations done, mode), again and again; first where something was just acknowledged."""
    points = _points(operations, dropped)
    told = [point for point in points if operations[point - 1].data == b"acknowledged"]
    while True:
        for point in (*told, *points):
            for mode in MODES:
                yield point, mode
        told = []
        rng.shuffle(points)


def dropped_syncs(world: World, recording: Recording, seed: int, which: str) -> list[dict[str, object]]:
    """For every site: how many syncs there are, how many of them were left out, with how much harm, and an example.

    which: "all" sites, MOST_A_SITE syncs of each at most; "few": one, of those sites where the search is short; "none".
    """
    if which == "none":
        return []
    by_site: dict[str, list[int]] = {}
    for sync in syncs(recording):
        by_site.setdefault(sync.site, []).append(sync.number)
    rows: list[dict[str, object]] = []
    for site, numbers in by_site.items():
        if which == "few" and site.startswith(LONG_SEARCHES):
            continue
        step = -(-len(numbers) // (1 if which == "few" else MOST_A_SITE))
        chosen = numbers[::step]
        found = [first_harm(world, recording, number, seed) for number in chosen]
        harms = [(tries, reason) for tries, reason in found if reason]
        rows.append({
            "site": site, "n_syncs": len(numbers), "n_dropped": len(found), "n_harmful": len(harms),
            "n_relied_on": sum(is_relied_on(recording.operations, number) for number in chosen),
            "tries": [tries for tries, _ in found], "example": harms[0][1] if harms else None,
        })  # fmt: skip
    return rows
