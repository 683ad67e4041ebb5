from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from .types import Distances, Ids, Words

class DeviceFacts(TypedDict):
    name: str
    compute_capability: str
    multiprocessors: int
    memory_bytes: int
    free_bytes: int

def devices() -> tuple[list[DeviceFacts], str]: ...
def versions() -> tuple[int, int]: ...

class Database:
    def __init__(self, n_rows: int, n_words: int, device: int) -> None: ...
    def append(self, rows: Words) -> None: ...
    def n_queries_at_once(self, k: int) -> int: ...
    def top_k(
        self, queries: Words, k: int, mask: NDArray[np.uint64] | None
    ) -> tuple[tuple[Ids, Ids, Distances], Ids]: ...
    def within(self, queries: Words, radius: int, mask: NDArray[np.uint64] | None) -> tuple[Ids, Ids, Distances]: ...
