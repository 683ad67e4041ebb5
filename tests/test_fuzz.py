"""Damaged files are refused with errors of our tree; `make fuzz` does the same a hundred thousand times."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(HERE))
from edits import N_KINDS, Edit, edited  # noqa: E402
from targets import TARGETS  # noqa: E402
from worker import Feeder  # noqa: E402

from fuzz import SHARES, fed  # noqa: E402

EDITS = st.lists(
    st.builds(Edit, st.integers(0, N_KINDS - 1), st.integers(0, 1 << 14), st.integers(0, 999), st.integers(0, 9999)),
    min_size=1,
    max_size=6,
)


def test_every_target_is_fed_its_share() -> None:
    assert SHARES.keys() == TARGETS.keys()
    assert sum(SHARES.values()) == 100


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_refused_with_an_error_of_ours(name: str, tmp_path: Path) -> None:
    target = TARGETS[name](tmp_path)
    n_refused = 0

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, len(target.seeds) - 1), st.integers(0, len(target.seeds) - 1), EDITS)
    def feed(first: int, second: int, edits: list[Edit]) -> None:
        nonlocal n_refused
        try:
            target.run(edited(target.seeds[first], edits, target.tokens, target.seeds[second]))
        except target.allowed:
            n_refused += 1

    for content in target.seeds:
        target.run(content)
    feed()
    assert n_refused > 5


def test_the_harness_notices_what_is_wrong(tmp_path: Path) -> None:
    class Careless:
        allowed = ValueError
        seeds = (b"x",)

        def run(self, content: bytes) -> None:
            if content == b"loop":
                while True:
                    pass
            raise {b"fine": ValueError, b"wrong": KeyError, b"large": MemoryError}[content]

    feeder = Feeder(Careless(), tmp_path)
    for content in (b"fine", b"wrong", b"large", b"loop"):
        feeder.feed(content)
    report = feeder.report()
    assert report["outcomes"] == {"ValueError": 1, "! KeyError": 1, "! MemoryError": 1, "! TooSlow": 1}
    assert [(tmp_path / failure["input"]).read_bytes() for failure in report["failures"]] == [
        b"wrong",
        b"large",
        b"loop",
    ]


def test_a_process_that_dies_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.HERE", tmp_path)
    (tmp_path / "worker.py").write_text(
        "import os, sys\nopen(sys.argv[2] + '/current', 'wb').write(b'bad')\nos.abort()\n"
    )
    (failure,) = fed("png", "edits", 10, 0, tmp_path / "folder")["failures"]
    assert failure["error"] == "the process ended with status -6"
    assert (tmp_path / "folder" / "failure-died").read_bytes() == b"bad"
