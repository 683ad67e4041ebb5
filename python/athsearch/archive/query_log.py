"""The query log: who asked an archive what, and which cases were the answer, a line each, chained under the key.

    queries.log     a JSON object a line, only ever appended: n, time (UTC), user (as given), query (a keyed digest
                    of its code), model, archive (the last id, and how many cases could be found), k, where (a keyed
                    digest), ids of the hits, mac; or n, time, user, event ("started" or "stopped"), mac
    queries.head    the number of lines, the bytes they take and the last mac, under a mac itself, rewritten in place
                    after each line

A mac goes over the line and the mac before it, so that a line that was changed, taken out or put in breaks the chain:
nobody without the key can mend it. Lines cut off at the end are missed by the head. Who puts back an older copy of both
files is only found by a head that was noted elsewhere; who has the key can write what he likes.

A line is on the disk before its answer is given. Many processes may append at once: they take turns, by flock. A
process that is killed leaves at most one line that nobody was answered for. Where it is whole, the next one counts it;
where it was broken off, the next one ends it, so that it stands between two lines that follow each other.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import ArchiveError
from ..files import naming, sync
from .pseudonym import PatientKey
from .searching import Hit, Question

LOG, HEAD = "queries.log", "queries.head"
_N_DIGITS = 32  # of a mac
_MAC_BEGIN, _MAC_END = b', "mac": "', b'"}\n'


@dataclass(frozen=True)
class Head:
    """Where a log ends: its number of lines, the bytes they take, and the mac of the last one."""

    n_lines: int = 0
    n_bytes: int = 0
    mac: str = "0" * _N_DIGITS


@dataclass(frozen=True)
class LogReport:
    """What `QueryLog.check` found. head: of the lines whose chain holds. last_event: "started", "stopped" or None.

    n_broken_off: what killed processes left, which is no harm. problem: what must not be, or None; it names a line.
    """

    head: Head
    last_event: str | None
    n_broken_off: int
    problem: str | None


class QueryLog:
    """The query log of the archive at `folder`, under its key."""

    def __init__(self, folder: Path, key: PatientKey) -> None:
        self.path, self._head_path, self._key = folder / LOG, folder / HEAD, key

    def read(self) -> Iterator[dict[str, Any]]:
        """What the lines say that follow one another."""
        return (entry for _, entry, _ in self.lines() if entry is not None)

    def start(self, user: str | None, is_first: bool) -> None:
        """Makes the files where there are none, and notes the beginning. is_first: whether the catalogue knows of no
        log, so that one without a line is what a crash left of a start.
        """
        n_bytes = self.path.stat().st_size if self.path.exists() else None
        if (n_bytes is None and not self._head_path.exists()) or (is_first and not n_bytes):
            with naming(self._head_path), self._head_path.open("wb") as file:
                file.write(self._head_line(Head()))
                file.flush()
                os.fsync(file.fileno())
            sync(self.path.parent)  # no line without a head
            self.path.touch()  # its name is flushed with the journal's, before the catalogue says that there is a log
        self.append({"user": user, "event": "started"})

    def append(self, entry: Mapping[str, object]) -> None:
        """Adds a line; it is on the disk when this returns. Raises ArchiveError where that cannot be."""
        try:
            with self._locked() as (log, head_file):
                head = self._caught_up(log, self._read_head())
                time = datetime.now(timezone.utc).isoformat(timespec="microseconds")
                line, mac = self._line(head.mac, {"n": head.n_lines + 1, "time": time, **entry})
                if os.write(log, line) < len(line):
                    raise OSError("it was not taken whole")
                os.fdatasync(log)
                head = Head(head.n_lines + 1, head.n_bytes + len(line), mac)
                os.pwrite(head_file, self._head_line(head), 0)
        except OSError as error:
            path, reason = error.filename or self.path, error.strerror or error
            raise ArchiveError(
                f"{path}: the query log is on and cannot be written ({reason}): no answer without its line"
            ) from error

    def note(self, version: tuple[int, int], question: Question, hits: Sequence[Hit], user: str | None) -> None:
        """Notes a query and its answer. version: of the snapshot that answered. Raises ArchiveError."""
        codes = question.codes
        asked = None if question.where is None else json.dumps([question.where, repr(question.parameters)])
        self.append(
            {
                "user": user,
                "query": self._key.mac("query", f"{codes.bits}:{codes.words.tobytes().hex()}"),
                "model": codes.model_id,
                "archive": version,
                "k": question.k,
                "where": asked and self._key.mac("where", asked),
                "ids": [hit.case.id for hit in hits],
            }
        )

    def lines(self) -> Iterator[tuple[bytes, dict[str, Any] | None, str]]:
        """(line, what it says, mac) of each; None and the mac before where it does not follow the last one that did."""
        mac, n_lines = Head().mac, 0
        with self.path.open("rb") as file:
            for line in file:
                entry, own = self._read_line(mac, n_lines, line)
                if entry is not None:
                    mac, n_lines = own, n_lines + 1
                yield line, entry, mac

    def check(self) -> LogReport:
        """Goes over the whole chain. Raises ArchiveError where its head is missing or wrong, OSError where it cannot be
        read.
        """
        known, head, end, n_broken_off, last_event, problem = self._read_head(), Head(), 0, 0, None, None
        broken: list[int] = []  # since the last line that followed another; none of them looks whole
        for number, (line, entry, mac) in enumerate(self.lines(), 1):
            end += len(line)
            if entry is not None:
                head, last_event = Head(head.n_lines + 1, end, mac), entry.get("event", last_event)
                n_broken_off += len(broken)
                broken.clear()
            elif line.endswith(_MAC_END) and b"\0" not in line:  # zeros stand where a power cut left a hole
                problem = f"line {(broken or [number])[0]} is broken, or one before it is missing"
                break
            else:
                broken.append(number)
        n_missing = known.n_lines - head.n_lines
        if problem is None and n_missing > 0 and broken:
            problem = f"line {broken[0]} is broken, or one before it is missing"
        elif problem is None and n_missing > 0:
            problem = f"cut off after line {head.n_lines:,}: {n_missing:,} more were written"
        return LogReport(head, last_event, n_broken_off + len(broken), problem)

    def check_with(self, state: str | None) -> LogReport:
        """The same, and whether the last event is what the catalogue says: `state`, "on" or "off", None for neither."""
        report = self.check()
        if report.problem is None and state != {"started": "on", "stopped": "off"}.get(report.last_event or ""):
            problem = f"the log was {report.last_event}, the catalogue says it is {state or 'off'}"
            return replace(report, problem=f"{problem}; where a crash cut the switching off, switch it again")
        return report

    @contextmanager
    def _locked(self) -> Iterator[tuple[int, int]]:
        """Descriptors of the log and its head, while no other process or thread appends."""
        log = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            fcntl.flock(log, fcntl.LOCK_EX)
            head = os.open(self._head_path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                yield log, head
            finally:
                os.close(head)
        finally:
            os.close(log)

    def _caught_up(self, log: int, head: Head) -> Head:
        """Where the log ends, with what killed processes wrote and did not count."""
        n_bytes = os.fstat(log).st_size
        if n_bytes == head.n_bytes:
            return head
        if n_bytes < head.n_bytes:
            raise ArchiveError(
                f"{self.path}: the query log is on and was cut off: no answer without it; `athsearch audit --log` says "
                "where, and to begin another, move this one and its head aside and use `athsearch audit --start-log`"
            )
        rest = os.pread(log, n_bytes - head.n_bytes, head.n_bytes)
        if not rest.endswith(b"\n"):  # first, for it may be all that a line lacks
            n_bytes += os.write(log, b"\n")
            rest += b"\n"
        mac, n_lines = head.mac, head.n_lines
        for line in rest.splitlines(keepends=True):
            entry, own = self._read_line(mac, n_lines, line)
            if entry is not None:
                mac, n_lines = own, n_lines + 1
        return Head(n_lines, n_bytes, mac)

    def _line(self, before: str, entry: Mapping[str, object]) -> tuple[bytes, str]:
        """A line of the log after one with the mac `before`, and its own mac."""
        text = json.dumps(entry)
        mac = self._key.mac("line", before + text)
        return text[:-1].encode("ascii") + _MAC_BEGIN + mac.encode("ascii") + _MAC_END, mac

    def _read_line(self, before: str, n_before: int, line: bytes) -> tuple[dict[str, Any] | None, str]:
        """What a line says, and its mac; None where it is not the next one after the mac `before`."""
        text, _, end = line.rpartition(_MAC_BEGIN)
        body, mac = text + b"}", end[:_N_DIGITS]
        if end[_N_DIGITS:] != _MAC_END or not body.isascii():
            return None, before
        if not hmac.compare_digest(self._key.mac("line", before + body.decode("ascii")).encode("ascii"), mac):
            return None, before
        entry: dict[str, Any] = json.loads(body)
        return (entry if entry.get("n") == n_before + 1 else None), mac.decode("ascii")

    def _head_line(self, head: Head) -> bytes:
        text = f"{head.n_lines:019d} {head.n_bytes:019d} {head.mac}"
        return f"{text} {self._key.mac('head', text)}\n".encode("ascii")

    def _read_head(self) -> Head:
        try:
            line = self._head_path.read_bytes()
        except FileNotFoundError as error:
            raise ArchiveError(f"{self._head_path}: the query log's head is missing") from error
        try:
            n_lines, n_bytes, mac, _ = line.decode("ascii").split()
            head = Head(int(n_lines), int(n_bytes), mac)
        except ValueError:
            head = None
        if head is None or not hmac.compare_digest(self._head_line(head), line):
            raise ArchiveError(f"{self._head_path}: not the head that was written, or under another key")
        return head
