"""The whole road in one function: images, training, archive, queries, scores, report."""

from __future__ import annotations

import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from ..archive.archive import Archive
from ..data import Item, Source, open_source
from ..errors import ModelMismatch
from ..evaluation import evaluate_archive
from ..explanation import answer_sheet
from ..recipes import TrainingSettings
from ..training import train
from .phantoms import write_phantoms
from .report import Report, write_report

N_PHANTOMS = 1400
PHANTOM_SIZE = 96
N_HITS = 5
N_SHEETS = 8

Observe = Callable[[str], Callable[[int, int], None]]  # name of a step -> called with (done, all)


def demonstrate(
    out: Path,
    data: str | None,
    patient_pattern: str | None,
    settings: TrainingSettings,
    device: str,
    observe: Observe,
    watch: Mapping[str, Any],
) -> tuple[Path, Report]:
    """Trains, indexes, queries and evaluates in the folder `out`; writes report.html there and returns its path.

    data: path of labelled images, read as `open_source` does, or None for phantoms drawn on the spot. watch: the
    callbacks of `train`. What is finished in the folder is not done again. Raises ModelMismatch when it holds the
    archive of another run, and whatever the steps raise.
    """
    timings: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        timings[step] = time.perf_counter() - begin

    if data is not None:
        source = open_source(data, patient_pattern=patient_pattern)
        out.mkdir(parents=True, exist_ok=True)
    else:
        with timed("drawing the images"):
            source = _drawn(out / "images", observe("drawing"))
    if "test" not in source.splits:
        source = source.divided({"train": 0.8, "test": 0.2})
    learned, asked = source.split("train"), source.split("test")
    is_trained = (out / "run" / "weights.safetensors").exists()
    with timed("training"):
        encoder = train(source, settings, run_dir=out / "run", device=device, **watch)
    if (out / "archive").exists():
        archive = Archive.open(out / "archive", device=device)
        if archive.model_id != encoder.model_id:
            raise ModelMismatch(f"{out} holds the archive of another run: choose another folder, or delete that one")
    else:
        archive = Archive.create(out / "archive", encoder)
    with archive:
        with timed("indexing"):
            failed = list(archive.add(learned, observe("indexing")).failed)
        with timed("encoding and scoring the queries"):
            evaluated = evaluate_archive(archive, asked, progress=observe("encoding queries"))
        failed += evaluated.failed
        evaluation, unreadable = evaluated.scores, {source for source, _ in evaluated.failed}
        readable = [item for item in asked.items if item.source not in unreadable]
        timings["one query, image to hits (median)"] = _query_seconds(archive, asked, readable)
        sheets = {f"A query of class {item.label}": _sheet(archive, asked, item) for item in _examples(readable)}
    if is_trained:
        del timings["training"]
    took = "" if is_trained else f" in {timings['training']:.0f} s"
    images = "YOUR_IMAGES" if data is None else shlex.quote(data)
    if patient_pattern is not None:
        images += f" --patient-pattern {shlex.quote(patient_pattern)}"
    report = Report(
        subject=f"A small network learned from {len(learned):,} {'images' if data else 'drawn phantoms of eyes'}{took} "
        f"and gives each image a code of {encoder.bits} bits; {evaluation.n_queries:,} images it never saw were then "
        "asked for similar cases",
        sheets=sheets,
        curves=out / "run" / "curves.png",
        evaluation=evaluation,
        timings=timings,
        facts={
            "cases in the archive": f"{evaluation.n_cases:,}",
            "distinct codes among them": f"{evaluation.health.n_distinct_codes:,}",
            "bits of a code": str(encoder.bits),
            "images that could not be used": f"{len(failed):,}",
        },
        commands=(
            f"athsearch train {images} --out run",
            f"athsearch index archive {images} --weights run/weights.safetensors",
            "athsearch query archive AN_IMAGE.png --sheet hits.png",
        ),
        failed=failed,
    )
    path = out / "report.html"
    write_report(path, report)
    return path, report


def _drawn(folder: Path, advance: Callable[[int, int], None]) -> Source:
    manifest = folder / "manifest.csv"
    if not manifest.exists():
        n_drawn = 0

        def drew(n_images: int) -> None:
            nonlocal n_drawn
            n_drawn += n_images
            advance(n_drawn, N_PHANTOMS)

        write_phantoms(folder, N_PHANTOMS, size=PHANTOM_SIZE, advance=drew)
    return open_source(manifest)


def _examples(items: Sequence[Item]) -> list[Item]:
    """One query of each class, of at most N_SHEETS classes: the first."""
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(str(item.label), item)
    return [first[label] for label in sorted(first)[:N_SHEETS]]


def _sheet(archive: Archive, asked: Source, item: Item) -> Image.Image:
    pixels = asked.pixels(item)
    hits = archive.search(pixels, N_HITS, patient=item.patient)
    lines = [f"query: {item.label}", *([] if item.hides_name else [item.source])]
    return answer_sheet(archive.encoder, pixels, lines, hits, item.label, archive.places())


def _query_seconds(archive: Archive, asked: Source, items: Sequence[Item]) -> float:
    seconds = []
    for item in items[:20]:
        begin = time.perf_counter()
        archive.search(asked.pixels(item, archive.encoder.description.preprocessing.least_side), patient=item.patient)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)
