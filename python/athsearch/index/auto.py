"""The choice of an index from the codes: which kind answers fastest, by the work each does for a query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import _scan
from ..codes import Codes, concatenate
from ..types import Ids
from .base import ExactIndex, Plan, checked_segments, n_threads
from .distinct import SORTED_KINDS
from .flat import FlatIndex
from .sorted import MAX_SORTED, Postings, group_if_repeated, sort, substring_bits

MIN_SORTED = 100_000  # fewer words are compared in tens of microseconds, which nothing undercuts by much
N_SAMPLED = 32
MIN_GAIN = 2  # of buckets over a scan, as queries lie farther off than codes of the database


def auto_index(
    codes: Codes | Sequence[Codes], ids: Ids | None = None, threads: int | None = None, k: int = 10
) -> ExactIndex:
    """The exact index, of kind flat, distinct or mih, that should answer queries for k neighbours fastest.

    `plan` says what was chosen and why; see `choose`. codes, ids, threads: as for DistinctIndex.
    """
    segments = checked_segments(codes)
    plan, postings = choose(segments, n_threads(threads), k)
    index: ExactIndex
    if plan.kind == "flat":
        index = FlatIndex(segments, ids)
    else:
        form = sort(plan.kind, segments, n_threads(threads), postings)
        index = SORTED_KINDS[plan.kind](segments, ids, form=form)
    index.plan = plan
    return index


def choose(codes: Sequence[Codes], threads: int, k: int = 10) -> tuple[Plan, Postings | None]:
    """The kind that should answer queries for k neighbours fastest, and the distinct codes if they were grouped for it.

    The work of each kind is weighed in words compared: a scan compares all codes, or all distinct codes, and
    multi-index hashing what it needs to see everything up to the k-th neighbour, whose distance is measured on codes
    drawn from the database.
    """
    flat = FlatIndex(codes)
    n_rows, n_words = flat.n_codes, codes[0].n_words
    costs = {"flat": float(n_rows * n_words)}
    if n_rows < MIN_SORTED:
        return Plan("flat", f"{n_rows:,} codes are scanned before anything else pays", costs), None
    if n_rows > MAX_SORTED:
        return Plan("flat", f"{n_rows:,} codes are more than {MAX_SORTED:,}, the most that can be sorted", costs), None
    postings = group_if_repeated(codes, threads)
    n_compared = n_rows if postings is None else len(postings.words)
    scan, share = "flat", f"most of {n_rows:,} codes are different"
    if postings is not None:
        scan, share = "distinct", f"{n_compared:,} of {n_rows:,} codes are different"
        costs["distinct"] = float(n_compared * n_words)
    distance = _typical_distance(flat, codes, threads, k)
    costs["mih"] = _scan.probing_words(n_compared, flat.bits, substring_bits(n_compared, flat.bits), distance)
    near = f"neighbour {k} lies {distance} bits away"
    if costs[scan] >= MIN_SORTED and costs["mih"] * MIN_GAIN < costs[scan]:
        reason = f"{share} and {near}, so buckets cost what comparing {costs['mih']:,.0f} words does"
        return Plan("mih", reason, costs), postings
    return Plan(scan, f"{share} and {near}: buckets would not be faster than comparing them all", costs), postings


def _typical_distance(flat: FlatIndex, segments: Sequence[Codes], threads: int, k: int) -> int:
    """How far the k-th neighbour of a code of the database lies, itself left out; of a few, one of the farther."""
    rows = np.random.default_rng(0).choice(flat.n_codes, N_SAMPLED, replace=False)
    ends = np.cumsum([segment.n_codes for segment in segments])
    parts = np.searchsorted(ends, rows, side="right")
    sampled = [segments[part][np.array([row - ends[part]])] for part, row in zip(parts, rows, strict=True)]
    _, distances, counts = flat.search(concatenate(sampled), k + 1, threads=threads).dense(k + 1)
    return int(np.percentile(distances[np.arange(N_SAMPLED), counts - 1], 90))
