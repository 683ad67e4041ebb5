"""The query log: each answer has its line, whoever gives it, and whatever is done to the log is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from athsearch.archive.archive import Archive
from athsearch.archive.query_log import HEAD, LOG, QueryLog
from athsearch.codes import Codes
from athsearch.errors import ArchiveError
from conftest import Run

CODES = Codes(np.arange(200, dtype=np.uint64)[:, None], 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An archive of 200 codes whose queries are logged, and five of them."""
    path = tmp_path / "archive"
    with Archive.create(path, bits=64) as archive:
        archive.add_codes(CODES)
        archive.set_query_log(True, "root")
        for row in range(5):
            archive.search(CODES[row : row + 1], k=3, user="dr. x")
    return path


def check(path: Path) -> tuple[int, int, str | None]:
    with Archive.open(path) as archive:
        report = archive.query_log().check()
        return report.head.n_lines, report.n_broken_off, report.problem


def test_a_user_who_is_not_noted_is_told_so(path: Path, run: Run) -> None:
    assert run("query", path, "--id", 1, "--user", "dr. x").err == ""
    with Archive.open(path) as archive:
        archive.set_query_log(False)
    outcome = run("query", path, "--id", 1, "--user", "dr. x")
    assert (outcome.status, "--user is not noted" in outcome.error()) == (0, True)
    assert run("query", path, "--id", 1).err == ""


def test_a_line_says_who_asked_and_what_was_found_without_the_code(path: Path) -> None:
    with Archive.open(path) as archive:
        archive.delete([7])
        for _ in range(2):
            archive.search(CODES[77:78], k=2, where="id > ? OR label IS NULL", parameters=(0,))
        archive.search_case(9, k=1, user="dr. y")
        key = archive.patient_key()
    entries = [json.loads(line) for line in (path / LOG).read_text().splitlines()]
    assert [entry["n"] for entry in entries] == list(range(1, 10))
    first, second, by_id = entries[6:]
    assert abs((datetime.now(timezone.utc) - datetime.fromisoformat(first.pop("time"))).total_seconds()) < 60
    mac = first.pop("mac")
    assert len(mac) == 32
    assert first == {
        "n": 7, "user": None, "query": key.mac("query", f"64:{CODES[77:78].words.tobytes().hex()}"), "model": None,
        "archive": [200, 199], "k": 2, "where": key.mac("where", '["id > ? OR label IS NULL", "(0,)"]'), "ids": [],
    }  # fmt: skip
    assert second["query"] == first["query"]
    assert (by_id["user"], by_id["ids"], by_id["where"]) == ("dr. y", [1], None)
    assert (entries[0]["event"], entries[0]["user"], entries[1]["archive"]) == ("started", "root", [200, 200])
    assert "label" not in (path / LOG).read_text()


def changed(line: int, old: bytes, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [text.replace(old, new) if place == line else text for place, text in enumerate(lines, 1)]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (changed(3, b"dr. x", b"dr. z"), "line 3 is broken"),
        (changed(1, b"root", b"toor"), "line 1 is broken"),
        (changed(6, b'"ids": [', b'"ids": [9, '), "line 6 is broken"),
        (lambda lines: lines[:2] + lines[3:], "line 3 is broken, or one before it is missing"),
        (lambda lines: lines[1:], "line 1 is broken, or one before it is missing"),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "line 3 is broken"),
        (lambda lines: [*lines[:3], *lines[2:]], "line 4 is broken"),
        (lambda lines: [*lines[:3], b"x\n", *lines[3:]], None),  # what was broken off, or looks like it, is told apart
        (lambda lines: [*lines[:3], lines[3][:50], *lines[3:]], "line 4 is broken"),
        (lambda lines: lines[:-1], "cut off after line 5: 1 more"),
        (lambda lines: [], "cut off after line 0: 6 more"),
    ],
)
def test_what_is_done_to_the_log_is_found(
    path: Path, change: Callable[[list[bytes]], list[bytes]], problem: str | None
) -> None:
    assert check(path) == (6, 0, None)
    log = path / LOG
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(change(lines)))
    found = check(path)
    assert (problem is None) == (found[2] is None)
    assert found[2] is None or found[2].startswith(problem or "")


def test_a_line_that_breaks_off_anywhere_is_no_line_or_a_whole_one(path: Path) -> None:
    log, head = path / LOG, path / "queries.head"
    with Archive.open(path) as archive:
        n_before, head_before = log.stat().st_size, head.read_bytes()
        archive.search(CODES[:1], k=3)
        whole = log.read_bytes()
        for n_bytes in range(n_before, len(whole) + 1):
            log.write_bytes(whole[:n_bytes])
            head.write_bytes(head_before)
            for _ in range(2):
                archive.search(CODES[:1], k=3)
            report = archive.query_log().check()
            assert report.problem is None, len(whole) - n_bytes
            assert report.head.n_lines == 8 + (n_bytes >= len(whole) - 1)


def test_every_flipped_bit_is_found(path: Path) -> None:
    log, content = path / LOG, (path / LOG).read_bytes()
    with Archive.open(path) as archive:
        for place in range(0, len(content), 7):
            log.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            line = content[:place].count(b"\n") + 1
            problem = archive.query_log().check().problem
            assert problem is not None
            assert problem.startswith((f"line {line} ", f"cut off after line {line - 1}"))


def test_without_a_line_there_is_no_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, head, query = path / LOG, path / HEAD, CODES[:1]
    contents = log.read_bytes(), head.read_bytes()

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    def refuse(reason: str) -> None:
        with Archive.open(path) as archive:
            with pytest.raises(ArchiveError, match=reason):
                archive.search(query)
            with pytest.raises(ArchiveError, match=reason):
                archive.search_case(3)
        log.write_bytes(contents[0])
        head.write_bytes(contents[1])

    log.unlink()
    refuse("the query log is on and cannot be written .No such file")
    log.write_bytes(contents[0][:-100])
    refuse("the query log is on and was cut off: no answer")
    head.unlink()
    refuse(r"queries\.head: the query log is on and cannot be written .No such file")
    head.write_bytes(contents[1].replace(b"6", b"5", 1))
    refuse("not the head that was written")
    key = path.with_name("archive.key")
    key.rename(path.with_name("elsewhere"))
    refuse("no such key file")
    path.with_name("elsewhere").rename(key)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        refuse("Input/output error.: no answer without its line")
    with Archive.open(path) as archive:
        assert len(archive.search(query)) == 10
    assert check(path) == (7, 0, None)


def test_what_killed_processes_leave_is_no_harm(path: Path) -> None:
    log, head = path / LOG, path / HEAD
    before = head.read_bytes()
    with Archive.open(path) as archive:
        archive.search(CODES[:1])
        head.write_bytes(before)  # killed between the line and the count
        archive.search(CODES[:1])
        assert check(path) == (8, 0, None)
        with log.open("ab") as file:
            file.write(b'{"n": 9, "ti')  # killed within the line
        assert check(path) == (8, 1, None)
        archive.search(CODES[:1])
    assert check(path) == (9, 1, None)
    assert log.read_bytes().splitlines()[8] == b'{"n": 9, "ti'


def test_processes_append_at_once(path: Path) -> None:
    program = (
        "import sys, threading, numpy as np, athsearch as ath\n"
        "archive = ath.Archive.open(sys.argv[1])\n"
        "def ask():\n"
        "    with ath.Archive.open(sys.argv[1]) as archive:\n"
        "        for row in range(20):\n"
        "            assert archive.search_case(row + 1, k=2, user=sys.argv[2])\n"
        "threads = [threading.Thread(target=ask) for _ in range(2)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", program, str(path), user]) for user in "abc"]
    assert [run.wait() for run in runs] == [0, 0, 0]
    assert check(path) == (6 + 3 * 40, 0, None)
    users = [json.loads(line)["user"] for line in (path / LOG).read_text().splitlines()[6:]]
    assert sorted(users) == ["a"] * 40 + ["b"] * 40 + ["c"] * 40


def test_the_log_is_off_until_it_is_started_and_its_end_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with Archive.create(path, bits=64) as archive, Archive.open(path) as other:
        archive.add_codes(CODES)
        archive.search(CODES[:1])
        assert not (path / LOG).exists()
        archive.set_query_log(False)  # it was never on
        archive.set_query_log(True)
        other.search(CODES[:1])  # opened before
        archive.set_query_log(False, "root")
        other.search(CODES[:1])
        report = QueryLog(path, archive.patient_key()).check()
        assert (report.head.n_lines, report.last_event, report.problem) == (3, "stopped", None)
        archive.set_query_log(True)
        other.search(CODES[:1])
    assert check(path) == (5, 0, None)


def test_the_command_line_logs_too(path: Path, run: Run) -> None:
    assert run("query", path, "--id", 5, "-k", 2, "--user", "dr. w").status == 0
    assert json.loads((path / LOG).read_text().splitlines()[-1])["user"] == "dr. w"
    os.truncate(path / LOG, 10)
    outcome = run("query", path, "--id", 5)
    assert (outcome.status, outcome.out) == (1, "")
    assert "was cut off: no answer" in outcome.error()
