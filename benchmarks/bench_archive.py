"""How fast an archive grows, opens, is verified and forgets, beside what SQLite and the disk do alone.

    python benchmarks/bench_archive.py [--cases 1000000]

Cases have ready-made codes of 64 bits, a source and a label; they come in batches of 10,000, each on disk before the
next. Then the same with a patient (four images each), a study (two) and an age, an archive that all other figures are
of. The rivals, in the same run: SQLite alone with the same columns, one plain index a column that ours looks up, the
same batches and `synchronous = FULL`, without checks, pseudonyms and segments; `sha256sum` of segments. Writes
results/archive.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import describe_machine

from athsearch.archive.archive import Archive
from athsearch.archive.contents import read_contents
from athsearch.archive.verifying import check_files
from athsearch.codes import Codes
from athsearch.data import Item, Source

RESULTS = Path(__file__).parent / "results" / "archive.json"
BATCH = 10_000
SEGMENT_BYTES = 1 << 30


def main() -> None:
    """Measures all, once each, in the order in which an archive lives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        result = {"n_cases": arguments.cases, **measure(Path(folder), arguments.cases)}
    print(json.dumps(result, indent=1))
    RESULTS.write_text(json.dumps({"machine": describe_machine(), "result": result}, indent=1) + "\n")


def small(n: int) -> Item:
    """A case with a source and a label."""
    return Item(f"{n:08d}.png", "abcde"[n % 5])


def full(n: int) -> Item:
    """A case with all that there can be."""
    return Item(f"{n:08d}.png", "abcde"[n % 5], f"P{n // 4}", None, {"age": n % 90}, f"S{n // 2}")


def batch_of(begin: int, case: Callable[[int], Item]) -> Source:
    """The records of one batch."""
    return Source(Path("/images"), tuple(case(n) for n in range(begin, begin + BATCH)))


def measure(folder: Path, n_cases: int) -> dict[str, float]:
    """All figures."""
    path, begins = folder / "full", range(0, n_cases, BATCH)
    result = {}
    for case in (small, full):
        name = case.__name__
        result[f"{name}_adds_per_s"] = n_cases / add_all(folder / name, begins, case)
        result[f"{name}_sqlite_adds_per_s"] = n_cases / sqlite_alone(folder / f"{name}.sqlite", begins, case)
    result["open_s"] = timed(lambda: Archive.open(path).close())
    catalogue_bytes = (path / "catalogue.sqlite").stat().st_size
    result["bytes_per_case"] = catalogue_bytes / n_cases
    result["verify_catalogue_mb_per_s"] = catalogue_bytes / 1e6 / timed(lambda: read_contents(path, lambda rows: None))
    with Archive.open(path) as archive:
        result["verify_s"] = timed(lambda: check_sound(archive))
        ids: list[int] = []
        result["where_10000_s"] = timed(lambda: ids.extend(archive._catalogue.ids_where(f"id <= {BATCH}").tolist()))
        result["delete_10000_s"] = timed(lambda: archive.delete(ids))
    segments = {}
    for name in ("one.npy", "two.npy"):
        (folder / name).write_bytes(np.random.default_rng(2).bytes(SEGMENT_BYTES // 2))
        segments[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    result["verify_segments_gb_per_s"] = SEGMENT_BYTES / 1e9 / timed(lambda: check_files(folder, segments))
    result["sha256sum_gb_per_s"] = SEGMENT_BYTES / 1e9 / timed(lambda: run("sha256sum", *segments, folder=folder))
    read = timed(lambda: run("dd", "if=one.npy", "of=/dev/null", "bs=4M", "iflag=direct", folder=folder))
    return result | {"disk_gb_per_s": SEGMENT_BYTES / 2e9 / read}


def add_all(path: Path, begins: range, case: Callable[[int], Item]) -> float:
    """Seconds for a new archive of all cases, batch by batch."""
    codes = Codes(np.random.default_rng(1).integers(0, 2**64, (BATCH, 1), np.uint64), 64)
    seconds = 0.0
    with Archive.create(path, bits=64) as archive:
        for begin in begins:
            source = batch_of(begin, case)
            seconds += timed(lambda source=source: archive.add_codes(codes, cases=source))
    return seconds


def sqlite_alone(path: Path, begins: range, case: Callable[[int], Item]) -> float:
    """Seconds for the same rows and indexes in plain SQLite."""
    connection = sqlite3.connect(path)
    connection.executescript(
        "PRAGMA synchronous = FULL; PRAGMA cache_size = -65536;"
        "CREATE TABLE cases (id INTEGER PRIMARY KEY, root INTEGER, source TEXT, content BLOB, label TEXT, patient TEXT,"
        " study TEXT, split TEXT, record TEXT, is_deleted INTEGER);"
        "CREATE INDEX by_source ON cases (source); CREATE INDEX by_patient ON cases (patient) WHERE patient NOT NULL;"
        "CREATE INDEX by_study ON cases (study) WHERE study NOT NULL;"
    )
    seconds = 0.0
    for begin in begins:
        rows = [
            (None, 1, item.source, b"", item.label, name(item.patient), name(item.study), None, str(item.record), 0)
            for item in batch_of(begin, case).items
        ]

        def add(rows: list[tuple[object, ...]] = rows) -> None:
            with connection:
                connection.executemany("INSERT INTO cases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

        seconds += timed(add)
    connection.close()
    return seconds


def name(text: str | None) -> str | None:
    """As long as a pseudonym, and as far from its neighbours."""
    return None if text is None else hashlib.md5(text.encode()).hexdigest()


def check_sound(archive: Archive) -> None:
    """Verifies the whole archive."""
    if not archive.verify().is_sound:
        raise RuntimeError("the archive is not what was written")


def run(*command: str, folder: Path) -> None:
    """Another program, its output thrown away."""
    subprocess.run(command, check=True, capture_output=True, cwd=folder)


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
