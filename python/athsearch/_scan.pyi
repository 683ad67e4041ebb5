from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .types import Distances, Ids, Words

def kernel_names() -> list[str]: ...
def selected_kernel(name: str = "") -> str: ...

class Segments:
    def __init__(self, arrays: Sequence[Words], bits: int) -> None: ...

class Distinct:
    def __init__(self, words: Words, offsets: Ids, rows: NDArray[np.uint32], bits: int) -> None: ...

def group(segments: Segments, threads: int) -> tuple[Words, Ids, NDArray[np.uint32]]: ...
def top_k(
    searched: Segments | Distinct,
    queries: Words,
    k: int,
    mask: NDArray[np.uint64] | None,
    threads: int,
    kernel: str,
    count_ties: bool,
) -> tuple[tuple[Ids, Ids, Distances], Ids | None]: ...
def within(
    searched: Segments | Distinct,
    queries: Words,
    radius: int,
    mask: NDArray[np.uint64] | None,
    threads: int,
    kernel: str,
) -> tuple[Ids, Ids, Distances]: ...
