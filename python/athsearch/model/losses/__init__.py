"""The losses that networks are trained with, by name. To add one: a class in a file here, and its line in LOSSES."""

from __future__ import annotations

from .base import Loss
from .centres import CSQ, DPN, OrthoHash
from .classes import CrossEntropy, GreedyHash, SignTriplet
from .pairs import DCH, DPSH, Contrastive, HashNet
from .triplets import DTSH, BatchTripletCrossEntropy, TripletCrossEntropy

LOSSES: dict[str, type[Loss]] = {
    "triplet-class": TripletCrossEntropy,
    "batch-triplet-class": BatchTripletCrossEntropy,
    "class": CrossEntropy,
    "contrastive": Contrastive,
    "dpsh": DPSH,
    "dtsh": DTSH,
    "hashnet": HashNet,
    "dch": DCH,
    "greedyhash": GreedyHash,
    "csq": CSQ,
    "dpn": DPN,
    "orthohash": OrthoHash,
    "sign-triplet": SignTriplet,
}
