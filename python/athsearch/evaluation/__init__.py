"""How well codes rank cases of the query's class: exact expectations over the order of tied cases, macro first.

Hamming distances are small integers, so most rankings have ties, and a score that depends on how they happen to be
broken is not a score. Every figure here is the mean over all orders of tied cases, see `ties`.
"""

from __future__ import annotations

from .archives import ArchiveEvaluation, evaluate_archive
from .results import ClassScores, Curve, Curves, Evaluation, Health, Intervals, Range, Scores
from .scoring import evaluate

__all__ = [
    "ArchiveEvaluation",
    "ClassScores",
    "Curve",
    "Curves",
    "Evaluation",
    "Health",
    "Intervals",
    "Range",
    "Scores",
    "evaluate",
    "evaluate_archive",
]
