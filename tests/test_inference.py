"""Networks without torch give torch's logits, on every CPU level this machine runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from athsearch import _network
from athsearch.encoder import LOGIT_TOLERANCE
from athsearch.errors import CheckpointError
from athsearch.model.checkpoint import ModelDescription, tensors_of
from athsearch.model.inference import build
from athsearch.model.network import NETWORKS
from athsearch.preprocessing import Preprocessing
from conftest import draw_image

RAW = {"fit": "stretch", "channels": "BGR", "mean": (0, 0, 0), "std": (1, 1, 1)}


def drawn_network(name: str, size: int, bits: int, **preprocessing: object) -> tuple[nn.Module, ModelDescription]:
    """A network all of whose tensors, BatchNorm's too, are random."""
    rng = torch.Generator().manual_seed(size + bits)
    network = NETWORKS[name](size, bits, 3).eval()
    for key, tensor in network.state_dict().items():
        if key.endswith("running_var") or (key.endswith("norm.weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=rng) + 0.5)
        elif key.endswith(("running_mean", "bias")):
            tensor.copy_(torch.randn(tensor.shape, generator=rng) * 0.3)
    description = ModelDescription(name, bits, ("a", "b", "c"), Preprocessing(size=size, **preprocessing))  # type: ignore[arg-type]
    return network, description


def torch_logits(network: nn.Module, description: ModelDescription, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = network(
            torch.from_numpy(description.preprocessing.normalise(squares))
        ).logits.numpy()
    return logits


@pytest.mark.parametrize("level", _network.level_names())
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [64, 72, 96, 104, 256])
@pytest.mark.parametrize("bits", [1, 36, 64])
def test_logits_are_those_of_torch(name: str, size: int, bits: int, level: str) -> None:
    network, description = drawn_network(name, size, bits, **(RAW if bits == 36 else {}))
    squares = np.stack([description.preprocessing.square(draw_image(seed, size)) for seed in range(3)])
    expected = torch_logits(network, description, squares)
    inference = build(description, tensors_of(network), level)
    found = inference.run(squares, 2)
    assert found.shape == expected.shape
    spread = float(np.sqrt(np.mean(expected**2)))
    assert spread > 0
    assert np.abs(found - expected).max() < LOGIT_TOLERANCE / 10 * spread
    # One image at a time, in another order, on another number of threads: the same floats.
    assert np.array_equal(inference.run(squares[::-1].copy(), 1)[::-1], found)
    assert np.array_equal(np.concatenate([inference.run(square[None], 1) for square in squares]), found)


def test_what_does_not_fit_is_refused() -> None:
    network, description = drawn_network("ath-m", 64, 36)
    tensors = tensors_of(network)
    inference = build(description, tensors)
    for wrong in (
        np.zeros((1, 64, 64, 1), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 72, 64, 3), np.uint8),
    ):
        with pytest.raises(ValueError, match=r"uint8 \[n, 64, 64, 3\]"):
            inference.run(wrong, 1)
    with pytest.raises(TypeError):
        inference.run(np.zeros((1, 64, 64, 3), np.float32), 1)
    assert inference.run(np.zeros((0, 64, 64, 3), np.uint8), 1).shape == (0, 36)
    with pytest.raises(CheckpointError, match="unknown network 'ath-x'"):
        build(ModelDescription("ath-x", 36, (), Preprocessing()), tensors)
    with pytest.raises(CheckpointError, match="do not fit network 'ath-s'"):
        build(ModelDescription("ath-s", 36, (), Preprocessing()), tensors)
    with pytest.raises(CheckpointError, match=r"not \[37"):
        build(ModelDescription("ath-m", 37, (), Preprocessing()), tensors)
    with pytest.raises(ValueError, match="level 'fast' is unknown"):
        build(description, tensors, "fast")


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_that_torch_would_refuse_are_refused(name: str) -> None:
    network, description = drawn_network(name, 64, 36)
    tensors = tensors_of(network)
    used = [key for key in tensors if not key.startswith("class_layer") and not key.endswith("num_batches_tracked")]
    assert len(used) > 30
    for key in used:
        missing = {other: tensor for other, tensor in tensors.items() if other != key}
        wider, spoilt = np.concatenate([tensors[key]] * 2), tensors[key].copy()
        spoilt.flat[0] = np.nan
        for wrong in (missing, {**tensors, key: wider}, {**tensors, key: tensors[key][:0]}, {**tensors, key: spoilt}):
            with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
                build(description, wrong)
