"""Disks that are full or fail, at every write and sync of a run: a clear error, and the archive is what it was."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import tempfile
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from checks import Harmed, check
from crash_points import ARCHIVE, MEMORY
from recorder import Recorder
from steps import SCENARIO, State, World

from athsearch.errors import AthsearchError

KINDS = {"f": "disk full", "w": "write fails", "s": "sync fails"}


def faults(recorder: Recorder, world: World, most: int, seed: int) -> dict[str, object]:
    """Lets each call that can fail do so, or `most` of these by chance. Says what the errors were, what was harmed."""
    rng = random.Random(seed)
    chosen = [(kind, at) for kind in KINDS for at in range(1, _play(recorder, world, kind, 10**9)["n_calls"] + 1)]
    if len(chosen) > most:
        chosen = sorted(rng.sample(chosen, most))
    counts, errors, harmed = Counter(), Counter(), []
    for kind, at in chosen:
        counts[KINDS[kind]] += 1
        outcome = _play(recorder, world, kind, at)
        errors[outcome["type"]] += 1
        if outcome["harm"]:
            harmed.append({"fault": KINDS[kind], "at": at, **outcome})
    return {"n_faults": len(chosen), "kinds": counts, "errors": errors, "harmed": harmed}


def _play(recorder: Recorder, world: World, kind: str, at: int) -> dict[str, Any]:
    """Plays the scenario in a child until the first error. Returns what became of it.

    type: of the error, "none" if there was none; harm: what is wrong with it or with the archive; n_calls: that could
    have failed.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        told = _child(recorder, world, folder, kind, at)
        states = [State()]
        for step in SCENARIO[: told["n_done"] + 1]:
            states.append(step.after(world, states[-1]))
        # Whether what was written before a failed sync is there, nobody can know; a line of the log may be there whose
        # answer was not given.
        is_open = kind == "s" or SCENARIO[: told["n_done"] + 1][-1].name in ("ask", "start_log", "stop_log")
        possible = [replace(state, is_compact=False) for state in states[told["n_done"] :][: 2 if is_open else 1]]
        harm = None
        if told["type"] != "none" and not told["is_clear"]:
            harm = f"not a clear error: {told['type']}: {told['error']}"
        elif told["left"]:
            harm = f"left behind: {told['left']}"
        else:
            try:
                check(world, folder / ARCHIVE, possible)
            except (Harmed, AthsearchError, OSError, KeyError) as error:
                harm = f"{type(error).__name__}: {error}"
        return {**told, "harm": harm}


def _child(recorder: Recorder, world: World, folder: Path, kind: str, at: int) -> dict[str, Any]:
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            os.close(reader)
            recorder.start(folder, None)
            recorder.fail(kind, at)
            told: dict[str, Any] = {"n_done": 0, "type": "none", "left": []}
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)  # an index that could not be renewed
                    for step in SCENARIO:
                        step.play(world, folder / ARCHIVE)
                        told["n_done"] += 1
            except (AthsearchError, OSError, sqlite3.Error, RuntimeError, ValueError) as error:
                is_clear = isinstance(error, AthsearchError | OSError) and str(folder) in str(error)
                told |= {"type": type(error).__name__, "error": str(error), "is_clear": is_clear}
                told["left"] = [path.name for path in folder.rglob(".*.tmp")]
            told["n_calls"] = recorder.count(kind)
            os.write(writer, json.dumps(told).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = json.loads(pipe.read() or "{}")
    os.waitpid(child, 0)
    if not told:
        raise RuntimeError(f"{KINDS[kind]} at {at}: the program died of it")
    return dict(told)
