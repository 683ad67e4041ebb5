"""Pages of TIFF files and slices of NIfTI volumes: what each becomes, what is refused, and how sources list them."""

from __future__ import annotations

import gzip
import io
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from athsearch import images
from athsearch.archive.archive import Archive
from athsearch.data import Item, open_source
from athsearch.data import frames as in_frames
from athsearch.encoder import Encoder
from athsearch.errors import CorruptImage, ImageError, UnsupportedImage
from athsearch.images import tiff_pages
from athsearch.types import AnyArray
from conftest import Run, draw_image
from dicom_files import dicom

ROWS, COLUMNS = np.mgrid[:24, :17]
GREY = ((ROWS * 10 + COLUMNS * 3) % 256).astype(np.uint8)
DEEP = (ROWS * 2500 + COLUMNS * 7).astype(np.uint16)
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
SIDES = (20, 31, 9)  # left to right, back to front, feet to head


def tiff(*pages: AnyArray, **options: Any) -> bytes:
    file = io.BytesIO()
    first, *others = map(Image.fromarray, pages)
    first.save(file, "TIFF", save_all=True, append_images=others, **options)
    return file.getvalue()


def volume(seed: int = 0, sides: tuple[int, ...] = SIDES) -> AnyArray:
    return np.random.default_rng(seed).integers(-900, 900, sides).astype(np.int16)


def nifti(voxels: AnyArray, affine: AnyArray | None = None, version: int = 1, **fields: Any) -> bytes:
    """A .nii file. fields: of its header, set last. Axes lie as the patient's (RAS) unless affine says otherwise."""
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    content = bytearray(kind(voxels, np.eye(4) if affine is None else affine, dtype=voxels.dtype).to_bytes())
    n_header = 348 if version == 1 else 540
    header = type(kind.header_class())(bytes(content[:n_header]), check=False)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + bytes(content[n_header:])


def refusal(content: bytes, name: str) -> ImageError:
    with pytest.raises(ImageError) as caught:
        images.read(content, name)
    assert caught.value.path == name
    assert "\n" not in str(caught.value)
    return caught.value


# ---- pages of TIFF files


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("big_tiff", [False, True])
def test_each_page_is_what_it_would_be_alone(compression: str, big_tiff: bool) -> None:
    pages = [GREY, DEEP, COLOUR, GREY[::-1, :9].copy()]
    content = tiff(*pages, compression=compression, big_tiff=big_tiff)
    assert images.open_image(content, "a.tif").n_frames == 4
    for number, page in enumerate(pages, 1):
        read = images.read(content, f"a.tif#frame={number}")
        assert read.dtype == page.dtype
        assert np.array_equal(read, page if page.ndim == 3 else page[..., None])
        assert np.array_equal(read, images.read(tiff(page, compression=compression), "a.tif"))
    assert "no frame 5 among 4" in refusal(content, "a.tif#frame=5").reason
    assert refusal(content, "x/a.tif").reason == "holds 4 pages: name one, as in FILE#frame=1"


def test_a_page_is_refused_for_itself() -> None:
    content = tiff(GREY, GREY.astype(np.float32), GREY[:4].copy(), GREY.astype(np.int32) - 5, DEEP)
    assert np.array_equal(images.read(content, "a.tif#frame=1")[..., 0], GREY)
    assert "floating-point" in refusal(content, "a.tif#frame=2").reason
    assert "17 x 4 px" in refusal(content, "a.tif#frame=3").reason
    assert "-5" in refusal(content, "a.tif#frame=4").reason
    assert np.array_equal(images.read(content, "a.tif#frame=5")[..., 0], DEEP)


def offsets_of(content: bytes) -> list[int]:
    """Where the directories of a little-endian TIFF stand, the first link's place before each."""
    (place,) = struct.unpack_from("<I", content, 4)
    found = []
    while place:
        found.append(place)
        (n_entries,) = struct.unpack_from("<H", content, place)
        (place,) = struct.unpack_from("<I", content, place + 2 + 12 * n_entries)
    return found


def with_link(content: bytes, page: int, place: int) -> bytes:
    """The file with another place for the directory behind page `page`, from 0."""
    start = offsets_of(content)[page]
    end = start + 2 + 12 * struct.unpack_from("<H", content, start)[0]
    return content[:end] + struct.pack("<I", place) + content[end + 4 :]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damage_behind_a_page_leaves_that_page() -> None:
    content = tiff(GREY, DEEP, COLOUR)
    second, third = offsets_of(content)[1:]
    for damaged in (content[: third + 9], with_link(content, 1, len(content) + 99), with_link(content, 1, 2**32 - 2)):
        assert images.open_image(damaged, "a.tif").n_frames == 3
        assert np.array_equal(images.read(damaged, "a.tif#frame=2")[..., 0], DEEP)
        assert isinstance(refusal(damaged, "a.tif#frame=3"), CorruptImage)
    assert images.open_image(with_link(content, 2, second), "a.tif").n_frames == 3  # a chain that leads back
    for length in range(0, len(content), 7):
        try:
            n_pages = images.open_image(content[:length], "a.tif").n_frames
        except CorruptImage:
            assert length < 4
            continue
        assert 1 <= n_pages <= 3


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("field_type", [3, 4])
def test_smaller_copies_and_masks_are_no_pages(order: str, field_type: int) -> None:
    def directory(kind: int, side: int, link: int, place: int) -> bytes:
        """A page of one grey level, its number of pixels behind the directory."""
        subfile = struct.pack(order + "HHI", 254, field_type, 1)
        subfile += struct.pack(order + ("HH" if field_type == 3 else "I"), *((kind, 0) if field_type == 3 else (kind,)))
        tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, place + 126), (277, 1), (278, side)]
        entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in [*tags, (279, side**2)])
        return (
            struct.pack(order + "H", 10) + subfile + entries + struct.pack(order + "I", link) + bytes([kind]) * side**2
        )

    def file(*pages: tuple[int, int]) -> bytes:
        content = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
        for number, (kind, side) in enumerate(pages):
            place = len(content)
            link = place + 126 + side**2 if number + 1 < len(pages) else 0
            content += directory(kind, side, link, place)
        return content

    pyramid = file((0, 32), (1, 16), (2, 24), (4, 32))
    assert images.open_image(pyramid, "a.tif").n_frames == 2
    assert [images.read(pyramid, f"a.tif#frame={number}").shape[0] for number in (1, 2)] == [32, 24]
    assert images.read(file((0, 32), (1, 16)), "a.tif").shape == (32, 32, 1)
    assert images.read(file((1, 16)), "a.tif").shape == (16, 16, 1)


def test_a_film_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_pages, "MAX_PAGES", 2)
    assert images.open_image(tiff(GREY, GREY), "a.tif").n_frames == 2
    assert "more than 2 pages" in refusal(tiff(GREY, GREY, GREY), "a.tif#frame=1").reason


# ---- slices of NIfTI volumes


def ways_to_lie() -> list[AnyArray]:
    """Affines of axes that lie every way round, slightly turned."""
    turned = np.eye(4)
    turned[:3, :3] = [[0.98, -0.17, 0.05], [0.17, 0.97, -0.12], [-0.03, 0.13, 0.99]]
    orders = [(0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    affines = []
    for order in orders:
        for signs in ((1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)):
            axes = np.eye(4)
            axes[:3, :3] = np.diag(np.array(signs) * (0.9, 1.1, 3.0))[:, list(order)]
            affines.append(turned @ axes)
    return affines


@pytest.mark.parametrize("affine", ways_to_lie())
def test_slices_are_those_of_the_closest_canonical_axes(affine: AnyArray) -> None:
    voxels = np.random.default_rng(3).integers(0, 256, (12, 15, 18)).astype(np.uint8)
    canonical = np.asarray(nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels, affine)).dataobj)
    content = nifti(voxels, affine)
    assert images.open_image(content, "a.nii").n_frames == canonical.shape[2]
    for number in range(1, canonical.shape[2] + 1):
        seen = images.read(content, f"a.nii#frame={number}")[..., 0]
        right, front = canonical.shape[0] - 1, canonical.shape[1] - 1
        assert seen.shape == (front + 1, right + 1)
        assert seen[0, 0] == canonical[right, front, number - 1]  # right and front: on the left, on top
        assert np.array_equal(seen, [[canonical[right - c, front - r, number - 1] for c in range(right + 1)]
                                     for r in range(front + 1)])  # fmt: skip


def test_the_right_is_on_the_left_and_the_front_on_top() -> None:
    voxels = np.zeros(SIDES, np.uint8)
    voxels[15:, 25:, 6:] = 200  # right, front, head
    read = [images.read(nifti(voxels), f"a.nii#frame={number}")[..., 0] for number in range(1, 10)]
    assert [int(seen.max()) for seen in read] == [0] * 6 + [200] * 3
    assert np.array_equal(np.argwhere(read[8]).max(axis=0), [5, 4])
    assert read[8][0, 0] == 200


@pytest.mark.parametrize("dtype", ["i1", "u2", "<i2", ">i2", "i4", "<f4", ">f4", "f8"])
@pytest.mark.parametrize("version", [1, 2])
def test_grey_goes_between_percentiles_of_the_volume(dtype: str, version: int) -> None:
    voxels = (volume() // 9).astype(dtype)
    slope, intercept = (-2.0, 7.0) if dtype == "<i2" else (1.0, 0.0)
    content = nifti(voxels, version=version, scl_slope=slope, scl_inter=intercept)
    real = voxels.astype(np.float64) * slope + intercept
    black, white = np.percentile(real, [0.1, 99.9])
    expected = np.clip((real - black) / (white - black), 0, 1) * 255
    for name, held in (("a.nii", content), ("A.NII.GZ", gzip.compress(content))):
        for number in (1, 9):
            seen = images.read(held, f"{name}#frame={number}")
            assert seen.dtype == np.uint8
            assert seen.shape == (31, 20, 1)
            assert np.abs(seen[..., 0] - expected[::-1, ::-1, number - 1].T).max() <= 0.5 + 1e-9


def test_a_window_of_the_header_goes_first_and_bytes_stay_as_they_are() -> None:
    windowed = images.read(nifti(volume(), cal_min=-100, cal_max=300), "a.nii#frame=2")[..., 0]
    expected = np.clip((volume()[::-1, ::-1, 1].T + 100.0) / 400, 0, 1) * 255
    assert np.abs(windowed - expected).max() <= 0.5
    few = np.zeros(SIDES, np.uint8)
    few[3, 4] = 3
    assert images.read(nifti(few), "a.nii#frame=1").max() == 3
    assert images.read(nifti(few, scl_slope=2), "a.nii#frame=1").max() == 255
    rare = np.zeros((40, 40, 40), np.int16)
    rare[3, 4, 0] = 9
    assert images.read(nifti(rare), "a.nii#frame=1").max() == 255  # though no percentile sees it


def test_what_is_not_finite_is_black() -> None:
    voxels = volume().astype(np.float32)
    sound = images.read(nifti(voxels), "a.nii#frame=1")
    voxels[:3, 0, 0] = np.nan, np.inf, -np.inf
    seen = images.read(nifti(voxels), "a.nii#frame=1")
    assert seen[-1, -3:, 0].tolist() == [0, 0, 0]
    assert np.abs(seen[:-1].astype(int) - sound[:-1]).max() <= 1
    for value in (np.nan, np.inf, 3.0):
        assert images.read(nifti(np.full(SIDES, value, np.float32)), "a.nii#frame=1").max() == 0
    huge = np.full(SIDES, -1.7e308)
    huge[5:] = 1.7e308
    assert images.read(nifti(huge), "a.nii#frame=1").shape == (31, 20, 1)


def test_axes_of_one_voxel_are_none() -> None:
    flat = volume(sides=(20, 31))
    assert images.read(nifti(flat), "a.nii").shape == (31, 20, 1)
    assert np.array_equal(images.read(nifti(flat[..., None]), "a.nii"), images.read(nifti(flat), "a.nii"))
    assert images.open_image(nifti(volume()[..., None, None]), "a.nii").n_frames == 9


def zeros_of(shape: tuple[int, ...], dtype: str) -> bytes:
    return nifti(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (zeros_of((9, 9, 9, 4), "i2"), UnsupportedImage, "holds 4 volumes"),
        (zeros_of((9, 9, 9, 1, 3), "f4"), UnsupportedImage, "holds 3 volumes"),
        (zeros_of((9, 9, 9, 4, 3), "f4"), UnsupportedImage, "holds 12 volumes"),
        (zeros_of((9, 9, 9), "c8"), UnsupportedImage, "neither integers nor floats"),
        (nifti(np.zeros((9, 9, 9), [("R", "u1"), ("G", "u1"), ("B", "u1")])), UnsupportedImage, "neither integers"),
        (zeros_of((7, 300, 9), "i2"), UnsupportedImage, "7 x 300 px, at least 8 x 8"),
        (zeros_of((300,), "i2"), UnsupportedImage, "300 x 1 px"),
        (nifti(volume(), dim=[3, 20, 0, 9, 1, 1, 1, 1]), CorruptImage, "not positive"),
        (nifti(volume(), dim=[3, 20, -31, 9, 1, 1, 1, 1]), CorruptImage, "not positive"),
        (nifti(volume(), dim=[0, 20, 31, 9, 1, 1, 1, 1]), CorruptImage, "not positive"),
        (nifti(volume(), dim=[3, 32767, 32767, 9, 1, 1, 1, 1]), UnsupportedImage, "32767 x 32767 px"),
        (nifti(volume(), dim=[3, 9000, 9000, 9000, 1, 1, 1, 1]), UnsupportedImage, "at most 1,073,741,824"),
        (nifti(volume(), version=2, dim=[3, 20, 31, 2**60, 1, 1, 1, 1]), UnsupportedImage, "at most 1,073,741,824"),
        (nifti(volume(), dim=[3, 20, 31, 10, 1, 1, 1, 1]), CorruptImage, "cut short"),
        (nifti(volume(), srow_x=[np.nan] * 4), CorruptImage, "header"),
        (nifti(volume(), srow_x=[0] * 4), CorruptImage, "affine"),
        (nifti(volume(), vox_offset=np.nan), CorruptImage, "header"),
        (nifti(volume(), vox_offset=8), CorruptImage, "header"),
        (nifti(volume(), datatype=77), CorruptImage, "header"),
        (nifti(volume(), magic=b"Mei"), CorruptImage, "header"),
        (nifti(volume(), magic=b"ni1"), UnsupportedImage, "pair"),
        (nifti(volume(), scl_slope=2, scl_inter=np.inf), CorruptImage, "header"),
        (bytes(400), CorruptImage, "not that of a NIfTI file"),
        (b"\x1f\x8b", CorruptImage, "header"),
    ],
)  # fmt: skip
def test_what_is_no_volume_of_grey_is_refused(content: bytes, kind: type[ImageError], reason: str) -> None:
    for held, name in ((content, "a.nii"), (gzip.compress(content), "a.nii.gz")):
        for source in (name, f"{name}#frame=1"):
            error = refusal(held, source)
            assert isinstance(error, kind)
            assert reason in error.reason or (reason == "header" and "not that of" in error.reason)
            assert "Mei" not in error.reason


def test_a_truncated_or_damaged_volume_is_refused() -> None:
    content = nifti(volume())
    packed = gzip.compress(content)
    for length in (*range(0, 400, 13), len(content) - 1):
        assert isinstance(refusal(content[:length], "a.nii#frame=1"), CorruptImage)
    for length in range(0, len(packed), 997):
        assert isinstance(refusal(packed[:length], "a.nii.gz#frame=1"), CorruptImage)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 4
    assert isinstance(refusal(bytes(flipped), "a.nii.gz#frame=1"), CorruptImage)
    assert "(BadGzipFile)" in refusal(packed[:-5] + b"\0" + packed[-4:], "a.nii.gz#frame=1").reason


def test_a_bomb_is_refused_before_it_goes_off(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(nifti(volume()) + bytes(1 << 24))
    assert images.open_image(bomb, "a.nii.gz").n_frames == 9  # what follows the voxels stays packed
    claims = nifti(volume(), dim=[3, 500, 500, 2000, 1, 1, 1, 1])
    assert "cannot be 1,000,000,352" in refusal(gzip.compress(claims), "a.nii.gz#frame=1").reason
    monkeypatch.setattr("athsearch.images.nifti.MAX_INFLATED", 9999)
    assert "at most 9,999" in refusal(gzip.compress(nifti(volume())), "a.nii.gz#frame=1").reason


def test_headers_that_viewers_mend_are_mended(capfd: pytest.CaptureFixture[str]) -> None:
    mended = nifti(volume(), pixdim=[0, -1, 1, 1, 0, 0, 0, 0], sform_code=0, qform_code=1, bitpix=3, descrip=b"Meier")
    assert images.open_image(mended, "a.nii").n_frames == 9
    assert capfd.readouterr() == ("", "")


def test_without_nibabel_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti(volume()))
    for name in [name for name in sys.modules if name.split(".")[0] == "nibabel"]:
        monkeypatch.setitem(sys.modules, name, None)
    source = open_source(tmp_path)
    assert [item.source for item in source.items] == ["a.nii"]
    with pytest.raises(UnsupportedImage, match=r"NIfTI files need nibabel: pip install 'athsearch\[nifti\]'"):
        source.pixels(source.items[0])


# ---- sources


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """Two classes of TIFF files and volumes, and two plain pictures."""
    root = tmp_path / "stacks"
    for number, folder in enumerate(("a", "b")):
        (root / folder).mkdir(parents=True)
        pages = [np.ascontiguousarray(draw_image(10 * number + page)[..., 0]) for page in range(3)]
        (root / folder / "stack.tiff").write_bytes(tiff(*pages))
        (root / folder / "one.tif").write_bytes(tiff(pages[0][::-1].copy()))
        voxels = np.stack([draw_image(20 + 10 * number + place)[..., 0] for place in range(4)], axis=-1)
        content = nifti(voxels, descrip=b"Meier^Hans", intent_name=b"Meier", aux_file=b"Meier.txt", db_name=b"Meier")
        (root / folder / f"sub-{number}_T1w.nii.gz").write_bytes(gzip.compress(content))
    return root


def test_pages_and_slices_are_items_and_single_images_keep_their_names(stacks: Path) -> None:
    source = open_source(stacks, patient_pattern=r"sub-(\d+)")
    expected = [("one.tif", None), *((f"stack.tiff#frame={page}", None) for page in (1, 2, 3))]
    volumes = [[(f"sub-{number}_T1w.nii.gz#frame={place}", str(number)) for place in (1, 2, 3, 4)] for number in (0, 1)]
    assert [(item.source, item.patient) for item in source.items] == [
        *((f"a/{name}", patient) for name, patient in [*expected, *volumes[0]]),
        *((f"b/{name}", patient) for name, patient in [*expected, *volumes[1]]),
    ]
    assert not any(item.hides_name or item.record for item in source.items)
    assert np.array_equal(source.pixels(source.items[2]), draw_image(1)[..., :1])
    assert len({source.read(item)[0] for item in source.items}) == 16
    middle = [item.source for item in open_source(stacks, frames="middle").items]
    assert middle[:3] == ["a/one.tif", "a/stack.tiff#frame=2", "a/sub-0_T1w.nii.gz#frame=2"]
    assert open_source(stacks / "a/stack.tiff").items[2] == Item("stack.tiff#frame=3")
    divided = open_source(stacks).divided({"train": 0.5, "test": 0.5})
    assert len({(item.source.split("#")[0], item.split) for item in divided.items}) == 6


def test_a_manifest_that_names_a_volume_means_its_slices(stacks: Path) -> None:
    (stacks / "cases.csv").write_text(
        "path,label,patient,age\na/sub-0_T1w.nii.gz,x,p,61\nb/stack.tiff#frame=2,y,,\nb/gone.nii,y,,\n"
    )
    source = open_source(stacks / "cases.csv")
    slices = [Item(f"a/sub-0_T1w.nii.gz#frame={place}", "x", "p", None, {"age": 61}) for place in (1, 2, 3, 4)]
    assert list(source.items) == [*slices, Item("b/stack.tiff#frame=2", "y"), Item("b/gone.nii", "y")]
    assert np.array_equal(source.pixels(source.items[4]), draw_image(11)[..., :1])
    with pytest.raises(CorruptImage, match=r"gone\.nii: no such file"):
        source.pixels(source.items[5])


def test_a_long_stack_is_refused_unless_one_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_frames, "MAX_FRAMES", 8)
    (tmp_path / "a.nii").write_bytes(nifti(volume()))
    with pytest.raises(UnsupportedImage, match=r"holds 9, more than 8 .*--frames middle"):
        open_source(tmp_path).pixels(open_source(tmp_path).items[0])
    assert open_source(tmp_path, frames="middle").items == (Item("a.nii#frame=5"),)


def test_a_volume_is_inflated_once(stacks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from athsearch.images import nifti as reader

    inflated, inflate = [], reader._inflated

    def counted(content: bytes, n_bytes: int, name: str) -> bytes:
        inflated.append(name)
        return inflate(content, n_bytes, name)

    monkeypatch.setattr(reader, "_inflated", counted)
    source = open_source(stacks)
    items = [item for item in source.items if ".nii" in item.source]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(source.pixels, items * 3))
    assert sorted(inflated) == ["sub-0_T1w.nii.gz", "sub-1_T1w.nii.gz"]
    assert all(np.array_equal(seen, source.pixels(item)) for seen, item in zip(together, items * 3, strict=True))


def test_arrays_of_a_medmnist_file_are_not_taken_for_dicom(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=np.zeros((2, 8, 8), np.uint8), train_labels=np.zeros(2, np.uint8))
    assert not any(item.hides_name for item in open_source(tmp_path / "a.npz").items)


def test_commands_work_on_stacks(tmp_path: Path, stacks: Path, encoder: Encoder, run: Run) -> None:
    encoder.save(tmp_path / "weights.safetensors")
    (stacks / "a/series.nii").write_bytes(zeros_of((9, 9, 9, 4), "i2"))
    index = ("index", tmp_path / "archive", stacks, "--patient-pattern", r"(sub-\d+)")
    done = run(*index, "--weights", tmp_path / "weights.safetensors", "--json")
    assert done.status == 0, done.err
    assert done.json()["n_added"] == 16  # type: ignore[index]
    assert [failure["source"] for failure in done.json()["failed"]] == ["a/series.nii"]  # type: ignore[index]
    assert run(*index, "--json").json()["n_present"] == 16  # type: ignore[index]
    image = stacks / "a/sub-0_T1w.nii.gz#frame=3"
    found = run("query", tmp_path / "archive", image, "-k", 16, "--sheet", tmp_path / "hits.png", "--json")
    assert found.status == 0, found.err
    hits = found.json()["hits"]  # type: ignore[index]
    assert any(hit["source"] == "a/sub-0_T1w.nii.gz#frame=3" and hit["distance"] == 0 for hit in hits)
    whole = run("query", tmp_path / "archive", stacks / "a/sub-0_T1w.nii.gz")
    assert whole.status == 1
    assert "holds 4 slices: name one, as in FILE#frame=1" in whole.err
    with Archive.open(tmp_path / "archive") as archive:
        assert archive.case(1).source == "a/one.tif"
        assert {archive.case(id).record == {} for id in range(1, 17)} == {True}
    stored = b"".join(path.read_bytes() for path in (tmp_path / "archive").rglob("*") if path.is_file())
    assert b"sub-0_T1w" in stored
    assert b"Meier" not in stored


def test_a_file_that_holds_more_or_fewer_images_than_before_retires_those_it_held(
    tmp_path: Path, encoder: Encoder
) -> None:
    root = tmp_path / "images"
    root.mkdir()
    pages = [np.ascontiguousarray(draw_image(seed)[..., 0]) for seed in range(9)]

    def written(*seeds: int) -> Path:
        (root / "s.tif").write_bytes(tiff(*(pages[seed] for seed in seeds)))
        return root

    def sources(archive: Archive) -> dict[int, str | None]:
        return {id: archive.case(id).source for id in archive.database().ids.tolist()}

    def added(archive: Archive, **options: Any) -> tuple[int, int, int]:
        report = archive.add(open_source(root, **options))
        return report.n_added, report.n_changed, report.n_present

    written(0)
    (root / "s.tiff").write_bytes(tiff(*pages[:2]))  # another file, of a name that begins the same
    others: dict[int, str | None] = {2: "s.tiff#frame=1", 3: "s.tiff#frame=2"}
    with Archive.create(tmp_path / "archive", encoder) as archive:
        assert added(archive) == (3, 0, 0)
        written(0, 1, 2)
        assert added(archive) == (2, 1, 2)
        assert sources(archive) == others | {id: f"s.tif#frame={id - 3}" for id in (4, 5, 6)}
        written(3, 4)
        assert added(archive) == (0, 2, 2)
        assert sources(archive) == others | {7: "s.tif#frame=1", 8: "s.tif#frame=2"}
        written(5)
        assert added(archive) == (0, 1, 2)
        assert sources(archive) == others | {9: "s.tif"}
        assert added(archive) == (0, 0, 3)
        assert archive.verify().problems == ()


def test_frames_that_are_left_out_this_time_stay(tmp_path: Path, encoder: Encoder) -> None:
    root = tmp_path / "images"
    root.mkdir()
    pages = [np.ascontiguousarray(draw_image(seed)[..., 0]) for seed in range(6)]
    (root / "s.tif").write_bytes(tiff(*pages[:3]))
    with Archive.create(tmp_path / "archive", encoder) as archive:
        for frames, n_cases in (("middle", 1), ("first", 2), ("all", 3), ("first", 3)):
            archive.add(open_source(root, frames=frames))
            assert archive.n_cases == n_cases
        (root / "one.csv").write_text("path,label\ns.tif#frame=1,x\n")
        (root / "s.tif").write_bytes(tiff(*pages[3:]))
        report = archive.add(open_source(root / "one.csv"))  # the others are not what the file holds any more
        assert (report.n_added, report.n_changed, archive.n_cases) == (0, 1, 1)
        assert archive.add(open_source(root)).n_added == 2
        assert archive.n_cases == 3


def test_frames_of_dicom_files_are_retired_under_their_pseudonyms(tmp_path: Path, encoder: Encoder) -> None:
    root = tmp_path / "images"
    root.mkdir()
    with Archive.create(tmp_path / "archive", encoder) as archive:
        for n_frames, n_changed in ((1, 0), (3, 1), (2, 2), (1, 1)):
            shape, elements = ((n_frames, 12, 11), {"NumberOfFrames": n_frames}) if n_frames > 1 else ((12, 11), {})
            pixels = np.random.default_rng(n_frames).integers(0, 255, shape, np.uint8)
            (root / "x.dcm").write_bytes(dicom(pixels, **elements))
            assert archive.add(open_source(root)).n_changed == n_changed
            assert archive.n_cases == n_frames
