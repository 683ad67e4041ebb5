"""What do filters, groups and the query log add to a search of an archive?

    python benchmarks/bench_filters.py [--cases 1000000] [--seconds 1]

A million cases with random codes of 64 bits, four to a patient, and a record of three columns; one thread, k = 10.
Beside the road as it is: the scan with a mask and without, and what SQLite alone takes for the same expression, to
count. Writes results/filters.json and prints a line for each case.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import unittest.mock
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import describe_machine

from athsearch.archive.archive import Archive
from athsearch.archive.cases import NewCase
from athsearch.archive.searching import Question
from athsearch.archive.segment import write_segment
from athsearch.archive.writing import writing
from athsearch.codes import Codes

RESULTS = Path(__file__).parent / "results" / "filters.json"
EXPRESSIONS = ("label = 'amd'", "source LIKE '%00.png'", "age < 60", "age < 60 AND eye = 'left' AND site <> 's3'")


def main() -> None:
    """Measures all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each case")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, build(Path(folder) / "archive", arguments.cases) as archive:
        us = {}
        for name, case in cases(archive).items():
            us[name] = measure(case, arguments.seconds)
            print(f"{name}: {us[name]:,.0f} us", flush=True)
    RESULTS.write_text(
        json.dumps(
            {"machine": describe_machine(), "n_cases": arguments.cases, "k": 10, "threads": 1, "us": us}, indent=1
        )
        + "\n"
    )


def build(path: Path, n_cases: int) -> Archive:
    """The archive."""
    rng = np.random.default_rng(0)
    codes = Codes(rng.integers(0, 2**63, (n_cases, 1), dtype=np.uint64), 64)
    ages, patients = rng.integers(20, 90, n_cases).tolist(), rng.integers(0, n_cases // 4 + 1, n_cases).tolist()
    archive = Archive.create(path, bits=64)
    with writing(path) as catalogue:
        segment = write_segment(path / "segments", [codes], n_cases, 64, first_id=1)
        catalogue.add("/images", segment, [new_case(row, ages[row], patients[row]) for row in range(n_cases)])
    return archive


def new_case(row: int, age: int, patient: int) -> NewCase:
    """Case row + 1."""
    record: dict[str, str | int | float] = {"age": age, "eye": "left" if row % 2 else "right", "site": f"s{row % 7}"}
    label = "normal" if row % 5 else "amd"
    return NewCase(f"{row // 1000:04d}/{row:08d}.png", row.to_bytes(32, "big"), label, f"{patient:032x}", None, record)


def cases(archive: Archive) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    with archive._reading() as snapshot:
        index, query = snapshot.index(), snapshot.code(5)
        mask = snapshot.mask(archive._catalogue.ids_where("age < 60"))
    read, ids_where, search = archive._catalogue.read, archive._catalogue.ids_where, archive.search
    found: dict[str, Callable[[], object]] = {
        "scan": lambda: index.search(query, threads=1),
        "scan, masked": lambda: index.search(query, mask=mask, threads=1),
        "search": lambda: search(query),
        "search, one per patient": lambda: search(query, one_per="patient"),
        "search, one per label": lambda: search(query, one_per="label"),
        "search_case, the patient left out": lambda: archive.search_case(5),
        "search, where seen before": lambda: search(query, where="age < ?", parameters=(60,)),
    }
    for expression in EXPRESSIONS:
        found[f"where {expression}"] = lambda expression=expression: ids_where(expression)  # type: ignore[misc]
    json_age = """SELECT count(*) FROM cases WHERE json_extract(record, '$."age"') < 60"""
    found["SQLite alone: age < 60"] = lambda: read(json_age)
    found["SQLite alone: label = 'amd'"] = lambda: read("SELECT count(*) FROM cases WHERE label = 'amd'")

    archive.set_query_log(True)
    log, question = archive.query_log(), Question(query, 10, None, (), {}, None, None)
    archive.set_query_log(False)

    def note_unsynced() -> None:
        with unittest.mock.patch("os.fdatasync"):
            log.note((1, 1), question, [], None)

    return found | {"log line": lambda: log.note((1, 1), question, [], None), "log line, not synced": note_unsynced}


def measure(case: Callable[[], object], seconds: float) -> float:
    """Median microseconds."""
    case()
    times: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() < begin + seconds or len(times) < 3:
        start = time.perf_counter()
        case()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


if __name__ == "__main__":
    main()
