"""From images to codes: a network, its preprocessing, and decoding that runs beside them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from . import images as formats
from .codes import Codes
from .data import Source, locate, read_pixels
from .errors import CheckpointError, CudaError, DeviceError, ModelMismatch
from .files import replacing
from .gpus import find_gpus
from .model import inference
from .model.checkpoint import ModelDescription, build_network, model_id, read_weights, weights_file
from .parallel import map_ahead, n_processors
from .types import AnyArray, Floats, Pixels, Square

if TYPE_CHECKING:
    from torch import nn

    from .model.inference import Network

BATCH_SIZE = 64  # images a forward pass
N_AHEAD = 4 * BATCH_SIZE  # images decoded ahead of the network, at most
ImageLike: TypeAlias = str | Path | AnyArray
Images: TypeAlias = Source | Sequence[ImageLike] | ImageLike

# Logits of other engines, devices or library versions may differ by this share of their spread (root mean square);
# a bit may differ where its |logit| is below it.
LOGIT_TOLERANCE = 1e-3


class Encoder:
    """Turns images into codes with one network.

    tensors: the network's weights by name, as `model.checkpoint.tensors_of` gives them; description: what it is.
    device: "cpu", "cuda" or "cuda:1", or "auto": a GPU where there is one, else the CPU. On the CPU, and on a GPU where
    athsearch has its CUDA module, networks run by our own code, which needs no torch; otherwise, and where it does not
    know the network, by torch; with "auto", and a warning, also where the module fails. Raises CheckpointError where
    the tensors do not fit, DeviceError for a device that is not there, CudaError where a GPU is short of memory or
    fails.
    """

    def __init__(self, tensors: Mapping[str, AnyArray], description: ModelDescription, device: str = "auto") -> None:
        is_auto = device == "auto"
        if is_auto:
            device = "cuda" if _has_gpu() else "cpu"
        self.device = device
        self.description = description
        self.tensors = tensors
        self.model_id = model_id(description, tensors)
        self._probes: Mapping[str, AnyArray] | None = None
        self._versions: Mapping[str, str] | None = None
        self._explaining = threading.Lock()
        self._without_torch = self._build_without_torch(is_auto)
        if self._without_torch is None:
            _ = self._torch_network  # for the error, if there is to be one, to come now

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Encoder:
        """From a weights file. Raises CheckpointError when it cannot be used, DeviceError for an unknown device."""
        weights = read_weights(path)
        try:
            encoder = cls(weights.tensors, weights.description, device)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        encoder._probes, encoder._versions = weights.extras, weights.versions
        return encoder

    def save(self, path: str | Path) -> None:
        """Writes a weights file (safetensors), whole or not at all. The folder must exist."""
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of a weights file."""
        probes, versions = self._probes or self._make_probes(), self._versions or _library_versions()
        return weights_file(self.description, self.tensors, probes, versions)

    def _build_without_torch(self, is_auto: bool) -> Network | None:
        is_known = self.description.network in inference.BUILDERS
        if self.device == "cpu" and (is_known or not _has_torch()):
            return inference.build(self.description, self.tensors)
        if not re.fullmatch(r"cuda(:\d+)?", self.device):
            return None
        number = int(self.device.removeprefix("cuda").removeprefix(":") or 0)
        try:
            reason = find_gpus().why_not(number)
        except CudaError as error:
            if not is_auto:
                raise
            warnings.warn(f"torch computes without athsearch's CUDA module: {error}", stacklevel=3)
            return None
        if is_known and reason is None:
            from . import _cuda

            make = partial(_cuda.Network, device=number)
            return inference.build_with(make, self.description, self.tensors)
        if not _has_torch():
            reason = reason or f"athsearch does not know the network {self.description.network}"
            raise DeviceError(f"device {self.device!r} cannot be used: {reason}; and torch is not installed")
        return None

    @cached_property
    def _torch_network(self) -> nn.Module:
        network = build_network(self.description, self.tensors)
        try:
            return network.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise DeviceError(f"device {self.device!r} cannot be used: {error}") from error

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
        first, *others = map(self._logits_of_view, self.description.preprocessing.views(squares))
        return sum(others, first) / np.float32(1 + len(others))

    def _logits_of_view(self, squares: Square) -> Floats:
        if self._without_torch is not None:
            return self._without_torch.run(np.ascontiguousarray(squares), n_processors())
        return self._forward(squares, "logits")

    def attention(self, squares: Square) -> Floats:
        """squares: uint8 [B, size, size, 3], one batch. Returns float32 [B, h, w], 0..1: the network's gate A(x).

        Needs torch, as `relevance` does.
        """
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

        with self._explaining:  # the hook and the gradients are the network's, which threads share
            hook = self._torch_network.get_submodule("third").register_forward_hook(keep)
            try:
                with torch.enable_grad():
                    self._torch_network(batch.requires_grad_()).logits.abs().sum().backward()
            finally:
                hook.remove()
                self._torch_network.zero_grad(set_to_none=True)
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
        found = self._probe_logits([self._probes[f"jpeg.{i}"] for i in range(len(stored))])
        sure = np.abs(stored) > LOGIT_TOLERANCE * np.sqrt(np.mean(stored**2))
        n_wrong = int(np.count_nonzero((stored > 0)[sure] != (found > 0)[sure]))
        if n_wrong:
            raise ModelMismatch(
                f"{n_wrong} of {int(sure.sum())} bits of the probe images differ from those stored with the weights: "
                "this machine's image decoder or engine computes something else, so its codes would not match"
            )

    def _make_probes(self) -> dict[str, AnyArray]:
        files = [np.frombuffer(_draw_probe(seed), np.uint8) for seed in range(4)]
        return {"logits": self._probe_logits(files)} | {f"jpeg.{i}": file for i, file in enumerate(files)}

    def _probe_logits(self, files: Sequence[AnyArray]) -> Floats:
        least_side = self.description.preprocessing.least_side
        return self.logits([formats.read(file.tobytes(), "probe.jpg", least_side) for file in files])

    def _batches(self, images: Images) -> Iterator[Square]:
        preprocessing = self.description.preprocessing
        loaders = _loaders(images, preprocessing.least_side)
        squares = map_ahead(lambda load: preprocessing.square(load()), loaders, N_AHEAD)
        while batch := list(islice(squares, BATCH_SIZE)):
            yield np.stack(batch)

    def _forward(self, squares: Square, what: str) -> Floats:
        import torch

        batch = torch.from_numpy(self.description.preprocessing.normalise(squares)).to(self.device)
        network = self._torch_network  # built outside, for what is built in inference mode cannot be explained later
        with torch.inference_mode():
            values: Floats = getattr(network(batch), what).float().cpu().numpy()
        return values


def _loaders(images: Images, least_side: int) -> Iterable[Callable[[], Pixels]]:
    if isinstance(images, Source):
        return [partial(images.pixels, item, least_side) for item in images.items]
    if isinstance(images, str | Path | bytes) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    return [partial(_load, image, least_side) for image in images]


def _load(image: ImageLike, least_side: int) -> Pixels:
    if isinstance(image, str | Path):
        return read_pixels(*locate(image), least_side)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image is a path or an array of pixels, got {type(image).__name__}")
    return image[..., None] if image.ndim == 2 else image


def _draw_probe(seed: int) -> bytes:
    """A JPEG file of smooth coloured noise: shows nobody, and exercises decoder, resizing and every filter."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def _library_versions() -> dict[str, str]:
    installed = {}
    for name in ("athsearch", "torch", "pillow", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _has_gpu() -> bool:
    """Whether there is a GPU to use. Torch, slow to load, is asked last, and only where there is a driver."""
    if not os.path.exists("/dev/nvidiactl"):
        return False
    with contextlib.suppress(CudaError):
        if find_gpus().why_not(0) is None:
            return True
    if not _has_torch():
        return False
    import torch

    return torch.cuda.is_available()
