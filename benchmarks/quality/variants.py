"""Networks and losses of the ablations: ours with one thing changed, entered in the registries for the study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from athsearch.model.losses import LOSSES, Loss
from athsearch.model.losses.base import mean_over, squared_distances
from athsearch.model.losses.classes import SignTriplet
from athsearch.model.losses.triplets import all_gaps, all_triplets
from athsearch.model.network import NETWORKS, Output, ResidualATHNet, SpatialAttention


class _NoAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 1, *x.shape[2:])


class _OneStatistic(SpatialAttention):
    """Attention that sees the mean, or the maximum, over channels twice."""

    def __init__(self, is_mean: bool) -> None:
        super().__init__()
        self.is_mean = is_mean

    def forward(self, x: Tensor) -> Tensor:
        statistic = x.mean(dim=1, keepdim=True) if self.is_mean else x.amax(dim=1, keepdim=True)
        attention: Tensor = torch.sigmoid(self.conv(torch.cat([statistic, statistic], dim=1)))
        return attention


class NoAttention(ResidualATHNet):
    """No attention anywhere."""

    def __init__(self, size: int, bits: int, n_classes: int) -> None:
        super().__init__(size, bits, n_classes)
        self.first_attention = self.second_attention = self.third_attention = _NoAttention()


class MeanAttention(ResidualATHNet):
    """Attention to the mean over channels alone."""

    is_mean: ClassVar[bool] = True

    def __init__(self, size: int, bits: int, n_classes: int) -> None:
        super().__init__(size, bits, n_classes)
        for name in ("first_attention", "second_attention", "third_attention"):
            attention = _OneStatistic(self.is_mean)
            attention.load_state_dict(getattr(self, name).state_dict())
            setattr(self, name, attention)


class MaximumAttention(MeanAttention):
    """Attention to the maximum over channels alone."""

    is_mean: ClassVar[bool] = False


class PaperAttention(ResidualATHNet):
    """The paper's attention: x A(x) after the first stage, and none after the others."""

    def __init__(self, size: int, bits: int, n_classes: int) -> None:
        super().__init__(size, bits, n_classes)
        self.second_attention = self.third_attention = _NoAttention()
        attention = self.first_attention
        self.first_attention = _LessOne(attention)


class _LessOne(nn.Module):
    """A(x) - 1, so that x (1 + this) is x A(x)."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        attention: Tensor = self.attention(x) - 1
        return attention


class ClassOnFeatures(ResidualATHNet):
    """The class layer beside the hash layer, as in the paper, instead of on the code."""

    def __init__(self, size: int, bits: int, n_classes: int) -> None:
        super().__init__(size, bits, n_classes)
        self.class_layer = nn.Linear(2 * 128, n_classes)
        nn.init.xavier_normal_(self.class_layer.weight)
        nn.init.zeros_(self.class_layer.bias)
        self.features = torch.zeros(0)
        self.hash_layer.register_forward_pre_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0]

    def forward(self, x: Tensor) -> Output:
        layer, self.class_layer = self.class_layer, nn.Identity()
        try:
            output = super().forward(x)
        finally:
            self.class_layer = layer
        return output._replace(class_logits=layer(self.features))


class _Without(SignTriplet):
    left_out: ClassVar[str]

    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        parts = super().forward(output, labels, progress)
        del parts[self.left_out]
        return parts


class NoClass(_Without):
    """Without the class layer."""

    left_out = "class"


class NoTriplets(_Without):
    """Without triplets."""

    left_out = "triplet"


class ClassOfNetwork(SignTriplet):
    """The network's class layer, wherever it stands."""

    def class_logits(self, output: Output) -> Tensor:
        return output.class_logits


class ClassOnAngles(SignTriplet):
    """The class layer on the logits, at the length of a code, instead of on their signs."""

    def class_logits(self, output: Output) -> Tensor:
        logits: Tensor = self.class_layer(functional.normalize(output.logits) * self.bits**0.5)
        return logits


class RandomStart(SignTriplet):
    """The class layer starts at random, as usual."""

    def __init__(self, bits: int, class_sizes: Sequence[int]) -> None:
        super().__init__(bits, class_sizes)
        self.class_layer.reset_parameters()


class EqualMargins(SignTriplet):
    """One margin for all classes, whatever their size."""

    largest_margin = SignTriplet.class_margin


class _OtherTriplets(SignTriplet):
    def forward(self, output: Output, labels: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
        parts = super().forward(output, labels, progress)
        costs = self.costs(output.logits)
        parts["triplet"] = mean_over(costs, all_triplets(labels))
        return parts

    def costs(self, logits: Tensor) -> Tensor:
        raise NotImplementedError


class PaperTriplets(_OtherTriplets):
    """The paper's triplet term: mean squared distances, margin bits / 2."""

    def costs(self, logits: Tensor) -> Tensor:
        return functional.relu(0.5 * self.bits + all_gaps(squared_distances(logits) / self.bits))


class BoundedTriplets(_OtherTriplets):
    """The same of tanh u, whose mean squared distance is at most 4, with a margin that it can meet: 2."""

    def costs(self, logits: Tensor) -> Tensor:
        return functional.relu(2 + all_gaps(squared_distances(logits.tanh()) / self.bits))


VARIANT_NETWORKS: dict[str, type[ResidualATHNet]] = {
    "no-attention": NoAttention,
    "paper-attention": PaperAttention,
    "mean-attention": MeanAttention,
    "maximum-attention": MaximumAttention,
    "class-on-features": ClassOnFeatures,
}
VARIANT_LOSSES: dict[str, type[Loss]] = {
    "no-class": NoClass,
    "no-triplets": NoTriplets,
    "class-of-network": ClassOfNetwork,
    "class-on-angles": ClassOnAngles,
    "random-start": RandomStart,
    "equal-margins": EqualMargins,
    "paper-triplets": PaperTriplets,
    "bounded-triplets": BoundedTriplets,
}
NETWORKS.update(VARIANT_NETWORKS)
LOSSES.update(VARIANT_LOSSES)
