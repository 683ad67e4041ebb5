"""Preprocessing: sizes, shapes, values, and parameters that go to a weights file and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athsearch.preprocessing import Preprocessing
from athsearch.types import AnyArray

SLOPE = (np.mgrid[:64, :64][0] * 3).astype(np.uint8)[..., None]  # [64, 64, 1]


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    channels=st.sampled_from([1, 3]),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    size=st.sampled_from([64, 72]),
    fit=st.sampled_from(["pad", "stretch"]),
)
def test_any_pixels_become_a_square(height: int, width: int, channels: int, dtype: type, size: int, fit: str) -> None:
    pixels: AnyArray = np.full((height, width, channels), 200, dtype)
    square = Preprocessing(size=size, fit=fit).square(pixels)
    assert square.shape == (size, size, 3)
    assert square.dtype == np.uint8
    filled: AnyArray = np.asarray(square.all(axis=2))  # False where black was added
    assert (square[filled] == 200).all()
    if fit == "stretch" or height == width:
        assert filled.all()
    else:
        rows, columns = filled.any(axis=1).sum(), filled.any(axis=0).sum()
        assert filled.sum() == rows * columns
        assert max(rows, columns) == size
        assert min(rows, columns) == max(1, round(min(height, width) * size / max(height, width)))


def test_padding_is_even_on_both_sides() -> None:
    square = Preprocessing(size=64).square(np.full((64, 32, 1), 9, np.uint8))
    assert not square[:, :16].any()
    assert (square[:, 16:48] == 9).all()
    assert not square[:, 48:].any()


def test_a_square_of_the_right_size_is_not_changed() -> None:
    assert np.array_equal(Preprocessing(size=64).square(SLOPE), SLOPE.repeat(3, axis=2))


@pytest.mark.parametrize("channels", [1, 3])
def test_standardised_levels_forget_exposure_and_contrast(channels: int) -> None:
    standardised = Preprocessing(size=64, levels="standardised").square
    pixels = np.random.default_rng(0).normal(100, 15, (64, 32, channels)).clip(60, 140).astype(np.uint8)
    square = standardised(pixels)
    image = square[:, 16:48].astype(np.float64)
    assert not square[:, :16].any()
    assert abs(image.mean() - 127.5) < 0.5
    assert abs(image.std() - 50) < 0.5
    other = standardised((pixels.astype(np.int64) * 3 // 2 + 7).astype(np.uint8))
    assert np.abs(other.astype(np.int64) - square).max() <= 2  # the other's values were rounded down
    assert (standardised(np.full((64, 64, channels), 9, np.uint8)) == 128).all()


def test_standardised_levels_go_to_the_weights_file_and_stored_ones_need_not() -> None:
    preprocessing = Preprocessing(64, levels="standardised")
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing
    assert "levels" not in Preprocessing(64).to_dict()


def test_standardised_levels_keep_colours_apart() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :, 0], pixels[:32, :, 1] = 200, 100
    square = Preprocessing(size=64, levels="standardised").square(pixels)
    assert square[0, 0, 0] > square[0, 0, 1] > square[0, 0, 2] == square[40, 0, 1]


def test_shrinking_averages_over_all_pixels() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), 256).reshape(1, 512, 1).repeat(512, axis=0)
    inner = Preprocessing(size=64).square(stripes)[:, 1:-1]
    assert inner.min() >= 120
    assert inner.max() <= 135


@pytest.mark.parametrize("n_bits", [8, 9, 10, 12, 14, 16])
def test_deep_pixels_are_scaled_by_the_bits_they_use(n_bits: int) -> None:
    values = np.linspace(0, 2**n_bits - 1, 64 * 64).round().astype(np.uint16).reshape(64, 64, 1)
    square = Preprocessing(size=64).square(values)
    assert np.array_equal(square[..., 0], np.floor(values[..., 0] * (255 / (2**n_bits - 1)) + 0.5))
    assert square.min() == 0
    assert square.max() == 255


def test_deep_pixels_of_8_bits_are_those_of_8_bits() -> None:
    preprocessing = Preprocessing(size=64)
    assert np.array_equal(preprocessing.square(SLOPE.astype(np.uint16)), preprocessing.square(SLOPE))


def test_normalising_is_the_formula() -> None:
    squares = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    mean, std = (10.0, 20.0, 30.0), (1.0, 2.0, 4.0)
    for channels in ("RGB", "BGR"):
        out = Preprocessing(64, "pad", channels, mean, std).normalise(squares)
        assert out.dtype == np.float32
        assert out.shape == (2, 3, 64, 64)
        assert out.flags.c_contiguous
        for place in range(3):
            channel = squares[..., place if channels == "RGB" else 2 - place].astype(np.float32)
            assert np.array_equal(out[:, place], (channel - mean[place]) / std[place])


def test_calling_is_both_steps() -> None:
    preprocessing = Preprocessing(size=64)
    assert np.array_equal(preprocessing(SLOPE), preprocessing.normalise(preprocessing.square(SLOPE)[None])[0])


@pytest.mark.parametrize(
    ("pixels", "error"),
    [
        (np.zeros((9, 9, 1), np.float32), TypeError),
        (np.zeros((9, 9, 1), np.int16), TypeError),
        (np.zeros((9, 9, 1), ">u2"), TypeError),
        (np.zeros((9, 9), np.uint8), ValueError),
        (np.zeros((9, 9, 2), np.uint8), ValueError),
        (np.zeros((0, 9, 3), np.uint8), ValueError),
        (np.zeros((0, 9, 3), np.uint16), ValueError),
    ],
)
def test_other_arrays_are_refused_with_what_came(pixels: AnyArray, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"pixels must be .* got"):
        Preprocessing().square(pixels)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"size": 56}, ValueError),
        ({"size": 100}, ValueError),
        ({"size": 96.0}, TypeError),
        ({"size": "96"}, TypeError),
        ({"fit": "crop"}, ValueError),
        ({"channels": "rgb"}, ValueError),
        ({"mean": (1.0, 2.0)}, ValueError),
        ({"std": (1.0, 2.0, 0.0)}, ValueError),
        ({"std": (1.0, 2.0, float("nan"))}, ValueError),
        ({"mean": (1.0, 2.0, float("inf"))}, ValueError),
        ({"mean": ("a", "b", "c")}, ValueError),
        ({"mirrors": True}, ValueError),
        ({"levels": "equalised"}, ValueError),
        ({"colour": 1}, TypeError),
    ],
)
def test_unusable_parameters_are_refused(values: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Preprocessing.from_dict(values)


def test_parameters_survive_json() -> None:
    for mirrors in ("none", "horizontal", "both"):
        preprocessing = Preprocessing(128, "stretch", "BGR", (1.5, 2.5, 3.5), (4.0, 5.0, 6.0), mirrors=mirrors)
        again = Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict())))
        assert again == preprocessing
        assert hash(again) == hash(preprocessing)
        assert ("mirrors" in preprocessing.to_dict()) == (
            mirrors != "none"
        )  # models from before it keep their identity
