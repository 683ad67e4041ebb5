"""Which images make each batch, and how they are varied."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .model.losses.base import sampling_weights
from .types import Square

Rows = NDArray[np.int64]

IMAGES_A_CLASS = 4  # in a batch, on average, at least

ROTATION_DEGREES = 15.0
FRAMINGS = {"narrow": (1.1, 0.05), "wide": (1.25, 0.1)}  # zoom, and shift as a share of the side
BRIGHTNESS = 25.0  # of 255; contrast changes by as much at black and white
TINT = 0.1


def draw_triplets(classes: Rows, rng: np.random.Generator) -> Rows:
    """int64 [N, 3] rows: every image as anchor, another one of its class, and any one of another class.

    Every class needs two images.
    """
    members = [np.flatnonzero(classes == number) for number in range(int(classes.max()) + 1)]
    strangers = [np.flatnonzero(classes != number) for number in range(len(members))]
    triplets = np.empty((len(classes), 3), np.int64)
    for anchor, number in enumerate(classes):
        own, others = members[number], strangers[number]
        place = int(np.searchsorted(own, anchor))
        positive = own[(place + 1 + rng.integers(len(own) - 1)) % len(own)]
        triplets[anchor] = anchor, positive, others[rng.integers(len(others))]
    return triplets


def tempered_batches(classes: Rows, batch: int, rng: np.random.Generator) -> Iterator[Rows]:
    """One epoch of batches, int64 [batch] rows each, len(classes) // batch of them but at least one.

    A batch holds up to batch / 4 classes, any one as likely as any other, in the proportions of `sampling_weights`, but
    two images of each at least. Within a class no image comes again before all others have come.
    """
    members = [np.flatnonzero(classes == number) for number in range(int(classes.max()) + 1)]
    weights = sampling_weights([len(rows) for rows in members]).numpy()
    waiting: list[list[int]] = [[] for _ in members]
    n_drawn = min(len(members), max(1, batch // IMAGES_A_CLASS))
    for _ in range(max(1, len(classes) // batch)):
        rows: list[int] = []
        drawn = rng.permutation(len(members))[:n_drawn]
        for number, size in zip(drawn, _shared_out(batch, weights[drawn]), strict=True):
            while len(waiting[number]) < size:
                waiting[number] += rng.permutation(members[number]).tolist()
            rows += waiting[number][:size]
            del waiting[number][:size]
        yield np.array(rows)


def _shared_out(batch: int, weights: NDArray[np.float64]) -> Rows:
    """Whole numbers near batch * weights / sum, 2 or more each, that sum to batch, which is twice as many or more."""
    wanted = batch * weights / weights.sum()
    sizes: Rows = np.maximum(2, np.floor(wanted)).astype(np.int64)
    while (missing := batch - int(sizes.sum())) != 0:
        lacking = (wanted - sizes) * np.sign(missing)
        if missing < 0:
            lacking[sizes == 2] = -np.inf
        sizes[np.argmax(lacking)] += np.sign(missing)
    return sizes


def is_grey(squares: Square) -> bool:
    """Whether no image has colour."""
    return all(bool((square[..., 1:] == square[..., :1]).all()) for square in squares)


def augment(images: Tensor, flips: str, framing: str, grey: bool, rng: np.random.Generator) -> Tensor:
    """Varies each image by itself.

    images: float32 [B, 3, S, S], values 0..255. Rotates up to 15 degrees, zooms either way and shifts by up to what
    FRAMINGS has for `framing` (the border's colour fills up), flips ("none", "horizontal" or "both"), and changes
    brightness and contrast, and, unless `grey`, the balance of the colours.
    """
    n = len(images)
    most_zoom, most_shift = FRAMINGS[framing]
    angle = np.deg2rad(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, n))
    zoom = np.exp(rng.uniform(-math.log(most_zoom), math.log(most_zoom), n))
    shift = rng.uniform(-2 * most_shift, 2 * most_shift, (n, 2))  # the side is 2 long in grid coordinates
    flip = rng.choice([-1.0, 1.0], (n, 2))
    if flips != "both":
        flip[:, 1] = 1.0
    if flips == "none":
        flip[:, 0] = 1.0
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    across = np.stack([cos * flip[:, 0], -sin * flip[:, 1], shift[:, 0]], axis=1)
    down = np.stack([sin * flip[:, 0], cos * flip[:, 1], shift[:, 1]], axis=1)
    matrix = torch.from_numpy(np.stack([across, down], axis=1).astype(np.float32)).to(images.device)  # [B, 2, 3]
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)

    contrast = 1 + rng.uniform(-BRIGHTNESS, BRIGHTNESS, (n, 1, 1, 1)) / 127.5
    tint = rng.uniform(-TINT, TINT, (n, 3, 1, 1))
    gain = contrast + (0.0 if grey else tint)
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS, (n, 1, 1, 1))
    # About mid-grey, so that contrast and brightness stay two things.
    offset = 127.5 * (1 - contrast) + brightness
    return images * _tensor(gain, images) + _tensor(offset, images)


def _tensor(values: NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(like.device)
