"""Losses of a class layer on the code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..network import Output
from .base import Loss, sampling_weights, semi_hard_triplets
from .centres import class_centres


class CrossEntropy(Loss):
    """Cross-entropy of the network's class layer: L_class = CE(g). Needs a network whose class layer is on the code."""

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """Training rows: see `Loss`."""
        return {"class": functional.cross_entropy(output.class_logits, labels)}


class GreedyHash(Loss):
    """GreedyHash (Su, Zhang, Han, Tian, NeurIPS 2018): cross-entropy of a class layer on the signs.

    With u the logits and W this loss's own class layer:
        L_class = CE(W sign u), whose gradient goes to u as if there were no sign
        L_code = 0.1 mean of ||u| - 1|^3
    """

    code_weight = 0.1

    def __init__(self, bits: int, class_sizes: Sequence[int]) -> None:
        super().__init__(bits, class_sizes)
        self.class_layer = nn.Linear(bits, self.n_classes)

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """Training rows: see `Loss`."""
        return {
            "class": functional.cross_entropy(self.class_layer(_signs(output.logits)), labels),
            "code": self.code_weight * (output.logits.abs() - 1).abs().pow(3).mean(),
        }


class SignTriplet(Loss):
    """The default recipe's loss: a class layer tells classes apart by the signs, and triplets shape what lies between.

    With u the logits, h = u / |u|, W this loss's own class layer, s = 8:
        L_class = CE(W sign u - m_y [j = y] + log p_j), whose gradient goes to u as if there were no sign
            on the very bits that are searched (Su et al., GreedyHash, NeurIPS 2018); W starts at s / B times the
            classes' centres (`class_centres`), so that every class begins with a far-away code of its own and may leave
            it; m_y = 1.6 min(3, sqrt(n_max / n_y)), n images of a class: a query later meets the classes in their
            natural numbers, so rare ones must win by more (margins by class size: Cao et al., LDAM, NeurIPS 2019); p_j,
            how often batches show class j (`sampling_weights`), so that all classes count alike (logit adjustment:
            Menon et al., Long-tail learning via logit adjustment, ICLR 2021)
        L_triplet = mean of softplus(s (cos(h_a, h_n) - cos(h_a, h_p) + 0.3)) / s
            over all pairs a, p of a class, each with one semi-hard negative; on angles, for the sign takes norms away
    A batch without triplets (one class, or no class twice) has L_triplet = 0. The network's class layer is not used.
    """

    scale: ClassVar[float] = 8.0
    class_margin: ClassVar[float] = 1.6
    largest_margin: ClassVar[float] = 4.8
    triplet_margin: ClassVar[float] = 0.3
    margins: Tensor  # float [n_classes]
    priors: Tensor  # float [n_classes], log p

    def __init__(self, bits: int, class_sizes: Sequence[int]) -> None:
        super().__init__(bits, class_sizes)
        self.class_layer = nn.Linear(bits, self.n_classes)
        with torch.no_grad():
            self.class_layer.weight.copy_(self.scale / bits * class_centres(bits, self.n_classes))
            self.class_layer.bias.zero_()
        sizes = torch.tensor(class_sizes, dtype=torch.float32)
        margins = (self.class_margin * (sizes.max() / sizes).sqrt()).clamp(max=self.largest_margin)
        self.register_buffer("margins", margins, persistent=False)
        self.register_buffer("priors", sampling_weights(class_sizes).log().float(), persistent=False)

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """Training rows: see `Loss`. Any number of rows from one on is allowed."""
        by_class = self.class_logits(output)
        margins = self.margins.to(by_class) * functional.one_hot(labels, self.n_classes)
        angles = functional.normalize(output.logits)  # [B, bits]
        return {
            "class": functional.cross_entropy(by_class - margins + self.priors.to(by_class), labels),
            "triplet": self._triplet(angles @ angles.T, labels),
        }

    def class_logits(self, output: Output) -> Tensor:
        """What the class layer says: float [B, n_classes]."""
        logits: Tensor = self.class_layer(_signs(output.logits))
        return logits

    def _triplet(self, similarity: Tensor, labels: Tensor) -> Tensor:
        anchors, positives, negatives = semi_hard_triplets(similarity.detach(), labels)
        if len(anchors) == 0:
            return similarity.sum() * 0.0  # keeps the graph, so that the caller need not know
        gap = similarity[anchors, negatives] - similarity[anchors, positives] + self.triplet_margin
        return functional.softplus(self.scale * gap).mean() / self.scale


def _signs(logits: Tensor) -> Tensor:
    """The signs, with the gradient of the logits themselves."""
    return logits + (logits.sign() - logits).detach()
