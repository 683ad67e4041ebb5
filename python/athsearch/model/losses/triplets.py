"""Losses on triplets: an anchor should be nearer to an image of its class than to one of another."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..network import Output
from .base import Loss, mean_over, pairs_of, squared_distances


class TripletCrossEntropy(Loss):
    """The paper's loss, as its published code has it.

    With h the logits (not bounded), B bits, margin m = 0.5 and CE the cross-entropy of the class layer:
        L_triplet = mean over triplets of max(0, m B + |h_a - h_p|^2 / B - |h_a - h_n|^2 / B)
        L_class = CE(a) + CE(p) + CE(n),    L = L_triplet + L_class
    The margin grows with B though the distances are means over bits, so it is met by growing h and never by codes of
    +1 and -1, whose mean squared distance is at most 4. Training rows: 3n, see `Loss`.
    """

    batches: ClassVar[str] = "triplets"
    margin: ClassVar[float] = 0.5

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """Raises ValueError where the rows are not three equal parts."""
        if len(labels) % 3:
            raise ValueError(f"expected anchors, positives and negatives of equal number, got {len(labels)} rows")
        anchor, positive, negative = output.logits.chunk(3)
        to_positive = (anchor - positive).square().mean(dim=1)  # [B, bits] -> [B]
        to_negative = (anchor - negative).square().mean(dim=1)
        triplet = functional.relu(self.margin * self.bits + to_positive - to_negative).mean()
        parts = zip(output.class_logits.chunk(3), labels.chunk(3), strict=True)
        return {"triplet": triplet, "class": torch.stack([functional.cross_entropy(*part) for part in parts]).sum()}


class BatchTripletCrossEntropy(Loss):
    """The paper's loss on the sampler of the others: TripletCrossEntropy over all triplets of a tempered batch.

    L_class is three times the mean cross-entropy, for an image stands in three places of a triplet.
    """

    margin: ClassVar[float] = TripletCrossEntropy.margin

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """Training rows: see `Loss`."""
        distances = squared_distances(output.logits) / self.bits
        costs = functional.relu(self.margin * self.bits + all_gaps(distances))
        return {
            "triplet": mean_over(costs, all_triplets(labels)),
            "class": 3 * functional.cross_entropy(output.class_logits, labels),
        }


class DTSH(Loss):
    """Deep triplet-supervised hashing (Wang, Shi, Kitani, ACCV 2016).

    With u the logits, theta = u_i . u_j / 2, m = bits/2, over all triplets of a batch:
        L_triplet = mean of log(1 + e^-(theta_ap - theta_an - m))
        L_code = mean of (sign u - u)^2
    """

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """Training rows: see `Loss`."""
        costs = functional.softplus(self.bits / 2 + all_gaps(-output.logits @ output.logits.T / 2))
        return {
            "triplet": mean_over(costs, all_triplets(labels)),
            "code": (output.logits.sign() - output.logits).square().mean(),
        }


def all_gaps(distances: Tensor) -> Tensor:
    """float [B, B, B]: how much farther from the first row the second is than the third. distances: float [B, B]."""
    return distances[:, :, None] - distances[:, None, :]


def all_triplets(labels: Tensor) -> Tensor:
    """bool [B, B, B]: whether rows are anchor, another one of its class, and one of another class."""
    same, different = pairs_of(labels)
    return same[:, :, None] & different[:, None, :]
