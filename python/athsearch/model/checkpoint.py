"""Weights files: a network's tensors and everything needed to use them, as one safetensors file.

The file's metadata holds one JSON text under "athsearch": the ModelDescription, the format, the model's identity and
the library versions it was written with. Needs no torch unless a network is built. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..codes import n_words_for
from ..errors import CheckpointError
from ..preprocessing import Preprocessing
from ..types import AnyArray

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1
METADATA_NAME = "athsearch"


@dataclass(frozen=True)
class ModelDescription:
    """What a weights file says of its network.

    network: name in model.network.NETWORKS. bits: code length. classes: labels, in the order of their numbers.
    recipe, settings: how it was trained. training: summary figures of that training.
    """

    network: str
    bits: int
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    recipe: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """The part that decides codes, beside the tensors."""
        return {"network": self.network, "bits": self.bits, "preprocessing": self.preprocessing.to_dict()}


def model_id(description: ModelDescription, tensors: Mapping[str, AnyArray]) -> str:
    """16 hexadecimal digits that change with anything that decides codes: network, preprocessing or any weight."""
    return digest_of(json.dumps(description.identity(), sort_keys=True), tensors)[:16]


def tensors_of(network: nn.Module) -> dict[str, AnyArray]:
    """Copies of the network's parameters and buffers, as NumPy arrays."""
    return {name: tensor.detach().cpu().contiguous().numpy().copy() for name, tensor in network.state_dict().items()}


@dataclass(frozen=True)
class WeightsFile:
    """A weights file as read. tensors: the network's; extras: further arrays stored beside them, by name."""

    description: ModelDescription
    model_id: str
    tensors: Mapping[str, AnyArray]
    extras: Mapping[str, AnyArray]
    versions: Mapping[str, str]


def weights_file(
    description: ModelDescription,
    tensors: Mapping[str, AnyArray],
    extras: Mapping[str, AnyArray],
    versions: Mapping[str, str],
) -> bytes:
    """The content of a weights file."""
    from safetensors.numpy import save

    header = {
        "format": FORMAT,
        "model_id": model_id(description, tensors),
        "extras_sha256": digest_of("extras", extras),
        **description.identity(),
        "classes": description.classes,
        "recipe": description.recipe,
        "settings": dict(description.settings),
        "training": dict(description.training),
        "versions": dict(versions),
    }
    arrays = {f"network.{name}": np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    arrays |= {f"extra.{name}": np.asarray(tensor, order="C") for name, tensor in extras.items()}
    return save(arrays, {METADATA_NAME: json.dumps(header)})


def read_weights(path: str | Path) -> WeightsFile:
    """Reads a weights file. Raises CheckpointError when it is missing, damaged, not ours, or of another format, OSError
    when the system refuses to read it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb"):  # for the system's own words about folders and permissions
            pass
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if METADATA_NAME not in metadata:
                raise CheckpointError(f"{path}: a safetensors file, but not of athsearch")
            header = json.loads(metadata[METADATA_NAME])
            if not isinstance(header, dict):
                raise ValueError("its description is not an object")
            if header.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path}: weights of format {header.get('format')}, this version reads format {FORMAT}; "
                    "use the athsearch that wrote them, or a newer one"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        description = ModelDescription(
            network=header["network"],
            bits=header["bits"],
            classes=tuple(header["classes"]),
            preprocessing=Preprocessing.from_dict(header["preprocessing"]),
            recipe=header["recipe"],
            settings=dict(header["settings"]),
            training=dict(header["training"]),
        )
        if type(description.network) is not str or type(description.bits) is not int:
            raise ValueError("network must be a name and bits a whole number")
        n_words_for(description.bits)
        tensors = {name.removeprefix("network."): a for name, a in arrays.items() if name.startswith("network.")}
        extras = {name.removeprefix("extra."): a for name, a in arrays.items() if name.startswith("extra.")}
        stated, versions = (header["model_id"], header["extras_sha256"]), dict(header["versions"])
        _check_probes(extras, description.bits)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such weights file") from error
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable weights file ({type(error).__name__}: {error})") from error
    if (model_id(description, tensors), digest_of("extras", extras)) != stated:
        raise CheckpointError(f"{path}: damaged: its tensors are not those it was written with")
    return WeightsFile(description, stated[0], tensors, extras, versions)


def _check_probes(extras: Mapping[str, AnyArray], bits: int) -> None:
    """Raises ValueError unless there are no probe images, or their files and logits [n, bits]."""
    n_files = len(extras) - 1
    if extras and (
        extras.keys() != {"logits", *(f"jpeg.{number}" for number in range(n_files))}
        or extras["logits"].shape != (n_files, bits)
    ):
        raise ValueError("its probe images are not files and their logits")


def build_network(description: ModelDescription, tensors: Mapping[str, AnyArray]) -> nn.Module:
    """The network with its weights, in eval mode. Raises CheckpointError when they do not fit."""
    import torch

    from .network import NETWORKS

    if description.network not in NETWORKS:
        raise CheckpointError(f"unknown network {description.network!r}; known: {', '.join(NETWORKS)}")
    with torch.device("meta"):  # draws no weights, so that the caller's random numbers stay as they are
        network = NETWORKS[description.network](
            description.preprocessing.size, description.bits, max(1, len(description.classes))
        )
    try:
        network.load_state_dict(
            {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}, assign=True
        )
    except RuntimeError as error:
        raise CheckpointError(f"tensors do not fit network {description.network!r}: {error}") from error
    return network.eval()


def digest_of(start: str, tensors: Mapping[str, AnyArray]) -> str:
    """SHA-256, hexadecimal, of a text and of tensors by name: their names, types, shapes and values."""
    digest = hashlib.sha256(start.encode())
    for name in sorted(tensors):
        tensor = np.asarray(tensors[name], order="C")
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape} ".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
