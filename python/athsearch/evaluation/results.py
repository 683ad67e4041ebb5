"""What an evaluation found: scores by class and in the mean, how sure they are, and what the codes look like."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

AVERAGE_PRECISION_FORMS = {
    "average_precision": "divided by min(k, R)",
    "average_precision_by_relevant": "divided by R",
    "average_precision_by_hits": "divided by the hits among the first k",
    "average_precision_by_k": "divided by k",
}


@dataclass(frozen=True)
class Scores:
    """Means over queries, each from 0 to 1. R is the number of a query's relevant cases, those of its class.

    precision: P@k, hits among the first k divided by k; the paper's mHR. reciprocal_rank: 1 / place of the first hit of
    the whole ranking, MRR in the mean. recall: recall@k, hits among the first k divided by R. hit_rate: whether there
    is one among them. ndcg: NDCG@k, with a gain of 1 for a hit and a discount of log2(1 + place).
    average_precision: AP@k, the sum of P@place over the hits among the first k, divided by min(k, R), so that the best
    order scores 1. Three other forms are in use, that the same sum is divided by: R (average_precision_by_relevant;
    trec_eval, ranx), the hits among the first k (average_precision_by_hits; torchmetrics, most papers on hashing: it
    can rise when hits get fewer), and k (average_precision_by_k; the code of the paper's authors).
    A query without relevant cases scores 0 throughout.
    """

    precision: float
    average_precision: float
    reciprocal_rank: float
    recall: float
    hit_rate: float
    ndcg: float
    average_precision_by_relevant: float
    average_precision_by_hits: float
    average_precision_by_k: float


METRICS = tuple(field.name for field in fields(Scores))


def titles(k: int) -> dict[str, str]:
    """What each of METRICS is called in tables."""
    return {
        "precision": f"P@{k}",
        "average_precision": f"AP@{k} / min(k, R)",
        "reciprocal_rank": "MRR",
        "recall": f"recall@{k}",
        "hit_rate": f"hit rate@{k}",
        "ndcg": f"NDCG@{k}",
        "average_precision_by_relevant": f"AP@{k} / R",
        "average_precision_by_hits": f"AP@{k} / hits",
        "average_precision_by_k": f"AP@{k} / k",
    }


@dataclass(frozen=True)
class ClassScores(Scores):
    """Scores of the queries of one class, with their number and the number of the class's cases in the database."""

    n_queries: int
    n_cases: int


@dataclass(frozen=True)
class Range:
    """The least and the greatest value of each score."""

    low: Scores
    high: Scores


@dataclass(frozen=True)
class Intervals:
    """95 % bootstrap intervals of means over queries, percentiles of `n_resamples` resamples.

    Drawn with replacement are `n_units` units: all queries of a group, such as a patient, together, and queries of no
    group one by one. A class of which a resample has no query enters its macro mean with the mean of all its queries.
    Few units of a class give intervals that are too narrow; a class of one unit has none, and where there is such a
    class, neither has the macro mean.
    """

    n_resamples: int
    n_units: int
    macro: Range | None
    micro: Range
    per_class: dict[str, Range]


@dataclass(frozen=True)
class Curve:
    """Macro means of precision and recall among the first cases of a ranking, by `Curves.depths`."""

    precision: tuple[float, ...]
    recall: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """Expectations over tie orders at depths from 1 to the database's end, evenly spread by their logarithm."""

    depths: tuple[int, ...]
    scores: Curve
    chance: Curve
    majority: Curve


@dataclass(frozen=True)
class Health:
    """What the database's codes look like: collapsed codes can have a fine precision and still rank nothing.

    tied_at_k: share of queries for which a tie group reaches across place k, so that which of its cases are shown is a
    matter of order alone. n_without_relevant: queries whose class has no case.
    n_colliding_cases: cases whose code a case of another class has too; no search can tell them apart. mean_bucket,
    largest_bucket: cases of one code. bit_imbalance: mean over bits of |2 p - 1|, p the share of cases in which the bit
    is set: 0 for balanced bits, 1 for constant ones. bit_entropy: mean over bits of the entropy of p, at most 1.
    code_entropy: of the codes, in bits: at most the bits of a code and log2 of the number of cases.
    """

    n_distinct_codes: int
    tied_at_k: float
    n_without_relevant: int
    n_colliding_cases: int
    mean_bucket: float
    largest_bucket: int
    n_constant_bits: int
    bit_imbalance: float
    bit_entropy: float
    code_entropy: float


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    `macro` is the mean over `classes` (those that have queries) of their means, `micro` the mean over queries. `chance`
    is what a random order of the database would score and `majority` what would score an order that puts all cases of
    the database's largest class first; both are macro means, and `chance_micro` and `majority_micro` the micro ones.
    All are expectations over the orders of tied cases; `macro_ties` and `micro_ties` are the means of what the worst
    and the best order of each query's ties would score. intervals: None if they were not asked for, or if all queries
    are one unit.
    """

    k: int
    n_queries: int
    n_cases: int
    bits: int
    classes: tuple[str, ...]
    macro: Scores
    micro: Scores
    per_class: dict[str, ClassScores]
    chance: Scores
    chance_micro: Scores
    majority: Scores
    majority_micro: Scores
    macro_ties: Range
    micro_ties: Range
    intervals: Intervals | None
    curves: Curves
    health: Health

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the forms of AP@k named."""
        return {
            "average_precision_form": AVERAGE_PRECISION_FORMS["average_precision"],
            "average_precision_forms": dict(AVERAGE_PRECISION_FORMS),
            **asdict(self),
        }

    def table(self) -> str:
        """A plain-text table: macro, micro, chance, majority, each class, then every score. It has at most 100 columns
        where k has no more than nine digits.
        """
        from .tables import text_table

        return text_table(self)

    def latex(self) -> str:
        """The same as a LaTeX tabular that needs the package booktabs."""
        from .tables import latex_table

        return latex_table(self)
