"""The losses that networks are trained with. Each says what batches it feeds on and returns its weighted parts.

A loss is called with an Output and labels and returns {name of part: scalar tensor}; their sum is what is minimised.
To add one: write a class like those below and enter it in LOSSES.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .network import Output


class Loss(Protocol):
    """What training expects of a loss.

    batches: "triplets" (rows are n anchors, then their n positives, then their n negatives; each third went through the
    network by itself) or "balanced" (one forward pass over rows of several classes, equally many of each).
    """

    batches: ClassVar[str]

    def __init__(self, bits: int, class_sizes: Sequence[int]) -> None:
        """class_sizes: how many training images each class has."""

    def __call__(self, output: Output, labels: Tensor) -> dict[str, Tensor]:
        """labels: int64 [B], from 0 to the number of classes - 1."""


class TripletCrossEntropy:
    """The paper's loss, as its published code has it.

    With h the logits (not bounded), B bits, margin m = 0.5 and CE the cross-entropy of the class layer:
        L_triplet = mean over triplets of max(0, m B + |h_a - h_p|^2 / B - |h_a - h_n|^2 / B)
        L_class = CE(a) + CE(p) + CE(n),    L = L_triplet + L_class
    The margin grows with B though the distances are means over bits, so it is met by growing h and never by codes of
    +1 and -1, whose mean squared distance is at most 4. Training rows: 3n, see `Loss`.
    """

    batches: ClassVar[str] = "triplets"
    margin: ClassVar[float] = 0.5

    def __init__(self, bits: int, class_sizes: Sequence[int]) -> None:
        self.bits = bits

    def __call__(self, output: Output, labels: Tensor) -> dict[str, Tensor]:
        """Raises ValueError where the rows are not three equal parts."""
        if len(labels) % 3:
            raise ValueError(f"expected anchors, positives and negatives of equal number, got {len(labels)} rows")
        anchor, positive, negative = output.logits.chunk(3)
        to_positive = (anchor - positive).square().mean(dim=1)  # [B, bits] -> [B]
        to_negative = (anchor - negative).square().mean(dim=1)
        triplet = functional.relu(self.margin * self.bits + to_positive - to_negative).mean()
        parts = zip(output.class_logits.chunk(3), labels.chunk(3), strict=True)
        return {"triplet": triplet, "class": torch.stack([functional.cross_entropy(*part) for part in parts]).sum()}


class CentreTriplet:
    """The default recipe's loss: every class has a far-away target code, and triplets shape what lies between.

    With u the logits, h = u / |u|, c_y the centre of class y (of +1 and -1, over sqrt(B)):
        L_centre = CE(s (cos(h, c_j) - m_y [j = y]))
            margin softmax, s = 8 (Hoe et al., One loss for all: deep hashing with a single cosine similarity based
            learning objective, NeurIPS 2021); m_y = 0.2 min(3, sqrt(n_max / n_y)), n images of a class: batches show
            all classes equally often, but a query later meets them in their natural numbers, so rare classes must win
            by more (margins by class size: Cao et al., LDAM, NeurIPS 2019)
        L_triplet = mean of softplus(s (cos(h_a, h_n) - cos(h_a, h_p) + 0.3)) / s
            over all pairs a, p of a class, each with one semi-hard negative; on angles, for the sign takes norms away
        L_class = CE(g(h)) / 2
            class layer on the code
        L_code = (1 - cos(u, sign u)) / 20
            how much the sign takes away
    A batch without triplets (one class, or no class twice) has L_triplet = 0.
    """

    batches: ClassVar[str] = "balanced"
    scale: ClassVar[float] = 8.0
    centre_margin: ClassVar[float] = 0.2
    largest_margin: ClassVar[float] = 0.6
    triplet_margin: ClassVar[float] = 0.3

    def __init__(self, bits: int, class_sizes: Sequence[int]) -> None:
        sizes = torch.tensor(class_sizes, dtype=torch.float32)
        self.centres = class_centres(bits, len(sizes)) / math.sqrt(bits)  # [n_classes, bits]
        self.margins = (self.centre_margin * (sizes.max() / sizes).sqrt()).clamp(max=self.largest_margin)

    def __call__(self, output: Output, labels: Tensor) -> dict[str, Tensor]:
        """Training rows: see `Loss`. Any number of rows from one on is allowed."""
        code = functional.normalize(output.logits)  # [B, bits]
        centres, margins = self.centres.to(code), self.margins.to(code)
        to_centres = code @ centres.T - margins * functional.one_hot(labels, len(centres))  # [B, n_classes]
        kept_by_sign = code.abs().sum(dim=1) / math.sqrt(code.shape[1])
        return {
            "centre": functional.cross_entropy(self.scale * to_centres, labels),
            "triplet": self._triplet(code @ code.T, labels),
            "class": 0.5 * functional.cross_entropy(output.class_logits, labels),
            "code": 0.05 * (1 - kept_by_sign).mean(),
        }

    def _triplet(self, similarity: Tensor, labels: Tensor) -> Tensor:
        anchors, positives, negatives = semi_hard_triplets(similarity.detach(), labels)
        if len(anchors) == 0:
            return similarity.sum() * 0.0  # keeps the graph, so that the caller need not know
        gap = similarity[anchors, negatives] - similarity[anchors, positives] + self.triplet_margin
        return functional.softplus(self.scale * gap).mean() / self.scale


LOSSES: dict[str, type[Loss]] = {"triplet-class": TripletCrossEntropy, "centre-triplet": CentreTriplet}


def semi_hard_triplets(similarity: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of one class with one negative: (anchors, positives, negatives), rows, int64 [n] each.

    similarity: float [B, B], larger is nearer. labels: int64 [B]. The negative is the nearest of those farther from the
    anchor than the positive; where there is none, the farthest of all (Schroff, Kalenichenko, Philbin, FaceNet, CVPR
    2015). The lowest row wins among equals. Pairs are in row order; none where a batch holds no negative.
    """
    same = labels[:, None] == labels[None, :]  # [B, B]
    paired = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    anchors, positives = (paired & (~same).any(dim=1, keepdim=True)).nonzero(as_tuple=True)  # [n]
    to_all, to_positive = similarity[anchors], similarity[anchors, positives][:, None]  # [n, B], [n, 1]
    negative = ~same[anchors]
    farther = negative & (to_all < to_positive)
    nearest_farther = to_all.masked_fill(~farther, -math.inf).max(dim=1).indices
    farthest = to_all.masked_fill(~negative, math.inf).min(dim=1).indices
    return anchors, positives, torch.where(farther.any(dim=1), nearest_farther, farthest)


def class_centres(bits: int, n_classes: int) -> Tensor:
    """float32 [n_classes, bits] of +1 and -1: codes far apart, one a class, the same ones on every machine.

    Rows of a Hadamard matrix where bits is a power of two and n_classes < bits: pairwise distance bits / 2 exactly.
    Otherwise each next centre is that one of 256 random codes whose nearest centre so far is farthest away.
    """
    rng = np.random.default_rng(0)
    if bits & (bits - 1) == 0 and n_classes < bits:
        hadamard = np.ones((1, 1))
        while len(hadamard) < bits:
            hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
        # The first row is left out: its bits are all alike, so no other class would share out its bits evenly.
        centres = hadamard[1 + rng.permutation(bits - 1)[:n_classes]]
    else:
        centres = rng.choice([-1.0, 1.0], (1, bits))
        while len(centres) < n_classes:
            candidates = rng.choice([-1.0, 1.0], (256, bits))
            nearest = (candidates @ centres.T).max(axis=1)
            centres = np.vstack([centres, candidates[nearest.argmin()]])
    return torch.from_numpy(centres.astype(np.float32))
