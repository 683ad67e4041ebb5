from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .types import Distances, Floats, Ids, Scores, Words

def kernel_names() -> list[str]: ...
def selected_kernel(name: str = "") -> str: ...

class Segments:
    def __init__(self, arrays: Sequence[Words], bits: int) -> None: ...

class Sorted:
    def __init__(
        self,
        codes: Segments,
        offsets: Ids | None,
        rows: NDArray[np.uint32] | None,
        tables: Sequence[tuple[int, NDArray[np.uint32], Words, NDArray[np.uint32]]],
        added: Segments | None,
    ) -> None: ...

def group(segments: Segments, threads: int) -> tuple[Words, Ids, NDArray[np.uint32]]: ...
def fill_table(
    codes: Segments,
    first_bit: int,
    n_bits: int,
    begins: NDArray[np.uint32],
    words: Words,
    numbers: NDArray[np.uint32],
    threads: int,
) -> None: ...
def probing_words(n_codes: int, bits: int, substring_bits: Sequence[int], distance: int) -> float: ...
def top_k(
    searched: Segments | Sorted,
    queries: Words,
    k: int,
    mask: NDArray[np.uint64] | None,
    threads: int,
    kernel: str,
    count_ties: bool,
    with_codes: bool,
) -> tuple[tuple[Ids, Ids, Distances], Ids | None, Words]: ...
def within(
    searched: Segments | Sorted,
    queries: Words,
    radius: int,
    mask: NDArray[np.uint64] | None,
    threads: int,
    kernel: str,
) -> tuple[Ids, Ids, Distances]: ...
def quantised(values: Floats) -> NDArray[np.int16]: ...
def rerank(codes: Words, offsets: Ids, weights: NDArray[np.int16], k: int, threads: int) -> tuple[Ids, Ids, Scores]: ...
