"""Scores against torchmetrics and ranx, on rankings without ties, and with ties where their rule for them is ours.

ranx is no part of the extra `dev`: with it come 400 MB of other packages, and it compiles itself for a minute. Where it
is installed it is asked too, uncompiled.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional import retrieval

from athsearch.codes import Codes
from athsearch.evaluation import evaluate

N_CASES, BITS, K = 40, 64, 7


@pytest.fixture(params=range(12))
def labels(request: pytest.FixtureRequest) -> list[str]:
    """Labels of cases at the distances 0, 1, 2, ...; some have fewer hits than K, some none among the first K."""
    share = (0.05, 0.1, 0.3, 0.8)[request.param % 4]
    is_hit = np.random.default_rng(request.param).random(N_CASES) < share
    is_hit[-1 - request.param] = True
    return ["hit" if hit else "other" for hit in is_hit]


def codes_at(distances: object) -> Codes:
    """Codes that far from the one without a bit."""
    return Codes.from_bits(np.arange(BITS) < np.asarray(distances)[:, None])


def found(labels: list[str], distances: object) -> dict[str, float]:
    scores = evaluate(codes_at(distances), labels, codes_at([0]), ["hit"], K, n_resamples=0).micro
    return vars(scores)


def test_torchmetrics_agrees(labels: list[str]) -> None:
    ours = found(labels, range(N_CASES))
    # What is scored 0 or less counts as irrelevant there.
    likeness = BITS + 1 - torch.arange(N_CASES, dtype=torch.float64)
    is_hit = torch.tensor([label == "hit" for label in labels])
    theirs = {
        "precision": retrieval.retrieval_precision(likeness, is_hit, K),
        "recall": retrieval.retrieval_recall(likeness, is_hit, K),
        "hit_rate": retrieval.retrieval_hit_rate(likeness, is_hit, K),
        "reciprocal_rank": retrieval.retrieval_reciprocal_rank(likeness, is_hit),
        "average_precision_by_hits": retrieval.retrieval_average_precision(likeness, is_hit, K),
        "ndcg": retrieval.retrieval_normalized_dcg(likeness, is_hit, K),
    }
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(float(value), abs=1e-6), name


def test_torchmetrics_agrees_on_ndcg_with_ties(labels: list[str]) -> None:
    distances = np.sort(np.random.default_rng(len(labels)).integers(0, 9, N_CASES))
    theirs = retrieval.retrieval_normalized_dcg(
        torch.from_numpy(BITS + 1.0 - distances), torch.tensor([label == "hit" for label in labels]), K
    )
    assert found(labels, distances)["ndcg"] == pytest.approx(float(theirs), abs=1e-6)


def test_ranx_agrees(labels: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    ranx = pytest.importorskip("ranx")
    ours = found(labels, range(N_CASES))
    relevant = ranx.Qrels({"q": {f"d{row}": 1 for row, label in enumerate(labels) if label == "hit"}})
    ranking = ranx.Run({"q": {f"d{row}": float(BITS - row) for row in range(N_CASES)}})
    names = {
        f"precision@{K}": "precision",
        f"recall@{K}": "recall",
        f"hit_rate@{K}": "hit_rate",
        "mrr": "reciprocal_rank",
        f"map@{K}": "average_precision_by_relevant",
        f"ndcg@{K}": "ndcg",
    }
    theirs = ranx.evaluate(relevant, ranking, list(names))
    for name, value in theirs.items():
        assert ours[names[name]] == pytest.approx(float(value), abs=1e-9), name


def test_the_other_forms_of_average_precision_differ_by_their_divisors_only(labels: list[str]) -> None:
    ours = found(labels, range(N_CASES))
    n_relevant = labels.count("hit")
    total = ours["average_precision_by_hits"] * ours["precision"] * K
    assert ours["average_precision_by_relevant"] == pytest.approx(total / n_relevant)
    assert ours["average_precision"] == pytest.approx(total / min(K, n_relevant))
    assert ours["average_precision_by_k"] == pytest.approx(total / K)
