"""Networks without torch: a description and its tensors become steps of the C++ core, with BatchNorm folded in.

Codes need only this; torch is for training, for GPUs, and for explanations. Logits equal torch's up to rounding, see
`encoder.LOGIT_TOLERANCE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .. import _network
from ..errors import CheckpointError
from ..preprocessing import Preprocessing
from ..types import AnyArray
from .checkpoint import ModelDescription

CHANNEL_STEP = 8  # channels of planes are filled up to a multiple of it
BATCH_NORM_EPSILON = 1e-5  # torch's default, which all our networks use


def build(description: ModelDescription, tensors: Mapping[str, AnyArray], level: str = "") -> _network.Network:
    """The network of a weights file, to run on the CPU. level: one of _network.level_names(), or the fastest.

    Raises CheckpointError where the tensors are not those of the network.
    """
    if description.network not in _BUILDERS:
        raise CheckpointError(f"unknown network {description.network!r}; known: {', '.join(_BUILDERS)}")
    steps = _Steps(description.preprocessing, tensors, level)
    try:
        _BUILDERS[description.network](steps, description.bits)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"tensors do not fit network {description.network!r}: {error}") from error
    return steps.network


class _Steps:
    """A network under construction. Planes are (number, side, channels), channels without the filling."""

    def __init__(self, preprocessing: Preprocessing, tensors: Mapping[str, AnyArray], level: str) -> None:
        every_value = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
        values = preprocessing.normalise_values(every_value)  # [256, 3], channels in the network's order
        order = (2, 1, 0) if preprocessing.channels == "BGR" else (0, 1, 2)
        self.network = _network.Network(preprocessing.size, values.T, order, level)
        self.tensors = tensors
        self.input = (0, preprocessing.size, 3)

    def plane(self, side: int, channels: int) -> tuple[int, int, int]:
        return self.network.add_plane(side, side, _filled(channels)), side, channels

    def convolution(
        self,
        name: str,
        norm: str,
        in_: tuple[int, int, int],
        stride: int,
        is_rectified: bool = True,
        added: tuple[int, int, int] | None = None,
    ) -> tuple[int, int, int]:
        """relu(BN(conv(in)) + added)."""
        scale, shift = self.folded(norm)
        weights = self.tensors[f"{name}.weight"] * scale[:, None, None, None]  # [out, in, kernel, kernel]
        n_out, n_in, kernel, _ = weights.shape
        if n_in != in_[2]:
            raise ValueError(f"{name} takes {n_in} channels, not {in_[2]}")
        out = self.plane((in_[1] + stride - 1) // stride, n_out)
        n_before = 3 if in_[0] == 0 else _filled(n_in)
        filled = np.zeros((kernel, kernel, n_before, _filled(n_out)), np.float32)
        filled[:, :, :n_in, :n_out] = weights.transpose(2, 3, 1, 0)
        bias = np.zeros(_filled(n_out), np.float32)
        bias[:n_out] = shift
        self.network.convolve(in_[0], out[0], kernel, stride, filled, bias, is_rectified, added and added[0])
        return out

    def block(self, name: str, in_: tuple[int, int, int]) -> tuple[int, int, int]:
        """A ResidualBlock."""
        inner = self.convolution(f"{name}.first", f"{name}.first_norm", in_, 2)
        shortcut = self.convolution(f"{name}.shortcut", f"{name}.shortcut_norm", in_, 2, is_rectified=False)
        return self.convolution(f"{name}.second", f"{name}.second_norm", inner, 1, added=shortcut)

    def pool(self, in_: tuple[int, int, int], run: Callable[[int, int], None]) -> tuple[int, int, int]:
        out = self.plane(*in_[1:])
        run(in_[0], out[0])
        return out

    def attention(self, name: str, in_: tuple[int, int, int], offset: float) -> tuple[int, int, int]:
        out = self.plane(*in_[1:])
        self.network.attend(in_[0], out[0], in_[2], offset, self.tensors[f"{name}.conv.weight"][0])
        return out

    def finish(self, weights: AnyArray, bias: AnyArray, bits: int) -> None:
        """weights: [bits, n_features]."""
        if weights.shape[0] != bits:
            raise ValueError(f"the hash layer has {weights.shape[0]} bits, not {bits}")
        filled = np.zeros((weights.shape[1], _filled(bits)), np.float32)
        filled[:, :bits] = weights.T
        filled_bias = np.zeros(_filled(bits), np.float32)
        filled_bias[:bits] = bias
        self.network.finish(bits, filled, filled_bias)

    def folded(self, norm: str) -> tuple[AnyArray, AnyArray]:
        """Scale and shift, float64, of a BatchNorm in eval mode: y = scale x + shift."""
        mean, variance = (self.tensors[f"{norm}.running_{name}"].astype(np.float64) for name in ("mean", "var"))
        scale = self.tensors.get(f"{norm}.weight", 1.0) / np.sqrt(variance + BATCH_NORM_EPSILON)
        return scale, self.tensors.get(f"{norm}.bias", 0.0) - mean * scale


def _ath_s(steps: _Steps, bits: int) -> None:
    x = steps.pool(steps.block("first", steps.input), steps.network.pool_maximum)
    x = steps.attention("attention", x, 0.0)
    x = steps.pool(steps.block("second", x), steps.network.pool_average)
    x = steps.block("third", x)
    steps.network.flatten(x[0], x[2])
    steps.finish(steps.tensors["hash_layer.weight"], steps.tensors["hash_layer.bias"], bits)


def _ath_m(steps: _Steps, bits: int) -> None:
    x = steps.convolution("stem", "stem_norm", steps.input, 2)
    for name in ("first", "second", "third"):
        x = steps.attention(f"{name}_attention", steps.block(name, x), 1.0)
    steps.network.summarise(x[0])
    scale, shift = steps.folded("hash_norm")
    steps.finish(steps.tensors["hash_layer.weight"] * scale[:, None], shift, bits)


_BUILDERS: dict[str, Callable[[_Steps, int], None]] = {"ath-s": _ath_s, "ath-m": _ath_m}


def _filled(channels: int) -> int:
    return -(-channels // CHANNEL_STEP) * CHANNEL_STEP
