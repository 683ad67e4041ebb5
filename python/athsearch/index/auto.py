"""The choice of an index from the codes: which kind answers fastest, by the work each does for a query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import _scan
from ..codes import Codes, concatenate
from ..types import Ids
from .base import ExactIndex, Plan, checked_segments, n_threads
from .distinct import DistinctIndex, MihIndex
from .flat import FlatIndex
from .sorted import SortedForm, group_if_repeated, order, substring_bits

MIN_SORTED = 100_000  # fewer words are compared in tens of microseconds, which nothing undercuts by much
MAX_SORTED = 2**32 - 1
N_SAMPLED = 32
MIN_GAIN = 2  # of buckets over a scan, as queries lie farther off than codes of the database


def auto_index(
    codes: Codes | Sequence[Codes], ids: Ids | None = None, threads: int | None = None, k: int = 10
) -> ExactIndex:
    """The exact index, of kind flat, distinct or mih, that should answer queries for k neighbours fastest.

    The work of each kind is weighed in words compared: a scan compares all codes, or all distinct codes, and
    multi-index hashing what it needs to see everything up to the k-th neighbour, whose distance is measured on codes
    drawn from the database. `plan` says what was chosen and why. codes, ids, threads: as for DistinctIndex.
    """
    flat = FlatIndex(codes, ids)
    segments = checked_segments(codes)
    form, plan = _planned(flat, segments, n_threads(threads), k)
    index: ExactIndex = flat
    if form is not None:
        index = (MihIndex if plan.kind == "mih" else DistinctIndex)(segments, ids, form=form)
    index.plan = plan
    return index


def _planned(flat: FlatIndex, segments: list[Codes], threads: int, k: int) -> tuple[SortedForm | None, Plan]:
    n_rows, n_words = flat.n_codes, segments[0].n_words
    costs = {"flat": float(n_rows * n_words)}
    if n_rows < MIN_SORTED:
        return None, Plan("flat", f"{n_rows:,} codes are scanned before anything else pays", costs)
    if n_rows > MAX_SORTED:
        return None, Plan("flat", f"{n_rows:,} codes are more than {MAX_SORTED:,}, the most that can be sorted", costs)
    postings = group_if_repeated(segments, threads)
    n_compared = n_rows if postings is None else len(postings.words)
    scan, share = "flat", f"most of {n_rows:,} codes are different"
    if postings is not None:
        scan, share = "distinct", f"{n_compared:,} of {n_rows:,} codes are different"
        costs["distinct"] = float(n_compared * n_words)
    distance = _typical_distance(flat, segments, threads, k)
    costs["mih"] = _scan.probing_words(n_compared, flat.bits, substring_bits(n_compared, flat.bits), distance)
    near = f"neighbour {k} lies {distance} bits away"
    if costs[scan] >= MIN_SORTED and costs["mih"] * MIN_GAIN < costs[scan]:
        reason = f"{share} and {near}, so buckets cost what comparing {costs['mih']:,.0f} words does"
        return order(segments, postings, threads), Plan("mih", reason, costs)
    form = None if postings is None else SortedForm(n_rows, postings, ())
    return form, Plan(scan, f"{share} and {near}: buckets would not be faster than comparing them all", costs)


def _typical_distance(flat: FlatIndex, segments: list[Codes], threads: int, k: int) -> int:
    """How far the k-th neighbour of a code of the database lies, itself left out; of a few, one of the farther."""
    rows = np.random.default_rng(0).choice(flat.n_codes, N_SAMPLED, replace=False)
    ends = np.cumsum([segment.n_codes for segment in segments])
    parts = np.searchsorted(ends, rows, side="right")
    sampled = [segments[part][np.array([row - ends[part]])] for part, row in zip(parts, rows, strict=True)]
    _, distances, counts = flat.search(concatenate(sampled), k + 1, threads=threads).dense(k + 1)
    return int(np.percentile(distances[np.arange(N_SAMPLED), counts - 1], 90))
