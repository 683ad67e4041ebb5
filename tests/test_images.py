"""Reading images: what every kind of file becomes, and what is refused with which reason."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from athsearch import images
from athsearch.errors import CorruptImage, ImageError, UnsupportedImage
from athsearch.images.limits import MAX_PIXELS
from athsearch.types import AnyArray, Pixels

ROWS, COLUMNS = np.mgrid[:24, :17]
GREY = ((ROWS * 10 + COLUMNS * 3) % 256).astype(np.uint8)  # [24, 17], no symmetry
COLOUR = np.stack([GREY, 255 - GREY, (ROWS * COLUMNS % 256).astype(np.uint8)], axis=-1)  # [24, 17, 3]
DEEP = (ROWS * 2500 + COLUMNS * 7).astype(np.uint16)  # [24, 17], 0 to 57612
LOSSLESS = ("PNG", "BMP", "TIFF")


def encoded(image: Image.Image | AnyArray, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, file_format, **options)
    return file.getvalue()


def png(pixels: AnyArray, depth: int, colour_type: int, *chunks: tuple[bytes, bytes], width: int = 0) -> bytes:
    """A PNG written by hand, for kinds that Pillow does not write. width: where several pixels stand in a byte."""
    height, width = len(pixels), width or pixels.shape[1]
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def tiff(pixels: AnyArray, order: str, photometric: int, sample_format: int = 1) -> bytes:
    """An uncompressed TIFF of one channel written by hand. order: "<" or ">"."""
    height, width = pixels.shape
    data = pixels.astype(f"{order}{pixels.dtype.kind}{pixels.itemsize}").tobytes()
    tags = [(256, width), (257, height), (258, pixels.itemsize * 8), (259, 1), (262, photometric)]
    tags += [(273, 134), (277, 1), (278, height), (279, len(data)), (339, sample_format)]
    head = struct.pack(order + "2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    return head + entries + bytes(4) + data


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def refusal(content: bytes, name: str = "scan.png") -> ImageError:
    with pytest.raises(ImageError) as caught:
        images.read(content, name)
    assert caught.value.path == name
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)
    return caught.value


def outcome(content: bytes) -> Pixels | ImageError:
    try:
        return images.read(content, "scan.png")
    except ImageError as error:
        return error


# ---- what is read


@pytest.mark.parametrize("file_format", LOSSLESS)
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_8_bit_images_come_back_as_they_were(file_format: str, pixels: AnyArray) -> None:
    read = images.read(encoded(pixels, file_format), "scan.png")
    assert read.dtype == np.uint8
    assert read.shape == (24, 17, 1 if pixels is GREY else 3)
    assert np.array_equal(read.squeeze(), pixels)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_what_pillow_decodes(progressive: bool) -> None:
    for pixels in (GREY, COLOUR):
        content = encoded(pixels, "JPEG", progressive=progressive)
        assert np.array_equal(images.read(content, "a.JPG").squeeze(), np.asarray(Image.open(io.BytesIO(content))))


def test_16_bit_grey_keeps_every_value() -> None:
    for content in (encoded(DEEP, "PNG"), encoded(DEEP, "TIFF"), encoded(DEEP, "TIFF", compression="tiff_lzw")):
        read = images.read(content, "scan.tif")
        assert read.dtype == np.uint16
        assert np.array_equal(read, DEEP[..., None])


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_either_byte_order_keeps_every_value(order: str) -> None:
    read = images.read(tiff(DEEP, order, photometric=1), "scan.tif")
    assert read.dtype == np.dtype(np.uint16)
    assert np.array_equal(read, DEEP[..., None])


def test_tiff_where_zero_is_white_is_turned_round() -> None:
    assert np.array_equal(images.read(tiff(DEEP, "<", photometric=0), "a.tif")[..., 0], 65535 - DEEP)
    assert np.array_equal(images.read(tiff(GREY, "<", photometric=0), "a.tif")[..., 0], 255 - GREY)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
def test_wider_integers_are_read_if_16_bits_hold_them(dtype: type) -> None:
    kind = 1 if dtype is np.uint32 else 2
    values = np.minimum(DEEP, 30000).astype(dtype)
    assert np.array_equal(images.read(tiff(values, "<", 1, kind), "ct.tif")[..., 0], values)
    values[3, 4] = -1024 if kind == 2 else 70000
    error = refusal(tiff(values, "<", 1, kind), "ct.tif")
    assert isinstance(error, UnsupportedImage)
    assert f"{values[3, 4]}" in error.reason


def test_signed_bytes_are_read_if_none_is_negative() -> None:
    values = (GREY // 2).astype(np.int8)
    assert np.array_equal(images.read(tiff(values, "<", 1, 2), "ct.tif")[..., 0], values)
    values[3, 4] = -64
    assert refusal(tiff(values, "<", 1, 2), "ct.tif").reason.startswith("holds values from -64 to 127")


def test_16_bit_colour_is_read_by_its_high_bytes() -> None:
    deep = np.stack([DEEP, DEEP[::-1], DEEP // 2], axis=-1)
    read = images.read(png(deep, 16, 2), "scan.png")
    assert read.dtype == np.uint8
    assert np.array_equal(read, deep >> 8)


def test_bilevel_images_are_black_and_white() -> None:
    for file_format in LOSSLESS:
        read = images.read(encoded(Image.fromarray(GREY > 100), file_format), "scan.png")
        assert np.array_equal(read[..., 0], np.where(GREY > 100, 255, 0))


def test_palettes_become_rgb() -> None:
    image = Image.fromarray(COLOUR).quantize(16)
    for file_format in LOSSLESS:
        assert np.array_equal(images.read(encoded(image, file_format), "scan.png"), np.asarray(image.convert("RGB")))


def test_other_colour_spaces_become_rgb() -> None:
    image = Image.fromarray(COLOUR)
    for content in (encoded(image.convert("CMYK"), "TIFF"), encoded(image.convert("CMYK"), "JPEG", quality=100)):
        read = images.read(content, "scan.tif")
        assert read.shape == (24, 17, 3)
        assert np.abs(read.astype(int) - COLOUR).mean() < 5
    lab = images.read(encoded(image.convert("LAB"), "TIFF"), "scan.tif")
    assert np.abs(lab.astype(int) - COLOUR).mean() < 5


def test_transparent_parts_are_black_and_half_transparent_ones_darker() -> None:
    alpha = np.repeat(np.array([[0], [128], [255]], np.uint8), 8, axis=0).repeat(17, axis=1)
    expected = (COLOUR.astype(int) * alpha[..., None] + 127) // 255
    for file_format in ("PNG", "TIFF"):
        read = images.read(encoded(np.dstack([COLOUR, alpha]), file_format), "scan.png")
        assert np.array_equal(read, expected)
        assert np.array_equal(read[16:], COLOUR[16:])
        grey = images.read(encoded(np.dstack([GREY, alpha]), file_format), "scan.png")
        assert np.array_equal(grey, (GREY[..., None].astype(int) * alpha[..., None] + 127) // 255)


def test_a_transparent_colour_becomes_black() -> None:
    grey = images.read(png(GREY, 8, 0, (b"tRNS", struct.pack(">H", GREY[5, 5]))), "scan.png")
    assert np.array_equal(grey[..., 0], np.where(GREY[5, 5] == GREY, 0, GREY))
    deep = images.read(png(DEEP, 16, 0, (b"tRNS", struct.pack(">H", DEEP[5, 5]))), "scan.png")
    assert np.array_equal(deep[..., 0], np.where(DEEP[5, 5] == DEEP, 0, DEEP))
    colour = images.read(png(COLOUR, 8, 2, (b"tRNS", struct.pack(">HHH", *map(int, COLOUR[5, 5])))), "scan.png")
    assert np.array_equal(colour, np.where((COLOUR[5, 5] == COLOUR).all(-1, keepdims=True), 0, COLOUR))
    deep_colour = png(COLOUR.astype(np.uint16) * 257, 16, 2, (b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    assert "transparent colour of 16 bits" in refusal(deep_colour).reason
    palette = Image.fromarray(GREY % 4).convert("P")
    palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])
    read = images.read(encoded(palette, "PNG", transparency=1), "scan.png")
    assert np.array_equal(read, np.where((GREY % 4 == 1)[..., None], 0, np.asarray(palette.convert("RGB"))))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_transparent_level_of_few_bits_becomes_black(depth: int) -> None:
    highest = 2**depth - 1
    levels = np.arange(16, dtype=np.uint8).reshape(2, 8).repeat(8, axis=0) % (highest + 1)  # [16, 8]
    bits = np.unpackbits(levels[..., None], axis=-1)[..., 8 - depth :]
    packed = np.packbits(bits.reshape(16, -1), axis=1)  # [16, depth]
    for transparent in range(highest + 1):
        content = png(packed, depth, 0, (b"tRNS", struct.pack(">H", transparent)), width=8)
        expected = np.where(levels == transparent, 0, levels * (255 // highest))
        assert np.array_equal(images.read(content, "scan.png")[..., 0], expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("file_format", "pixels"),
    [("JPEG", GREY), ("PNG", GREY), ("PNG", COLOUR), ("PNG", DEEP), ("TIFF", COLOUR), ("TIFF", DEEP)],
)
def test_exif_rotation_is_applied(orientation: int, file_format: str, pixels: AnyArray) -> None:
    content = encoded(pixels, file_format, exif=turned(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    read = images.read(content, "scan.png")
    assert read.shape[:2] == ((24, 17) if orientation < 5 else (17, 24))
    assert read.flags.c_contiguous
    assert np.array_equal(read.squeeze(), expected)
    if file_format != "JPEG" and orientation == 6:  # the stored image lies on its left side
        assert np.array_equal(read.squeeze(), np.rot90(pixels, -1))


def test_unreadable_exif_costs_the_rotation_not_the_image() -> None:
    content = encoded(GREY, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert np.array_equal(images.read(content, "scan.png")[..., 0], GREY)
    assert np.array_equal(images.read(encoded(GREY, "PNG", exif=turned(77)), "scan.png")[..., 0], GREY)


def test_the_content_decides_among_pillow_formats() -> None:
    assert np.array_equal(images.read(encoded(COLOUR, "BMP"), "folder.jpg/scan.png"), COLOUR)
    assert images.read(encoded(COLOUR, "JPEG"), "scan.png").shape == (24, 17, 3)


def test_a_picture_with_previews_behind_it_is_a_plain_jpeg() -> None:
    content = encoded(COLOUR, "MPO", save_all=True, append_images=[Image.fromarray(COLOUR[::2, ::2])])
    assert images.read(content, "phone.jpg").shape == (24, 17, 3)


def test_pixels_may_be_written_to() -> None:
    for pixels in (GREY, COLOUR, DEEP):
        images.read(encoded(pixels, "PNG"), "scan.png")[0, 0] = 1


def test_suffixes_are_known_in_any_case() -> None:
    assert all(images.is_image(f"a{suffix}") and images.is_image(f"a{suffix.upper()}") for suffix in images.READERS)
    assert not any(map(images.is_image, ("a", "a.doc", "png", ".png", "a.png/b")))


# ---- what is refused


@pytest.mark.parametrize("name", ["scan.webp", "scan", "scan.png.txt", ".png"])
def test_an_unknown_suffix_is_refused_with_those_known(name: str) -> None:
    error = refusal(encoded(GREY, "PNG"), name)
    assert isinstance(error, UnsupportedImage)
    assert ".png" in error.reason
    assert ".tiff" in error.reason


@pytest.mark.parametrize("suffix", images.READERS)
def test_a_file_that_is_no_image_is_corrupt(suffix: str) -> None:
    assert refusal(b"", f"scan{suffix}").reason == "the file is empty"
    for content in (b"just a line of text\n", b"\0" * 4096, encoded(GREY, "GIF"), b"\xff", b"\x89PNG"):
        assert isinstance(refusal(content, f"scan{suffix}"), CorruptImage)


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (300, 7)])
def test_an_image_of_a_few_pixels_is_refused(shape: tuple[int, int]) -> None:
    error = refusal(encoded(np.zeros(shape, np.uint8), "PNG"))
    assert isinstance(error, UnsupportedImage)
    assert error.reason == f"{shape[1]} x {shape[0]} px, at least 8 x 8 needed"
    assert images.read(encoded(np.zeros((8, 8), np.uint8), "PNG"), "scan.png").shape == (8, 8, 1)


def enlarged(file_format: str, width: int, height: int) -> bytes:
    """A small image whose header claims another size."""
    content = bytearray(encoded(GREY, file_format))
    if file_format == "PNG":
        content[16:24] = struct.pack(">II", width, height)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    elif file_format == "BMP":
        content[18:26] = struct.pack("<II", width, height)
    elif file_format == "JPEG":
        start = content.index(b"\xff\xc0") + 5
        content[start : start + 4] = struct.pack(">HH", height, width)
    else:
        old = struct.pack("<HHIIHHII", 256, 4, 1, 17, 257, 4, 1, 24)
        assert old in content
        content = content.replace(old, struct.pack("<HHIIHHII", 256, 4, 1, width, 257, 4, 1, height))
    return bytes(content)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("side", [20_000, 10_000, 9_460])  # above, below and just below Pillow's own limits
def test_a_huge_image_is_refused_by_its_header(file_format: str, side: int) -> None:
    before = Image.MAX_IMAGE_PIXELS
    error = refusal(enlarged(file_format, side, side))
    assert isinstance(error, UnsupportedImage)
    assert f"{side} x {side} px" in error.reason
    assert f"{MAX_PIXELS:,}" in error.reason
    assert before == Image.MAX_IMAGE_PIXELS


def test_an_image_within_the_limit_is_not_refused_for_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 9459**2 <= MAX_PIXELS < 9460**2
    assert isinstance(refusal(enlarged("BMP", 9_459, 9_459)), CorruptImage)  # truncated
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # a limit that the user's own program set
    assert images.read(encoded(GREY, "PNG"), "scan.png").shape == (24, 17, 1)


@pytest.mark.parametrize("file_format", ["TIFF", "PNG"])
def test_several_pages_are_refused_with_their_number(file_format: str) -> None:
    pages = [Image.fromarray(np.roll(GREY, n)) for n in range(3)]
    error = refusal(encoded(pages[0], file_format, save_all=True, append_images=pages[1:]))
    assert isinstance(error, UnsupportedImage)
    assert ("3 pages" if file_format == "TIFF" else "3 frames") in error.reason


def test_floating_point_is_refused() -> None:
    error = refusal(encoded(GREY.astype(np.float32), "TIFF"), "scan.tif")
    assert isinstance(error, UnsupportedImage)
    assert "floating-point" in error.reason


def test_a_sound_file_beyond_pillow_is_unsupported_not_corrupt() -> None:
    error = refusal(tiff(DEEP, ">", photometric=0), "scan.tif")
    assert isinstance(error, UnsupportedImage)
    assert "unknown pixel mode" in error.reason
    bitmap = bytearray(encoded(COLOUR, "BMP"))
    bitmap[30] = 5  # a PNG inside a BMP
    assert isinstance(refusal(bytes(bitmap)), UnsupportedImage)


# ---- damage


def run_length_encoded() -> bytes:
    rows = b"".join(b"".join(bytes((1, value)) for value in row) + b"\0\0" for row in GREY[::-1]) + b"\0\1"
    palette = b"".join(bytes((value, 255 - value, value, 0)) for value in range(256))
    head = struct.pack(
        "<2sIIIIiiHHIIiiII", b"BM", 1078 + len(rows), 0, 1078, 40, 17, 24, 1, 8, 1, len(rows), 0, 0, 256, 0
    )
    return head + palette + rows


FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(COLOUR, "JPEG", exif=turned(6)),
    "jpeg-progressive": lambda: encoded(COLOUR, "JPEG", progressive=True),
    "png": lambda: encoded(COLOUR, "PNG", exif=turned(6)),
    "png-deep": lambda: encoded(DEEP, "PNG"),
    "png-palette": lambda: encoded(Image.fromarray(COLOUR).quantize(9), "PNG", transparency=2),
    "bmp": lambda: encoded(COLOUR, "BMP"),
    "bmp-palette": lambda: encoded(Image.fromarray(COLOUR).quantize(9), "BMP"),
    "bmp-runs": run_length_encoded,
    "tiff": lambda: encoded(COLOUR, "TIFF", exif=turned(6)),
    "tiff-deep": lambda: encoded(DEEP, "TIFF"),
    "tiff-lzw": lambda: encoded(COLOUR, "TIFF", compression="tiff_lzw"),
    "tiff-deflate": lambda: encoded(DEEP, "TIFF", compression="tiff_deflate"),
    "tiff-jpeg": lambda: encoded(COLOUR, "TIFF", compression="jpeg"),
    "tiff-palette": lambda: encoded(Image.fromarray(COLOUR).quantize(9), "TIFF", compression="packbits"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", FILES)
def test_a_truncated_file_is_refused(kind: str) -> None:
    content = FILES[kind]()
    whole = images.read(content, "scan.png")
    for length in {*range(0, len(content) - 4, max(1, len(content) // 80)), len(content) - 5}:
        with pytest.raises(CorruptImage, match=r"^scan\.png: "):
            images.read(content[:length], "scan.png")
    for length in range(len(content) - 4, len(content)):  # an end mark, a checksum or padding may be all that is lost
        result = outcome(content[:length])
        assert np.array_equal(result, whole) if isinstance(result, np.ndarray) else isinstance(result, CorruptImage)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", FILES)
def test_damaged_bytes_give_an_image_error_or_pixels_and_nothing_else(kind: str) -> None:
    chance = random.Random(kind)
    sound = FILES[kind]()
    refused = 0
    for _ in range(60):
        content = bytearray(sound)
        for _ in range(chance.choice((1, 1, 2, 8))):
            place = chance.randrange(len(content) if chance.random() < 0.5 else min(len(content), 200))
            content[place] = chance.choice((0, 1, 255, content[place] ^ 1 << chance.randrange(8)))
        result = outcome(bytes(content))
        if isinstance(result, ImageError):
            refused += 1
            assert result.__cause__ is not None or isinstance(result, UnsupportedImage) or "content" in result.reason
        else:
            assert result.dtype in (np.uint8, np.uint16)
            assert result.ndim == 3
            assert result.shape[2] in (1, 3)
    assert refused


def test_a_flipped_bit_anywhere_in_a_png_is_noticed() -> None:
    sound = encoded(COLOUR, "PNG")
    for place in range(8, len(sound) - 12):  # the last twelve are the end mark
        content = bytearray(sound)
        content[place] ^= 1 << place % 8
        assert isinstance(refusal(bytes(content)), ImageError)


@pytest.mark.parametrize("chunk", [b"iCCP", b"zTXt", b"iTXt", b"tRNS", b"pHYs", b"cHRM", b"acTL", b"fcTL", b"PLTE"])
@pytest.mark.parametrize("data", [b"", b"\0", b"key\0\0", b"key\0\0garbage", b"\xff" * 26], ids=len)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_odd_chunks_with_right_checksums_do_no_harm(chunk: bytes, data: bytes) -> None:
    result = outcome(png(COLOUR, 8, 2, (chunk, data)))
    assert isinstance(result, ImageError) or result.shape == (24, 17, 3)


def test_threads_read_the_same_pixels() -> None:
    contents = [FILES[kind]() for kind in FILES] * 4
    alone = [images.read(content, "scan.png") for content in contents]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda content: images.read(content, "scan.png"), contents))
    assert all(np.array_equal(*pair) for pair in zip(alone, together, strict=True))


def test_large_jpegs_come_smaller_on_request_but_not_too_small() -> None:
    big = np.asarray(Image.fromarray(COLOUR).resize((800, 600), Image.Resampling.BICUBIC))
    for rotation, across in ((1, True), (6, False)):
        content = encoded(big, "JPEG", quality=95, exif=turned(rotation))
        whole = images.read(content, "a.jpg").astype(int)
        for least_side, scale in ((0, 1), (599, 1), (301, 1), (300, 2), (151, 2), (150, 4), (75, 8), (8, 8)):
            pixels = images.read(content, "a.jpg", least_side)
            height, width = 600 // scale, 800 // scale
            assert pixels.shape == ((height, width, 3) if across else (width, height, 3))
            rows, columns = (height, width) if across else (width, height)
            averaged = whole.reshape(rows, scale, columns, scale, 3).mean(axis=(1, 3))
            assert np.abs(averaged - pixels).mean() < 3
    assert images.read(encoded(big, "PNG"), "a.png", 75).shape == (600, 800, 3)


def test_a_truncated_jpeg_is_refused_at_any_size() -> None:
    big = np.asarray(Image.fromarray(COLOUR).resize((800, 600), Image.Resampling.BICUBIC))
    content = encoded(big, "JPEG")
    with pytest.raises(CorruptImage, match="truncated"):
        images.read(content[: len(content) // 2], "a.jpg", 75)
