"""The benchmark measures what it says, and notices a rival that answers something else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import pytest

from athsearch import benchmark, cli
from athsearch.benchmark import Case, codes_for, measure


def test_contenders_take_turns_on_the_same_codes() -> None:
    result = measure(Case(64, 3000, 4, k=5), seconds=0.02)
    assert result["seconds"].keys() >= {"athsearch", "faiss", "numpy"}
    for name, seconds in result["seconds"].items():
        assert result["comparisons_per_s"][name] == pytest.approx(3000 * 4 / seconds)
    assert result["turns"] >= 3
    masked = measure(Case(64, 3000, 4, allowed_share=0.5), seconds=0.01)
    assert masked["seconds"].keys() == {"athsearch", "without mask"}
    n_threads = faiss.omp_get_max_threads()
    measure(Case(64, 5, 2, k=10, threads=n_threads + 1), seconds=0.01)
    assert faiss.omp_get_max_threads() == n_threads


def test_codes_are_the_same_every_time_and_of_their_kind() -> None:
    for bits in (36, 64, 100):
        database, queries = codes_for(Case(bits, 5000, 10))
        again, _ = codes_for(Case(bits, 5000, 10))
        assert database == again
        assert len(queries) == 10
        assert 0.45 < database.to_bits().mean() < 0.55
    clustered, _ = codes_for(Case(64, 5000, 10, kind="clustered"))
    nearest = np.bitwise_count(clustered.words[0] ^ clustered.words[1:]).sum(axis=1)
    assert nearest.min() < 15


def test_a_rival_with_other_answers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(case: Case, *_: object) -> Iterator[tuple[str, Any, Any]]:
        yield "wrong", lambda: None, np.zeros((case.n_queries, case.k), np.int64)

    monkeypatch.setattr(benchmark, "_rivals", wrong)
    with pytest.raises(RuntimeError, match="wrong has other distances"):
        measure(Case(64, 300, 2), seconds=0.01)


def test_the_command_prints_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "SHORT", (Case(64, 2000, 3), Case(64, (1 << 22) + 1, 1, threads=2)))
    monkeypatch.setattr(benchmark, "read_bandwidth", lambda threads: 1e11)
    for options in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["athsearch", "bench", "--seconds", "0.01", *options])
        assert cli._run() == 0
    table, _, printed = capsys.readouterr().out.partition("{")
    assert len(table.splitlines()) == 4
    results = json.loads("{" + printed)["results"]
    assert [result["n_codes"] for result in results] == [2000, (1 << 22) + 1]
    n_bytes, seconds = ((1 << 22) + 1) * 8, results[1]["seconds"]["athsearch"]
    assert results[1]["share_of_read_bandwidth"] == pytest.approx(n_bytes / seconds / 1e11)
