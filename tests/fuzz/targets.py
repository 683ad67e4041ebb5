"""What is fed with damaged files: a name, sound files to start from, and what must raise errors of our tree only."""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import sqlite3
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
from edits import with_png_checksums
from PIL import Image

from athsearch import images
from athsearch.archive.archive import Archive
from athsearch.archive.cases import NewCase
from athsearch.archive.catalogue import Catalogue
from athsearch.archive.segment import map_segment, write_segment
from athsearch.codes import Codes
from athsearch.data import open_source
from athsearch.errors import ArchiveError, ImageError, SegmentCorrupt, SourceError

sys.path.insert(0, str(Path(__file__).parents[1]))
from dicom_files import dicom as dicom_file

BITS = 36
N_CASES = 12
_TEXT = """
id source label patient split record AND OR NOT NULL IN LIKE GLOB BETWEEN CASE WHEN THEN ELSE END IS COLLATE ESCAPE ( )
, ' " ; -- /* */ || = < > + - * / % ~ << & | 0 1 -1 9223372036854775807 1e999 0x10 x'00' SELECT FROM cases sqlite_master
UNION ALL EXISTS RAISE CAST AS TEXT json_extract length lower abs max min replace substr printf zeroblob randomblob
load_extension ATTACH PRAGMA VALUES WITH RECURSIVE LIMIT ? :name @a $a MATCH REGEXP
"""


@dataclass(frozen=True)
class Target:
    """seeds: sound inputs. run: raises only what stands in `allowed`. tokens: words that mean something in an input.

    mend: makes damaged content get past its checksums.
    """

    seeds: Sequence[bytes]
    run: Callable[[bytes], object]
    allowed: type[Exception] | tuple[type[Exception], ...]
    tokens: Sequence[bytes] = ()
    mend: Callable[[bytes], bytes] | None = field(default=None)


def drawn(mode: str, side: int = 24) -> Image.Image:
    """A picture of some mode, not symmetric."""
    rows, columns = np.mgrid[:side, : side + 5]
    grey = ((rows * 9 + columns * 4) % 256).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray((rows * 2500 + columns * 7).astype(np.uint16))
    return Image.fromarray(np.stack([grey, 255 - grey, grey // 2], axis=-1)).convert(mode)


def encoded(mode: str, file_format: str, **options: object) -> bytes:
    """A small picture as a file."""
    file = io.BytesIO()
    drawn(mode).save(file, file_format, **options)  # type: ignore[arg-type]
    return file.getvalue()


def pictures(suffix: str, seeds: Sequence[bytes], mend: Callable[[bytes], bytes] | None = None) -> Target:
    """A reader of images."""
    return Target(seeds, lambda content: images.read(content, f"image{suffix}"), ImageError, mend=mend)


def png(folder: Path) -> Target:
    """PNG files of every depth and colour type."""
    seeds = [encoded(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    return pictures(".png", seeds, with_png_checksums)


def jpeg(folder: Path) -> Target:
    """Baseline and progressive JPEG files, with EXIF data."""
    exif = Image.Exif()
    exif[274] = 6
    seeds = [encoded(mode, "JPEG", exif=exif) for mode in ("L", "RGB", "CMYK")]
    return pictures(".jpg", [*seeds, encoded("RGB", "JPEG", progressive=True)])


def bmp(folder: Path) -> Target:
    """BMP files."""
    return pictures(".bmp", [encoded(mode, "BMP") for mode in ("1", "L", "P", "RGB")])


def tiff(folder: Path) -> Target:
    """TIFF files of several modes and compressions."""
    compressions = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    seeds = [encoded("RGB", "TIFF", compression=compression) for compression in compressions]
    pages = encoded("L", "TIFF", save_all=True, append_images=[drawn("RGB"), drawn("I;16")])
    seeds += [encoded(mode, "TIFF") for mode in ("1", "L", "P", "I;16", "CMYK")]
    return Target([*seeds, pages], lambda content: every_frame(content, "image.tif"), ImageError)


def nifti(folder: Path) -> Target:
    """NIfTI volumes of both versions, plain and compressed."""
    voxels = np.stack([np.asarray(drawn("L"))] * 3, axis=-1)
    turned = np.array([[0, 1, 0, 1], [-1, 0, 0, 2], [0, 0, -3, 3], [0, 0, 0, 1]])
    stood = np.array([[0, 1, 0, 1], [0, 0, 1, 2], [3, 0, 0, 3], [0, 0, 0, 1]])
    plain = [
        nibabel.Nifti1Image(voxels, np.eye(4)),
        nibabel.Nifti1Image(voxels.astype(np.int16) * -9, turned),
        nibabel.Nifti2Image(np.moveaxis(voxels, 2, 0).astype(np.float32), stood),
    ]
    seeds = [image.to_bytes() for image in plain]
    return Target([*seeds, gzip.compress(seeds[1])], lambda content: every_frame(content, "image.nii"), ImageError)


def every_frame(content: bytes, name: str) -> None:
    """Reads the first frames of a file. Raises the last error among them."""
    error = None
    for number in range(1, min(3, images.open_image(content, name).n_frames) + 1):
        try:
            images.read(content, f"{name}#frame={number}")
        except ImageError as caught:
            error = caught
    if error is not None:
        raise error


def dicom(folder: Path) -> Target:
    """DICOM files: native ones of several sample types and photometric interpretations, and compressed ones."""
    grey, colour = np.asarray(drawn("L")), np.asarray(drawn("RGB"))
    deep = (grey.astype(np.int16) - 100) * 9
    jpeg2000 = imagecodecs.jpeg2k_encode(deep.astype(np.uint16), level=0)
    window: dict[str, object] = {"WindowCenter": 300, "WindowWidth": 900, "RescaleSlope": 2, "RescaleIntercept": -10}
    seeds = [
        dicom_file(grey),
        dicom_file(grey.astype(np.uint16) * 16, "MONOCHROME1", BitsStored=12, HighBit=11, **window),
        dicom_file(deep, syntax="1.2.840.10008.1.2.2"),
        dicom_file(colour, "YBR_FULL"),
        dicom_file(np.stack([grey, grey]), NumberOfFrames=2),
        dicom_file(grey, syntax="1.2.840.10008.1.2.4.50", frames=[encoded("L", "JPEG")]),
        dicom_file(deep.astype(np.uint16), syntax="1.2.840.10008.1.2.4.90", frames=[jpeg2000]),
    ]
    return Target(seeds, lambda content: images.read(content, "image.dcm#frame=1"), ImageError)


def segment(folder: Path) -> Target:
    """A segment that the catalogue says has N_CASES codes."""
    codes = random_codes()
    listed = write_segment(folder, [codes], N_CASES, BITS, 1)
    path = folder / listed.file
    content = path.read_bytes()

    def run(damaged: bytes) -> object:
        path.unlink(missing_ok=True)  # not written over: a mapping of the one before may still be there
        path.write_bytes(damaged)
        words = map_segment(folder, listed, codes).words
        return int(words.sum())  # touches every byte

    return Target([content], run, SegmentCorrupt, [b"descr", b"fortran_order", b"shape", b"True", b"'<u8'", b"'|O'"])


def catalogue(folder: Path) -> Target:
    """A catalogue: opened, read, searched, written to."""
    sound = folder / "sound"
    with Archive.create(sound, bits=BITS) as archive:
        archive.add_codes(random_codes())
    with contextlib.closing(Catalogue(sound / "catalogue.sqlite", writable=True)) as opened:
        segment = write_segment(sound / "segments", [random_codes()], N_CASES, BITS, opened.next_id())
        record = {"age": 61, "eye": "left", "note": "ünïcode 'quoted'"}
        cases = [
            NewCase(f"folder/{number}.png", bytes([number]) * 32, "ab"[number % 2], f"{number:032x}", "train", record)
            for number in range(N_CASES)
        ]
        opened.add("/images", segment, cases)
    query = random_codes()[:1]
    path = folder / "damaged"

    def run(damaged: bytes) -> object:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(sound, path)
        (path / "catalogue.sqlite").write_bytes(damaged)
        with Archive.open(path) as archive:
            archive.search(query, 5, where="age > 3 OR label = 'a'")
            archive.counts()
            archive.database()
            archive.delete([archive.search(query, 1)[0].case.id])
        return None

    with contextlib.closing(sqlite3.connect(sound / "catalogue.sqlite")) as connection:
        names = [str(name).encode() for (name,) in connection.execute("SELECT name FROM sqlite_master")]
    return Target([(sound / "catalogue.sqlite").read_bytes()], run, ArchiveError, names)


def manifest(folder: Path) -> Target:
    """A CSV manifest."""
    path = folder / "manifest.csv"
    seeds = [
        b"path,label,patient,split,age\na.png,x,p1,train,3\nb/c.png,y,p2,test,4.5\n",
        '\ufeffpath,label,"note, long"\r\n"a ""1"".png",é,"two\nlines"\r\nb.png,,\r\n'.encode(),
    ]

    def run(damaged: bytes) -> object:
        path.write_bytes(damaged)
        source = open_source(path)
        return source.labels, source.splits, source.leaking_patients()

    tokens = [
        b",",
        b'"',
        b"\n",
        b"\r\n",
        b"\0",
        b"..",
        b"/",
        b"path",
        b"label",
        b"\xef\xbb\xbf",
        b"\xff",
        b"1e999",
        b"nan",
    ]
    return Target(seeds, run, SourceError, tokens)


def where(folder: Path) -> Target:
    """An expression of `where`."""
    catalogue(folder)
    archive = Archive.open(folder / "sound")
    query = random_codes()[:1]
    seeds = [
        "label = 'a' AND age < 60",
        "eye IN ('left', 'right') OR NOT (id BETWEEN 3 AND 9)",
        "lower(note) LIKE '%ü%'",
    ]
    tokens = [f" {word} ".encode() for word in _TEXT.split()]

    def run(damaged: bytes) -> object:
        return archive.search(query, 5, where=damaged.decode("utf-8", "surrogateescape"))

    return Target([seed.encode() for seed in seeds], run, ValueError, tokens)


def random_codes() -> Codes:
    """N_CASES codes, the same ones each time."""
    return Codes.from_bits(np.random.default_rng(0).integers(0, 2, (N_CASES, BITS)).astype(np.bool_))


TARGETS: dict[str, Callable[[Path], Target]] = {
    "png": png,
    "jpeg": jpeg,
    "bmp": bmp,
    "tiff": tiff,
    "dicom": dicom,
    "nifti": nifti,
    "segment": segment,
    "catalogue": catalogue,
    "manifest": manifest,
    "where": where,
}
