"""Makes golden archives, with the version of athsearch whose format they keep: python tests/golden/make.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from athsearch import Archive, Encoder, open_source
from athsearch.demo.phantoms import write_phantoms
from athsearch.model.checkpoint import ModelDescription, tensors_of
from athsearch.model.network import NETWORKS
from athsearch.preprocessing import Preprocessing

PHANTOMS = Path("/tmp/phantoms")  # stands in the catalogue as the root of the sources


def main(folder: Path) -> None:
    """Twenty phantoms in two segments, with ages and eyes, under the codes of a network that was never trained."""
    source = open_source(write_phantoms(PHANTOMS, n_images=20, seed=1, size=64))
    preprocessing = Preprocessing(size=64)
    torch.manual_seed(1)
    network = NETWORKS["ath-s"](64, 36, len(source.labels))
    squares = np.stack([preprocessing.square(source.pixels(item)) for item in source.items])
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            part.momentum = None  # running statistics are those of the images below
    with torch.no_grad():
        network.train()(torch.from_numpy(preprocessing.normalise(squares)))
    description = ModelDescription("ath-s", 36, source.labels, preprocessing)
    encoder = Encoder(tensors_of(network), description, "cpu")
    probes = encoder._make_probes()
    encoder._probes = {"logits": probes["logits"][:1], "jpeg.0": probes["jpeg.0"]}  # one of four: the file stays small
    with Archive.create(folder / "archive", encoder) as archive:
        archive.add(source.divided({"train": 0.6, "test": 0.4}).split("train"))
        archive.add(source.divided({"train": 0.6, "test": 0.4}))
        archive.delete([2])
        archive.build_index("distinct")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
