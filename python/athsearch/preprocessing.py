"""From pixels to what a network sees. The parameters are part of a model's identity.

Two steps, so that training can keep the first one's result in memory as bytes and augment it:
`square` makes uint8 [size, size, 3] (RGB), `normalise` makes float32 [B, 3, size, size].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .types import AnyArray, Floats, Pixels, Square

SMALLEST_SIZE, LARGEST_SIZE = 64, 4096


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become a network's input.

    size: side of the square input in pixels, from 64 to 4096, divisible by 8. Smaller images are enlarged.
    fit: "pad" keeps the aspect ratio and adds black; "stretch" does not keep it.
    channels: "RGB", or "BGR" as the paper's code reads images.
    mean, std: per channel, of values in 0..255, in the order of `channels`: out = (value - mean) / std.
    draft: whether large JPEGs are decoded at a half, a quarter or an eighth of their size, quickly, as long as no side
    gets shorter than one and a half times `size`.
    levels: "stored" takes an image's values as they are. "standardised" moves and stretches all of its values alike, so
    that their mean is 127.5 and their standard deviation 50 (before rounding and cutting off at 0 and 255): the grey
    levels of a radiograph tell of exposure and window before they tell of the patient.
    mirrors: an image's logits are means over itself and its mirror images: "none", "horizontal" (left for right) or
    "both" (upside down too: four images, four times the work).
    """

    size: int = 96
    fit: str = "pad"
    channels: str = "RGB"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (63.75, 63.75, 63.75)
    draft: bool = True
    mirrors: str = "none"
    levels: str = "stored"

    def __post_init__(self) -> None:
        if type(self.size) is not int:
            raise TypeError(f"size must be an int, got {self.size!r}")
        if not SMALLEST_SIZE <= self.size <= LARGEST_SIZE or self.size % 8:
            raise ValueError(
                f"size must be at least {SMALLEST_SIZE}, at most {LARGEST_SIZE} and divisible by 8, got {self.size}"
            )
        if self.fit not in ("pad", "stretch"):
            raise ValueError(f"fit must be 'pad' or 'stretch', got {self.fit!r}")
        if self.channels not in ("RGB", "BGR"):
            raise ValueError(f"channels must be 'RGB' or 'BGR', got {self.channels!r}")
        if type(self.draft) is not bool:
            raise TypeError(f"draft must be a bool, got {self.draft!r}")
        if self.mirrors not in ("none", "horizontal", "both"):
            raise ValueError(f"mirrors must be 'none', 'horizontal' or 'both', got {self.mirrors!r}")
        if self.levels not in ("stored", "standardised"):
            raise ValueError(f"levels must be 'stored' or 'standardised', got {self.levels!r}")
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        usable = len(self.mean) == len(self.std) == 3 and all(map(math.isfinite, self.mean + self.std))
        if not usable or min(self.std) <= 0:
            raise ValueError(f"mean and std take three finite values, std positive; got {self.mean}, {self.std}")

    @property
    def least_side(self) -> int:
        """What decoding is to be told, see `images.read`."""
        return self.size * 3 // 2 if self.draft else 0

    def square(self, pixels: Pixels) -> Square:
        """pixels: uint8 or uint16 [H, W, 1 or 3]. Returns uint8 [size, size, 3], RGB.

        16-bit pixels are taken as n-bit ones, n the fewest bits from 8 to 16 that hold the image's largest value,
        so that 10- and 12-bit images are not nearly black. Resizing is Pillow's bilinear filter, which averages
        over all source pixels when it shrinks.
        """
        from PIL import Image

        if pixels.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"pixels must be uint8 or uint16, got {pixels.dtype}")
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
            raise ValueError(f"pixels must be [H, W, 1 or 3], got {pixels.shape}")
        if pixels.dtype == np.uint16:
            n_bits = max(8, int(pixels.max()).bit_length())
            pixels = (pixels.astype(np.float32) * (255.0 / (2**n_bits - 1)) + 0.5).astype(np.uint8)
        height, width = pixels.shape[:2]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        if self.fit == "stretch":
            width_to, height_to = self.size, self.size
        else:
            scale = self.size / max(height, width)
            width_to, height_to = max(1, round(width * scale)), max(1, round(height * scale))
        if (width, height) != (width_to, height_to):
            image = image.resize((width_to, height_to), Image.Resampling.BILINEAR)
        out = np.zeros((self.size, self.size, 3), np.uint8)
        top, left = (self.size - height_to) // 2, (self.size - width_to) // 2
        resized = np.asarray(image)
        if self.levels == "standardised":
            resized = _standardised(resized)
        out[top : top + height_to, left : left + width_to] = resized[..., None] if resized.ndim == 2 else resized
        return out

    def views(self, squares: Square) -> list[Square]:
        """squares: uint8 [B, size, size, 3]. Returns them and their mirror images, 1, 2 or 4 arrays of that shape."""
        views = [squares]
        if self.mirrors != "none":
            views.append(squares[:, :, ::-1])
        if self.mirrors == "both":
            views += [view[:, ::-1] for view in views]
        return views

    def normalise(self, squares: Square) -> Floats:
        """squares: uint8 [B, size, size, 3] (RGB). Returns float32 [B, 3, size, size], contiguous."""
        normal = self.normalise_values(squares[..., ::-1] if self.channels == "BGR" else squares)
        return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))  # [B, S, S, 3] -> [B, 3, S, S]

    def normalise_values(self, values: AnyArray) -> Floats:
        """values: [..., 3], 0..255, in the order of `channels`. Returns float32 of the same shape."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        normal: Floats = (values.astype(np.float32) - mean) / std
        return normal

    def __call__(self, pixels: Pixels) -> Floats:
        """pixels: uint8 or uint16 [H, W, 1 or 3]. Returns float32 [3, size, size]."""
        batch = self.normalise(self.square(pixels)[None])
        return batch.reshape(batch.shape[1:])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the weights file. What older models did not have only where it changes something: they keep
        their identity.
        """
        values = asdict(self)
        for name, without in (("mirrors", "none"), ("levels", "stored")):
            if values[name] == without:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`. Raises TypeError or ValueError on unknown or unusable values."""
        return cls(**values)


def _standardised(image: Square) -> Square:
    """See `Preprocessing.levels`. By whole numbers up to the last step, so that every machine makes the same bytes."""
    counts, values = np.bincount(image.reshape(-1), minlength=256), np.arange(256)
    n, total, total_squares = (int((counts * values**power).sum()) for power in (0, 1, 2))
    variance = n * total_squares - total * total  # times n^2
    if variance == 0:
        return np.full_like(image, 128)
    scaled = 127.5 + 50 * (n * values - total) / math.sqrt(variance)
    table: Square = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return table[image]
