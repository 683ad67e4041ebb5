"""What the study trains: the sets, the methods that are compared, and the runs of each of its parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from athsearch.recipes import recipe_settings

SETS: dict[str, tuple[str, dict[str, str]]] = {  # name -> path below the folder of data, and how to read it
    "fundus_eye4": ("fundus_eye4", {"patient_pattern": r"(\d+)_(left|right)"}),
    "rbc12": ("rbc12", {}),
    "pneumoniamnist": ("pneumoniamnist/pneumoniamnist.npz", {}),
}
RECIPE_SETS = {  # the same as the recipes' own figures have them (../recipes.py), with the size of the input by recipe
    "fundus_eye4": ("fundus_eye4", {"patient_pattern": r"(\d+)_(left|right)"}, {"default": 128, "paper": 128}),
    # <smear>_<x>_<y>.jpg: images held out of the training are of other smears, as test images are.
    "rbc12": ("rbc12", {"patient_pattern": r"(\d+)_\d+_\d+"}, {"default": 96, "paper": 80}),
    # Of 28 px: the least size is larger still, and validation images prefer it to 96 px.
    "pneumoniamnist": ("pneumoniamnist/pneumoniamnist.npz", {}, {"default": 64, "paper": 64}),
}
# Passes that take at most two minutes of two cores, decoding and scoring included. The paper's recipe sees
# each image three times a pass, so it gets about as many minutes, not as many passes.
EPOCHS = {"fundus_eye4": 20, "rbc12": 9, "pneumoniamnist": 10}
PAPER_EPOCHS = {"fundus_eye4": 12, "rbc12": 6, "pneumoniamnist": 7}
SIZE = 64
NETWORK = "ath-m"  # of all but the paper's recipe: half the work of the default recipe's
N_FEW = 10  # training images that the rarest classes are cut to
FEW_CLASSES = 4


@dataclass(frozen=True)
class Run:
    """One training. few: the rarest classes of the set have N_FEW training images each. long: as the default recipe
    does it, with the method's change.
    """

    set: str
    method: str
    bits: int = 32
    seed: int = 0
    few: bool = False
    long: bool = False

    def reading(self) -> tuple[str, dict[str, str]]:
        """The set's path below the folder of data, and options that say how to read it."""
        return RECIPE_SETS[self.set][:2] if self.long else SETS[self.set]

    def settings(self) -> dict[str, Any]:
        """What it changes of its recipe, and the recipe."""
        method = METHODS[self.method]
        if self.long:
            size = RECIPE_SETS[self.set][2]["default"]
            return {"recipe": "default", "size": size, "bits": self.bits, "seed": self.seed} | method
        epochs = (PAPER_EPOCHS if method.get("recipe") == "paper" else EPOCHS)[self.set]
        # Wide framing, the default for grey images, takes more passes to pay.
        common = {"size": SIZE, "epochs": epochs, "framing": "narrow", "bits": self.bits, "seed": self.seed}
        return {"recipe": "default", "network": NETWORK} | common | method

    def digest(self) -> str:
        """Of every setting it is trained with, the recipe's own too: 12 hexadecimal digits."""
        settings = json.dumps(asdict(recipe_settings(**self.settings())), sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()[:12]


LOSS_METHODS: dict[str, dict[str, Any]] = {
    "paper": {"recipe": "paper", "network": "ath-s"},
    "triplet + CE": {"loss": "batch-triplet-class"},
    "CE": {"loss": "class"},
    "DSH": {"loss": "contrastive"},
    "DPSH": {"loss": "dpsh"},
    "DTSH": {"loss": "dtsh"},
    "HashNet": {"loss": "hashnet"},
    "DCH": {"loss": "dch"},
    "GreedyHash": {"loss": "greedyhash"},
    "CSQ": {"loss": "csq"},
    "DPN": {"loss": "dpn"},
    "OrthoHash": {"loss": "orthohash"},
    "ours": {},
}
ABLATIONS: dict[str, dict[str, Any]] = {  # names of variants.py
    "no attention": {"network": "no-attention"},
    "attention as the paper's": {"network": "paper-attention"},
    "attention, mean only": {"network": "mean-attention"},
    "attention, maximum only": {"network": "maximum-attention"},
    "class layer on features": {"network": "class-on-features", "loss": "class-of-network"},
    "class layer on angles": {"loss": "class-on-angles"},
    "class layer starts at random": {"loss": "random-start"},
    "no class layer": {"loss": "no-class"},
    "no triplets": {"loss": "no-triplets"},
    "triplets as the paper's": {"loss": "paper-triplets"},
    "triplets on tanh": {"loss": "bounded-triplets"},
    "one margin for all classes": {"loss": "equal-margins"},
    "no mean of weights": {"average": 0.0},
    "a second block in two stages": {"network": "ath-l"},
}
ABLATIONS_ON_ALL = (
    "no mean of weights",
    "no triplets",
    "one margin for all classes",
    "no attention",
    "class layer starts at random",
    "attention, mean only",
    "a second block in two stages",
)
LONG_ABLATIONS: dict[str, dict[str, Any]] = {
    "no mean of weights": ABLATIONS["no mean of weights"],
    "no triplets": ABLATIONS["no triplets"],
    "no second block": {"network": "ath-m"},
}
METHODS = LOSS_METHODS | ABLATIONS | LONG_ABLATIONS


def losses() -> Iterator[Run]:
    """Every loss at 32 bits; ours first, for the others are held against it."""
    for seed in range(3):
        for method in dict.fromkeys(("ours", *LOSS_METHODS)):
            for name in SETS:
                yield Run(name, method, seed=seed)


def lengths() -> Iterator[Run]:
    """Ours, the paper's recipe and the best of the others at four code lengths."""
    for bits in (32, 16, 48, 64):
        for seed in range(5):
            for method in ("ours", "paper", "GreedyHash"):
                for name in SETS:
                    yield Run(name, method, bits, seed)


def few() -> Iterator[Run]:
    """Every loss where the rarest classes are very rare."""
    for seed in range(3):
        for method in LOSS_METHODS:
            yield Run("rbc12", method, seed=seed, few=True)


def ablations() -> Iterator[Run]:
    """Ours with one thing changed: everything on one set, and what changes little there on the others too."""
    for seed in range(3):
        for method in ("ours", *ABLATIONS):
            yield Run("rbc12", method, seed=seed)
    for seed in range(3):
        for method in ABLATIONS_ON_ALL:
            for name in SETS:
                yield Run(name, method, seed=seed)


def long() -> Iterator[Run]:
    """The default recipe without what gains little in short runs."""
    for seed in range(5):
        for name in reversed(SETS):
            for method in LONG_ABLATIONS:
                yield Run(name, method, seed=seed, long=True)


PARTS = {"losses": losses, "few": few, "ablations": ablations, "lengths": lengths, "long": long}
