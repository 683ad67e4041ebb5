"""Losses that draw each class to a code of its own, chosen beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..network import Output
from .base import Loss


class _ToCentres(Loss):
    centres: Tensor  # float [n_classes, bits], +1 and -1

    def __init__(self, bits: int, class_sizes: Sequence[int]) -> None:
        super().__init__(bits, class_sizes)
        self.register_buffer("centres", class_centres(bits, self.n_classes), persistent=False)


class CSQ(_ToCentres):
    """Central similarity quantisation (Yuan, Wang, Zhang, Tay, Jie, Liu, Feng, CVPR 2020).

    With u the logits, h = tanh u, c the class's centre of +1 and -1:
        L_centre = mean over bits of the binary cross-entropy of (1 + h)/2 against (1 + c)/2
        L_code = 0.0001 mean of (|h| - 1)^2, in place of the paper's smooth |(|h| - 1)|
    """

    code_weight: ClassVar[float] = 1e-4

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """Training rows: see `Loss`."""
        wanted = (1 + self.centres.to(output.logits)[labels]) / 2
        return {
            # (1 + tanh u) / 2 is the logistic function of 2u.
            "centre": functional.binary_cross_entropy_with_logits(2 * output.logits, wanted),
            "code": self.code_weight * (output.logits.tanh().abs() - 1).square().mean(),
        }


class DPN(_ToCentres):
    """Deep polarised network (Fan, Ng, Ju, Zhang, Liu, Chan, IJCAI 2020), a hinge for every bit.

    With u the logits, c the class's centre of +1 and -1, m = 1: L_centre = mean over bits of max(0, m - u c)
    """

    margin: ClassVar[float] = 1.0

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """Training rows: see `Loss`."""
        agreement = output.logits * self.centres.to(output.logits)[labels]
        return {"centre": functional.relu(self.margin - agreement).mean()}


class OrthoHash(_ToCentres):
    """One loss for all (Hoe, Ng, Zhang, Chan, Song, Xiang, NeurIPS 2021): a margin softmax of cosines.

    With u the logits, c_j the centres, s = 8, m = 0.2:
        L_centre = CE(s (cos(u, c_j) - m [j = y]))
    """

    scale: ClassVar[float] = 8.0
    margin: ClassVar[float] = 0.2

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """Training rows: see `Loss`."""
        centres = self.centres.to(output.logits) / math.sqrt(self.bits)
        cosines = functional.normalize(output.logits) @ centres.T
        margins = self.margin * functional.one_hot(labels, self.n_classes)
        return {"centre": functional.cross_entropy(self.scale * (cosines - margins), labels)}


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
