"""Reading DICOM: what every kind of pixels becomes, what is refused, and that no value of a header leaves the file."""

from __future__ import annotations

import random
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from athsearch import images
from athsearch.errors import CorruptImage, ImageError, UnsupportedImage
from athsearch.images.dicom import DicomFile
from athsearch.images.limits import MAX_PIXELS
from athsearch.types import AnyArray, Pixels
from dicom_files import dicom, lut

ROWS, COLUMNS = np.mgrid[:24, :18]
GREY = ((ROWS * 10 + COLUMNS * 3) % 256).astype(np.uint8)  # [24, 18], no symmetry
COLOUR = np.stack([GREY, 255 - GREY, (ROWS * COLUMNS % 256).astype(np.uint8)], axis=-1)  # [24, 18, 3]
DEEP = (ROWS * 150 + COLUMNS * 7).astype(np.uint16)  # 0 to 3569: 12 bits
SIGNED = (DEEP.astype(np.int16) - 1600).astype(np.int16)
TWELVE = {"BitsStored": 12, "HighBit": 11}


def read(content: bytes, name: str = "scan.dcm") -> Pixels:
    return images.read(content, name)


def refusal(content: bytes, name: str = "scan.dcm") -> ImageError:
    with pytest.raises(ImageError) as caught:
        read(content, name)
    assert caught.value.path == name
    assert "meier" not in str(caught.value).lower()
    assert "\n" not in str(caught.value)
    return caught.value


def outcome(content: bytes) -> str | None:
    """The message of the refusal, None for an image."""
    try:
        return None if read(content).dtype == np.uint8 else "another dtype"
    except ImageError as error:
        return str(error)


def stretched(values: AnyArray, low: float, high: float) -> Pixels:
    """uint8 [H, W], low black and high white: the slow twin of windowing."""
    return (np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)


# ---- stored values


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"])
def test_8_bit_pixels_come_back_as_they_were(syntax: str) -> None:
    assert np.array_equal(read(dicom(GREY, syntax=syntax)), GREY[..., None])
    assert np.array_equal(read(dicom(COLOUR, "RGB", syntax)), COLOUR)
    planar = np.moveaxis(COLOUR, -1, 0).reshape(24, 18, 3)  # the same bytes, colour by colour
    assert np.array_equal(read(dicom(planar, "RGB", syntax, PlanarConfiguration=1)), COLOUR)


@pytest.mark.parametrize("values", [DEEP, SIGNED, DEEP.astype(np.uint32), SIGNED.astype(np.int32)])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_deep_values_are_stretched_from_the_lowest_to_the_highest(values: AnyArray, syntax: str) -> None:
    shown = read(dicom(values, syntax=syntax))
    assert shown.dtype == np.uint8
    assert np.array_equal(shown[..., 0], stretched(values, values.min(), values.max()))


def test_bits_beside_the_stored_ones_are_no_part_of_the_value() -> None:
    with_overlay = DEEP | ((ROWS % 2).astype(np.uint16) << 14)
    assert np.array_equal(read(dicom(with_overlay, **TWELVE)), read(dicom(DEEP)))
    signed = (SIGNED.view(np.uint16) & 0xFFF) | 0xA000
    assert np.array_equal(read(dicom(signed, PixelRepresentation=1, **TWELVE)), read(dicom(SIGNED)))
    for pixels, photometric in ((DEEP, "MONOCHROME2"), (COLOUR.astype(np.uint16) << 4, "RGB")):
        high, expected = pixels << 4 | 5, read(dicom(pixels, photometric, **TWELVE))
        for syntax, frames in ((uid.ExplicitVRLittleEndian, None), (uid.RLELossless, [rle(high)])):
            shown = read(dicom(high, photometric, syntax, frames=frames, BitsStored=12, HighBit=15))
            assert np.array_equal(shown, expected)
            assert photometric == "MONOCHROME2" or np.array_equal(shown, COLOUR)


def test_single_bits_are_black_and_white() -> None:
    mask = GREY > 100
    packed = np.packbits(mask.ravel(), bitorder="little").reshape(1, -1)
    content = dicom(packed, Rows=24, Columns=18, BitsAllocated=1, BitsStored=1, HighBit=0)
    assert np.array_equal(read(content)[..., 0], np.where(mask, 255, 0))


def test_frames_are_read_one_by_one() -> None:
    stack = np.stack([GREY, GREY[::-1], 255 - GREY])
    for syntax in (uid.ExplicitVRLittleEndian, uid.JPEGLSLossless):
        frames = None if syntax == uid.ExplicitVRLittleEndian else [imagecodecs.jpegls_encode(frame) for frame in stack]
        content = dicom(stack, syntax=syntax, NumberOfFrames=3, frames=frames)
        for number, frame in enumerate(stack, 1):
            assert np.array_equal(read(content, f"scan.dcm#frame={number}")[..., 0], frame)
        assert "no frame 4 among 3" in refusal(content, "scan.dcm#frame=4").reason
        error = refusal(content)
        assert isinstance(error, UnsupportedImage)
        assert error.reason == "holds 3 frames: name one, as in FILE#frame=1"


def rle(pixels: AnyArray) -> bytes:
    """One frame by PS3.5 annex G."""
    planes = pixels.reshape(-1, 1 if pixels.ndim == 2 else 3)
    big = planes.astype(planes.dtype.newbyteorder(">"))
    columns = big.view(np.uint8).reshape(len(planes), -1)
    segments = [imagecodecs.packbits_encode(column.tobytes()) for column in columns.T]
    segments = [segment + bytes(len(segment) % 2) for segment in segments]
    offsets = np.cumsum([64, *map(len, segments)])[:-1]
    return np.array([len(segments), *offsets, *[0] * (15 - len(segments))], "<u4").tobytes() + b"".join(segments)


def jpeg_lossless(pixels: AnyArray) -> bytes:
    return imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=8 if pixels.dtype == np.uint8 else 12)


LOSSLESS = {
    uid.RLELossless: rle,
    uid.JPEGLossless: jpeg_lossless,
    uid.JPEGLosslessSV1: jpeg_lossless,
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEG2000Lossless: lambda pixels: imagecodecs.jpeg2k_encode(
        pixels, codecformat="J2K", reversible=True, mct=False
    ),
}


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("pixels", [GREY, DEEP, COLOUR], ids=["grey", "deep", "colour"])
def test_lossless_compression_changes_nothing(syntax: str, pixels: AnyArray) -> None:
    photometric, depth = "RGB" if pixels is COLOUR else "MONOCHROME2", TWELVE if pixels is DEEP else {}
    compressed = dicom(pixels, photometric, syntax, frames=[LOSSLESS[syntax](pixels)], **depth)
    assert np.array_equal(read(compressed), read(dicom(pixels, photometric, **depth)))


JFIF = b"\xff\xe0\0\x10JFIF\0\1\2\0\0\1\0\1\0\0"
ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"


@pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1])
@pytest.mark.parametrize("marker", [b"", JFIF, ADOBE], ids=["bare", "JFIF", "Adobe"])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_lossless_jpeg_colours_are_those_the_header_says(syntax: str, marker: bytes, photometric: str) -> None:
    stored = imagecodecs.jpeg8_encode(COLOUR, lossless=True, colorspace="RGB", outcolorspace="RGB")
    assert stored[2:18] == ADOBE
    frame = stored[:2] + marker + stored[18:]
    shown = read(dicom(COLOUR, photometric, syntax, frames=[frame]))
    assert np.array_equal(shown, read(dicom(COLOUR, photometric)))


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
def test_jpeg_colours_are_those_the_file_says(syntax: str) -> None:
    smooth = np.repeat(np.repeat(COLOUR[::8, ::6], 8, axis=0), 6, axis=1)
    as_ybr = imagecodecs.jpeg8_encode(smooth, level=98, subsampling="444")
    read_ybr = read(dicom(smooth, "YBR_FULL_422", syntax, frames=[as_ybr]))
    assert np.abs(read_ybr.astype(int) - smooth).mean() < 6
    deep = imagecodecs.jpeg8_encode(DEEP, level=100, bitspersample=12)
    read_deep = read(dicom(DEEP, syntax=uid.JPEGExtended12Bit, frames=[deep], **TWELVE))
    assert np.abs(read_deep.astype(int) - read(dicom(DEEP, **TWELVE))).max() <= 2


# ---- what a viewer shows


@pytest.mark.parametrize("values", [DEEP, SIGNED])
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_rescale_and_the_first_window_are_as_pydicom_has_them(values: AnyArray, function: str | None) -> None:
    elements = {"RescaleSlope": "2", "RescaleIntercept": "-1000", "WindowCenter": [700, 1], "WindowWidth": [2600, 1]}
    dataset = Dataset()
    dataset.BitsStored, dataset.PixelRepresentation = 16, int(values is SIGNED)
    dataset.PhotometricInterpretation = "MONOCHROME2"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    if function:
        dataset.VOILUTFunction = function
    expected = apply_voi_lut(apply_modality_lut(values, dataset), dataset)
    low = (-(2**15) if values is SIGNED else 0) * 2 - 1000
    shown = read(dicom(values, VOILUTFunction=function, **elements))[..., 0]
    assert np.abs(shown - (expected - low) / (65535 * 2) * 255).max() <= 0.5 + 1e-9
    assert len(np.unique(shown)) > 50


def test_monochrome1_is_turned_round() -> None:
    window = {"WindowCenter": 1000, "WindowWidth": 500}
    assert np.array_equal(read(dicom(DEEP, "MONOCHROME1", **window)), 255 - read(dicom(DEEP, **window)))
    assert np.array_equal(read(dicom(GREY, "MONOCHROME1"))[..., 0], 255 - GREY)


def test_a_window_without_width_is_none() -> None:
    assert np.array_equal(read(dicom(DEEP, WindowCenter=9, WindowWidth=0)), read(dicom(DEEP)))
    assert np.array_equal(read(dicom(GREY, WindowCenter=100, WindowWidth=1))[..., 0], np.where(GREY > 99, 255, 0))


def test_look_up_tables_go_before_windows() -> None:
    entries = [0, 50, 100, 900, 1023]
    content = dicom(DEEP, VOILUTSequence=[lut("VOILUTSequence", entries, 1000, 10)], WindowCenter=5, WindowWidth=9)
    table = np.array(entries)[np.clip(DEEP.astype(int) - 1000, 0, 4)]
    assert np.array_equal(read(content)[..., 0], stretched(table, 0, 1023))
    modality = dicom(SIGNED, ModalityLUTSequence=[lut("ModalityLUTSequence", [7, 9, 4000], -1, 16)])
    assert np.array_equal(read(modality)[..., 0], stretched(np.array([7, 9, 4000])[np.clip(SIGNED + 1, 0, 2)], 7, 4000))
    first = int(DEEP.min()) + 100
    unsigned = dicom(DEEP, ModalityLUTSequence=[lut("ModalityLUTSequence", [7, 9, 4000], first, 16)])
    places = np.clip(DEEP.astype(int) - first, 0, 2)
    assert places.min() == 0
    assert np.array_equal(read(unsigned)[..., 0], stretched(np.array([7, 9, 4000])[places], 7, 4000))


def test_a_table_from_below_zero_is_the_same_for_frames_that_stay_above() -> None:
    table = [lut("VOILUTSequence", list(range(4096)), -500, 12)]
    for low in (0, 700):
        values = (GREY.astype(int) + low).astype(np.uint16)
        content = dicom(values + 1024, RescaleSlope=1, RescaleIntercept=-1024, VOILUTSequence=table)
        assert np.array_equal(read(content)[..., 0], stretched(values.astype(int) + 500, 0, 4095))


def test_files_that_would_take_all_memory_or_time_are_refused() -> None:
    bomb = dicom(np.zeros((8192, 32768 + 2), np.uint8), syntax=uid.DeflatedExplicitVRLittleEndian)
    assert len(bomb) < 400_000
    assert refusal(bomb).reason == "more than 268,435,456 bytes when inflated"
    words = np.array([0, 1, 5, *[0, 0] * 50_000, *[2, 50_000, 0, 0] * 50_000], "<u2").tobytes()
    elements = {f"{colour}PaletteColorLookupTableDescriptor": [0, 0, 8] for colour in ("Red", "Green", "Blue")}
    elements |= {f"Segmented{colour}PaletteColorLookupTableData": words for colour in ("Red", "Green", "Blue")}
    begin = time.process_time()
    assert isinstance(refusal(dicom(GREY, "PALETTE COLOR", **elements)), CorruptImage)
    assert time.process_time() - begin < 2


def test_a_frame_of_many_is_found_at_once() -> None:
    groups = []
    for number in range(600):
        voi, item = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = number, 100
        item.FrameVOILUTSequence = [voi]
        groups.append(item)
    content = dicom(np.zeros((600, 8, 8), np.uint16), NumberOfFrames=600, PerFrameFunctionalGroupsSequence=groups)
    file = DicomFile(content, "film.dcm")
    file.pixels(1, "film.dcm")
    begin = time.process_time()
    for number in range(1, 301):
        file.pixels(number, "film.dcm")
    assert time.process_time() - begin < 1  # 0.1 s; it was 6 s when each frame went over the groups of all


def test_padding_is_black_and_has_no_say() -> None:
    padded = SIGNED.copy()
    padded[:5] = -2000
    shown = read(dicom(padded, PixelPaddingValue=-2000))[..., 0]
    assert np.array_equal(shown[5:], stretched(SIGNED[5:], SIGNED[5:].min(), SIGNED.max()))
    assert not shown[:5].any()
    assert not read(dicom(padded, "MONOCHROME1", PixelPaddingValue=-2000))[:5].any()


def test_a_frame_has_the_window_of_its_functional_group() -> None:
    def group(center: int) -> Dataset:
        voi, rescale, item = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 100
        rescale.RescaleSlope, rescale.RescaleIntercept = 1, -10
        item.FrameVOILUTSequence, item.PixelValueTransformationSequence = [voi], [rescale]
        return item

    stack = np.stack([DEEP, DEEP])
    content = dicom(stack, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=[group(500), group(900)])
    for number, center in ((1, 500), (2, 900)):
        expected = stretched(DEEP.astype(float) - 10, center - 0.5 - 49.5, center - 0.5 + 49.5)
        assert np.array_equal(read(content, f"a.dcm#frame={number}")[..., 0], expected)


def palette(entries: AnyArray, bits: int, first: int = 0) -> dict[str, Any]:
    """entries: [n, 3]."""
    elements: dict[str, Any] = {}
    for place, colour in enumerate(("Red", "Green", "Blue")):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [len(entries) % 65536, first, bits]
        elements[f"{colour}PaletteColorLookupTableData"] = entries[:, place].astype("<u2").tobytes()
    return elements


def test_palettes_become_rgb() -> None:
    table = np.random.default_rng(1).integers(0, 65536, (200, 3))
    expected = (table >> 8)[np.clip(GREY.astype(int) - 10, 0, 199)]
    assert np.array_equal(read(dicom(GREY, "PALETTE COLOR", **palette(table, 16, 10))), expected)
    assert np.array_equal(read(dicom(GREY, "PALETTE COLOR", **palette(table >> 8, 8, 10))), expected)


def test_palettes_in_segments_become_rgb() -> None:
    segments = np.array([0, 2, 0, 256 * 9, 1, 3, 256 * 15, 2, 2, 0, 0], "<u2").tobytes()  # 0 9 11 13 15, 0 9 11 13 15
    elements = {f"{colour}PaletteColorLookupTableDescriptor": [10, 0, 16] for colour in ("Red", "Green", "Blue")}
    elements |= {f"Segmented{colour}PaletteColorLookupTableData": segments for colour in ("Red", "Green", "Blue")}
    shown = read(dicom(GREY % 10, "PALETTE COLOR", **elements))
    assert np.array_equal(shown[..., 1], np.array([0, 9, 11, 13, 15, 0, 9, 11, 13, 15])[GREY % 10])


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422"])
def test_ybr_becomes_rgb(photometric: str) -> None:
    red, grey = (76, 85, 255), (120, 128, 128)  # Y Cb Cr
    ybr = np.empty((24, 18, 3), np.uint8)
    ybr[:, :8], ybr[:, 8:] = red, grey
    stored = ybr
    if photometric == "YBR_FULL_422":
        pairs = ybr.reshape(24, 9, 2, 3)
        stored = np.concatenate([pairs[:, :, 0, :1], pairs[:, :, 1, :1], pairs[:, :, 0, 1:]], axis=-1)
        stored = stored.reshape(24, 12, 3)  # the same bytes
    shown = read(dicom(stored, photometric, Rows=24, Columns=18)).astype(int)
    assert np.abs(shown[:, :8] - (254, 0, 0)).max() <= 1
    assert np.array_equal(shown[:, 8:], np.full((24, 10, 3), 120))


# ---- which files, and what is refused


def test_files_without_suffix_or_preamble_are_read() -> None:
    content = dicom(GREY)
    for name in ("IM_0001", "1.2.840.113619.2", "a.IMA", "a.dicom"):
        assert np.array_equal(read(content, name)[..., 0], GREY)
    bare = dicom(GREY, bare=True)
    assert bare[128:132] != b"DICM"
    for name in ("a.dcm", "IM_0001"):
        assert np.array_equal(read(bare, name)[..., 0], GREY)
    assert isinstance(refusal(b"plain text, and no image " * 9, "README"), UnsupportedImage)
    assert isinstance(refusal(content, "notes.txt"), UnsupportedImage)


@pytest.mark.parametrize(
    ("elements", "kind", "words"),
    [
        ({"Rows": 60000, "Columns": 60000}, UnsupportedImage, f"at most {MAX_PIXELS:,}"),
        ({"Rows": 4, "Columns": 4}, UnsupportedImage, "at least 8 x 8"),
        ({"Rows": 9000, "Columns": 9000}, CorruptImage, "cut short"),
        ({"NumberOfFrames": 2_000_000_000}, UnsupportedImage, "holds 2,000,000,000 frames"),
        ({"Rows": None}, CorruptImage, "does not say"),
        ({"PhotometricInterpretation": "MEIER"}, UnsupportedImage, "none of RGB"),
        ({"BitsStored": 30}, UnsupportedImage, "30 bits stored in 8"),
        ({"SamplesPerPixel": 3}, CorruptImage, "MONOCHROME2 with 3"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, CorruptImage, "look-up table"),
    ],
)
def test_headers_that_make_no_sense_are_refused(elements: dict[str, Any], kind: type, words: str) -> None:
    pixels = np.stack([GREY]) if "NumberOfFrames" in elements else GREY
    error = refusal(dicom(pixels, **elements))
    assert isinstance(error, kind)
    assert words in error.reason


def test_a_transfer_syntax_that_cannot_be_decoded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(dicom(GREY, syntax="1.2.840.10008.1.2.4.102", frames=[b"video!"]))
    assert isinstance(error, UnsupportedImage)
    assert "1.2.840.10008.1.2.4.102" in error.reason
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    error = refusal(dicom(GREY, syntax=uid.RLELossless, frames=[rle(GREY)]))
    assert isinstance(error, UnsupportedImage)
    assert "pip install 'athsearch[dicom]'" in error.reason


def test_a_compressed_frame_of_another_size_is_refused_before_it_is_decoded() -> None:
    for syntax in (uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1):
        frame = LOSSLESS[syntax](np.zeros((100, 100), np.uint8))
        assert (
            "100 x 100 px, the file's header says 18 x 24" in refusal(dicom(GREY, syntax=syntax, frames=[frame])).reason
        )


@pytest.mark.parametrize("syntax", [None, *LOSSLESS])
def test_a_truncated_file_is_refused(syntax: str | None) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 18), np.uint8)
    if syntax is None:
        content = dicom(noise)
    else:
        content = dicom(noise, syntax=syntax, frames=[LOSSLESS[syntax](noise)])
        cut = LOSSLESS[syntax](noise)[:-40]
        assert isinstance(refusal(dicom(noise, syntax=syntax, frames=[cut])), CorruptImage)
    assert np.array_equal(read(content)[..., 0], noise)
    for n_bytes in (131, 140, 400, len(content) - 60):
        assert isinstance(refusal(content[:n_bytes]), CorruptImage)


def test_damaged_files_give_errors_of_ours_that_name_nobody() -> None:
    draw = random.Random(7)
    files = [dicom(GREY, PatientID="Meier", WindowCenter=1, WindowWidth=9, VOILUTSequence=[lut("", [1, 2], 0, 8)])]
    files += [dicom(GREY, syntax=syntax, frames=[encode(GREY)]) for syntax, encode in LOSSLESS.items()]
    n_refused = 0
    for _ in range(600):
        content = bytearray(draw.choice(files))
        for _ in range(draw.choice((1, 3, 20))):
            content[draw.randrange(128, len(content))] = draw.randrange(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reason = outcome(bytes(content))
            n_refused += reason is not None
            assert "meier" not in (reason or "").lower()
    assert 50 < n_refused < 600


# ---- real files


SHOWN = {  # shape and mean of the first frame: of what pydicom's own functions show, to half a grey level everywhere
    "CT0012_fragmented_no_bot_jpeg_extended.dcm": ((512, 512, 1), 96.34),
    "CTImage_jpeg_baseline.dcm": ((512, 512, 1), 43.03),
    "JPEG-LL.dcm": ((1024, 256, 1), 12.61),
    "JPGLosslessP14SV1_1s_1f_8b.dcm": ((768, 1024, 1), 17.36),
    "MR-SIEMENS-DICOM-WithOverlays.dcm": ((484, 484, 1), 29.82),
    "MR2_J2KR.dcm": ((1024, 1024, 1), 36.13),
    "OBXXXX1A_rle.dcm": ((600, 800, 3), 12.44),
    "RG3_J2KI.dcm": ((1760, 1760, 1), 177.5),
    "SC_ybr_full_uncompressed.dcm": ((100, 100, 3), 127.73),
    "US1_J2KR.dcm": ((480, 640, 3), 34.53),
    "color-pl.dcm": ((120, 256, 3), 42.66),
    "emri_small_big_endian.dcm": ((64, 64, 1), 86.57),
    "explicit_VR-UN.dcm": ((512, 512, 1), 40.75),
    "gdcm-US-ALOKA-16.dcm": ((480, 640, 3), 29.73),
}
REFUSED = {"emri_small_jpeg_2k_lossless_too_short.dcm": "cut short: it ends in the middle of an element"}
MANY = {"CT0012_fragmented_no_bot_jpeg_extended.dcm", "emri_small_big_endian.dcm"}


@pytest.fixture
def real_files(real_data: Path) -> Path:
    """The folder of real DICOM files."""
    if not (real_data / "dicom").is_dir():
        pytest.skip("no folder `dicom` in ATHSEARCH_DATA")
    return real_data / "dicom"


def test_every_real_file_is_shown_or_refused(real_files: Path) -> None:
    assert {path.name for path in real_files.glob("*.dcm")} == SHOWN.keys() | REFUSED.keys()
    for name, (shape, mean) in SHOWN.items():
        shown = read((real_files / name).read_bytes(), name + ("#frame=1" if name in MANY else ""))
        assert shown.dtype == np.uint8
        assert (name, shown.shape) == (name, shape)
        assert shown.mean() == pytest.approx(mean, abs=0.2), name  # lossy decoders may round otherwise
    for name, reason in REFUSED.items():
        assert refusal((real_files / name).read_bytes(), name).reason == reason
