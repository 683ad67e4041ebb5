"""What people look at: a query beside its hits, and which places of an image made its code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .data import read_image
from .errors import ImageError
from .types import Floats, Pixels, Square

if TYPE_CHECKING:
    from .archive.cases import Case
    from .archive.searching import Hit
    from .encoder import Encoder

_TILE, _GAP, _LINE = 152, 10, 17  # pixels
_WHITE, _INK, _GREY, _GREEN, _RED = (255, 255, 255), (30, 30, 30), (120, 120, 120), (20, 130, 60), (190, 50, 40)


def overlay(square: Square, relevance: Floats) -> Square:
    """A map of relevance laid over the image it belongs to.

    square: uint8 [size, size, 3]. relevance: float32 [h, w], not negative, shown in parts of its largest value: the
    image in dim grey where it is zero, warm to yellow where it is large. Cell (i, j) lies around pixel (i size / h,
    j size / w), where the networks' stride-2 convolutions put it. Returns uint8 [size, size, 3].
    """
    if square.ndim != 3 or relevance.ndim != 2:
        raise ValueError(f"expected [size, size, 3] and [h, w], got {list(square.shape)} and {list(relevance.shape)}")
    height, width = relevance.shape
    scaled = np.pad(relevance / max(float(relevance.max()), 1e-30), ((0, 1), (0, 1)), mode="edge").astype(np.float32)
    size, centred = (square.shape[1], square.shape[0]), (0.5, 0.5, width + 0.5, height + 0.5)
    heat = np.asarray(Image.fromarray(scaled).resize(size, Image.Resampling.BICUBIC, centred))
    heat = heat.clip(0, 1)[..., None]  # [h, w] -> [size, size, 1]
    grey = 0.75 * square.mean(axis=2, keepdims=True)
    warm = np.concatenate([np.full_like(heat, 255), 60 + 170 * heat, 30 * heat], axis=2)
    mixed: Square = (grey * (1 - 0.7 * heat) + warm * 0.7 * heat).clip(0, 255).astype(np.uint8)
    return mixed


@dataclass(frozen=True)
class Tile:
    """One image of a contact sheet.

    image, explained: uint8 [H, W, 3], or None where there is nothing to show (a source that is gone, say).
    lines: text below. is_right: whether its label is the query's, which colours the first line; None says nothing.
    """

    image: Square | None
    explained: Square | None
    lines: Sequence[str]
    is_right: bool | None = None


def answer_sheet(
    encoder: Encoder,
    query: Pixels | None,
    lines: Sequence[str],
    hits: Sequence[Hit],
    label: str | None = None,
    place: Callable[[Case], tuple[str | Path, str]] | None = None,
    title: str = "",
    is_explained: bool = True,
) -> Image.Image:
    """A query and its hits as a contact sheet, with what made its code in each.

    query: pixels, or None for a query without an image; lines: the text below it; label: its class if that is known,
    which tells right hits from wrong ones. place: says root and source of a case's image, if it is not where it was
    added from, as `Archive.places` does. is_explained: whether to show what made the codes, which needs torch. A hit
    whose image is gone, or is another one by now, keeps its place and says so.
    """

    def tile(pixels: Pixels | None, lines: Sequence[str], is_right: bool | None = None) -> Tile:
        if pixels is None:
            return Tile(None, None, lines, is_right)
        seen = encoder.description.preprocessing.square(pixels)
        shown = replace(encoder.description.preprocessing, size=_TILE).square(pixels)  # the same framing, sharper
        explained = overlay(shown, encoder.relevance(seen[None])[0]) if is_explained else None
        return Tile(shown, explained, lines, is_right)

    tiles = []
    for rank, hit in enumerate(hits, 1):
        case = hit.case
        text = [f"{rank}. {case.label or 'no label'}", f"distance {hit.distance}, id {case.id}"]
        is_right = None if label is None or case.label is None else case.label == label
        if case.root is None or case.source is None:
            tiles.append(tile(None, [*text, "a ready-made code"], is_right))
            continue
        text.append(case.source)
        try:
            pixels = case_pixels(case, place)
        except ImageError as error:
            tiles.append(tile(None, [*text, error.reason], is_right))
        else:
            tiles.append(tile(pixels, text, is_right))
    return contact_sheet(tile(query, lines), tiles, title)


def case_pixels(case: Case, place: Callable[[Case], tuple[str | Path, str]] | None = None) -> Pixels:
    """The image of a case with a source, uint8 or uint16 [H, W, 1 or 3]. place: see `answer_sheet`. Raises ImageError
    where it is gone, or its file has other bytes than those that were indexed.
    """
    root, source = place(case) if place else (case.root or "", case.source or "")
    content, decode = read_image(root, source)
    if case.content is not None and hashlib.sha256(content).hexdigest() != case.content:
        raise ImageError(source, "is another image by now")
    return decode(0)


def contact_sheet(query: Tile, hits: Sequence[Tile], title: str = "", n_columns: int = 5) -> Image.Image:
    """The query on the left, its hits in rows on the right; below each image what made its code, and its text."""
    tiles = [query, *hits]
    n_pictures = 2 if any(tile.explained is not None for tile in tiles) else 1
    n_lines = max(len(tile.lines) for tile in tiles)
    cell_width = _TILE + _GAP
    cell_height = n_pictures * (_TILE + 3) + n_lines * _LINE + _GAP
    n_rows = max(1, -(-len(hits) // n_columns))
    n_columns = max(1, min(n_columns, len(hits)))
    left, top = cell_width + 3 * _GAP, _GAP + (_LINE + _GAP if title else 0)
    sheet = Image.new("RGB", (left + n_columns * cell_width + _GAP, top + n_rows * cell_height), _WHITE)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_GAP, _GAP - 2), title, _INK, font=ImageFont.load_default(15))
    draw.line([(cell_width + 2 * _GAP, top), (cell_width + 2 * _GAP, top + n_rows * cell_height - _GAP)], _GREY)
    _draw_tile(sheet, query, _GAP, top, n_pictures)
    for place, hit in enumerate(hits):
        row, column = divmod(place, n_columns)
        _draw_tile(sheet, hit, left + column * cell_width, top + row * cell_height, n_pictures)
    return sheet


def _draw_tile(sheet: Image.Image, tile: Tile, x: int, y: int, n_pictures: int) -> None:
    draw = ImageDraw.Draw(sheet)
    for picture in (tile.image, tile.explained)[:n_pictures]:
        if picture is None:
            draw.rectangle([x, y, x + _TILE - 1, y + _TILE - 1], outline=_GREY)
            draw.text((x + 8, y + _TILE // 2 - 8), "no image", _GREY, font=ImageFont.load_default(13))
        else:
            image = ImageOps.contain(Image.fromarray(picture), (_TILE, _TILE))
            sheet.paste(image, (x + (_TILE - image.width) // 2, y + (_TILE - image.height) // 2))
        y += _TILE + 3
    first = {True: _GREEN, False: _RED, None: _INK}[tile.is_right]
    for number, line in enumerate(tile.lines):
        font = ImageFont.load_default(13 if number == 0 else 11)
        draw.text((x, y + 2), _shortened(line, font), first if number == 0 else _GREY, font=font)
        y += _LINE


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, or its end, which tells file names apart, after an ellipsis."""
    if font.getlength(text) <= _TILE:
        return text
    while text and font.getlength("…" + text) > _TILE:
        text = text[1:]
    return "…" + text
