"""Draws fundus-like photographs of eyes with lesions in known places, to try everything without any patient's image.

No anatomy is claimed beyond what makes the five classes differ where an ophthalmologist would look: microaneurysms,
haemorrhages and hard exudates; a large cup in the optic disc; drusen around the macula; a pale crescent beside a tilted
disc on a tessellated ground. Places are complex numbers in units of the field of view's radius, y downwards, drawn as a
right eye (disc on the right, temporal side on the left); a left eye is its mirror image.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ..types import Bools

Array: TypeAlias = NDArray[np.floating[Any]]  # float32 wherever it has as many values as there are pixels
Places: TypeAlias = NDArray[np.complexfloating[Any, Any]]

# Images of each class among 10,000, as in the paper's fundus set.
FREQUENCIES = {"normal": 7770, "myopia": 790, "amd": 720, "glaucoma": 450, "diabetic_retinopathy": 270}
AGES = {"normal": 52, "myopia": 41, "amd": 74, "glaucoma": 66, "diabetic_retinopathy": 60}
TEST_SHARE = 0.2
SMALLEST_SIZE = 64
FINE = 3  # masks are drawn this many times finer and averaged, for smooth edges
DISC, FOVEA = 0.37 - 0.02j, -0.33 + 0.03j


@dataclass(frozen=True)
class Phantom:
    """pixels: uint8 [H, W, 3], RGB; lesions: bool [H, W], True where what makes the class is; all False for normal."""

    pixels: NDArray[np.uint8]
    lesions: Bools


@dataclass(frozen=True)
class Look:
    """What the two eyes of one patient share: pigment, vessels, disc and the camera."""

    pigment: float  # 0 pale to 1 dark
    colour: tuple[float, float, float]  # the camera's white balance
    saturation: float
    tessellation: float  # how far the choroid shows through, 0 to 1
    tortuosity: float
    disc_radius: float
    cup: float  # cup-to-disc ratio
    zoom: float
    blur: float  # of the field's radius
    noise: float  # of full scale

    @classmethod
    def of(cls, label: str, rng: np.random.Generator) -> Look:
        """A patient of a class: glaucoma shows in the cup, myopia in the pale and tessellated ground."""
        red, green, blue = rng.normal(1.0, (0.04, 0.05, 0.10))
        return cls(
            pigment=rng.beta(2, 2) * (0.6 if label == "myopia" else 1.0),
            colour=(red, green, blue),
            saturation=rng.uniform(0.65, 1.1),
            tessellation=rng.uniform(0.45, 1.0) if label == "myopia" else 0.65 * rng.random() ** 2,
            tortuosity=rng.uniform(0.03, 0.09),
            disc_radius=rng.uniform(0.13, 0.16) * (1.12 if label == "glaucoma" else 1.0),
            cup=rng.uniform(0.72, 0.92) if label == "glaucoma" else rng.uniform(0.2, 0.55),
            zoom=rng.uniform(0.94, 1.12),
            blur=rng.uniform(0.0, 0.014),
            noise=rng.uniform(0.006, 0.025),
        )


@dataclass
class _Canvas:
    """One image under way: its colours, where its pixels lie in the eye, and its lesions so far."""

    size: int
    look: Look
    rng: np.random.Generator
    rgb: Array = field(init=False)  # [3, S, S], 1 is full scale
    x: Array = field(init=False)  # [S, S], where each pixel lies in the eye
    y: Array = field(init=False)
    away: Array = field(init=False)  # [S, S], from the middle of the field of view; 1 at its edge
    lesions: Bools = field(init=False)  # [S, S]

    def __post_init__(self) -> None:
        rng = self.rng
        self.radius = 0.485 * self.size * self.look.zoom  # pixels
        self.turn = np.exp(1j * rng.normal(0, 0.07))
        self.gaze = complex(*rng.normal(0, (0.06, 0.05)))
        axis = (np.arange(self.size) + 0.5 - self.size / 2) / self.radius
        field_of_view = axis[None, :] + 1j * axis[:, None]
        self.away = np.abs(field_of_view).astype(np.float32)
        where = (field_of_view - self.gaze) / self.turn
        self.x, self.y = where.real.astype(np.float32), where.imag.astype(np.float32)
        self.lesions = np.zeros((self.size, self.size), np.bool_)

    def pixels_of(self, places: Places) -> Places:
        """Where places of the eye lie on the finer grid of a mask."""
        pixels: Places = ((places * self.turn + self.gaze) * self.radius + self.size / 2 * (1 + 1j)) * FINE
        return pixels

    def mask(self, paint: Callable[[ImageDraw.ImageDraw], None], blur: float = 0.0) -> Array:
        """float32 [S, S], 0 to 1: what `paint` draws on a finer grid, averaged; blur in units of the field's radius."""
        image = Image.new("L", (self.size * FINE, self.size * FINE))
        paint(ImageDraw.Draw(image))
        image = image.reduce(FINE)
        if blur:
            image = image.filter(ImageFilter.GaussianBlur(blur * self.radius))
        return np.asarray(image, np.float32) / 255

    def blobs(self, centres: Places, radii: Array, blur: float = 0.0) -> Array:
        """A mask of irregular round patches."""
        angles = np.linspace(0, 2 * np.pi, 17)[:-1]
        phases = self.rng.uniform(0, 2 * np.pi, (3, len(centres), 1))
        wobble = 1 + sum(0.13 * np.cos(wave * angles + phase) for wave, phase in zip((2, 3, 4), phases, strict=True))
        outlines = self.pixels_of(centres[:, None] + radii[:, None] * wobble * np.exp(1j * angles))

        def paint(draw: ImageDraw.ImageDraw) -> None:
            for outline in _flat(outlines):
                draw.polygon(outline, fill=255)

        return self.mask(paint, blur)

    def blend(self, colour: tuple[float, float, float], alpha: Array) -> None:
        """Lays a colour over the image."""
        self.rgb += alpha * (_planes(colour) - self.rgb)

    def absorb(self, density: Array, strength: float = 1.0) -> None:
        """Darkens as blood does: least in red."""
        self.rgb *= np.exp(density * _planes((-0.55 * strength, -1.25 * strength, -1.1 * strength)))

    def ellipse(self, centre: complex, radius: float, height: float = 1.0, soft: float = 0.02) -> Array:
        """float32 [S, S]: 1 inside, 0 outside, with an edge of width `soft`."""
        x, y = self.x - np.float32(centre.real), (self.y - np.float32(centre.imag)) / np.float32(height)
        inside = np.float32(radius) - np.sqrt(x * x + y * y)
        edge: Array = np.clip(inside / max(soft, 1.2 / self.radius) + 0.5, 0, 1)
        return edge

    def spot(self, centre: complex, radius: float) -> Array:
        """float32 [S, S]: a Gaussian hill."""
        x, y = self.x - np.float32(centre.real), self.y - np.float32(centre.imag)
        return np.exp((x * x + y * y) * np.float32(-0.5 / radius**2))

    def clouds(self, cells: int) -> Array:
        """float32 [S, S]: smooth noise with standard deviation of about one, `cells` across."""
        grid = Image.fromarray(self.rng.standard_normal((cells + 3, cells + 3)).astype(np.float32))
        return 1.5 * np.asarray(grid.resize((self.size, self.size), Image.Resampling.BICUBIC))


def draw(
    label: str, rng: np.random.Generator, size: int = 128, *, eye: str = "right", look: Look | None = None
) -> Phantom:
    """One eye of a class of FREQUENCIES, size x size pixels; `look` is for the second eye of a patient.

    Raises ValueError for another label or eye, or a size below 64.
    """
    if label not in FREQUENCIES:
        raise ValueError(f"label must be one of {', '.join(FREQUENCIES)}, got {label!r}")
    if eye not in ("left", "right"):
        raise ValueError(f"eye must be 'left' or 'right', got {eye!r}")
    if size < SMALLEST_SIZE:
        raise ValueError(f"size must be at least {SMALLEST_SIZE}, got {size}")
    look = look or Look.of(label, rng)
    canvas = _Canvas(size, look, rng)
    _ground(canvas)
    _disc(canvas, label)
    if label == "amd":
        _drusen(canvas)
    if label == "diabetic_retinopathy":
        _exudates(canvas)
    _vessels(canvas)
    if label == "diabetic_retinopathy":
        _haemorrhages(canvas)
    pixels = _photograph(canvas)
    lesions = canvas.lesions & (canvas.away < 1)
    if eye == "left":
        pixels, lesions = pixels[:, ::-1], lesions[:, ::-1]
    return Phantom(np.ascontiguousarray(pixels), np.ascontiguousarray(lesions))


def write_phantoms(
    folder: str | Path,
    n_images: int = 2000,
    seed: int = 0,
    size: int = 96,
    advance: Callable[[int], object] | None = None,
) -> Path:
    """Writes a labelled source, two eyes a patient: split/class/patient_eye.jpg, and manifest.csv. Returns its path.

    Classes are as frequent as in FREQUENCIES, but have at least two patients; about a fifth of each class's patients
    are in the split "test", the others in "train". The manifest has path (relative to folder), label, patient, split,
    eye and age. The same arguments draw the same pixels, another size the same eyes. advance(1) is called after each
    image. What else lies in the folder stays there.

    Raises ValueError unless n_images is even and at least 20.
    """
    fewest = 4 * len(FREQUENCIES)
    if n_images < fewest or n_images % 2:
        raise ValueError(f"n_images must be even, two eyes a patient, and at least {fewest}, got {n_images}")
    folder = Path(folder)
    n_patients = n_images // 2
    share = n_patients / sum(FREQUENCIES.values())
    counts = {label: max(2, round(share * frequency)) for label, frequency in FREQUENCIES.items()}
    counts["normal"] += n_patients - sum(counts.values())
    labels = np.random.default_rng(seed).permutation(np.repeat(list(counts), list(counts.values()))).tolist()
    left_for_test = {label: max(1, round(TEST_SHARE * count)) for label, count in counts.items()}
    rows = []
    for number, label in enumerate(labels):
        split = "test" if left_for_test[label] else "train"
        left_for_test[label] -= split == "test"
        (folder / split / label).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([seed, number])
        look, patient = Look.of(label, rng), f"p{number:05d}"
        age = int(np.clip(rng.normal(AGES[label], 9), 20, 95))
        for stream, eye in enumerate(("left", "right"), start=1):  # a stream 0 would be the patient's again
            rng = np.random.default_rng([seed, number, stream])
            path = f"{split}/{label}/{patient}_{eye}.jpg"
            phantom = draw(label, rng, size, eye=eye, look=look)
            Image.fromarray(phantom.pixels).save(folder / path, quality=92)
            rows.append((path, label, patient, split, eye, age))
            if advance:
                advance(1)
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "patient", "split", "eye", "age"), *rows])
    return manifest


def _ground(canvas: _Canvas) -> None:
    """The retina without vessels: pigment, choroid and the dark macula."""
    look, rng = canvas.look, canvas.rng
    pale, dark = _planes((0.93, 0.55, 0.31)), _planes((0.62, 0.25, 0.11))
    canvas.rgb = (pale + look.pigment * (dark - pale)) * (1 + 0.05 * canvas.clouds(3))
    canvas.rgb[1] *= 1 + 0.03 * canvas.clouds(2)
    canvas.rgb *= 1 + 0.02 * canvas.clouds(24)

    # Choroidal vessels, pale orange between darker pigment, run outwards from behind the disc.
    n_strands = 60
    starts = 0.5 * DISC + rng.uniform(0.1, 0.9, n_strands) * np.exp(2j * np.pi * rng.random(n_strands))
    heading = np.angle(starts - 0.5 * DISC) + rng.normal(0, 0.35, n_strands)
    strands = _curves(starts, heading, heading + rng.normal(0, 0.5, n_strands), np.full(n_strands, 0.8), 0.13, rng, 8)
    widths = rng.uniform(0.02, 0.055, n_strands)
    choroid = canvas.mask(lambda draw: _stroke(draw, canvas, strands, widths, 255), blur=0.016)
    canvas.rgb *= 1 + look.tessellation * (choroid - 0.55) * _planes((0.18, 0.45, 0.38))

    canvas.rgb *= 1 + 0.16 * canvas.spot(DISC, 0.35)  # nerve fibres
    macula = canvas.spot(FOVEA, rng.uniform(0.09, 0.15))
    canvas.absorb(macula, rng.uniform(0.25, 0.6))
    canvas.blend((0.95, 0.75, 0.55), rng.uniform(0, 0.25) * canvas.spot(FOVEA, 0.018))


def _disc(canvas: _Canvas, label: str) -> None:
    """The optic disc and its cup, in myopia beside a crescent of bare sclera."""
    look, rng = canvas.look, canvas.rng
    radius = look.disc_radius
    disc = canvas.ellipse(DISC, radius, rng.uniform(1.02, 1.15), soft=0.03)
    if label == "myopia":
        reach = radius * rng.uniform(1.35, 1.9)
        centre = DISC - (reach - radius) * np.exp(1j * rng.normal(0, 0.35)) * rng.uniform(0.9, 1.15)
        crescent = canvas.ellipse(centre, reach, rng.uniform(0.95, 1.2), soft=0.05)
        canvas.lesions |= (crescent > 0.5) & (disc < 0.5)
        canvas.absorb(canvas.ellipse(centre, reach * 1.12, soft=0.08) - crescent, 0.6)
        canvas.blend((0.98, 0.88, 0.68), crescent * np.clip(0.8 + 0.12 * canvas.clouds(18), 0, 0.95))
    else:
        canvas.absorb(canvas.ellipse(DISC - 0.02, radius * 1.12, soft=0.05) - disc, rng.uniform(0, 0.45))
    canvas.blend((0.98, 0.63, 0.40), 0.85 * disc)
    cup_centre = DISC + radius * (1 - look.cup) * complex(*rng.uniform(-0.35, 0.35, 2))
    cup = canvas.ellipse(cup_centre, radius * look.cup, rng.uniform(1.0, 1.1), soft=0.03)
    canvas.blend((1.0, 0.93, 0.74), 0.85 * cup * disc)
    if label == "glaucoma":
        canvas.lesions |= cup * disc > 0.5


def _drusen(canvas: _Canvas) -> None:
    rng = canvas.rng
    n_drusen = int(rng.integers(40, 100))
    centres = FOVEA + rng.normal(0, 0.15, n_drusen) + 1j * rng.normal(0, 0.13, n_drusen)
    drusen = canvas.blobs(centres, rng.gamma(3.0, 0.0045, n_drusen) + 0.006, blur=0.008)
    canvas.blend((1.0, 0.84, 0.52), rng.uniform(0.55, 0.85) * drusen)
    canvas.lesions |= drusen > 0.3


def _exudates(canvas: _Canvas) -> None:
    rng = canvas.rng
    n_rings, each = int(rng.integers(1, 4)), 14
    middles = FOVEA + rng.uniform(0.1, 0.45, n_rings) * np.exp(2j * np.pi * rng.random(n_rings))
    turns = np.exp(1j * (rng.uniform(0, 2 * np.pi, (n_rings, 1)) + rng.uniform(0, 4.0, (n_rings, each))))
    reach = rng.uniform(0.05, 0.13, (n_rings, 1)) * rng.uniform(0.75, 1.25, (n_rings, each))
    centres = middles[:, None] + turns * reach
    exudates = canvas.blobs(centres.ravel(), rng.gamma(3.0, 0.0045, n_rings * each) + 0.006)
    canvas.blend((1.0, 0.93, 0.60), 0.9 * exudates)
    canvas.lesions |= exudates > 0.3


def _haemorrhages(canvas: _Canvas) -> None:
    rng = canvas.rng
    n_dots, n_blots = int(rng.integers(15, 40)), int(rng.integers(5, 16))
    radii = np.concatenate([rng.uniform(0.008, 0.014, n_dots), rng.gamma(4.0, 0.008, n_blots) + 0.01])
    away = np.sqrt(rng.uniform(0.02, 0.75, n_dots + n_blots))
    centres = 0.3 * FOVEA + away * np.exp(2j * np.pi * rng.random(n_dots + n_blots))
    spots = canvas.blobs(centres, radii, blur=0.005)
    canvas.absorb(spots, rng.uniform(0.7, 1.0))
    canvas.lesions |= spots > 0.3


def _vessels(canvas: _Canvas) -> None:
    """Arteries and veins: arcades around the macula, nasal and macular vessels, each with branches and twigs."""
    rng, tortuosity = canvas.rng, canvas.look.tortuosity
    # Headings at the disc and at the end, length and width; mirrored below the disc, an artery and a vein of each.
    trunks = np.array(
        [(1.72, 3.05, 1.75, 0.027), (1.15, 0.45, 0.95, 0.019), (2.6, 2.9, 0.50, 0.009), (0.3, 0.1, 0.7, 0.010)]
    )
    first, last, length, width = np.repeat(trunks, 4, axis=0).T
    n = len(first)
    up = np.tile([-1.0, -1.0, 1.0, 1.0], n // 4)  # y grows downwards
    is_vein = np.tile([False, True], n // 2)
    first = up * (first + rng.normal(0, 0.12, n) + np.where(is_vein, 0.1, -0.1))
    last = up * (last + rng.normal(0, 0.16, n))
    length = length * rng.uniform(0.85, 1.15, n)
    width = width * np.where(is_vein, 1.0, 0.75) * rng.uniform(0.85, 1.1, n)
    starts = DISC + canvas.look.disc_radius * (0.15 + 0.25 * rng.standard_normal(n) * 1j)
    levels = [(_curves(starts, first, last, length, tortuosity, rng), width, is_vein)]
    for n_children, reach, n_points in ((3, 0.55, 12), (2, 0.3, 8)):
        curves, width, is_vein = levels[-1]
        parent = np.repeat(np.arange(len(curves)), n_children)
        at = rng.integers(2, curves.shape[1] - 2, len(parent))
        starts = curves[parent, at]
        heading = np.angle(curves[parent, at + 1] - curves[parent, at - 1])
        side = rng.choice([-1.0, 1.0], len(parent))
        first = heading + side * rng.uniform(0.5, 1.0, len(parent))
        last = heading + side * rng.uniform(0.0, 0.9, len(parent))
        width = width[parent] * rng.uniform(0.4, 0.7, len(parent))
        length = reach * rng.uniform(0.5, 1.2, len(parent))
        levels.append((_curves(starts, first, last, length, 2 * tortuosity, rng, n_points), width, is_vein[parent]))

    def paint(draw: ImageDraw.ImageDraw) -> None:
        for level, (curves, width, is_vein) in reversed(list(enumerate(levels))):
            for kind, ink in ((is_vein, 235), (~is_vein, 165)):
                _stroke(draw, canvas, curves[kind], width[kind], ink - 50 * level, n_pieces=3 if level == 0 else 1)
            if level == 0:
                _stroke(draw, canvas, curves[~is_vein], 0.3 * width[~is_vein], 110)  # the light reflex of arteries

    density = canvas.mask(paint)
    density *= 1 - canvas.spot(FOVEA, 0.06) - 0.45 * canvas.spot(DISC, 0.12)  # none in the fovea, pale on the disc
    canvas.absorb(density, 0.75)


def _curves(
    starts: Places,
    first: Array,
    last: Array,
    length: Array,
    wiggle: float,
    rng: np.random.Generator,
    n_points: int = 20,
) -> Places:
    """complex [n, n_points]: smooth curves that leave their start in direction `first` and end in direction `last`."""
    along = np.linspace(0, 1, n_points - 1) ** 0.8
    heading = first[:, None] + (last - first)[:, None] * along
    heading += np.cumsum(rng.normal(0, wiggle, heading.shape), axis=1)
    steps = length[:, None] / (n_points - 1) * np.exp(1j * heading)
    return np.concatenate([starts[:, None], starts[:, None] + np.cumsum(steps, axis=1)], axis=1)


def _stroke(
    draw: ImageDraw.ImageDraw, canvas: _Canvas, curves: Places, widths: Array, ink: int, n_pieces: int = 1
) -> None:
    """Draws curves, each in pieces that get thinner."""
    n_points = curves.shape[1]
    cuts = np.linspace(0, n_points - 1, n_pieces + 1).astype(int).tolist()
    taper = np.linspace(1.0, 0.4, n_pieces)
    pixels = np.maximum(1, np.rint(widths[:, None] * canvas.radius * FINE * taper)).astype(int).tolist()
    for line, line_widths in zip(_flat(canvas.pixels_of(curves)), pixels, strict=True):
        for start, stop, width in zip(cuts[:-1], cuts[1:], line_widths, strict=True):
            draw.line(line[2 * start : 2 * stop + 2], fill=ink, width=width)


def _flat(curves: Places) -> list[list[float]]:
    """x, y, x, y, ... of each curve."""
    return np.ascontiguousarray(curves).view(np.float64).tolist()  # type: ignore[no-any-return]


def _photograph(canvas: _Canvas) -> NDArray[np.uint8]:
    """Light, lens and sensor: vignette, haze, blur, white balance, noise, and black beyond the field of view."""
    look, rng, rgb, away = canvas.look, canvas.rng, canvas.rgb, canvas.away
    lean, dark = rng.normal(0, 0.1, 2), rng.uniform(0.15, 0.45)
    light = rng.uniform(0.8, 1.08) * (1 - dark * away**2 + lean[0] * canvas.x + lean[1] * canvas.y)
    rgb *= light.astype(np.float32)
    if rng.random() < 0.4:  # light scattered at the edge of the pupil
        off = rng.uniform(0.1, 0.35) * np.exp(2j * np.pi * rng.random())
        canvas.blend((0.75, 0.62, 0.45), rng.uniform(0.1, 0.6) * (1 - canvas.ellipse(off, 1.0, soft=0.4)))
    grey = rgb.mean(axis=0)
    rgb = (grey + look.saturation * (rgb - grey)) * _planes(look.colour)
    rgb *= 255 * np.clip((1 - away) * canvas.radius + 0.5, 0, 1)
    image = Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8).transpose(1, 2, 0).copy())
    image = image.filter(ImageFilter.GaussianBlur(look.blur * canvas.radius))
    noise = rng.standard_normal((3, canvas.size, canvas.size), np.float32) * (away < 1)
    noisy = np.asarray(image) + (255 * look.noise * noise + 0.5).transpose(1, 2, 0)
    pixels: NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return pixels


def _planes(colour: tuple[float, float, float]) -> Array:
    return np.array(colour, np.float32)[:, None, None]  # [3, 1, 1]
