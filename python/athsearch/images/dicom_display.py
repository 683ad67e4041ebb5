"""From stored values to what a viewer shows: modality values, window, palette, colour space. All DICOM PS3.3.

Grey comes as uint8 after windowing, which is what people look at, whatever the detector's depth. Which window:
1. the first VOI LUT of the file, or else its first window (LINEAR, LINEAR_EXACT or SIGMOID, C.11.2.1);
2. without either, 8-bit values that no rescale changes are shown as they are;
3. all others from the frame's lowest value (black) to its highest (white), padding left out; CT as well.
Padding is black. MONOCHROME1 is turned round after that. Overlays, presentation states and ICC profiles are ignored.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptImage
from ..types import AnyArray, Pixels
from .dicom_frames import Layout
from .dicom_header import Elements, Header

Doubles: TypeAlias = NDArray[np.float64]

_WINDOW = (0x00281050, 0x00281051, 0x00281056)  # center, width, function
_RESCALE = (0x00281052, 0x00281053)  # intercept, slope
_PADDING = (0x00280120, 0x00280121)  # value, limit
_MODALITY_LUTS, _VOI_LUTS = 0x00283000, 0x00283010
_LUT_DESCRIPTOR, _LUT_DATA = 0x00283002, 0x00283006
_SHARED_GROUPS, _FRAME_GROUPS = 0x52009229, 0x52009230
_TRANSFORMATION, _FRAME_VOI = 0x00289145, 0x00289132  # the sequences of those groups that hold the values above
_PALETTES = (  # descriptor, data, data in segments
    (0x00281101, 0x00281201, 0x00281221), (0x00281102, 0x00281202, 0x00281222), (0x00281103, 0x00281203, 0x00281223)
)  # fmt: skip
TAGS = (*_WINDOW, *_RESCALE, *_PADDING, _MODALITY_LUTS, _VOI_LUTS, _SHARED_GROUPS, _FRAME_GROUPS,
        *(tag for palette in _PALETTES for tag in palette))  # fmt: skip


def shown(header: Header, layout: Layout, values: AnyArray, photometric: str, number: int, name: str) -> Pixels:
    """values: stored ones of frame `number`, integers [H, W, 1 or 3]. Returns uint8 [H, W, 1 or 3].

    Raises CorruptImage for tables that make no sense.
    """
    if photometric == "PALETTE COLOR":
        return _through_palette(header, layout, values, name)
    if layout.n_samples == 3:
        colours = (values >> max(0, layout.bits_stored - 8)).astype(np.uint8)
        return _rgb(colours) if photometric.startswith("YBR") else colours
    return _grey(header, layout, values, photometric, number, name)


def _grey(header: Header, layout: Layout, values: AnyArray, photometric: str, number: int, name: str) -> Pixels:
    padding = _padding(header, layout, values)
    rescale, voi = _groups_of(header, number, _TRANSFORMATION), _groups_of(header, number, _FRAME_VOI)
    luts = (header.items(_MODALITY_LUTS) or rescale.items(_MODALITY_LUTS))[:1]
    real, extremes = values.astype(np.float64), layout.extremes
    if luts:
        real, extremes = _through_lut(luts[0], values, layout.is_signed, name)[0], (0, 0xFFFF)
    else:
        slope, intercept = rescale.decimal(_RESCALE[1]), rescale.decimal(_RESCALE[0]) or 0.0
        if slope is not None and slope != 0:
            real = real * slope + intercept
            extremes = tuple(value * slope + intercept for value in extremes)
    voi_luts = voi.items(_VOI_LUTS)[:1]
    window = _window(voi)
    if voi_luts:
        # By the values that there can be, not by this frame's: the frames of a series are to look alike.
        is_signed = min(extremes) < 0 or voi_luts[0].is_signed_word(_LUT_DESCRIPTOR)
        real, white = _through_lut(voi_luts[0], np.floor(real + 0.5).astype(np.int64), is_signed, name)
        grey = real / white
    elif window is not None:
        grey = _through_window(real, *window)
    elif layout.bits_stored <= 8 and not layout.is_signed and not luts and np.array_equal(real, values):
        grey = real / ((1 << layout.bits_stored) - 1)
    else:
        kept = real[~padding] if padding is not None and not padding.all() else real
        low, high = float(kept.min()), float(kept.max())
        grey = (real - low) / ((high - low) or 1.0)
    pixels: Pixels = (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)
    if photometric == "MONOCHROME1":
        pixels = 255 - pixels
    if padding is not None:
        pixels[padding] = 0
    return pixels


def _groups_of(header: Header, number: int, sequence: int) -> Elements:
    """Where the values of a frame stand: in its own functional group, in the shared one, or in the file itself."""
    frames = header.items(_FRAME_GROUPS)
    own = frames[number - 1 : number] if number <= len(frames) else []
    for group in (*own, *header.items(_SHARED_GROUPS)[:1]):
        if found := group.items(sequence):
            return found[0]
    return header


def _padding(header: Header, layout: Layout, values: AnyArray) -> AnyArray | None:
    """bool [H, W, 1]: which pixels are no part of the image, or None if that is not said."""
    limits = [header.words(tag, layout.is_signed)[:1] for tag in _PADDING]
    if not len(limits[0]):
        return None
    ends = sorted(int(limit[0]) for limit in limits if len(limit))
    inside: AnyArray = (values >= ends[0]) & (values <= ends[-1])
    return inside


def _window(voi: Elements) -> tuple[float, float, str] | None:
    """The first window, if there is one that can be applied."""
    center, width = voi.decimal(_WINDOW[0]), voi.decimal(_WINDOW[1])
    function = (voi.text(_WINDOW[2]) or "LINEAR").upper()
    if center is None or width is None or width <= 0 or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return None
    return center, width, function


def _through_window(values: Doubles, center: float, width: float, function: str) -> Doubles:
    """0 (black) to 1 (white) and beyond, by C.11.2.1.2 and 3. A LINEAR window less than 1 wide is LINEAR_EXACT."""
    if function == "SIGMOID":
        sigmoid: Doubles = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
        return sigmoid
    if function == "LINEAR" and width >= 1:
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    grey: Doubles = (values - center) / width + 0.5
    return grey


def _through_lut(lut: Elements, values: AnyArray, is_signed: bool, name: str) -> tuple[Doubles, int]:
    """values: integers. Returns what a look-up table gives for them, and the largest value it can give."""
    table, first, n_bits = _table(lut, _LUT_DESCRIPTOR, _LUT_DATA, is_signed, name)
    places = np.clip(values.astype(np.int64) - first, 0, len(table) - 1)  # unsigned ones would wrap round
    return table[places].astype(np.float64), (1 << n_bits) - 1


def _table(
    holder: Elements, descriptor: int, data: int, is_signed: bool, name: str, segments: int | None = None
) -> tuple[AnyArray, int, int]:
    """A look-up table, which value is its first one's, and how many bits its entries have."""
    words = holder.words(descriptor)
    if len(words) != 3:
        raise CorruptImage(name, "a look-up table without its descriptor")
    n_entries = int(words[0]) or 65536
    first = int(holder.words(descriptor, is_signed)[1])
    raw, n_bits = holder.raw(data), int(words[2])
    if not raw and segments is not None:
        table = _expanded(holder.words(segments).tolist(), n_entries)
    elif len(raw) < 2 * n_entries and len(raw) >= n_entries and n_bits <= 8:
        table = np.frombuffer(raw, np.uint8, n_entries)
    else:
        table = holder.words(data)[:n_entries]
    if len(table) < n_entries or not 1 <= n_bits <= 16:
        raise CorruptImage(name, f"a look-up table of {len(table)} entries of {n_bits} bits, {n_entries} announced")
    return table.astype(np.int64), first, n_bits


def _expanded(words: list[int], n_entries: int) -> AnyArray:
    """The entries that the segments of a palette stand for, at most n_entries (PS3.3 C.7.9.2).

    A segment is 0, n, n entries; 1, n, where a line of n steps ends; or 2, n, which n segments before to take again.
    Raises ValueError or IndexError where they are damaged.
    """
    entries: list[int] = []
    starts: list[int] = []  # where a segment begins

    def take(place: int) -> int:
        """Adds the entries of one segment; returns where the next one begins."""
        kind, n = words[place], words[place + 1]
        if kind == 0:
            entries.extend(words[place + 2 : place + 2 + n])
            return place + 2 + n
        if kind == 1 and entries:
            steps = np.linspace(entries[-1], words[place + 2], n + 1)[1:]
            entries.extend(np.floor(steps + 0.5).astype(np.int64).tolist())
            return place + 3
        raise ValueError("an unknown segment of a palette")

    place = 0
    while place + 2 < len(words) and len(entries) < n_entries:
        starts.append(place)
        if words[place + 1] == 0:  # of many such ones a file could have, each taking all of the others again
            raise ValueError("an empty segment of a palette")
        if words[place] == 2:
            first = starts.index((words[place + 2] | words[place + 3] << 16) // 2)  # counted in bytes
            for again in starts[first : first + words[place + 1]]:
                take(again)
            place += 4
        else:
            place = take(place)
    return np.array(entries[:n_entries], np.uint16)


def _through_palette(header: Header, layout: Layout, values: AnyArray, name: str) -> Pixels:
    colours = []
    for descriptor, data, segments in _PALETTES:
        table, first, n_bits = _table(header, descriptor, data, layout.is_signed, name, segments)
        colours.append(table[np.clip(values[..., 0].astype(np.int64) - first, 0, len(table) - 1)] >> max(0, n_bits - 8))
    pixels: Pixels = np.stack(colours, axis=-1).astype(np.uint8)
    return pixels


def _rgb(ybr: Pixels) -> Pixels:
    """YBR_FULL as RGB, PS3.3 C.7.6.3.1.2; uint8 [H, W, 3] both."""
    luma, blue, red = np.moveaxis(ybr.astype(np.float64), -1, 0)
    blue, red = blue - 128, red - 128
    rgb = np.stack([luma + 1.402 * red, luma - 0.114 * 1.772 / 0.587 * blue - 0.299 * 1.402 / 0.587 * red,
                    luma + 1.772 * blue], axis=-1)  # fmt: skip
    pixels: Pixels = (np.clip(rgb, 0, 255) + 0.5).astype(np.uint8)
    return pixels
