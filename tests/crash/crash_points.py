"""Crashes at every operation of a recorded run: what the disk may then hold is built, and checked as an archive."""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from checks import Harmed, check
from disk import MODES, Disk
from recorder import Operation, Recorder, read_log
from steps import SCENARIO, State, World

from athsearch.errors import AthsearchError

ARCHIVE = "new/archive"  # in a folder that has to be made, too
MEMORY = Path("/dev/shm")  # checks sync much, and what they sync is thrown away at once


@dataclass(frozen=True)
class Recording:
    """A run's operations, and before each of them the states that the archive may be in after a crash."""

    operations: list[Operation]
    states: list[State]

    def possible(self, n_done: int) -> list[State]:
        """The states that an archive may be in when n_done operations were done: as acknowledged, or a step further."""
        marks = [operation.data.decode() for operation in self.operations[:n_done] if operation.kind == "M"]
        n_acknowledged = sum(mark == "acknowledged" for mark in marks)
        n_begun = sum(mark == "begun" for mark in marks)
        return self.states[n_acknowledged : n_begun + 1]


def record(recorder: Recorder, world: World, folder: Path) -> Recording:
    """Plays the scenario in a child, below `folder` / "watched", and reads what it did."""
    watched, log = folder / "watched", folder / "log"
    watched.mkdir()
    if not (child := os.fork()):
        status = 1
        try:
            recorder.start(watched, log)
            for step in SCENARIO:
                recorder.mark("begun")
                step.play(world, watched / ARCHIVE)
                recorder.mark("acknowledged")
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the scenario did not end well")
    states = [State()]
    for step in SCENARIO:
        states.append(step.after(world, states[-1]))
    recording = Recording(read_log(log, watched), states)
    check_recording(recording, watched)
    return recording


def check_recording(recording: Recording, watched: Path) -> None:
    """That nothing was done unseen: the log, played to its end, is the folder that the run left."""
    disk = Disk()
    for operation in recording.operations:
        disk.apply(operation)
    with tempfile.TemporaryDirectory() as rebuilt:
        disk.write(Path(rebuilt), None, random.Random(0))
        contents = [
            {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}
            for top in (watched, Path(rebuilt))
        ]
    if contents[0] != contents[1]:
        raise RuntimeError("the recorder has not seen all that was written")


def harm(world: World, disk: Disk, possible: list[State], mode: str, seed: int) -> str | None:
    """What is wrong with the archive when the disk crashes as it is; None where nothing is."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        disk.write(Path(folder), mode, random.Random(seed))
        try:
            check(world, Path(folder) / ARCHIVE, possible)
        except (Harmed, AthsearchError, OSError, KeyError) as error:
            return f"{type(error).__name__}: {error}".replace(folder, "")
    return None


def crash_points(world: World, recording: Recording, most: int, seed: int) -> dict[str, object]:
    """Crashes after every operation in every mode, or `most` of these by chance. Says what was harmed."""
    chosen = [(n_done, mode) for n_done in range(1, len(recording.operations) + 1) for mode in MODES]
    rng = random.Random(seed)
    if len(chosen) > most:
        chosen = sorted(rng.sample(chosen, most))
    disk, n_applied, harmed = Disk(), 0, []
    for n_done, mode in chosen:
        for operation in recording.operations[n_applied:n_done]:
            disk.apply(operation)
        n_applied = n_done
        if reason := harm(world, disk, recording.possible(n_done), mode, rng.randrange(2**32)):
            last = recording.operations[n_done - 1]
            harmed.append({"after": n_done, "last": f"{last.kind} {last.path}", "mode": mode, "reason": reason})
    return {"n_crash_points": len(chosen), "n_operations": len(recording.operations), "harmed": harmed}
