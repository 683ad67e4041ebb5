"""Sorted forms of codes: arrays that spare a search comparing every query with every code. They are built once and kept
in memory or in files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _scan
from ..codes import Codes
from ..types import AnyArray, Ids, Words

Numbers = NDArray[np.uint32]
NewArray = Callable[[str, tuple[int, ...], "np.dtype[Any]"], AnyArray]
MAX_SORTED = 2**32 - 1  # rows are numbered in 32 bits
MAX_SUBSTRING_BITS = 24
MAX_TABLES = 16  # more take much memory, and hardly ever spare a scan
N_SAMPLED = 300_000
MAX_DISTINCT_SHARE = 0.5  # above it, naming the rows of each distinct code costs more than it saves


@dataclass(frozen=True)
class Postings:
    """Distinct codes and the rows that carry each: those of code c are rows[offsets[c] : offsets[c + 1]], ascending.

    words: uint64 [n_distinct, n_words], in no particular order. offsets: int64 [n_distinct + 1]. rows: uint32 [n_rows].
    """

    words: Words
    offsets: Ids
    rows: Numbers

    def expanded(self) -> Words:
        """uint64 [n_rows, n_words]: the code of every row."""
        words = np.empty((len(self.rows), self.words.shape[1]), np.uint64)
        words[self.rows] = np.repeat(self.words, np.diff(self.offsets), axis=0)
        return words


@dataclass(frozen=True)
class Table:
    """All codes in the order of one substring of n_bits bits; those of substring s are begins[s] : begins[s + 1].

    begins: uint32 [2**n_bits + 1]. words: uint64 [n_codes, n_words]. numbers: uint32 [n_codes], which code each is.
    """

    n_bits: int
    begins: Numbers
    words: Words
    numbers: Numbers


@dataclass(frozen=True)
class SortedForm:
    """What is searched in the place of n_rows codes. postings: None where each row's code stays one of its own."""

    n_rows: int
    postings: Postings | None
    tables: tuple[Table, ...]

    @property
    def n_codes(self) -> int:
        """How many codes it has."""
        return self.n_rows if self.postings is None else len(self.postings.words)

    def arrays(self) -> Iterator[tuple[str, AnyArray]]:
        """Every array under its name, as `from_arrays` takes them."""
        if self.postings is not None:
            yield from vars(self.postings).items()
        for number, table in enumerate(self.tables):
            for name in ("begins", "words", "numbers"):
                yield f"table{number}_{name}", getattr(table, name)

    @classmethod
    def from_arrays(cls, n_rows: int, arrays: Mapping[str, AnyArray]) -> SortedForm:
        """The inverse of `arrays`. Raises KeyError where one is missing; shapes are checked when they are searched."""
        postings = Postings(arrays["words"], arrays["offsets"], arrays["rows"]) if "rows" in arrays else None
        tables: list[Table] = []
        while f"table{len(tables)}_begins" in arrays:
            begins, words, numbers = (arrays[f"table{len(tables)}_{name}"] for name in ("begins", "words", "numbers"))
            tables.append(Table((len(begins) - 1).bit_length() - 1, begins, words, numbers))
        return cls(n_rows, postings, tuple(tables))


def group(codes: Sequence[Codes], threads: int) -> Postings:
    """The distinct codes and their rows. Raises ValueError for 2**32 codes and more."""
    return Postings(*_scan.group(_segments(codes), threads))


def sampled(codes: Sequence[Codes], n_rows: int) -> Words:
    """uint64 [s, n_words]: codes of about n_rows rows drawn at random, always the same; all if there are fewer."""
    ends = np.cumsum([len(segment) for segment in codes])
    if ends[-1] <= n_rows:
        return np.concatenate([segment.words for segment in codes])
    rows = np.unique(np.random.default_rng(0).integers(0, ends[-1], n_rows))
    parts = zip(codes, np.split(rows, np.searchsorted(rows, ends[:-1])), ends, strict=True)
    return np.concatenate([segment.words[part - (end - len(segment))] for segment, part, end in parts])


def group_if_repeated(codes: Sequence[Codes], threads: int) -> Postings | None:
    """The distinct codes, or None where more than half of all codes are different.

    Where N_SAMPLED codes show that, not all are grouped: if each code stood in two rows, a sample of s of n rows would
    hold s**2 / 2 n pairs.
    """
    n_rows = sum(map(len, codes))
    if n_rows > N_SAMPLED:
        sample = sampled(codes, N_SAMPLED)
        n_pairs = len(sample) - len(_scan.group(_scan.Segments([sample], codes[0].bits), threads)[0])
        if n_pairs < len(sample) ** 2 / (8 * n_rows):
            return None
    postings = group(codes, threads)
    return postings if len(postings.words) <= MAX_DISTINCT_SHARE * n_rows else None


def sort(kind: str, codes: Sequence[Codes], threads: int, new_array: NewArray | None = None) -> SortedForm:
    """The sorted form for an index of this kind, "distinct" or "mih"; new_array as for `order`."""
    postings = group(codes, threads) if kind == "distinct" else group_if_repeated(codes, threads)
    return sort_grouped(kind, codes, postings, threads, new_array)


def sort_grouped(
    kind: str, codes: Sequence[Codes], postings: Postings | None, threads: int, new_array: NewArray | None = None
) -> SortedForm:
    """The same of codes that were grouped, or found not worth grouping, before."""
    if kind == "distinct":
        return SortedForm(sum(map(len, codes)), postings, ())
    return order(codes, postings, threads, new_array)


def order(
    codes: Sequence[Codes], postings: Postings | None, threads: int, new_array: NewArray | None = None
) -> SortedForm:
    """The form for multi-index hashing: all codes, the distinct ones where postings are given, by every substring.

    new_array(name, shape, dtype) makes the tables' arrays, mapped from files for example; None: in memory.
    """
    make = new_array or (lambda _, shape, dtype: np.empty(shape, dtype))
    n_rows, bits = sum(map(len, codes)), codes[0].bits
    ordered = codes if postings is None else [Codes.trusted(postings.words, bits)]
    n_codes, segments = sum(map(len, ordered)), _segments(ordered)
    tables: list[Table] = []
    first_bit = 0
    for n_bits in substring_bits(n_codes, bits):
        name, u32 = f"table{len(tables)}", np.dtype(np.uint32)
        begins = make(f"{name}_begins", ((1 << n_bits) + 1,), u32)
        words = make(f"{name}_words", (n_codes, ordered[0].n_words), np.dtype(np.uint64))
        numbers = make(f"{name}_numbers", (n_codes,), u32)
        _scan.fill_table(segments, first_bit, n_bits, begins, words, numbers, threads)
        tables.append(Table(n_bits, begins, words, numbers))
        first_bit += n_bits
    return SortedForm(n_rows, postings, tuple(tables))


def substring_bits(n_codes: int, bits: int) -> list[int]:
    """Lengths of the substrings that codes are ordered by: at most log2(n_codes), so that a bucket holds a few codes
    (Norouzi, Punjani, Fleet 2014, section 3.3), and as equal as can be. None where these were more than MAX_TABLES.
    """
    longest = min(MAX_SUBSTRING_BITS, max(1, math.floor(math.log2(max(n_codes, 2)))))
    n_tables = -(-bits // longest)
    if n_tables > MAX_TABLES:
        return []
    return [bits // n_tables + (number < bits % n_tables) for number in range(n_tables)]


def _segments(codes: Sequence[Codes]) -> _scan.Segments:
    return _scan.Segments([segment.words for segment in codes], codes[0].bits)
