"""The study of losses: its runs can be trained, its variants differ in what they say, its page shows its results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from athsearch.model.losses import LOSSES
from athsearch.model.network import NETWORKS, Output, ResidualATHNet
from athsearch.recipes import recipe_settings

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The study's modules by name; the registries are as they were afterwards."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "quality"))
    networks, losses = dict(NETWORKS), dict(LOSSES)
    names = ("runs", "variants", "measure", "report")
    yield {name: __import__(name) for name in names}
    for registry, before in ((NETWORKS, networks), (LOSSES, losses)):
        registry.clear()
        registry.update(before)  # type: ignore[arg-type]
    for name in names:
        del sys.modules[name]


def test_every_run_has_settings_that_can_be_trained(study: dict[str, ModuleType]) -> None:
    runs = {run for part in study["runs"].PARTS.values() for run in part()}
    assert len(runs) > 300
    for run in runs:
        settings = recipe_settings(**run.settings())
        assert settings.network in NETWORKS
        assert settings.loss in LOSSES
    trained = {recipe_settings(**run.settings()).loss for run in runs}
    assert trained >= set(study["variants"].VARIANT_LOSSES)
    assert trained | set(study["variants"].VARIANT_LOSSES) == set(LOSSES)


def test_variants_differ_from_ours_and_are_trained(study: dict[str, ModuleType]) -> None:
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 3, 64, 64)).astype(np.float32))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])

    def made(kind: type[ResidualATHNet]) -> Output:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = kind(64, 16, 3)
        output = network(images)
        output.class_logits.sum().backward()
        assert network.class_layer.weight.grad is not None
        return output

    ours = made(ResidualATHNet)
    for name, network in study["variants"].VARIANT_NETWORKS.items():
        output = made(network)
        assert output.logits.shape == (6, 16)
        is_equal = torch.allclose(output.logits, ours.logits)
        assert is_equal == (name == "class-on-features"), name
        assert not torch.allclose(output.class_logits, ours.class_logits), name

    def total(name: str) -> float:
        return sum(part.item() for part in LOSSES[name](16, [9, 3, 1])(ours, labels).values())

    for name in study["variants"].VARIANT_LOSSES:
        assert total(name) != pytest.approx(total("sign-triplet")), name


def test_rows_nearest_by_l2_equal_plain_sorting(study: dict[str, ModuleType]) -> None:
    rng = np.random.default_rng(0)
    database, queries = (rng.normal(size=(n, 16)).astype(np.float32) for n in (40, 5))
    measure = study["measure"]
    for found, query in zip(measure.nearest_by_l2(database, queries), queries, strict=True):
        distances = ((database.astype(np.float64) - query) ** 2).sum(axis=1)
        assert found.tolist() == np.argsort(distances, kind="stable")[:10].tolist()


def test_the_page_shows_the_results(study: dict[str, ModuleType]) -> None:
    report = study["report"]
    page = report.PAGE.read_text()
    assert report.filled(page, json.loads(report.RESULTS.read_text())["runs"]) == page
    for name in report.TABLES:
        assert f"<!-- {name} -->\n" in page
