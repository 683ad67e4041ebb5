"""Overlays and contact sheets."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from athsearch.archive.cases import Case
from athsearch.data import Source
from athsearch.encoder import Encoder
from athsearch.errors import ImageError
from athsearch.explanation import Tile, case_pixels, contact_sheet, overlay
from conftest import draw_image


def test_relevance_is_the_share_of_each_place(encoder: Encoder) -> None:
    squares = encoder.squares([draw_image(1), draw_image(2)])
    relevance = encoder.relevance(squares)
    assert relevance.shape == (2, 4, 4)
    assert relevance.min() >= 0
    assert relevance.max() > 0
    assert np.allclose(relevance[1], encoder.relevance(squares[1:])[0], rtol=1e-3, atol=1e-5)
    # Explaining leaves no trace in the network.
    assert np.array_equal(encoder.logits_of_squares(squares), encoder.logits_of_squares(squares))
    assert all(parameter.grad is None for parameter in encoder._torch_network.parameters())


def test_threads_do_not_explain_each_others_images(encoder: Encoder) -> None:
    squares = [encoder.squares([draw_image(seed)]) for seed in range(8)]
    alone = [encoder.relevance(square) for square in squares]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(encoder.relevance, squares * 4))
    for found, wanted in zip(together, alone * 4, strict=True):
        assert np.allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_what_is_hidden_matters_most_where_relevance_is_high(encoder: Encoder) -> None:
    correlations = []
    for seed in range(12):
        square = encoder.squares([draw_image(seed)])
        relevance, whole = encoder.relevance(square)[0], encoder.logits_of_squares(square)
        change = np.zeros((4, 4))
        for row in range(4):
            for column in range(4):
                hidden = square.copy()
                hidden[0, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 127
                change[row, column] = np.abs(encoder.logits_of_squares(hidden) - whole).sum()
        ranks = [np.argsort(np.argsort(values.ravel())) for values in (relevance, change)]
        correlations.append(np.corrcoef(*ranks)[0, 1])
    assert np.mean(correlations) > 0.1  # of a network that was never trained: 0.26, and by chance 0 with 0.07


def test_overlay_is_warm_where_relevance_is_high_and_grey_elsewhere() -> None:
    square = np.full((64, 64, 3), 100, np.uint8)
    relevance = np.zeros((4, 4), np.float32)
    relevance[1, 2] = 7
    mixed = overlay(square, relevance).astype(int)
    warmth = mixed[..., 0] - mixed[..., 2]
    assert warmth[16, 32] == warmth.max() > 100
    assert warmth[60, 60] == warmth[0, 0] == 0
    assert np.array_equal(overlay(square, relevance * 0), np.full((64, 64, 3), 75, np.uint8))
    with pytest.raises(ValueError, match=r"\[h, w\]"):
        overlay(square, relevance[None])


def test_a_file_that_is_another_image_by_now_is_not_shown_as_the_case(tmp_path: Path, source: Source) -> None:
    one, other = source.root / "00.png", source.root / "01.png"
    case = Case(1, str(source.root), "00.png", content=hashlib.sha256(one.read_bytes()).hexdigest())
    assert case_pixels(case).shape == draw_image(0).shape
    one.write_bytes(other.read_bytes())
    with pytest.raises(ImageError, match="another image by now"):
        case_pixels(case)
    with pytest.raises(ImageError, match="no such file"):
        case_pixels(case, lambda _: (tmp_path / "moved", "00.png"))
    assert case_pixels(replace(case, content=None)).shape == draw_image(1).shape


def test_a_sheet_has_room_for_every_hit() -> None:
    image = draw_image(4, 64)
    tile = Tile(image, image, ["a label", "a very long line about where this image came from"], True)
    narrow, wide = contact_sheet(tile, [tile]), contact_sheet(tile, [tile] * 11, "a title")
    assert wide.width > narrow.width
    assert wide.height > 2 * narrow.height
    assert contact_sheet(tile, []).size == narrow.size
    gone = Tile(None, None, ["no label"])
    assert contact_sheet(gone, [gone]).height < narrow.height
