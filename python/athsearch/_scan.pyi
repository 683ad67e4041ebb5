from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .types import Distances, Ids, Words

def kernel_names() -> list[str]: ...
def selected_kernel(name: str = "") -> str: ...

class Segments:
    def __init__(self, arrays: Sequence[Words], bits: int) -> None: ...

def top_k(
    segments: Segments,
    queries: Words,
    k: int,
    mask: NDArray[np.uint64] | None,
    threads: int,
    kernel: str,
    count_ties: bool,
) -> tuple[tuple[Ids, Ids, Distances], Ids | None]: ...
def within(
    segments: Segments,
    queries: Words,
    radius: int,
    mask: NDArray[np.uint64] | None,
    threads: int,
    kernel: str,
) -> tuple[Ids, Ids, Distances]: ...
