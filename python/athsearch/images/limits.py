"""The sizes of images that are read, whatever their format."""

from __future__ import annotations

from ..errors import UnsupportedImage

SMALLEST_SIDE = 8
MAX_PIXELS = 2**30 // 12  # 89,478,485: 256 MiB as RGB


def check_size(width: int, height: int, name: str) -> None:
    """Raises UnsupportedImage for an image that is too small or too large to be read."""
    if min(width, height) < SMALLEST_SIDE:
        raise UnsupportedImage(name, f"{width} x {height} px, at least {SMALLEST_SIDE} x {SMALLEST_SIDE} needed")
    if width * height > MAX_PIXELS:
        raise UnsupportedImage(name, f"{width} x {height} px are {width * height:,}, at most {MAX_PIXELS:,} are read")
