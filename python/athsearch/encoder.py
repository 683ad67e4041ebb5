"""From images to codes: a network, its preprocessing, and decoding that runs beside them."""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from . import images as formats
from .codes import Codes
from .data import Source, locate, read_pixels
from .errors import DeviceError, ModelMismatch
from .model.checkpoint import ModelDescription, build_network, model_id, read_weights, save_weights, tensors_of
from .parallel import map_ahead
from .types import AnyArray, Floats, Pixels, Square

if TYPE_CHECKING:
    from torch import nn

BATCH_SIZE = 64  # images a forward pass
N_AHEAD = 4 * BATCH_SIZE  # images decoded ahead of the network, at most
ImageLike: TypeAlias = str | Path | AnyArray
Images: TypeAlias = Source | Sequence[ImageLike] | ImageLike

# Logits of other engines, devices or library versions may differ by this share of their spread (root mean square);
# a bit may differ where its |logit| is below it.
LOGIT_TOLERANCE = 1e-3


class Encoder:
    """Turns images into codes with one network.

    network: from model.network, with trained weights; description: what it is. device: "auto" (a GPU where torch finds
    one), "cpu", "cuda" or "cuda:1". Raises DeviceError for a device that torch does not have.
    """

    def __init__(self, network: nn.Module, description: ModelDescription, device: str = "auto") -> None:
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._network = network.eval().to(device)
        except (RuntimeError, AssertionError) as error:
            raise DeviceError(f"device {device!r} cannot be used: {error}") from error
        self.device = device
        self.description = description
        self.model_id = model_id(description, tensors_of(network))
        self._probes: dict[str, AnyArray] | None = None

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Encoder:
        """From a weights file. Raises CheckpointError when it cannot be used, DeviceError for an unknown device."""
        weights = read_weights(path)
        encoder = cls(build_network(weights, path), weights.description, device)
        encoder._probes = dict(weights.extras)
        return encoder

    def save(self, path: str | Path) -> None:
        """Writes a weights file (safetensors), whole or not at all. The folder must exist."""
        probes = self._probes or self._make_probes()
        save_weights(Path(path), self.description, tensors_of(self._network), probes, _library_versions())

    @property
    def bits(self) -> int:
        """Length of a code."""
        return self.description.bits

    def encode(self, images: Images) -> Codes:
        """Codes [n] of n images, bit = logit > 0, in the order given. Parameters and errors as for `logits`."""
        return Codes.from_logits(self.logits(images), self.model_id)

    def logits(self, images: Images) -> Floats:
        """float32 [n, bits], BatchNorm in eval mode, so an image's logits do not depend on its neighbours.

        images: one or a sequence of paths or pixel arrays (uint8 or uint16, [H, W] or [H, W, 1 or 3]), or a Source.
        Raises ImageError for the first image that cannot be used.
        """
        batches = [self.logits_of_squares(squares) for squares in self._batches(images)]
        return np.concatenate([np.zeros((0, self.bits), np.float32), *batches])

    def squares(self, images: Images) -> Square:
        """uint8 [n, size, size, 3]: what the network is shown, before normalising. Errors as for `logits`."""
        size = self.description.preprocessing.size
        return np.concatenate([np.zeros((0, size, size, 3), np.uint8), *self._batches(images)])

    def logits_of_squares(self, squares: Square) -> Floats:
        """squares: uint8 [B, size, size, 3], one batch. Returns float32 [B, bits]."""
        return self._forward(squares, "logits")

    def attention(self, squares: Square) -> Floats:
        """squares: uint8 [B, size, size, 3], one batch. Returns float32 [B, h, w], 0..1: the network's gate A(x)."""
        return self._forward(squares, "attention")[:, 0]

    def relevance(self, squares: Square) -> Floats:
        """How much each place pushed the code's bits the way they went.

        squares: uint8 [B, size, size, 3], one batch. Returns float32 [B, h, w], not negative: with z the last stage's
        activations and u the logits, max(0, sum over channels of z * d(sum over bits of |u|)/dz). In the spirit of
        Grad-CAM (Selvaraju et al., ICCV 2017), without its mean over places.
        """
        import torch

        batch = torch.from_numpy(self.description.preprocessing.normalise(squares)).to(self.device)
        kept: list[torch.Tensor] = []

        def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            output.retain_grad()
            kept.append(output)

        hook = self._network.get_submodule("third").register_forward_hook(keep)
        try:
            with torch.enable_grad():
                self._network(batch.requires_grad_()).logits.abs().sum().backward()
        finally:
            hook.remove()
            self._network.zero_grad(set_to_none=True)
        gradient = kept[0].grad
        if gradient is None:
            raise RuntimeError("the last stage has no part in the logits")
        relevance: Floats = (kept[0] * gradient).sum(dim=1).relu().detach().cpu().numpy()
        return relevance

    def check_probes(self) -> None:
        """Whether this machine's decoder and engine still give the codes that the writer's gave.

        Raises ModelMismatch when a bit of a probe image differs whose |logit| is above the tolerance.
        """
        if not self._probes:
            return
        stored: Floats = self._probes["logits"]
        found = self.logits([_decode_probe(self._probes[f"jpeg.{i}"]) for i in range(len(stored))])
        sure = np.abs(stored) > LOGIT_TOLERANCE * np.sqrt(np.mean(stored**2))
        n_wrong = int(np.count_nonzero((stored > 0)[sure] != (found > 0)[sure]))
        if n_wrong:
            raise ModelMismatch(
                f"{n_wrong} of {int(sure.sum())} bits of the probe images differ from those stored with the weights: "
                "this machine's image decoder or engine computes something else, so its codes would not match"
            )

    def _make_probes(self) -> dict[str, AnyArray]:
        files = [np.frombuffer(_draw_probe(seed), np.uint8) for seed in range(4)]
        logits = self.logits([_decode_probe(file) for file in files])
        return {"logits": logits} | {f"jpeg.{i}": file for i, file in enumerate(files)}

    def _batches(self, images: Images) -> Iterator[Square]:
        squares = map_ahead(lambda load: self.description.preprocessing.square(load()), _loaders(images), N_AHEAD)
        while batch := list(islice(squares, BATCH_SIZE)):
            yield np.stack(batch)

    def _forward(self, squares: Square, what: str) -> Floats:
        import torch

        batch = torch.from_numpy(self.description.preprocessing.normalise(squares)).to(self.device)
        with torch.inference_mode():
            values: Floats = getattr(self._network(batch), what).float().cpu().numpy()
        return values


def _loaders(images: Images) -> Iterable[Callable[[], Pixels]]:
    if isinstance(images, Source):
        return [partial(images.pixels, item) for item in images.items]
    if isinstance(images, str | Path | bytes) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    return [partial(_load, image) for image in images]


def _load(image: ImageLike) -> Pixels:
    if isinstance(image, str | Path):
        return read_pixels(*locate(image))
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image is a path or an array of pixels, got {type(image).__name__}")
    return image[..., None] if image.ndim == 2 else image


def _draw_probe(seed: int) -> bytes:
    """A JPEG file of smooth coloured noise: shows nobody, and exercises decoder, resizing and every filter."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((200, 150), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def _decode_probe(file: AnyArray) -> Pixels:
    return formats.read(file.tobytes(), "probe.jpg")


def _library_versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("athsearch", "torch", "pillow", "numpy")}
