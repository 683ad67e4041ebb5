"""What every index answers, whatever its kind."""

from __future__ import annotations

from typing import Protocol

from ..codes import Codes
from ..types import Bools, Ids, Mask, Neighbors


class Index(Protocol):
    """Search over codes that stand in row order under ascending ids."""

    @property
    def bits(self) -> int:
        """Length of a code."""
        ...

    @property
    def n_codes(self) -> int:
        """How many codes are searched."""
        ...

    @property
    def ids(self) -> Ids:
        """int64 [n_codes], ascending."""
        ...

    def search(
        self,
        queries: Codes,
        k: int = 10,
        mask: Mask | Bools | None = None,
        threads: int | None = None,
        count_ties: bool = False,
    ) -> Neighbors:
        """At most k neighbours of each query, ordered by (distance, id)."""
        ...

    def within(
        self, queries: Codes, radius: int, mask: Mask | Bools | None = None, threads: int | None = None
    ) -> Neighbors:
        """All neighbours at a distance of at most `radius`, ordered by (distance, id)."""
        ...
