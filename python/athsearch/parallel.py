"""An ordered map over threads that never runs far ahead of its reader."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def n_processors() -> int:
    """Processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], n_ahead: int) -> Generator[Result, None, None]:
    """function(item) for each item, in order, computed on threads while the caller works on earlier results.

    At most n_ahead results are in the making or waiting, so memory stays bounded however many items there are. An
    exception of the function is raised at its item's place. Decoding releases the GIL, so threads are enough.
    """
    items = iter(items)
    with ThreadPoolExecutor(min(8, n_processors()), thread_name_prefix="athsearch") as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(items, n_ahead))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(items, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
