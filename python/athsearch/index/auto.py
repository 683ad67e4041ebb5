"""The choice of an index from the codes: which kind answers fastest, by the work each does for a query."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np

from .. import _scan
from ..codes import Codes
from ..types import Ids
from .base import ExactIndex, Plan, checked_segments, n_threads
from .distinct import SORTED_KINDS
from .flat import FlatIndex
from .sorted import MAX_SORTED, Postings, group_if_repeated, sampled, sort_grouped, substring_bits

MIN_SORTED = 100_000  # fewer words are compared in tens of microseconds, which nothing undercuts by much
N_ASKED = 32  # codes of the database, to learn how far neighbours lie
N_PAIRED = 50_000  # to learn how crowded buckets are
MIN_GAIN = 2  # of buckets over a scan, as queries lie farther off than codes of the database


def auto_index(
    codes: Codes | Sequence[Codes], ids: Ids | None = None, threads: int | None = None, k: int = 10
) -> ExactIndex:
    """The exact index, of kind flat, distinct or mih, that should answer queries for k neighbours fastest.

    `plan` says what was chosen and why; see `choose`. codes, ids, threads: as for DistinctIndex.
    """
    segments = checked_segments(codes)
    k = operator.index(k)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    plan, postings = choose(segments, n_threads(threads), k)
    index: ExactIndex
    if plan.kind == "flat":
        index = FlatIndex(segments, ids)
    else:
        form = sort_grouped(plan.kind, segments, postings, n_threads(threads))
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
    if n_rows * n_words < MIN_SORTED:
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
    costs["mih"] = _bucket_work(codes, n_compared, distance)
    near = f"neighbour {k} lies {distance} bits away"
    if costs[scan] >= MIN_SORTED and costs["mih"] * MIN_GAIN < costs[scan]:
        reason = f"{share} and {near}, so buckets cost what comparing {costs['mih']:,.0f} words does"
        return Plan("mih", reason, costs), postings
    return Plan(scan, f"{share} and {near}: buckets would not be faster than comparing them all", costs), postings


def _typical_distance(flat: FlatIndex, codes: Sequence[Codes], threads: int, k: int) -> int:
    """How far the k-th neighbour of a code of the database lies, itself left out; of a few, one of the farther."""
    queries = Codes.trusted(sampled(codes, N_ASKED), flat.bits)[:N_ASKED]
    found = flat.search(queries, min(k + 1, flat.n_codes), threads=threads)
    return int(np.percentile(found.distances[found.offsets[1:] - 1], 90))


def _bucket_work(codes: Sequence[Codes], n_compared: int, distance: int) -> float:
    """How many words multi-index hashing of n_compared codes compares to see everything up to a distance.

    A query's own buckets may be crowded, where a substring takes few values: two codes share it with probability
    sum(p**2), which pairs in a sample estimate.
    """
    lengths = substring_bits(n_compared, codes[0].bits)
    if not lengths:
        return math.inf
    sample = Codes.trusted(sampled(codes, N_PAIRED), codes[0].bits).to_bits()
    work, begin = _scan.probing_words(n_compared, codes[0].bits, lengths, distance), 0
    for length in lengths:
        values = np.packbits(sample[:, begin : begin + length], axis=1, bitorder="little")
        counts = np.bincount(np.pad(values, [(0, 0), (0, 4 - values.shape[1])]).view("<u4")[:, 0])
        share = float((counts * (counts - 1)).sum()) / (len(sample) * (len(sample) - 1))
        work += 2 * share * n_compared * codes[0].n_words
        begin += length
    return work
