"""Neighbors and Mask."""

from __future__ import annotations

import numpy as np
import pytest

from athsearch.types import Mask, Neighbors


def found() -> Neighbors:
    return Neighbors(
        np.array([0, 2, 2, 5]), np.array([7, 3, 1, 2, 9]), np.array([0, 4, 1, 1, 6], np.int32), np.array([1, 0, 1])
    )


def test_each_answer_is_as_long_as_it_is() -> None:
    assert len(found()) == 3
    assert found()[0] == [(7, 0), (3, 4)]
    assert found()[1] == []
    assert found()[-1] == [(1, 1), (2, 1), (9, 6)]
    with pytest.raises(IndexError, match="query 3 of 3"):
        found()[3]


def test_dense_fills_only_the_places_it_counts() -> None:
    ids, distances, counts = found().dense(2)
    assert ids.tolist() == [[7, 3], [0, 0], [1, 2]]
    assert distances.tolist() == [[0, 4], [0, 0], [1, 1]]
    assert counts.tolist() == [2, 0, 2]
    assert found().dense(4)[2].tolist() == [2, 0, 3]
    assert found().dense(0)[0].shape == (3, 0)


@pytest.mark.parametrize("n_rows", [0, 1, 63, 64, 65, 200])
def test_mask_survives_the_round_trip(n_rows: int) -> None:
    allowed = np.random.default_rng(n_rows).random(n_rows) < 0.5
    mask = Mask.from_bools(allowed)
    assert np.array_equal(mask.to_bools(), allowed)
    assert mask.words.shape == ((n_rows + 63) // 64,)


@pytest.mark.parametrize("n_rows", [0, 1, 63, 64, 65, 200])
def test_masks_are_made_of_rows_and_combined_as_bools_are(n_rows: int) -> None:
    one, other = np.random.default_rng(n_rows).random((2, n_rows)) < 0.5
    mask = Mask.from_rows(np.flatnonzero(one), n_rows)
    assert np.array_equal(mask.words, Mask.from_bools(one).words)
    assert np.array_equal((~mask).words, Mask.from_bools(~one).words)
    assert np.array_equal((mask & Mask.from_bools(other)).words, Mask.from_bools(one & other).words)
    with pytest.raises(ValueError, match=f"masks for {n_rows} and 3 rows"):
        _ = mask & Mask.from_rows(np.array([1]), 3)


def test_mask_refuses_other_shapes_and_types() -> None:
    with pytest.raises(TypeError, match="bool"):
        Mask.from_bools(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[2\] for 65 rows"):
        Mask(np.zeros(1, np.uint64), 65)
    with pytest.raises(ValueError, match="past the 3 there are"):
        Mask(np.array([8], np.uint64), 3)
    with pytest.raises(ValueError, match="negative"):
        Mask(np.zeros(0, np.uint64), -5)
    for rows in ([-1], [100]):
        with pytest.raises(IndexError, match="from 0 to 99"):
            Mask.from_rows(np.array(rows), 100)
    with pytest.raises(TypeError, match="got bool"):
        Mask.from_rows(np.ones(3, np.bool_), 3)  # type: ignore[arg-type]


def test_a_masks_words_may_lie_apart_and_anywhere() -> None:
    allowed = np.random.default_rng(0).random(200) < 0.5
    words = Mask.from_bools(allowed).words
    apart = np.stack([words, words], axis=1)[:, 0]
    odd = np.frombuffer(b"x" + words.tobytes(), np.uint8)[1:].view(np.uint64)
    for given in (apart, odd):
        mask = Mask(given, 200)
        assert mask.words.flags.c_contiguous
        assert mask.words.flags.aligned
        assert np.array_equal(mask.to_bools(), allowed)
    with pytest.raises(ValueError, match=r"words must be uint64 \[4\] for 200 rows, got list"):
        Mask(words.tolist(), 200)
