"""What training expects of a loss, and what several losses share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..network import Output

SAMPLING_POWER = 0.25  # of a class's size, in tempered batches


class Loss(nn.Module):
    """A loss is built for a code length and classes, and called with what the network made of a batch.

    batches: "triplets" (rows are n anchors, then their n positives, then their n negatives; each third went through the
    network by itself) or "tempered" (one forward pass over rows of several classes, see `sampling_weights`).
    Parameters of the loss, if it has any, are trained with the network's.
    """

    batches: ClassVar[str] = "tempered"

    def __init__(self, bits: int, class_sizes: Sequence[int]) -> None:
        """class_sizes: how many training images each class has."""
        super().__init__()
        self.bits, self.n_classes = bits, len(class_sizes)

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """The weighted parts by name; what is minimised is their sum.

        labels: int64 [B], from 0 to the number of classes - 1. progress: how much of the training is done, 0 to 1.
        """
        raise NotImplementedError


def sampling_weights(class_sizes: Sequence[int]) -> Tensor:
    """float64 [n_classes], sum 1: how often tempered batches show each class, n_y^(1/4) over the sum of all.

    Between classes in their natural numbers (power 1), whose rare ones are hardly learnt, and equally many of each (0),
    where the few images of a rare class come so often that they are learnt by heart.
    """
    weights = torch.tensor(class_sizes, dtype=torch.float64) ** SAMPLING_POWER
    return weights / weights.sum()


def pairs_of(labels: Tensor) -> tuple[Tensor, Tensor]:
    """(same, different), bool [B, B] each: pairs of rows of one class, each but with itself, and of two classes."""
    same = labels[:, None] == labels[None, :]
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same


def mean_over(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the chosen values; 0, with a graph, where none is chosen."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def squared_distances(logits: Tensor) -> Tensor:
    """float [B, B]: |u_i - u_j|^2 of logits [B, bits]."""
    return (logits[:, None] - logits[None, :]).square().sum(dim=2)


def semi_hard_triplets(similarity: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of one class with one negative: (anchors, positives, negatives), rows, int64 [n] each.

    similarity: float [B, B], larger is nearer. labels: int64 [B]. The negative is the nearest of those farther from the
    anchor than the positive; where there is none, the farthest of all (Schroff, Kalenichenko, Philbin, FaceNet, CVPR
    2015). The lowest row wins among equals. Pairs are in row order; none where a batch holds no negative.
    """
    same, different = pairs_of(labels)
    anchors, positives = (same & different.any(dim=1, keepdim=True)).nonzero(as_tuple=True)  # [n]
    to_all, to_positive = similarity[anchors], similarity[anchors, positives][:, None]  # [n, B], [n, 1]
    negative = different[anchors]
    farther = negative & (to_all < to_positive)
    nearest_farther = to_all.masked_fill(~farther, -math.inf).max(dim=1).indices
    farthest = to_all.masked_fill(~negative, math.inf).min(dim=1).indices
    return anchors, positives, torch.where(farther.any(dim=1), nearest_farther, farthest)
