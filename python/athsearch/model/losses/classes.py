"""Losses of a class layer on the code."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from ..network import Output
from .base import Loss


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
        logits = output.logits
        code = logits + (logits.sign() - logits).detach()
        return {
            "class": functional.cross_entropy(self.class_layer(code), labels),
            "code": self.code_weight * (logits.abs() - 1).abs().pow(3).mean(),
        }
