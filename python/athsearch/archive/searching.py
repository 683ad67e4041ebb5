"""How an archive answers: which rows may be returned, the nearest of them, and their cases."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from ..codes import Codes
from ..errors import CatalogueError, SegmentCorrupt
from ..index import Index
from ..index.reranking import DEFAULT_DEPTH
from ..types import Floats, Ids, Mask
from .cases import Case, Value
from .catalogue import Catalogue
from .snapshot import Snapshot
from .where import Parameters

DEEPER = 4  # times as many neighbours are asked for as one a value needs, and so many times more in each further step
KEPT_MASKS = 8
_TELLS_TIME = re.compile("date|strftime", re.IGNORECASE)


@dataclass(frozen=True)
class Hit:
    """A case near a query, and how many bits of their codes differ. score: as in `Neighbors`, None if not re-ranked."""

    case: Case
    distance: int
    score: int | None = None


@dataclass(frozen=True)
class Question:
    """What is asked, on whichever road it came; see `Archive.search`.

    codes: Codes [1]. exclude: by column, the value of cases that are left out; None leaves out none. logits: float32
    [1, bits], where there is to be a re-ranking.
    """

    codes: Codes
    k: int
    where: str | None
    parameters: Parameters
    exclude: Mapping[str, Value | None]
    one_per: str | None
    kind: str | None
    logits: Floats | None = None
    rerank: str | None = None
    depth: int = DEFAULT_DEPTH


def answer(snapshot: Snapshot, catalogue: Catalogue, question: Question) -> list[Hit]:
    """The hits, in order. Inside the transaction that made the snapshot. Errors are those of `Archive.search`."""
    columns = catalogue.columns()
    for column in (*question.exclude, *filter(None, [question.one_per])):
        if column not in columns:
            raise ValueError(f"no column {column!r}; columns: {', '.join(columns)}")
    try:
        index, mask = snapshot.index(question.kind), _mask(snapshot, catalogue, question)
        if question.one_per is not None:
            mask = _nearest_of_each(snapshot, catalogue, question, index, mask, question.one_per)
        found = index.search(
            question.codes, question.k, mask, logits=question.logits, rerank=question.rerank, depth=question.depth
        )
    except SegmentCorrupt as error:
        raise SegmentCorrupt(
            f"{snapshot.path}: {error}; no case is lost, `athsearch index ARCHIVE --kind auto` builds the index anew"
        ) from error
    try:
        ids = snapshot.ids(found.ids)
        cases = catalogue.cases(ids.tolist(), ids[~snapshot.have_cases(ids)].tolist())
    except KeyError as error:
        raise CatalogueError(f"{snapshot.path}: damaged: there is a code of case {error}, but no such case") from error
    scores = [None] * len(cases) if found.scores is None else found.scores.tolist()
    return [Hit(*hit) for hit in zip(cases, found.distances.tolist(), scores, strict=True)]


def _mask(snapshot: Snapshot, catalogue: Catalogue, question: Question) -> Mask | None:
    """The rows that may be returned; None for all."""
    masks = [] if snapshot.alive is None else [snapshot.alive]
    if question.where is not None:
        masks.append(_where_mask(snapshot, catalogue, question.where, question.parameters))
    for column, value in question.exclude.items():
        if value is not None:
            masks.append(~snapshot.mask(catalogue.ids_of(column, value)))
    return reduce(operator.and_, masks) if masks else None


def _where_mask(snapshot: Snapshot, catalogue: Catalogue, where: str, parameters: Parameters) -> Mask:
    """The last few are kept until the next commit: who filters once filters again, and a mask takes a bit a row."""
    key = where, repr(parameters)
    mask = snapshot.masks.pop(key, None) or snapshot.mask(catalogue.ids_where(where, parameters))
    if not _TELLS_TIME.search(where):  # another answer tomorrow
        snapshot.masks[key] = mask
        if len(snapshot.masks) > KEPT_MASKS:
            del snapshot.masks[next(iter(snapshot.masks))]
    return mask


def _nearest_of_each(
    snapshot: Snapshot, catalogue: Catalogue, question: Question, index: Index, mask: Mask | None, column: str
) -> Mask:
    """Allows one row of each value of a column, the first by (distance, id), for as many values as the answer needs.

    Rows without a value count each for itself. A few neighbours are asked for; then, as long as values are missing,
    more of them among the rows of all other values. What comes then is farther away than all before, so the order is
    that of the full ranking, and each step finds a new value, though a single patient may have most of the archive.
    """
    n_wanted = max(question.k, question.depth) if question.rerank else question.k
    n_wanted = min(n_wanted, max(snapshot.n_codes, 1))
    n_asked = DEEPER * n_wanted
    allowed = mask or ~Mask.from_rows(np.empty(0, np.int64), snapshot.n_codes)
    kept: list[int] = []
    while True:
        rows = index.search(question.codes, n_asked, allowed).ids
        ids = snapshot.ids(rows)
        values = catalogue.value_by_id(column, ids.tolist())
        seen: set[Value] = set()
        for row, id in zip(rows.tolist(), ids.tolist(), strict=True):
            value = values.get(id)
            if value is None or value not in seen:
                kept.append(row)
            if value is not None:
                seen.add(value)
        if len(kept) >= n_wanted or len(rows) < min(n_asked, snapshot.n_codes):
            first: Ids = np.array(kept[:n_wanted], np.int64)
            return Mask.from_rows(first, snapshot.n_codes)
        done = np.concatenate([ids, catalogue.ids_sharing(column, ids.tolist())])
        allowed &= ~snapshot.mask(done)
        n_asked *= DEEPER
