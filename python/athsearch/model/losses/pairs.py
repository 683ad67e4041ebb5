"""Losses on pairs of images: of one class they should be near, of two classes far apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..network import Output
from .base import Loss, mean_over, pairs_of, squared_distances


class Contrastive(Loss):
    """Deep supervised hashing (Liu, Wang, Shan, Chen, CVPR 2016), a contrastive loss with relaxed codes.

    With u the logits, s = 1 for a pair of one class and else 0, m = 2 bits, over all pairs of a batch:
        L_pair = mean of s |u_i - u_j|^2 / 2 + (1 - s) max(m - |u_i - u_j|^2, 0) / 2
        L_code = 0.01 mean over images of sum over bits of ||u| - 1|
    """

    code_weight = 0.01

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """Training rows: see `Loss`."""
        same, different = pairs_of(labels)
        distances = squared_distances(output.logits)
        costs = torch.where(same, distances, functional.relu(2 * self.bits - distances)) / 2
        return {
            "pair": mean_over(costs, same | different),
            "code": self.code_weight * (output.logits.abs() - 1).abs().sum(dim=1).mean(),
        }


class DPSH(Loss):
    """Deep pairwise-supervised hashing (Li, Wang, Kang, IJCAI 2016).

    With u the logits, theta = u_i . u_j / 2, s = 1 for a pair of one class and else 0, over all pairs of a batch:
        L_pair = mean of log(1 + e^theta) - s theta
        L_code = 0.1 mean of (sign u - u)^2
    """

    code_weight = 0.1

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """Training rows: see `Loss`."""
        same, different = pairs_of(labels)
        theta = output.logits @ output.logits.T / 2
        likelihood = functional.softplus(theta) - same * theta
        return {
            "pair": mean_over(likelihood, same | different),
            "code": self.code_weight * (output.logits.sign() - output.logits).square().mean(),
        }


class HashNet(Loss):
    """HashNet (Cao, Long, Wang, Yu, ICCV 2017): weighted pairs, and a tanh that becomes a sign.

    With h = tanh(beta u), beta from 1 to 10 as the training goes on (the square root of 1 + 99 progress; the paper
    raises it stage by stage), theta = 10/bits h_i . h_j (the paper leaves the factor, below 1, to be chosen),
    s = 1 for a pair of one class and else 0, over all pairs of a batch:
        L_pair = mean of w (log(1 + e^theta) - s theta)
    where w makes the pairs of one class weigh as much as the others: n / n_same for the former, n / n_different else.
    """

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """Training rows: see `Loss`."""
        same, different = pairs_of(labels)
        code = torch.tanh((1 + 99 * progress) ** 0.5 * output.logits)
        theta = 10 / self.bits * code @ code.T
        likelihood = functional.softplus(theta) - same * theta
        return {"pair": mean_over(likelihood, same) + mean_over(likelihood, different)}


class DCH(Loss):
    """Deep Cauchy hashing (Cao, Long, Liu, Wang, CVPR 2018): near pairs count most.

    With u the logits, d = bits/2 (1 - cos(u_i, u_j)), gamma = 20, over all pairs of a batch, weighted as in HashNet:
        L_pair = mean over pairs of one class of log(1 + d/gamma) + mean over the others of log(1 + gamma/d)
        L_code = 0.1 mean over images of log(1 + d(|u|, 1)/gamma)
    """

    gamma, code_weight = 20.0, 0.1

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        """Training rows: see `Loss`."""
        same, different = pairs_of(labels)
        code = functional.normalize(output.logits)
        distances = self.bits / 2 * (1 - code @ code.T)
        apart = distances.clamp(min=1e-3)  # equal codes of two classes would cost infinitely much
        to_ones = self.bits / 2 * (1 - code.abs().sum(dim=1) / self.bits**0.5)
        near = mean_over(torch.log1p(distances.clamp(min=0) / self.gamma), same)
        far = mean_over(torch.log1p(self.gamma / apart), different)
        return {"pair": near + far, "code": self.code_weight * torch.log1p(to_ones.clamp(min=0) / self.gamma).mean()}
