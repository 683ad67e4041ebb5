"""Packed binary codes: whole 64-bit words, zero padded, bit i of a code at bit i % 64 of word i // 64."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import ModelMismatch
from .types import AnyArray, Bools, Words

if TYPE_CHECKING:
    import faiss

MAX_BITS = 4096


def n_words_for(bits: int) -> int:
    """Words a code of `bits` bits takes. Raises ValueError unless 1 <= bits <= 4096."""
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits must be from 1 to {MAX_BITS}, got {bits}")
    return (bits + 63) // 64


class Codes:
    """Codes of one length, and the model they came from if that is known.

    words: uint64 [n_codes, n_words], C-contiguous, n_words = ceil(bits / 64); used in place, never copied, so it may be
    mapped from disk. bits: 1 to 4096. model_id: identity of the encoder, or None.
    Raises TypeError for another dtype; ValueError for another shape, or when padding bits are set.
    """

    __slots__ = ("bits", "model_id", "words")

    def __init__(self, words: Words, bits: int, model_id: str | None = None) -> None:
        bits = operator.index(bits)
        n_words = n_words_for(bits)
        if not isinstance(words, np.ndarray) or words.dtype != np.uint64:
            raise TypeError(f"words must be a uint64 array, got {_describe(words)}")
        if words.ndim != 2 or words.shape[1] != n_words:
            raise ValueError(f"words must be [n_codes, {n_words}] for {bits} bits, got {list(words.shape)}")
        if not words.flags.c_contiguous or not words.flags.aligned:
            raise ValueError("words must be C-contiguous and aligned; words.copy() is")
        if bits % 64 and words.size and int(words[:, -1].max()) >> (bits % 64):
            raise ValueError(f"words have bits set past bit {bits}: they are longer codes, or not zero padded")
        self.words = words
        self.bits = bits
        self.model_id = model_id

    @classmethod
    def trusted(cls, words: Words, bits: int, model_id: str | None = None) -> Codes:
        """Codes whose every byte need not be looked at, because they were checked before: parts of others, segments."""
        codes = cls(words[:0], bits, model_id)
        codes.words = words
        return codes

    @classmethod
    def from_bits(cls, bits: Bools, model_id: str | None = None) -> Codes:
        """bits: bool [n_codes, n_bits]."""
        if not isinstance(bits, np.ndarray) or bits.dtype != np.bool_ or bits.ndim != 2:
            raise TypeError(f"bits must be bool [n_codes, n_bits], got {_describe(bits)}")
        return cls.from_bytes(np.packbits(bits, axis=1, bitorder="little"), bits.shape[1], model_id)

    @classmethod
    def from_logits(cls, logits: NDArray[np.floating[Any]], model_id: str | None = None) -> Codes:
        """logits: float [n_codes, bits]; a bit is set where its logit is > 0. Raises ValueError on NaN."""
        if not isinstance(logits, np.ndarray) or logits.dtype.kind != "f" or logits.ndim != 2:
            raise TypeError(f"logits must be float [n_codes, bits], got {_describe(logits)}")
        if np.isnan(logits).any():
            raise ValueError("logits hold NaN, which has no sign")
        return cls.from_bits(logits > 0, model_id)

    @classmethod
    def from_bytes(cls, packed: NDArray[np.uint8], bits: int, model_id: str | None = None) -> Codes:
        """packed: uint8 [n_codes, ceil(bits / 8)], as numpy.packbits(..., bitorder="little") and FAISS lay bits out.

        Copies nothing where the rows are contiguous and whole 64-bit words.
        """
        bits = operator.index(bits)
        n_words = n_words_for(bits)
        n_bytes = (bits + 7) // 8
        if (
            not isinstance(packed, np.ndarray)
            or packed.dtype != np.uint8
            or packed.ndim != 2
            or packed.shape[1] != n_bytes
        ):
            raise TypeError(f"packed must be uint8 [n_codes, {n_bytes}] for {bits} bits, got {_describe(packed)}")
        if n_bytes == n_words * 8 and packed.flags.c_contiguous and packed.ctypes.data % 8 == 0:
            padded = packed
        else:
            padded = np.zeros((len(packed), n_words * 8), np.uint8)
            padded[:, :n_bytes] = packed
        return cls(padded.view("<u8").astype(np.uint64, copy=False), bits, model_id)

    def to_bytes(self) -> NDArray[np.uint8]:
        """uint8 [n_codes, ceil(bits / 8)], the inverse of `from_bytes`; a view where whole words are used."""
        return self.words.astype("<u8", copy=False).view(np.uint8)[:, : (self.bits + 7) // 8]

    def to_bits(self) -> Bools:
        """bool [n_codes, bits]."""
        return np.unpackbits(self.to_bytes(), axis=1, count=self.bits, bitorder="little").astype(np.bool_)

    @classmethod
    def from_faiss(
        cls,
        source: faiss.IndexBinary | str | os.PathLike[str],
        bits: int | None = None,
        model_id: str | None = None,
    ) -> Codes:
        """The codes of a FAISS binary index, or of a file of one, in ascending order of the ids they have there.

        `athsearch.read_faiss` gives those ids too, and says what can be read.
        """
        from .index.faiss_codes import read_faiss

        return read_faiss(source, bits, model_id)[0]

    def to_faiss(self, kind: str = "flat", **options: Any) -> faiss.IndexBinary:
        """A FAISS index over a copy of these codes; its ids are the rows, its length is `bits` in whole bytes.

        kind and options, with the parameters' names and meanings as in FAISS:
        "flat" (IndexBinaryFlat): none.
        "ivf" (IndexBinaryIVF): nlist (sqrt(n_codes), less for few codes), nprobe (16); trained with a fixed seed.
        "hnsw" (IndexBinaryHNSW): M (32), efConstruction (40), efSearch (64).
        "hash" (IndexBinaryHash): b (log2(n_codes)), nflip (2).
        "multihash" (IndexBinaryMultiHash): nhash (as many as the bits allow, at most 8), b (log2(n_codes)), nflip (1).
        Raises ModuleNotFoundError without faiss, TypeError for another option, ValueError for another kind or range.
        """
        from .index.faiss_codes import build

        return build(kind, self, **options)

    @property
    def n_codes(self) -> int:
        """How many codes."""
        return len(self.words)

    @property
    def n_words(self) -> int:
        """Words a code takes."""
        return n_words_for(self.bits)

    def __len__(self) -> int:
        return self.n_codes

    def __getitem__(self, rows: slice | AnyArray) -> Codes:
        """Codes at a slice or an index array of rows."""
        if not isinstance(rows, slice | np.ndarray):
            raise TypeError(f"codes are indexed by a slice or an array, got {type(rows).__name__}")
        return Codes.trusted(np.ascontiguousarray(self.words[rows]), self.bits, self.model_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Codes) and self.bits == other.bits and np.array_equal(self.words, other.words)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Codes(n_codes={self.n_codes}, bits={self.bits}, model_id={self.model_id!r})"


def concatenate(parts: Sequence[Codes]) -> Codes:
    """One after the other, as one array. Raises ValueError for none, ModelMismatch for parts that do not match."""
    if not parts:
        raise ValueError("nothing to concatenate")
    model_id = common_model(parts)
    return Codes.trusted(np.concatenate([part.words for part in parts]), parts[0].bits, model_id)


def common_model(parts: Sequence[Codes]) -> str | None:
    """The one known model of these codes, or None. Raises ModelMismatch where they are of several."""
    known = next((part for part in parts if part.model_id is not None), parts[0])
    for part in parts:
        check_same_model(known, part)
    return known.model_id


def check_same_model(database: Codes, queries: Codes) -> None:
    """Raises ModelMismatch where distances between the two would mean nothing: other bits, or other known models."""
    if database.bits != queries.bits:
        raise ModelMismatch(
            f"the database has {database.bits}-bit codes, the query {queries.bits}: they come from different models"
        )
    if None not in (database.model_id, queries.model_id) and database.model_id != queries.model_id:
        raise ModelMismatch(
            f"the database was encoded by model {database.model_id}, the query by {queries.model_id}: "
            "encode both with the same weights"
        )


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__
