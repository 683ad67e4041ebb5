"""Figures are written whole, for few and many classes, and touch no global state of matplotlib."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from athsearch.codes import Codes
from athsearch.evaluation import Evaluation, evaluate
from athsearch.evaluation.figures import code_map, write_figures

NAMES = ("precision-recall.png", "precision-at-k.png", "classes.png", "code-map.png")


def example(n_classes: int, n_resamples: int = 100) -> tuple[Evaluation, Codes, list[str]]:
    """Classes around centres of their own, each half as large as the one before, down to five cases."""
    generator = np.random.default_rng(n_classes)
    sizes = np.maximum(400 * 0.5 ** np.arange(n_classes), 5).astype(np.int64)
    classes = np.repeat(np.arange(n_classes), sizes)
    flipped = generator.random((len(classes), 32)) < generator.choice([0.02, 0.1, 0.3], len(classes))[:, None]
    codes = Codes.from_bits((generator.random((n_classes, 32)) < 0.5)[classes] ^ flipped)
    labels = [f"class {number} of $many_{{things}}$ & more" for number in classes]
    queries = np.arange(0, len(labels), 3)
    asked = [labels[row] for row in queries]
    return evaluate(codes, labels, codes[queries], asked, n_resamples=n_resamples), codes, labels


@pytest.mark.parametrize("n_classes", [1, 2, 12, 70])
def test_figures_are_written_and_show_something(n_classes: int, tmp_path: Path) -> None:
    before = matplotlib.rcParams.copy()
    found, codes, labels = example(n_classes)
    paths = write_figures(tmp_path / "new" / "folder", found, codes, labels)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(NAMES)
    assert tuple(path.name for path in paths) == NAMES
    for path in paths:
        with Image.open(path) as image:
            assert (image.format, min(image.size) > 250, max(image.size) < 4000) == ("PNG", True, True)
            assert len(np.unique(np.asarray(image.convert("L")))) > 20
    assert matplotlib.rcParams.copy() == before  # the backend, too


def test_degenerate_codes_and_missing_intervals_can_be_drawn(tmp_path: Path) -> None:
    codes = Codes.from_bits(np.ones((4, 1), np.bool_))
    found = evaluate(codes, ["a"] * 4, codes, ["a"] * 4, n_resamples=0)
    assert len(write_figures(tmp_path, found, codes, ["a"] * 4)) == 4


def test_the_areas_of_a_code_add_up_to_its_cases() -> None:
    bits = np.array([[0, 0]] * 4 + [[0, 1]] * 6 + [[1, 1]] * 2, np.bool_)
    axes = code_map(Codes.from_bits(bits), list("aaabaaabbcaa")).axes[0]
    areas = sorted(float(size) for part in axes.collections for size in part.get_sizes() if len(part.get_offsets()))
    # Nested in one another: 4 cases of which 1 is b, 6 of which 3 are not a and 1 is c, 2 of one class.
    assert [area / areas[0] for area in areas] == pytest.approx([1, 1, 2, 3, 4, 6])


def test_every_class_has_its_name_in_the_legend() -> None:
    bits = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], np.bool_)
    (legend,) = code_map(Codes.from_bits(bits), ["_normal", "disease", "$x", "正常"]).legends
    assert sorted(text.get_text().replace("\\", "") for text in legend.get_texts()) == [
        "$x",
        "_normal",
        "disease",
        "正常",
    ]
