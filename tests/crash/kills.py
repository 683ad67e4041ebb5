"""Writers that are killed at any moment, again and again, and archives that must go on from where each one stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from checks import Harmed, check
from crash_points import ARCHIVE
from steps import State, Step, World, random_step

from athsearch.errors import AthsearchError

KILLS_AN_ARCHIVE = 20
MOST_SECONDS = 0.4  # until the kill


def kill_writers(world: World, folder: Path, n_kills: int, seed: int) -> dict[str, object]:
    """Kills n writers by SIGKILL. Says in the middle of what they were, how much they had done, and what was harmed."""
    rng = random.Random(seed)
    interrupted: Counter[str] = Counter()
    n_acknowledged, harmed, path, state = 0, [], folder, State()
    for number in range(n_kills):
        if number % KILLS_AN_ARCHIVE == 0:
            parent = folder / f"archive-{number}"
            parent.mkdir()
            path, state = parent / ARCHIVE, State()
        lines = _killed(world, path, state, rng.randrange(2**32), rng.uniform(0, MOST_SECONDS))
        possible = [state]
        for line in lines:
            if line == "acknowledged":
                possible = possible[-1:]
                n_acknowledged += 1
            else:
                name, *fields = json.loads(line).values()
                fields[2] = tuple(fields[2])
                step = Step(name, *fields)
                possible.append(step.after(world, possible[-1]))
        interrupted[step.name if len(possible) > 1 else "nothing"] += 1
        try:
            state = check(world, path, possible)
        except (Harmed, AthsearchError, OSError, KeyError) as error:
            harmed.append({"kill": number, "in": lines[-1:], "reason": f"{type(error).__name__}: {error}"})
            break
    return {"n_kills": n_kills, "n_steps_acknowledged": n_acknowledged, "interrupted": interrupted, "harmed": harmed}


def _killed(world: World, path: Path, state: State, seed: int, seconds: float) -> list[str]:
    """What a writer told before it was killed: a step before it begins, "acknowledged" when it is done."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            os.close(reader)
            rng = random.Random(seed)
            while True:
                step = random_step(rng, world, state)
                os.write(writer, f"{json.dumps(asdict(step))}\n".encode())
                step.play(world, path)
                os.write(writer, b"acknowledged\n")
                state = step.after(world, state)
        finally:
            os._exit(1)
    os.close(writer)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as told:
        lines = told.read().splitlines()
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise RuntimeError(f"the writer ended by itself: {lines[-1:]}")
    return lines
