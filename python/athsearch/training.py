"""Training: a labelled source and settings in, an encoder out.

The same seed gives the same weights, bit for bit, on the same machine's processor with as many threads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ._training_batches import Rows, augment, draw_triplets, is_grey, tempered_batches
from ._training_images import Pictures, check_classes, divide, look_grey, read_parts
from ._training_run import RunFolder, State, flatten_optimiser, restore_optimiser
from .codes import Codes
from .data import Source
from .encoder import Encoder
from .errors import DeviceError, ImageError, ModelError, SourceError
from .evaluation import evaluate
from .model.checkpoint import ModelDescription, tensors_of
from .model.losses import LOSSES
from .model.network import NETWORKS, Output
from .plots import check_matplotlib, training_curves
from .preprocessing import Preprocessing
from .recipes import RECIPES, TrainingSettings, recipe_settings
from .types import Square

__all__ = ["RECIPES", "EpochReport", "StepReport", "TrainingSettings", "recipe_settings", "train"]

K = 10  # of the validation figure, macro precision at k
MAX_VALIDATION_CASES = 1500  # and some of rare classes; more would cost time without telling more
MAX_VALIDATION_QUERIES = 1000
Entry = TypeVar("Entry")

WARM_UP_SHARE = 0.05
CODES_A_BATCH = 64
_drawing = threading.Lock()

# Streams of random numbers: each epoch draws from its own, so that nothing need be kept to go on after a stop.
_TRIPLETS, _VALIDATION, _EPOCH = range(3)


@dataclass(frozen=True)
class EpochReport:
    """One epoch. Counts from 1.

    loss: mean over steps, the sum of `parts`. validation: macro precision at 10 by Hamming distance, expectation over
    ties, of validation images asked against training images, without mirror images, which would cost more time than
    they tell; None where there are none. best_epoch: whose weights would be kept if training ended here. lr: of the
    last step. seconds: of wall time, validation included.
    """

    epoch: int
    epochs: int
    loss: float
    parts: dict[str, float]
    validation: float | None
    best_epoch: int
    lr: float
    seconds: float


@dataclass(frozen=True)
class StepReport:
    """Where a run stands within an epoch, or within reading the images (epoch 0, a step an image, no loss)."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None


def train(
    source: Source,
    settings: TrainingSettings = RECIPES["default"],
    *,
    validation: Source | None = None,
    run_dir: str | Path | None = None,
    device: str = "auto",
    progress: Callable[[EpochReport], None] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_unreadable: Callable[[ImageError], None] | None = None,
) -> Encoder:
    """Trains on the source's "train" split, or on all of it if it has no splits.

    validation: images to choose the best epoch by; else the source's "val" split, else images held out by patient.
    Settings that hold none out (validation_share 0, the paper's) choose by the training loss, whatever is given.
    run_dir: a folder that gets weights.safetensors, history.json and curves.png, and from which an interrupted run goes
    on after its last whole epoch to the weights that it would have had without interruption, on the same machine with
    as many threads.
    A run that is finished there is loaded and returned at once; it is known by its settings and the images' names and
    labels, so other pictures under the same names need another folder.
    progress is called after each epoch, on_step after each step and each image read. An image that cannot be used goes
    to on_unreadable and is left out.

    Raises SourceError for a source that cannot be trained on (no labels, one class, a class of one image, an empty
    split, fewer images than a batch of triplets, more than one image in twenty unusable); CheckpointError where run_dir
    holds another run, weights of no run, an archive or an unusable file; DeviceError for a device that is not there;
    ModelError where the loss is no longer a number; ValueError for a setting that names nothing known;
    ModuleNotFoundError where run_dir is given and matplotlib is not there to draw its curves.
    """
    training_items, validation_items = divide(source, validation, settings)
    run = None
    if run_dir is not None:
        run = RunFolder(Path(run_dir), _identity(training_items, validation_items, settings))
        if run.is_finished():
            return Encoder.load(run.weights, device)
        check_matplotlib()

    device = _usable(device)  # before images are read, which may take long
    levels = settings.levels
    if levels == "auto":
        levels = "standardised" if look_grey(training_items) else "stored"
    preprocessing = dataclasses.replace(settings.preprocessing(), levels=levels)
    parts = [training_items] if validation_items is None else [training_items, validation_items]
    n_read, n_images = 0, sum(map(len, parts))

    def on_read() -> None:
        nonlocal n_read
        n_read += 1
        if on_step:
            on_step(StepReport(0, settings.epochs, n_read, n_images, None))

    pictures, *held_out = read_parts(parts, preprocessing, on_read, on_unreadable or (lambda error: None))
    check_classes(pictures.labels, f"{source.root}, without the images that cannot be used")
    return _Training(pictures, next(iter(held_out), None), preprocessing, settings, device).run(run, progress, on_step)


class _Training:
    """One run: its network, its averaged weights, its optimiser, and how they change from epoch to epoch."""

    def __init__(
        self,
        pictures: Pictures,
        validation: Pictures | None,
        preprocessing: Preprocessing,
        settings: TrainingSettings,
        device: str,
    ) -> None:
        self.settings = settings
        self._parts = [part for part in (pictures, validation) if part is not None]
        self.squares = pictures.squares
        self.labels = pictures.labels
        self.names = tuple(sorted(set(self.labels)))
        numbers = {name: number for number, name in enumerate(self.names)}
        self.classes = np.array([numbers[label] for label in self.labels], np.int64)
        self.n_unreadable = pictures.n_unreadable + (validation.n_unreadable if validation else 0)
        self.validation = _Validation(pictures, validation, settings.seed) if validation else None
        self.flips = settings.flips
        self.grey = is_grey(self.squares)
        if self.flips == "auto":
            self.flips = "horizontal" if self.grey else "both"
        self.framing = settings.framing
        if self.framing == "auto":
            self.framing = "wide" if self.grey else "narrow"
        self.preprocessing = dataclasses.replace(preprocessing, mirrors=self.flips)

        with _drawing, torch.random.fork_rng(devices=[]):  # torch's generator is the process's, which threads share
            torch.default_generator.manual_seed(settings.seed)
            self.network = _known(NETWORKS, "network", settings.network)(settings.size, settings.bits, len(self.names))
            self.average = NETWORKS[settings.network](settings.size, settings.bits, len(self.names))
            self.loss = _known(LOSSES, "loss", settings.loss)(settings.bits, np.bincount(self.classes).tolist())
        self.average.load_state_dict(self.network.state_dict())
        self.description = ModelDescription(
            network=settings.network,
            bits=settings.bits,
            classes=self.names,
            preprocessing=self.preprocessing,
            recipe=settings.recipe,
            settings=dataclasses.asdict(settings),
        )
        self.device = device
        self.network.to(self.device)
        self.average.to(self.device)
        self.loss.to(self.device)
        trained = [*self.network.parameters(), *self.loss.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": [weights for weights in trained if weights.ndim > 1]},
            {"params": [weights for weights in trained if weights.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        self.best: dict[str, Tensor] = {}
        self.history: list[EpochReport] = []

    @cached_property
    def _pictures_digest(self) -> str:
        """Of what was decoded, and of which images."""
        digest = hashlib.sha256()
        for part in self._parts:
            digest.update(json.dumps([item.source for item in part.items]).encode())
            for square in part.squares:
                digest.update(square)
        return digest.hexdigest()

    def run(
        self,
        folder: RunFolder | None,
        progress: Callable[[EpochReport], None] | None,
        on_step: Callable[[StepReport], None] | None,
    ) -> Encoder:
        kept = folder.load() if folder else None
        if folder and kept:
            try:
                if kept[1].get("pictures", self._pictures_digest) != self._pictures_digest:
                    raise ValueError("its images were others, or others of them could be read")
                self._restore(*kept)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:  # of another version, say
                raise folder.unusable_state(f"{type(error).__name__}: {error}") from error
        for epoch in range(len(self.history) + 1, self.settings.epochs + 1):
            report = self._epoch(epoch, on_step)
            self.history.append(report)
            if report.best_epoch == epoch:
                self.best = {name: tensor.clone() for name, tensor in self.average.state_dict().items()}
            if folder:
                notes = {"history": self._plain_history(), "pictures": self._pictures_digest}
                folder.save(self._state(), notes)
                folder.write_history(self._plain_history(), finished=False, summary={})
            if progress:
                progress(report)

        self.average.load_state_dict(self.best)
        summary = self._summary()
        self.description = dataclasses.replace(self.description, training=summary)
        encoder = self._encoder(self.device)
        if folder:
            encoder.save(folder.weights)
            training_curves(self.history, folder.curves)
            folder.write_history(self._plain_history(), finished=True, summary=summary)
            folder.drop_state()
        return encoder

    def _epoch(self, epoch: int, on_step: Callable[[StepReport], None] | None) -> EpochReport:
        start = time.perf_counter()
        rng = self._rng(_EPOCH, epoch)
        batches = list(self._batches(rng))
        if not batches:
            raise SourceError(
                f"{len(self.labels)} training images do not fill one batch of {self.settings.batch} triplets"
            )
        sums: dict[str, float] = {}
        self.network.train()
        for step, rows in enumerate(batches, 1):
            n_before = (epoch - 1) * len(batches) + step - 1
            parts = self._step(rows, n_before, len(batches) * self.settings.epochs, rng)
            sums = {name: sums.get(name, 0.0) + value for name, value in parts.items()}
            if on_step:
                on_step(StepReport(epoch, self.settings.epochs, step, len(batches), sum(parts.values())))
        means = {name: value / len(batches) for name, value in sums.items()}
        loss = sum(means.values())
        if not math.isfinite(loss):
            raise ModelError(
                f"training diverged in epoch {epoch} (loss {loss}); a smaller lr than {self.settings.lr} helps"
            )
        validation = self.validation.measure(self._encoder(self.device, "none")) if self.validation else None
        report = EpochReport(
            epoch=epoch,
            epochs=self.settings.epochs,
            loss=loss,
            parts=means,
            validation=validation,
            best_epoch=epoch,
            lr=self.optimiser.param_groups[0]["lr"],
            seconds=round(time.perf_counter() - start, 3),
        )
        best = min([*self.history, report], key=self._worse)
        return dataclasses.replace(report, best_epoch=best.epoch)

    def _encoder(self, device: str, mirrors: str | None = None) -> Encoder:
        """Of the averaged weights as they are now. mirrors: others than the model's own."""
        preprocessing = self.description.preprocessing
        if mirrors is not None:
            preprocessing = dataclasses.replace(preprocessing, mirrors=mirrors)
        description = dataclasses.replace(self.description, preprocessing=preprocessing)
        return Encoder(tensors_of(self.average), description, device)

    def _worse(self, report: EpochReport) -> float:
        chosen_by_loss = self.settings.validation_share == 0 or report.validation is None
        return report.loss if chosen_by_loss else -float(report.validation or 0.0)

    def _batches(self, rng: np.random.Generator) -> Iterator[Rows]:
        """Rows int64 [batch], or [3, batch] of triplets."""
        batch = self.settings.batch
        if self.loss.batches == "tempered":
            yield from tempered_batches(self.classes, batch, rng)
            return
        triplets = draw_triplets(self.classes, self._rng(_TRIPLETS))  # the same ones every epoch, in another order
        order = rng.permutation(len(triplets))
        for start in range(0, len(order) - batch + 1, batch):
            yield triplets[order[start : start + batch]].T

    def _step(self, rows: Rows, n_before: int, n_steps: int, rng: np.random.Generator) -> dict[str, float]:
        # A triplet's parts go through the network one after the other, for each batch has its own BatchNorm statistics.
        outputs = [self.network(self._images(part, rng)) for part in np.atleast_2d(rows)]
        output = Output(*(torch.cat(values) for values in zip(*outputs, strict=True)))
        labels = torch.from_numpy(self.classes[rows.reshape(-1)]).to(self.device)
        parts: dict[str, Tensor] = self.loss(output, labels, n_before / n_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(n_before, n_steps)
        self.optimiser.zero_grad()
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        if self.network.hash_layer.weight.grad is None:
            message = f"loss {self.settings.loss!r} does not reach the code of network {self.settings.network!r}"
            raise ModelError(f"{message}, whose class layer stands beside it: choose another of them")
        self.optimiser.step()
        # The first weights are soon forgotten: the mean reaches back over at most a tenth of the steps so far.
        decay = min(self.settings.average, (1 + n_before) / (10 + n_before))
        with torch.no_grad():
            for mean, now in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(now, 1 - decay)
                else:
                    mean.copy_(now)
        return {name: value.item() for name, value in parts.items()}

    def _images(self, rows: Rows, rng: np.random.Generator) -> Tensor:
        """Float32 [B, 3, size, size], varied and normalised. Rows [B]."""
        if not self.settings.augment:
            return torch.from_numpy(self.preprocessing.normalise(self.squares[rows])).to(self.device)
        images = torch.from_numpy(self.squares[rows]).to(self.device).permute(0, 3, 1, 2).float().contiguous()
        images = augment(images, self.flips, self.framing, self.grey, rng)
        if self.preprocessing.channels == "BGR":
            images = images.flip(1)
        scaling = torch.tensor([self.preprocessing.mean, self.preprocessing.std], device=images.device)
        mean, std = scaling.view(2, 3, 1, 1)
        return images.sub_(mean).div_(std)

    def _rate(self, n_before: int, n_steps: int) -> float:
        if self.settings.schedule == "constant":
            return self.settings.lr
        rise = min(1.0, (n_before + 1) / max(1.0, WARM_UP_SHARE * n_steps))
        return self.settings.lr * rise * 0.5 * (1 + math.cos(math.pi * n_before / n_steps))

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, *stream])

    def _state(self) -> State:
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best,
            "loss": self.loss.state_dict(),
            "optimiser": flatten_optimiser(self.optimiser),
        }

    def _restore(self, state: State, notes: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.best = {name: tensor.to(self.device) for name, tensor in state["best"].items()}
        self.loss.load_state_dict(state.get("loss", {}))
        restore_optimiser(self.optimiser, state["optimiser"])
        self.history = [EpochReport(**report) for report in notes["history"]]

    def _plain_history(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(report) for report in self.history]

    def _summary(self) -> dict[str, Any]:
        best = self.history[self.history[-1].best_epoch - 1]
        return {
            "n_images": len(self.labels),
            "n_validation_images": self.validation.n_images if self.validation else 0,
            "n_unreadable": self.n_unreadable,
            "best_epoch": best.epoch,
            "loss": best.loss,
            f"validation_macro_precision_at_{K}": best.validation,
        }


class _Validation:
    """A fixed choice of validation images, as even over the classes as can be, asked against one of training images:
    all, or MAX_VALIDATION_CASES at random, filled up to K of each class.
    """

    def __init__(self, database: Pictures, queries: Pictures, seed: int) -> None:
        rng = np.random.default_rng([seed, _VALIDATION])
        self.n_images = len(queries.items)
        cases = rng.permutation(len(database.items))
        n_of = Counter(database.labels[row] for row in cases[:MAX_VALIDATION_CASES])
        is_chosen = np.arange(len(cases)) < MAX_VALIDATION_CASES
        for place, row in enumerate(cases):
            if not is_chosen[place] and n_of[database.labels[row]] < K:  # a figure at K needs so many
                is_chosen[place] = True
                n_of[database.labels[row]] += 1
        cases = cases[is_chosen]
        self._database, self._database_labels = _chosen(database, cases)
        shuffled = rng.permutation(len(queries.items))
        n_seen: Counter[str] = Counter()
        place_in_class = np.empty(len(shuffled), np.int64)
        for row in shuffled:
            place_in_class[row] = n_seen[queries.labels[row]]
            n_seen[queries.labels[row]] += 1
        self._queries, self._query_labels = _chosen(
            queries, place_in_class.argsort(kind="stable")[:MAX_VALIDATION_QUERIES]
        )

    def measure(self, encoder: Encoder) -> float:
        """Macro precision at K by Hamming distance, expectation over ties."""
        codes = [_encode(encoder, squares) for squares in (self._database, self._queries)]
        labels = self._database_labels, self._query_labels
        return evaluate(codes[0], labels[0], codes[1], labels[1], K, n_resamples=0).macro.precision


def _chosen(pictures: Pictures, rows: Rows) -> tuple[Square, list[str]]:
    return pictures.squares[np.sort(rows)], [pictures.labels[row] for row in np.sort(rows)]


def _encode(encoder: Encoder, squares: Square) -> Codes:
    batches = [squares[start : start + CODES_A_BATCH] for start in range(0, len(squares), CODES_A_BATCH)]
    return Codes.from_logits(np.concatenate([encoder.logits_of_squares(batch) for batch in batches]))


def _identity(images: Source, validation: Source | None, settings: TrainingSettings) -> dict[str, Any]:
    """What must be equal for a run to go on: every setting, and a digest of the images' names and labels."""
    digest = hashlib.sha256()
    for part in (images, validation):
        listed = [(item.source, item.label) for item in part.items] if part else None
        digest.update(json.dumps(listed).encode())
    return {**dataclasses.asdict(settings), "images": digest.hexdigest()[:16]}


def _usable(device: str) -> str:
    """The device by the name torch has for it, known to be there before images are read."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"device {device!r} cannot be used: {error}") from error
    return device


def _known(registry: Mapping[str, Entry], what: str, name: str) -> Entry:
    if name not in registry:
        raise ValueError(f"{what} must be one of {', '.join(registry)}; got {name!r}")
    return registry[name]
