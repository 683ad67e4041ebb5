"""Near duplicates: the same picture in other bytes, in an archive and among queries.

An image is shrunk to a grey picture of 32 x 32, whatever its shape. The signs of the 63 lowest coefficients of its
cosine transform, the mean aside, are its code; those within RADIUS bits of a query's code are candidates. A candidate
is confirmed where the details of the two pictures, what is left of each pixel in the measure of its neighbourhood, have
a correlation above LIKENESS. Brightness and contrast play no part in that, nor does the edge of a dark background,
which images of one camera share.

Found are copies that were encoded again, resized, stretched, or made evenly brighter or darker, if the details survive
that. Not found are copies that were cropped, turned, mirrored, inverted, drawn upon, shrunk to a few pixels, or whose
light parts went white. Two images that differ in fine details only, such as neighbouring frames of one recording, are
taken for copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..codes import Codes
from ..data import read_image
from ..errors import ImageError
from ..index import FlatIndex
from ..parallel import map_ahead
from ..preprocessing import Preprocessing
from ..types import Bools, Floats
from .leaks import N_PAIRS, Pair

if TYPE_CHECKING:
    from ..archive.archive import Archive
    from ..data import Source

SIDE = 32  # of the grey pictures
N_WAVES = 8  # along each side, whose coefficients make the code
RADIUS = 12
LIKENESS = 0.85
NOISE = 6.0  # grey levels
N_AHEAD = 64  # images decoded ahead
N_QUERIES = 64  # compared at a time
N_PICTURES = 4096  # worked on at a time
SHAPE = Preprocessing(size=2 * SIDE, fit="stretch")
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601

Place: TypeAlias = tuple[
    str, Path | str | None, str | None
]  # what an image is called; root and source, where there is one


@dataclass(frozen=True)
class NearDuplicates:
    """Queries that look like a case of other bytes, and the first of them with such a case.

    n_queries_compared, n_cases_compared: images that could be read. n_queries_unread, n_cases_unread: those that could
    not be, of which nothing can be said.
    """

    n_queries: int
    n_queries_compared: int
    n_queries_unread: int
    n_cases_compared: int
    n_cases_unread: int
    pairs: tuple[Pair, ...]

    def line(self) -> str:
        """What was found, and what could not be looked at."""
        among = f"{self.n_queries_compared:,} queries and {self.n_cases_compared:,} cases"
        text = f"Near duplicates: none found among {among}"
        if self.n_queries:
            first = self.pairs[0]
            text = f"Near duplicates: {self.n_queries:,} of {self.n_queries_compared:,} queries look like one of "
            text += f"{self.n_cases_compared:,} cases, such as {first.query} ({first.case})"
        if self.n_queries_unread or self.n_cases_unread:
            text += f"; {self.n_queries_unread:,} queries and {self.n_cases_unread:,} cases could not be read"
        return f"{text}."


def find_near_duplicates(
    archive: Archive,
    source: Source,
    images: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NearDuplicates:
    """Looks for queries, the source's images, that show what a case shows, in other bytes; see the module's text.

    Every image of archive and source is read and decoded. images: where the cases' images are now, if they were moved.
    progress: called with (done, all) after each image. Takes a kilobyte a case.
    """
    n_cases, n_done = archive.n_cases, 0

    def advance() -> None:
        nonlocal n_done
        n_done += 1
        if progress:
            progress(n_done, max(n_done, n_cases + len(source)))

    cases = _Looks(_places(archive, images), advance)
    queries = _Looks(
        ((item.source, None if item.refusal else source.root, item.source) for item in source.items), advance
    )
    found = list(_matches(queries, cases))
    return NearDuplicates(
        n_queries=len(found),
        n_queries_compared=len(queries.names),
        n_queries_unread=queries.n_unread,
        n_cases_compared=len(cases.names),
        n_cases_unread=cases.n_unread,
        pairs=tuple(Pair(queries.names[query], cases.names[case]) for query, case in found[:N_PAIRS]),
    )


class _Looks:
    """What images look like. Row r of all is the r-th that could be read.

    pictures: uint8 [n, SIDE, SIDE]; digests: SHA-256 of the bytes.
    """

    def __init__(self, places: Iterator[Place], advance: Callable[[], None]) -> None:
        self.names: list[str] = []
        self.digests: list[bytes] = []
        self.n_unread = 0
        pictures = []
        with closing(map_ahead(_look, places, N_AHEAD)) as looks:
            for look in looks:
                if look is None:
                    self.n_unread += 1
                else:
                    name, digest, picture = look
                    self.names.append(name)
                    self.digests.append(digest)
                    pictures.append(picture)
                advance()
        self.pictures = np.array(pictures, np.uint8).reshape(-1, SIDE, SIDE)

    def codes(self) -> Codes:
        """Their perceptual codes."""
        starts = range(0, len(self.pictures), N_PICTURES)
        parts = (self.pictures[start : start + N_PICTURES] for start in starts)
        none: Bools = np.zeros((0, N_WAVES * N_WAVES - 1), np.bool_)
        return Codes.from_bits(np.concatenate([none, *map(perceptual_bits, parts)]))


def details(pictures: NDArray[np.uint8]) -> Floats:
    """pictures: uint8 [n, SIDE, SIDE]. Returns float32 [n, SIDE * SIDE] of mean 0 and length 1, so that products are
    correlations; of length 0 where a picture shows nothing.

    A pixel counts by how far it is above the mean of its neighbourhood of 5 x 5, in standard deviations of that (and
    NOISE more), and the less the larger those are beside the mean: so is the edge of a dark background.
    """
    values = pictures.astype(np.float64)
    mean = _neighbourhood_mean(values)
    variance = np.maximum(_neighbourhood_mean(values * values) - mean * mean, 0.0)
    weight = np.maximum(0.0, 1.0 - 4.0 * variance / np.maximum(mean * mean, 1.0))
    flat = ((values - mean) / (np.sqrt(variance) + NOISE) * weight).reshape(len(values), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    out: Floats = (flat / np.maximum(lengths, 1e-6)).astype(np.float32)
    return out


def _neighbourhood_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """values: [n, SIDE, SIDE]. Means over 5 x 5 pixels, those at the rim repeated outwards."""
    padded = np.pad(values, ((0, 0), (2, 2), (2, 2)), mode="edge")
    rows = np.sum([padded[:, shift : shift + SIDE] for shift in range(5)], axis=0)
    out: NDArray[np.float64] = np.sum([rows[:, :, shift : shift + SIDE] for shift in range(5)], axis=0) / 25
    return out


def perceptual_bits(pictures: NDArray[np.uint8]) -> Bools:
    """pictures: uint8 [n, SIDE, SIDE]. Returns bool [n, 63]: which of the lowest coefficients of the cosine transform
    (type II; Ahmed, Natarajan, Rao, IEEE Transactions on Computers C-23, 1974) are positive, without the mean."""
    places, waves = np.arange(SIDE), np.arange(N_WAVES)
    cosines = np.cos(np.pi / SIDE * (places + 0.5) * waves[:, None])  # [N_WAVES, SIDE]
    coefficients = cosines @ pictures @ cosines.T  # [n, N_WAVES, N_WAVES]
    bits: Bools = coefficients.reshape(len(pictures), -1)[:, 1:] > 0
    return bits


def _matches(queries: _Looks, cases: _Looks) -> Iterator[tuple[int, int]]:
    """(query, case) for each query that looks like a case of other bytes, with the one most like it."""
    index, codes = FlatIndex(cases.codes()), queries.codes()
    for start in range(0, codes.n_codes, N_QUERIES):
        rows = np.arange(start, min(start + N_QUERIES, codes.n_codes))
        near = index.within(codes[rows], RADIUS)
        asked = details(queries.pictures[rows])
        for query, detail, first, last in zip(rows.tolist(), asked, near.offsets[:-1], near.offsets[1:], strict=True):
            candidates = np.array(
                [case for case in near.ids[first:last].tolist() if cases.digests[case] != queries.digests[query]],
                np.intp,
            )
            if len(candidates) == 0:
                continue
            parts = np.array_split(candidates, len(candidates) // N_PICTURES + 1)
            likeness = np.concatenate([details(cases.pictures[part]) @ detail for part in parts])
            best = int(likeness.argmax())
            if likeness[best] > LIKENESS:
                yield query, int(candidates[best])


def _places(archive: Archive, images: Path | None) -> Iterator[Place]:
    place = archive.places(images)
    for id in chain.from_iterable(part.ids.tolist() for part in archive.parts()):
        try:
            case = archive.case(id)
        except KeyError:  # deleted meanwhile
            yield "", None, None
        else:  # its name is the archive's, which may be a pseudonym: the place names the file
            yield (case.source, *place(case)) if case.source is not None else ("", None, None)


def _look(place: Place) -> tuple[str, bytes, NDArray[np.uint8]] | None:
    """The name, the digest of the bytes and the grey picture of an image; None where it cannot be read."""
    name, root, source = place
    if root is None or source is None:
        return None
    try:
        content, decode = read_image(root, source)
        square = SHAPE.square(decode(SHAPE.least_side))
    except ImageError:
        return None
    grey = (square.astype(np.float32) @ LUMINANCE).reshape(SIDE, 2, SIDE, 2).mean(axis=(1, 3))
    return name, hashlib.sha256(content).digest(), (grey + 0.5).astype(np.uint8)
