"""Archives after crashes, a short form of `make crash`; and disks that lose what they may lose."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from disk import MODES, Disk
from recorder import Operation, compiler

from athsearch import Archive
from athsearch.errors import ArchiveLocked

needs_recorder = pytest.mark.skipif(
    not sys.platform.startswith("linux") or compiler() is None, reason="the recorder needs Linux and a C compiler"
)


@needs_recorder
def test_no_crash_harms_an_archive(tmp_path: Path) -> None:
    program, result = Path(__file__).with_name("run.py"), tmp_path / "crash.json"
    numbers = ["--crash-points", "40", "--faults", "30", "--kills", "30", "--syncs", "none", "--seed", "2"]
    done = subprocess.run(
        [sys.executable, str(program), *numbers, "--json", str(result)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert [found[title]["harmed"] for title in ("crash_points", "faults", "kills")] == [[], [], []]
    assert (found["crash_points"]["n_crash_points"], found["faults"]["n_faults"]) == (40, 30)
    assert found["kills"]["n_kills"] == 30
    assert found["kills"]["n_steps_acknowledged"] > 0
    assert len(found["faults"]["errors"]) > 1


@needs_recorder
def test_the_loss_of_a_sync_is_noticed(tmp_path: Path) -> None:
    program, result = Path(__file__).with_name("run.py"), tmp_path / "crash.json"
    numbers = ["--crash-points", "0", "--faults", "0", "--kills", "0", "--syncs", "few"]
    subprocess.run([sys.executable, str(program), *numbers, "--json", str(result)], check=True, capture_output=True)
    rows = json.loads(result.read_text())["dropped_syncs"]
    assert {row["site"] for row in rows} >= {"key", "segment", "name of the segment", "catalogue", "index: an array"}
    assert all(row["n_harmful"] == row["n_dropped"] == 1 for row in rows)


def states(operations: list[Operation], tmp_path: Path) -> set[tuple[tuple[str, bytes], ...]]:
    """All that a disk was seen to hold when a crash came after these operations."""
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    seen = set()
    for number in range(300):
        folder = tmp_path / str(number)
        folder.mkdir()
        disk.write(folder, MODES[number % len(MODES)], random.Random(number))
        seen.add(tuple(sorted((path.name, path.read_bytes()) for path in folder.iterdir())))
    return seen


def test_a_disk_may_lose_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    create = Operation("C", 1, 0, "a", "", b"")
    write = Operation("W", 1, 0, "a", "", b"x" * 600)
    sync, sync_names = Operation("S", 1, 0, "a", "", b""), Operation("S", 9, 0, "", "", b"")
    rename = Operation("R", 1, 0, "a", "b", b"")
    whole, zeros = b"x" * 600, bytes(600)
    pieces = {b"", whole, zeros, b"x" * 512, b"x" * 512 + bytes(88), bytes(512) + b"x" * 88}
    for number, (operations, wanted) in enumerate(
        (
            ([create], {(), (("a", b""),)}),
            ([create, write, sync], {(), (("a", whole),)}),
            ([create, sync_names, write], {(("a", piece),) for piece in pieces}),
            ([create, write, sync, sync_names, rename], {(("a", whole),), (("b", whole),)}),
            ([create, write, sync, rename, sync_names], {(("b", whole),)}),
        )
    ):
        (tmp_path / str(number)).mkdir()
        assert states(operations, tmp_path / str(number)) == wanted


def test_the_lock_of_a_dead_writer_is_none(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from athsearch.archive.writing import writing\n"
        "with writing(pathlib.Path(sys.argv[1])): print('held', flush=True); input()"
    )
    with Archive.create(tmp_path / "archive", bits=64) as archive:
        command = [sys.executable, "-c", program, str(archive.path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"held\n"
            with pytest.raises(ArchiveLocked, match=f"process {writer.pid}"):
                archive.build_index("flat")
            writer.kill()
        assert (archive.path / "writer.lock").read_text() == f"{writer.pid}\n"
        assert archive.build_index("flat").kind == "flat"
