"""Codes: packing, padding, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from athsearch.codes import Codes, check_same_model, concatenate
from athsearch.errors import ModelMismatch

BITS = (1, 7, 8, 12, 36, 48, 63, 64, 65, 128, 512, 4096)


@given(st.sampled_from(BITS), st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_bits_and_bytes_survive_the_round_trip(bits: int, n_codes: int, seed: int) -> None:
    table = np.random.default_rng(seed).random((n_codes, bits)) < 0.5
    codes = Codes.from_bits(table)
    assert codes.n_codes == n_codes
    assert np.array_equal(codes.to_bits(), table)
    assert np.array_equal(codes.to_bytes(), np.packbits(table, axis=1, bitorder="little"))
    assert Codes.from_bytes(codes.to_bytes(), bits) == codes


def test_bit_i_is_bit_i_mod_64_of_word_i_div_64() -> None:
    table = np.zeros((1, 130), np.bool_)
    table[0, [0, 63, 64, 129]] = True
    assert Codes.from_bits(table).words.tolist() == [[1 | 1 << 63, 1, 2]]


def test_a_bit_is_set_where_its_logit_is_positive() -> None:
    assert Codes.from_logits(np.array([[0.0, -0.0, 1e-30, -1.0, np.inf]])).to_bits().tolist() == [
        [False, False, True, False, True]
    ]
    with pytest.raises(ValueError, match="NaN"):
        Codes.from_logits(np.array([[np.nan]]))


def test_whole_words_are_viewed_without_a_copy() -> None:
    packed = np.arange(32, dtype=np.uint8).reshape(2, 16)
    codes = Codes.from_bytes(packed, 128)
    assert np.shares_memory(codes.words, packed)
    assert np.shares_memory(codes.to_bytes(), packed)


def test_wrong_arrays_are_refused_with_what_was_expected() -> None:
    with pytest.raises(TypeError, match="uint64"):
        Codes(np.zeros((2, 1), np.int64), 36)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[n_codes, 1\] for 36 bits, got \[2, 2\]"):
        Codes(np.zeros((2, 2), np.uint64), 36)
    with pytest.raises(ValueError, match="past bit 36"):
        Codes(np.full((1, 1), 1 << 36, np.uint64), 36)
    with pytest.raises(ValueError, match="contiguous"):
        Codes(np.zeros((2, 4), np.uint64)[:, ::2], 128)
    with pytest.raises(ValueError, match="aligned"):
        Codes(np.zeros(17, np.uint8)[1:].view(np.uint64)[:, None], 64)
    for make in (Codes.from_bits, Codes.from_logits, lambda packed: Codes.from_bytes(packed, 8)):
        with pytest.raises(TypeError, match="got list"):
            make([[1, 0]])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="integer"):
        Codes(np.zeros((1, 1), np.uint64), 64.0)  # type: ignore[arg-type]
    assert type(Codes(np.zeros((1, 4), np.uint64), np.uint8(200)).bits) is int  # type: ignore[arg-type]
    for bits in (0, 4097):
        with pytest.raises(ValueError, match=f"1 to 4096, got {bits}"):
            Codes(np.zeros((1, 1), np.uint64), bits)


def test_slices_keep_bits_and_model() -> None:
    codes = Codes(np.arange(5, dtype=np.uint64)[:, None], 36, "m")
    part = codes[np.array([3, 1])]
    assert part.words.tolist() == [[3], [1]]
    assert (part.bits, part.model_id) == (36, "m")
    assert concatenate([codes[:2], codes[2:]]) == codes


def test_codes_of_other_lengths_or_models_do_not_mix() -> None:
    word = np.zeros((1, 1), np.uint64)
    with pytest.raises(ModelMismatch, match=r"36-bit codes, the query 48"):
        check_same_model(Codes(word, 36), Codes(word, 48))
    with pytest.raises(ModelMismatch, match="model a, the query by b"):
        concatenate([Codes(word, 36, "a"), Codes(word, 36, "b")])
    check_same_model(Codes(word, 36, "a"), Codes(word, 36))
    assert concatenate([Codes(word, 36), Codes(word, 36, "a")]).model_id == "a"
