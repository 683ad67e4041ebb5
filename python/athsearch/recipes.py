"""What a training run is told to do: its settings, and the recipes they start from. Needs no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from .codes import n_words_for
from .preprocessing import Preprocessing


@dataclass(frozen=True)
class TrainingSettings:
    """Everything, beside the images, that decides what comes out. Start from a recipe: `recipe_settings`.

    network, loss: names in model.network.NETWORKS and model.losses.LOSSES. bits: code length.
    size: side of the network's input in pixels. batch: images a step, or triplets for a loss on triplets.
    scaling: "centred" (RGB, aspect ratio kept, about -2..2) or "raw" (BGR, stretched, 0..255).
    levels: "stored", "standardised" (see `Preprocessing`) or "auto": standardised where all images are grey.
    lr, schedule: Adam's rate, "constant" or "cosine" (with a short rise before). weight_decay: decoupled.
    average: decay of the running mean of weights, which is what is kept; 0 keeps the weights themselves.
    flips: "auto" (both ways, but for grey images, radiographs most likely, left to right only), "both", "horizontal"
    or "none"; a code is later made of an image and those mirror images. augment: whether images are varied at all.
    framing: how much of that goes to zoom and place: "narrow" (1.1 either way, a twentieth of the side), for size and
    place can be what a class is made of; "wide" (1.25, a tenth), for where a patient lies in a radiograph, and how much
    of it the picture takes, tell of the examination; or "auto": wide where all images are grey.
    validation_share: of the training images, held out where the source has no "val" split, to choose the epoch whose
    weights are kept; 0 holds none out and keeps the epoch with the lowest training loss.
    Raises ValueError for values that cannot be.
    """

    recipe: str
    network: str
    loss: str
    scaling: str
    levels: str
    bits: int
    size: int
    epochs: int
    batch: int
    lr: float
    schedule: str
    weight_decay: float
    average: float
    augment: bool
    flips: str
    framing: str
    validation_share: float
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("scaling", ("centred", "raw")),
            ("levels", ("auto", "stored", "standardised")),
            ("schedule", ("constant", "cosine")),
            ("flips", ("auto", "both", "horizontal", "none")),
            ("framing", ("auto", "narrow", "wide")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        for name, lowest, highest in (
            ("epochs", 1, math.inf),
            ("batch", 4, math.inf),
            ("seed", 0, 2**64 - 1),
            ("weight_decay", 0, math.inf),
            ("average", 0, 0.9999),
            ("validation_share", 0, 0.5),
        ):
            if not lowest <= getattr(self, name) <= highest:
                raise ValueError(f"{name} must be from {lowest} to {highest}, got {getattr(self, name)}")
        for name in ("bits", "size", "epochs", "batch", "seed"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not self.augment and (self.flips != "none" or self.framing != "narrow"):
            raise ValueError(f"flips and framing need augment; got {self.flips!r} and {self.framing!r} without it")
        n_words_for(self.bits)
        self.preprocessing()

    def preprocessing(self) -> Preprocessing:
        """How images become the network's input, but for what may depend on the images: levels and mirror images."""
        if self.scaling == "raw":
            return Preprocessing(self.size, "stretch", "BGR", draft=False, mean=(0, 0, 0), std=(1, 1, 1))
        return Preprocessing(self.size)


RECIPES: dict[str, TrainingSettings] = {
    # As published, to the letter, except that codes are always made with BatchNorm in eval mode.
    "paper": TrainingSettings(
        recipe="paper",
        network="ath-s",
        loss="triplet-class",
        scaling="raw",
        levels="stored",
        bits=36,
        size=256,
        epochs=50,
        batch=10,
        lr=1e-3,
        schedule="constant",
        weight_decay=0.0,
        average=0.0,
        augment=False,
        flips="none",
        framing="narrow",
        validation_share=0.0,
    ),
    "default": TrainingSettings(
        recipe="default",
        network="ath-l",
        loss="sign-triplet",
        scaling="centred",
        levels="auto",
        bits=32,
        size=96,
        epochs=70,
        batch=32,
        lr=2e-3,
        schedule="cosine",
        weight_decay=5e-4,
        average=0.99,
        augment=True,
        flips="auto",
        framing="auto",
        validation_share=0.15,
    ),
}


def recipe_settings(recipe: str, **changes: Any) -> TrainingSettings:
    """A recipe with some settings changed. Raises ValueError for an unknown recipe or unusable value."""
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}; got {recipe!r}")
    return dataclasses.replace(RECIPES[recipe], **changes)
