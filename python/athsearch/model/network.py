"""The networks that turn an image into logits: the published one, and two larger ones of its parts rearranged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..codes import n_words_for
from ..preprocessing import SMALLEST_SIZE
from . import ops


class Output(NamedTuple):
    """What a network makes of a batch.

    logits: float [B, bits], bit = logit > 0. class_logits: float [B, n_classes].
    attention: float [B, 1, h, w], from 0 to 1, on a grid coarser than the image: where the network looked.
    """

    logits: Tensor
    class_logits: Tensor
    attention: Tensor


class ResidualBlock(nn.Module):
    """relu(BN(conv(relu(BN(conv(x))))) + BN(conv(x))), no biases, stride 2; 3x3 but for the shortcut's kernel."""

    def __init__(self, n_in: int, n_out: int, shortcut_kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(n_out)
        self.second = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Conv2d(n_in, n_out, shortcut_kernel, stride=2, padding=shortcut_kernel // 2, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """x: float [B, n_in, H, W]. Returns [B, n_out, H / 2, W / 2], rounded up."""
        inner = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(inner)) + self.shortcut_norm(self.shortcut(x)))


class IdentityBlock(nn.Module):
    """relu(BN(conv(relu(BN(conv(x))))) + x), 3x3, no biases: channels and size stay."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_channels, n_channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(n_channels)
        self.second = nn.Conv2d(n_channels, n_channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(n_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: float [B, n_channels, H, W]. Returns the same shape."""
        inner = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(inner)) + x)


class SpatialAttention(nn.Module):
    """A(x) = sigmoid(conv3x3([mean over channels, max over channels])), without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: float [B, C, H, W]. Returns [B, 1, H, W], from 0 to 1. Of equal channels the lowest is the maximum."""
        mean = x.mean(dim=1, keepdim=True)
        maximum = x.max(dim=1, keepdim=True).values
        attention: Tensor = torch.sigmoid(self.conv(torch.cat([mean, maximum], dim=1)))
        return attention


class ATHNet(nn.Module):
    """ATH as published (Fang, Fu, Liu, Medical Image Analysis 69, 2021, 101981).

    48,394 parameters at 256 px, 36 bits and 5 classes. The hash layer and the class layer stand side by side on the
    same size^2 / 64 values of a single channel.
    size: pixels, from 64, divisible by 8. bits: 1 to 4096. n_classes: from 1. Raises ValueError otherwise.
    Weights are drawn from torch's generator by Xavier's normal rule; biases start at zero.
    """

    def __init__(self, size: int, bits: int, n_classes: int) -> None:
        super().__init__()
        _check(size, bits, n_classes)
        self.size = size
        self.first = ResidualBlock(3, 16, shortcut_kernel=3)
        self.first_pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.attention = SpatialAttention()
        self.second = ResidualBlock(16, 8, shortcut_kernel=3)
        self.second_pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.third = ResidualBlock(8, 1, shortcut_kernel=3)
        n_features = (size // 8) ** 2
        self.hash_layer = nn.Linear(n_features, bits)
        self.class_layer = nn.Linear(n_features, n_classes)
        _draw_weights(self)

    def forward(self, x: Tensor) -> Output:
        """x: float [B, 3, size, size]. The attention map is size / 2 wide."""
        _check_input(x, self.size)
        x = x.contiguous(memory_format=torch.channels_last)  # faster on CPUs, its max pooling above all
        x = self.first_pool(self.first(x))  # at 256 px: [B, 3, 256, 256] -> [B, 16, 128, 128]
        x, attention = _attended(x, self.attention, 0)  # [B, 1, 128, 128]
        x = self.second_pool(self.second(x))  # -> [B, 8, 64, 64]
        features = self.third(x).flatten(1)  # -> [B, 1, 32, 32] -> [B, 1024]
        return Output(self.hash_layer(features), self.class_layer(features), attention)


class ResidualATHNet(nn.Module):
    """ATH's parts, rearranged: attention after every stage as x (1 + A(x)), which cannot switch a signal off,
    pooling of 128 channels (mean and maximum) instead of one channel flattened, and the class layer on the code.

    The code is u = BN(W z) without affine parameters, so that each bit is set for about half of all images (Hoe et al.,
    One loss for all: deep hashing with a single cosine similarity based learning objective, NeurIPS 2021). The class
    layer sees u at length sqrt(bits), the length of a code of +1 and -1; a loss with one of its own, as the default
    one, leaves it as it began.
    Parameters and errors as for ATHNet.
    """

    def __init__(self, size: int, bits: int, n_classes: int) -> None:
        super().__init__()
        _check(size, bits, n_classes)
        self.size = size
        self.stem = nn.Conv2d(3, 24, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(24)
        self.first: nn.Module = ResidualBlock(24, 32, shortcut_kernel=1)
        self.second: nn.Module = ResidualBlock(32, 64, shortcut_kernel=1)
        self.third: nn.Module = ResidualBlock(64, 128, shortcut_kernel=1)
        self.first_attention, self.second_attention, self.third_attention = (SpatialAttention() for _ in range(3))
        self.hash_layer = nn.Linear(2 * 128, bits, bias=False)
        self.hash_norm = nn.BatchNorm1d(bits, affine=False)
        self.class_layer = nn.Linear(bits, n_classes)
        _draw_weights(self)

    def forward(self, x: Tensor) -> Output:
        """x: float [B, 3, size, size]. The attention map is that of the second stage, size / 8 wide."""
        _check_input(x, self.size)
        x = x.contiguous(memory_format=torch.channels_last)  # faster on CPUs
        x = functional.relu(self.stem_norm(self.stem(x)))  # at 96 px: [B, 3, 96, 96] -> [B, 24, 48, 48]
        x = self.first(x)  # -> [B, 32, 24, 24]
        x, _ = _attended(x, self.first_attention, 1)
        x, attention = _attended(self.second(x), self.second_attention, 1)  # -> [B, 64, 12, 12]
        x, _ = _attended(self.third(x), self.third_attention, 1)  # -> [B, 128, 6, 6]
        features = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)  # -> [B, 256]
        logits = self.hash_norm(self.hash_layer(features))  # -> [B, bits]
        code = functional.normalize(logits) * logits.shape[1] ** 0.5
        return Output(logits, self.class_layer(code), attention)


class DeeperATHNet(ResidualATHNet):
    """The same with a second block in each of the last two stages, for 1.8 times the work.

    Parameters and errors as for ATHNet.
    """

    def __init__(self, size: int, bits: int, n_classes: int) -> None:
        super().__init__(size, bits, n_classes)
        self.second = nn.Sequential(self.second, IdentityBlock(64))
        self.third = nn.Sequential(self.third, IdentityBlock(128))
        _draw_weights(self)


NETWORKS: dict[str, type[ATHNet] | type[ResidualATHNet]] = {
    "ath-s": ATHNet,
    "ath-m": ResidualATHNet,
    "ath-l": DeeperATHNet,
}


def _attended(x: Tensor, module: nn.Module, offset: int) -> tuple[Tensor, Tensor]:
    """x (offset + A(x)) and A(x): in one kernel where there is one for x, and the module is the attention it knows."""
    if type(module) is SpatialAttention and ops.has_kernels(x):
        return ops.spatial_attention(x, module.conv.weight, offset)
    attention: Tensor = module(x)
    return x * (attention if offset == 0 else offset + attention), attention


def _check(size: int, bits: int, n_classes: int) -> None:
    if size < SMALLEST_SIZE or size % 8:
        raise ValueError(f"size must be at least {SMALLEST_SIZE} and divisible by 8, got {size}")
    if n_classes < 1:
        raise ValueError(f"n_classes must be at least 1, got {n_classes}")
    n_words_for(bits)  # raises where no code can be that long


def _check_input(x: Tensor, size: int) -> None:
    if x.ndim != 4 or x.shape[1:] != (3, size, size):
        raise ValueError(f"expected a batch [B, 3, {size}, {size}], got {list(x.shape)}")


def _draw_weights(network: nn.Module) -> None:
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
