"""Verifying: every byte of an archive against what was written, and every row of its catalogue against the others.

Nothing is trusted but SQLite itself, so that an archive that cannot be opened is verified all the same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArchiveError, CatalogueError
from ..files import sha256_of
from ..parallel import n_processors
from .catalogue import WEIGHTS
from .contents import Contents, read_contents
from .kept_index import FOLDER
from .pseudonym import PatientKey, default_key
from .query_log import HEAD, LOG, QueryLog
from .salvage import CATALOGUE, NO_CHECKS, Problem
from .segment import FILE_NAME

# Beside what the catalogue lists. What a lock holds means nothing; a journal that is there is SQLite's own affair, and
# the query log has a chain of its own, which needs the key.
OWN_FILES = frozenset({CATALOGUE, f"{CATALOGUE}-journal", "writer.lock", LOG, HEAD})


@dataclass(frozen=True)
class VerifyReport:
    """What was checked, and what is wrong.

    n_bytes: of all files. n_rows: of the catalogue, each against its check; formats before 3 have none. n_cases: with
    sound rows, n_codes_alone: codes without a case; both with deleted ones. problems: none in a sound archive.
    leftovers: files that nobody lists, where a writer that was killed leaves such: harmless. Where
    rows of segments are damaged, files of segments that nobody lists are problems.
    unchecked: what could not be checked, and why.
    """

    format: int
    n_files: int
    n_bytes: int
    n_rows: int
    n_cases: int
    n_codes_alone: int
    problems: tuple[Problem, ...]
    leftovers: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def can_be_repaired(self) -> bool:
        """Whether something is wrong that a repair leaves out: in a catalogue that SQLite can read, a segment or the
        weights.
        """
        files = [problem.file for problem in self.problems]
        return self.format > 0 and any(file in (CATALOGUE, WEIGHTS) or file.startswith("segments/") for file in files)


def verify(
    path: Path, key_path: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Checks an archive: SQLite's own structure, each row's check and each table's sum, that ids ascend and every code
    that should have a case has one, the SHA-256 of every segment, of the weights and of the kept index, that no file is
    missing and none is there that does not belong, and, if the patients' key is there, it and the query log's chain.

    key_path: of the patients' key; it need not be there, and where it cannot be read that is not a problem, but told.
    One that is not beside the archive must be its own. progress: called with (bytes done, bytes in all). A writer waits
    while the catalogue is read. Raises ArchiveError where there is no archive or the key is another's, FormatVersion
    for a newer one, PermissionError where a file may not be read.
    """
    if not (path / CATALOGUE).is_file():
        raise ArchiveError(f"{path}: not an archive: it has no {CATALOGUE}")
    sizes = _sizes(path)
    check_readable(path, sizes)
    told = _Told(sum(sizes.values()), progress)
    try:
        contents = read_contents(path, lambda rows: None)
    except CatalogueError as error:
        return VerifyReport(0, len(sizes), told.n_all, 0, 0, 0, (Problem(CATALOGUE, str(error)),))
    told.add(sizes.get(CATALOGUE, 0))
    problems, listed = list(contents.problems), contents.files()
    unchecked, has_key = [], False
    try:
        if key_path is not None and key_path.exists():
            problems += _problems_of_key(path, contents, key_path) or problems_of_log(path, contents, key_path)
            has_key = True
    except OSError as error:
        unchecked.append(f"{key_path}, which cannot be read ({error.strerror})")
    if contents.format in NO_CHECKS and contents.properties.get("model_id"):
        problems += _problems_of_weights(path)
        listed.setdefault(WEIGHTS, "")
    elif contents.properties.get("model_id") and WEIGHTS not in listed:
        problems.append(Problem(CATALOGUE, f"does not say what {WEIGHTS} holds", "property"))
    problems += check_files(path, listed, told)
    if not has_key:
        if "query_log" in contents.properties:
            problems += [Problem(name, "the file is missing") for name in (LOG, HEAD) if not (path / name).exists()]
        if (path / LOG).exists():
            unchecked.append(f"{LOG}: its chain needs the key of the patients")
    leftovers = [name for name in sizes if name not in listed and name not in OWN_FILES]
    for name in list(leftovers):
        if name.split("/")[0] not in ("segments", FOLDER):
            leftovers.remove(name)
            problems.append(Problem(name, "does not belong to the archive: nobody lists it"))
        elif contents.lacks_segments and FILE_NAME.fullmatch(name.removeprefix("segments/")):
            leftovers.remove(name)
            problems.append(Problem(name, "nobody lists it: the row of its segment may be one that is damaged"))
    told.add(told.n_all)  # files that hold nothing to check, such as the lock, are done too
    told.tell()
    problems = _still_there(path, problems, contents)
    return VerifyReport(
        *(contents.format, len(sizes), told.n_all, contents.n_rows, contents.n_cases, contents.n_codes_alone),
        *(tuple(problems), tuple(leftovers), tuple(unchecked)),
    )


def check_readable(path: Path, names: Iterable[str]) -> None:
    """Raises PermissionError where one of these files may not be read: that is no damage, and told before long work."""
    for name in names:
        try:
            os.close(os.open(path / name, os.O_RDONLY))
        except PermissionError:
            raise
        except OSError:
            continue  # the checks tell


def check_files(path: Path, listed: dict[str, str], told: _Told | None = None) -> list[Problem]:
    """Those of the listed files, by SHA-256, that are missing or hold something else. "" stands for any content.

    Raises PermissionError where one may not be read: that is no damage.
    """
    told = told or _Told(0, None)
    is_ended = threading.Event()

    def count(n_bytes: int) -> None:
        told.add(n_bytes)
        if is_ended.is_set():
            raise InterruptedError

    def check(name: str, sha256: str) -> Problem | None:
        try:
            if sha256_of(path / name, count) == sha256 or not sha256:
                return None
        except InterruptedError:
            return None
        except FileNotFoundError:
            return Problem(name, "the file is missing")
        except PermissionError:
            raise
        except OSError as error:
            return Problem(name, f"cannot be read: {error.strerror}")
        return Problem(name, "is not what was written: its SHA-256 does not fit")

    with ThreadPoolExecutor(n_processors()) as pool:
        waiting = [pool.submit(check, name, sha256) for name, sha256 in listed.items()]
        try:
            while wait(waiting, timeout=0.1).not_done:
                told.tell()
        except BaseException:
            is_ended.set()
            raise
    told.tell()
    return [problem for future in waiting if (problem := future.result())]


class _Told:
    """How many bytes are done, counted by several threads and told by one."""

    def __init__(self, n_all: int, progress: Callable[[int, int], None] | None) -> None:
        self.n_all, self._n_done, self._progress = n_all, 0, progress
        self._lock = threading.Lock()

    def add(self, n_bytes: int) -> None:
        with self._lock:
            self._n_done += n_bytes

    def tell(self) -> None:
        if self._progress:
            self._progress(min(self._n_done, self.n_all), self.n_all)


def _problems_of_weights(path: Path) -> list[Problem]:
    """Of formats that do not know the file's SHA-256: what the file says of itself."""
    from ..encoder import Encoder
    from ..errors import ModelError

    try:
        Encoder.load(path / WEIGHTS, "cpu")
    except (ModelError, OSError) as error:
        return [Problem(WEIGHTS, str(error))]
    return []


def problems_of_log(path: Path, contents: Contents, key_path: Path) -> list[Problem]:
    """What is wrong with the query log, if there is or was one. Without the key nothing can be said, which is told."""
    state = contents.properties.get("query_log")
    if state is None and not ((path / LOG).exists() and (path / LOG).stat().st_size):
        return []
    try:
        problem = QueryLog(path, PatientKey.read(key_path)).check_with(state).problem
    except (ArchiveError, OSError) as error:
        problem = f"its chain cannot be checked: {error}"
    return [] if problem is None else [Problem(LOG, problem)]


def _problems_of_key(path: Path, contents: Contents, key_path: Path) -> list[Problem]:
    """A key beside the archive that is not its own is a problem; one elsewhere is an error of who named it."""
    fingerprint = contents.properties.get("key_fingerprint")
    if fingerprint is None:
        return []
    if os.path.abspath(key_path) != str(default_key(path)):
        PatientKey.of_archive(key_path, path, fingerprint)
        return []
    try:
        is_ours = PatientKey.read(key_path).fingerprint == fingerprint
    except ArchiveError as error:
        return [Problem(key_path.name, str(error))]
    return [] if is_ours else [Problem(key_path.name, "is the key of another archive")]


def _still_there(path: Path, problems: Iterable[Problem], contents: Contents) -> list[Problem]:
    """Without those of files that a writer took away, with their rows, while they were read."""
    found = list(problems)
    if any(problem.file in contents.files() for problem in found):
        try:
            now = read_contents(path, lambda rows: None).files()
        except CatalogueError:
            return found
        before = contents.files()
        found = [each for each in found if each.file not in before or now.get(each.file) == before[each.file]]
    return found


def _sizes(path: Path) -> dict[str, int]:
    """Bytes of every file of the archive, by its path there, sorted."""
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            whole = Path(folder, name)
            with suppress(FileNotFoundError):  # a writer at work
                found[whole.relative_to(path).as_posix()] = whole.lstat().st_size
    return dict(sorted(found.items()))
