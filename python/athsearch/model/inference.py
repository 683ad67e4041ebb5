"""Networks without torch: a description and its tensors become steps of our own code, with BatchNorm folded in.

Codes need only this, on the CPU and, where athsearch._cuda is built, on a GPU; torch is for training and for
explanations. Logits equal torch's up to rounding, see `encoder.LOGIT_TOLERANCE`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from .. import _network
from ..errors import CheckpointError
from ..preprocessing import Preprocessing
from ..types import AnyArray, Floats, Square
from .checkpoint import ModelDescription

CHANNEL_STEP = 8  # channels of planes are filled up to a multiple of it
BATCH_NORM_EPSILON = 1e-5  # torch's default, which all our networks use


class Network(Protocol):
    """What _network.Network and _cuda.Network have in common."""

    def add_plane(self, height: int, width: int, channels: int) -> int: ...
    def convolve(
        self,
        in_: int,
        out: int,
        kernel: int,
        stride: int,
        weights: AnyArray,
        bias: AnyArray,
        is_rectified: bool,
        added: int | None,
    ) -> None: ...
    def pool_maximum(self, in_: int, out: int) -> None: ...
    def pool_average(self, in_: int, out: int) -> None: ...
    def attend(self, in_: int, out: int, n_channels: int, offset: float, weights: AnyArray) -> None: ...
    def flatten(self, in_: int, n_channels: int) -> None: ...
    def summarise(self, in_: int) -> None: ...
    def finish(self, bits: int, weights: AnyArray, bias: AnyArray) -> None: ...
    def run(self, images: Square, threads: int) -> Floats:
        """images: uint8 [n, size, size, 3] -> logits float32 [n, bits]."""


N = TypeVar("N", bound=Network)
Make: TypeAlias = Callable[[int, AnyArray, Sequence[int]], N]  # an empty network, of size, values and order


def build(description: ModelDescription, tensors: Mapping[str, AnyArray], level: str = "") -> _network.Network:
    """The network of a weights file, to run on the CPU. level: one of _network.level_names(), or the fastest.

    Raises CheckpointError where the tensors are not those of the network.
    """
    return build_with(partial(_network.Network, level=level), description, tensors)


def build_with(make: Make[N], description: ModelDescription, tensors: Mapping[str, AnyArray]) -> N:
    """The same in an empty network that `make` makes."""
    if description.network not in BUILDERS:
        raise CheckpointError(f"unknown network {description.network!r}; known: {', '.join(BUILDERS)}")
    steps = _Steps(make, description.preprocessing, tensors)
    try:
        BUILDERS[description.network](steps, description.bits)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"tensors do not fit network {description.network!r}: {error}") from error
    return steps.network


class _Steps(Generic[N]):
    """A network under construction. Planes are (number, side, channels), channels without the filling."""

    def __init__(self, make: Make[N], preprocessing: Preprocessing, tensors: Mapping[str, AnyArray]) -> None:
        every_value = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
        values = preprocessing.normalise_values(every_value)  # [256, 3], channels in the network's order
        order = (2, 1, 0) if preprocessing.channels == "BGR" else (0, 1, 2)
        self.network = make(preprocessing.size, values.T, order)
        self.tensors = tensors
        self.input = (0, preprocessing.size, 3)

    def plane(self, side: int, channels: int) -> tuple[int, int, int]:
        return self.network.add_plane(side, side, _filled(channels)), side, channels

    def tensor(self, name: str, *shape: int) -> AnyArray:
        """Float64. Raises KeyError or ValueError where it is not there, has another shape, or is not finite."""
        values = self.tensors[name].astype(np.float64)
        if values.shape != shape:
            raise ValueError(f"{name} is {list(values.shape)}, not {list(shape)}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds values that are not finite")
        return values

    def norm(self, name: str, n: int, is_affine: bool = True) -> tuple[AnyArray, AnyArray]:
        """Scale and shift [n] of a BatchNorm in eval mode: y = scale x + shift."""
        variance = self.tensor(f"{name}.running_var", n)
        if (variance < 0).any():
            raise ValueError(f"{name}.running_var is negative")
        scale = 1 / np.sqrt(variance + BATCH_NORM_EPSILON)
        shift = -self.tensor(f"{name}.running_mean", n) * scale
        if not is_affine:
            return scale, shift
        weight = self.tensor(f"{name}.weight", n)
        return weight * scale, weight * shift + self.tensor(f"{name}.bias", n)

    def convolution(
        self,
        name: str,
        in_: tuple[int, int, int],
        n_out: int,
        kernel: int,
        stride: int,
        is_rectified: bool = True,
        added: tuple[int, int, int] | None = None,
    ) -> tuple[int, int, int]:
        """relu(BN(conv(in)) + added)."""
        n_in = in_[2]
        scale, shift = self.norm(f"{name}_norm", n_out)
        weights = self.tensor(f"{name}.weight", n_out, n_in, kernel, kernel) * scale[:, None, None, None]
        out = self.plane((in_[1] + stride - 1) // stride, n_out)
        n_before = n_in if in_ == self.input else _filled(n_in)
        filled = np.zeros((kernel, kernel, n_before, _filled(n_out)), np.float32)
        filled[:, :, :n_in, :n_out] = weights.transpose(2, 3, 1, 0)
        bias = np.zeros(_filled(n_out), np.float32)
        bias[:n_out] = shift
        self.network.convolve(in_[0], out[0], kernel, stride, filled, bias, is_rectified, added and added[0])
        return out

    def block(self, name: str, in_: tuple[int, int, int], n_out: int, shortcut_kernel: int) -> tuple[int, int, int]:
        """A ResidualBlock."""
        inner = self.convolution(f"{name}.first", in_, n_out, 3, 2)
        shortcut = self.convolution(f"{name}.shortcut", in_, n_out, shortcut_kernel, 2, is_rectified=False)
        return self.convolution(f"{name}.second", inner, n_out, 3, 1, added=shortcut)

    def identity_block(self, name: str, in_: tuple[int, int, int]) -> tuple[int, int, int]:
        """An IdentityBlock."""
        inner = self.convolution(f"{name}.first", in_, in_[2], 3, 1)
        return self.convolution(f"{name}.second", inner, in_[2], 3, 1, added=in_)

    def pool(self, in_: tuple[int, int, int], run: Callable[[int, int], None]) -> tuple[int, int, int]:
        out = self.plane(*in_[1:])
        run(in_[0], out[0])
        return out

    def attention(self, name: str, in_: tuple[int, int, int], offset: float) -> tuple[int, int, int]:
        out = self.plane(*in_[1:])
        weights = self.tensor(f"{name}.conv.weight", 1, 2, 3, 3)
        self.network.attend(in_[0], out[0], in_[2], offset, weights)
        return out

    def finish(self, weights: AnyArray, bias: AnyArray) -> None:
        """weights: [bits, n_features]; bias: [bits]."""
        bits, n_features = weights.shape
        filled = np.zeros((n_features, _filled(bits)), np.float32)
        filled[:, :bits] = weights.T
        filled_bias = np.zeros(_filled(bits), np.float32)
        filled_bias[:bits] = bias
        self.network.finish(bits, filled, filled_bias)


def _ath_s(steps: _Steps[Any], bits: int) -> None:
    x = steps.pool(steps.block("first", steps.input, 16, 3), steps.network.pool_maximum)
    x = steps.attention("attention", x, 0.0)
    x = steps.pool(steps.block("second", x, 8, 3), steps.network.pool_average)
    x = steps.block("third", x, 1, 3)
    steps.network.flatten(x[0], x[2])
    steps.finish(steps.tensor("hash_layer.weight", bits, x[1] ** 2), steps.tensor("hash_layer.bias", bits))


def _ath_m(steps: _Steps[Any], bits: int) -> None:
    _residual(steps, bits, ())


def _ath_l(steps: _Steps[Any], bits: int) -> None:
    _residual(steps, bits, {"second", "third"})


def _residual(steps: _Steps[Any], bits: int, deeper: Collection[str]) -> None:
    """deeper: the stages of two blocks."""
    x = steps.convolution("stem", steps.input, 24, 3, 2)
    for name, n_out in (("first", 32), ("second", 64), ("third", 128)):
        if name in deeper:
            x = steps.identity_block(f"{name}.1", steps.block(f"{name}.0", x, n_out, 1))
        else:
            x = steps.block(name, x, n_out, 1)
        x = steps.attention(f"{name}_attention", x, 1.0)
    steps.network.summarise(x[0])
    scale, shift = steps.norm("hash_norm", bits, is_affine=False)
    steps.finish(steps.tensor("hash_layer.weight", bits, 2 * x[2]) * scale[:, None], shift)


BUILDERS: dict[str, Callable[[_Steps[Any], int], None]] = {
    "ath-s": _ath_s,
    "ath-m": _ath_m,
    "ath-l": _ath_l,
}


def _filled(channels: int) -> int:
    return -(-channels // CHANNEL_STEP) * CHANNEL_STEP
