"""One commit's codes: segments laid end to end, so that row r is the r-th of all codes, and the ids of these rows.

Ids are runs, one a segment until it is compacted. Nothing here takes memory for each code, but one bit where some were
deleted.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from ..codes import Codes, concatenate
from ..errors import CatalogueError
from ..index import Index, open_index
from ..types import Bools, Ids, Mask
from .catalogue import Catalogue
from .kept_index import KeptIndex
from .kept_index import open_index as open_kept
from .segment import Segment, map_segment


class Snapshot:
    """What the catalogue says of the codes at the time of its making. It does not change, nor do its files.

    segments: ids ascending; n_codes: of all; deleted_rows: int64, ascending; is_logged: whether queries are; masks: of
    the last `where` expressions, for those who ask.
    """

    def __init__(self, path: Path, catalogue: Catalogue, like: Codes, earlier: Snapshot | None) -> None:
        """path: the archive. like: Codes [0] of its bits and model. What `earlier` has mapped is used again.

        Raises SegmentCorrupt or CatalogueError.
        """
        self.path = path
        self.data_version = catalogue.data_version
        self._like = like
        self.segments = catalogue.segments()
        mapped = earlier._codes if earlier else {}
        self._codes: dict[Segment, Codes] = {
            segment: mapped.get(segment) or map_segment(path / "segments", segment, like) for segment in self.segments
        }
        self.n_codes = sum(segment.n_codes for segment in self.segments)
        self.kept_index = catalogue.kept_index()
        is_same = earlier is not None and earlier.segments == self.segments
        self._indexes: dict[tuple[str, KeptIndex | None], Index] = earlier._indexes if earlier and is_same else {}
        self._segment_rows = np.cumsum([0, *(segment.n_codes for segment in self.segments)], dtype=np.int64)
        # By run: the first id, the first row (and past the last run, the end), and whether there are cases.
        runs = [segment.id_runs for segment in self.segments]
        all_runs: Ids = np.concatenate([*runs, np.zeros((0, 2), np.int64)])
        self._first_ids: Ids = all_runs[:, 0]
        self._first_rows: Ids = np.append(0, np.cumsum(all_runs[:, 1]))
        has_cases = np.array([segment.has_cases for segment in self.segments], np.bool_)
        self._has_cases = np.repeat(has_cases, np.array([len(part) for part in runs], np.int64))
        self.deleted_rows = self.rows(catalogue.deleted_ids())
        self.is_logged = catalogue.properties().get("query_log") == "on"
        self.masks: dict[tuple[str, str], Mask] = {}

    @property
    def codes(self) -> list[Codes]:
        """The codes of all segments, one after the other; at least one segment, that may be empty."""
        return [self._like, *self._codes.values()]

    def index(self, kind: str | None = None) -> Index:
        """An index over all codes, by row: the one the archive keeps, else a scan; or one of any kind.

        Raises SegmentCorrupt where the kept one cannot be used, ValueError for an unknown kind.
        """
        kept = self.kept_index
        if kept is not None and kind in (None, "auto", kept.kind):
            if (kept.kind, kept) not in self._indexes:
                self._indexes[kept.kind, kept] = open_kept(self.path, kept, self.codes)
            return self._indexes[kept.kind, kept]
        kind = kind or "flat"
        if (kind, None) not in self._indexes:
            self._indexes[kind, None] = open_index(kind, self.codes)
        return self._indexes[kind, None]

    @property
    def n_alive(self) -> int:
        """How many codes can be found."""
        return self.n_codes - len(self.deleted_rows)

    @property
    def n_alone(self) -> int:
        """How many codes that can be found have no case."""
        n_codes = sum(segment.n_codes for segment in self.segments if not segment.has_cases)
        return n_codes - int(np.count_nonzero(~self.have_cases(self.ids(self.deleted_rows))))

    @property
    def version(self) -> tuple[int, int]:
        """The last id and how many codes can be found. Ids never return and deletion is for ever, so that two states of
        an archive in which other cases can be found never have the same.
        """
        last_id = int(self.ids(np.array([self.n_codes - 1]))[0]) if self.n_codes else 0
        return last_id, self.n_alive

    @cached_property
    def alive(self) -> Mask | None:
        """The rows that can be found; None for all."""
        return ~Mask.from_rows(self.deleted_rows, self.n_codes) if len(self.deleted_rows) else None

    def ids(self, rows: Ids) -> Ids:
        """The ids of rows."""
        place = np.searchsorted(self._first_rows, rows, side="right") - 1
        return self._first_ids[place] + (rows - self._first_rows[place])

    def rows(self, ids: Ids) -> Ids:
        """The rows of those ids that have one, in the same order."""
        if not self.segments:
            return ids[:0]
        place = self._place(ids)
        rows = self._first_rows[place] + (ids - self._first_ids[place])
        return rows[(place >= 0) & (rows < self._first_rows[place + 1])]

    def mask(self, ids: Ids) -> Mask:
        """The rows of those ids that have one."""
        return Mask.from_rows(self.rows(ids), self.n_codes)

    def have_cases(self, ids: Ids) -> Bools:
        """Of ids that have a row: whether the catalogue has a case for each."""
        return self._has_cases[self._place(ids)]

    def alone(self, ids: Ids) -> Ids:
        """Which of these are ids of codes that can be found and have no case."""
        ids = self.found(ids)
        return ids[~self.have_cases(ids)]

    def found(self, ids: Ids) -> Ids:
        """Those of the ids that can be found."""
        rows = self.rows(ids)
        places = np.searchsorted(self.deleted_rows, rows)
        return self.ids(rows[np.append(self.deleted_rows, -1)[places] != rows])

    def code(self, id: int) -> Codes:
        """Codes [1] of an id. Raises CatalogueError where there is none."""
        rows = self.rows(np.array([id], np.int64))
        if not len(rows):
            raise CatalogueError(f"{self.path}: damaged: there is a case {id}, but no code of it")
        return self.part(int(rows[0]), int(rows[0]) + 1)[1]

    def part(self, begin: int, end: int) -> tuple[Ids, Codes]:
        """Ids and codes of the rows from begin to end, without deleted ones. Copies the codes."""
        first, last = np.searchsorted(self._segment_rows, [begin, end - 1], side="right") - 1
        parts = [self._like]
        for segment, first_row in zip(
            self.segments[first : last + 1], self._segment_rows[first:].tolist(), strict=False
        ):
            parts.append(self._codes[segment][max(begin - first_row, 0) : end - first_row])
        is_alive = self._are_alive(begin, end)
        return self.ids(begin + np.flatnonzero(is_alive)), concatenate(parts)[is_alive]

    def alive_ids(self, begin: int, end: int) -> Ids:
        """The ids of the rows from begin to end, without deleted ones."""
        return self.ids(begin + np.flatnonzero(self._are_alive(begin, end)))

    def n_deleted(self, begin: int, end: int) -> int:
        """How many of the rows from begin to end were deleted."""
        first, last = np.searchsorted(self.deleted_rows, [begin, end])
        return int(last - first)

    def _are_alive(self, begin: int, end: int) -> Bools:
        are_alive = np.ones(end - begin, np.bool_)
        are_alive[self.deleted_rows[slice(*np.searchsorted(self.deleted_rows, [begin, end]))] - begin] = False
        return are_alive

    def _place(self, ids: Ids) -> Ids:
        return np.searchsorted(self._first_ids, ids, side="right") - 1
