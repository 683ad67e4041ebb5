"""From a folder of large JPEGs to committed codes, and from one image to its hits in an archive of a million cases.

    python benchmarks/bench_end_to_end.py [--images 400] [--cases 1000000]

Indexing is set beside reading, decoding and resizing the same files alone, with the same decoder and threads: what no
encoder could make faster. The networks are the published one at 256 px and the default at 96 px, with random weights;
the images are drawn, 2,000 px wide. Writes results/end-to-end.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from PIL import Image

from athsearch.archive.archive import Archive
from athsearch.archive.cases import NewCase
from athsearch.archive.catalogue import Catalogue
from athsearch.archive.segment import write_segment
from athsearch.codes import Codes
from athsearch.data import Source, open_source
from athsearch.encoder import N_AHEAD, Encoder
from athsearch.model.checkpoint import ModelDescription, tensors_of
from athsearch.model.network import NETWORKS
from athsearch.parallel import map_ahead
from athsearch.preprocessing import Preprocessing

RESULTS = Path(__file__).parent / "results" / "end-to-end.json"
NETWORKS_AND_SIZES = (("ath-s", 256), ("ath-m", 96))
ROUNDS = 3
N_QUERIES = 200


def main() -> None:
    """Measures both networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--cases", type=int, default=1_000_000)
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        source = draw_images(Path(folder) / "images", arguments.images)
        for name, size in NETWORKS_AND_SIZES:
            encoder = random_encoder(name, size)
            result = {"network": name, "size": size, **index(Path(folder), encoder, source)}
            result |= query(Path(folder) / f"million-{name}", encoder, source, arguments.cases)
            results.append(result)
            print(json.dumps(result), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": describe_machine(), "results": results}, indent=1) + "\n")


def draw_images(folder: Path, n_images: int) -> Source:
    """JPEGs of 2,000 x 1,500 px: smooth patterns with grain, some 600 kB each."""
    folder.mkdir()
    for number in range(n_images):
        rng = np.random.default_rng(number)
        smooth = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8)).resize((2000, 1500))
        grain = rng.integers(-12, 13, (1500, 2000, 1), np.int16)
        pixels = (np.asarray(smooth).astype(np.int16) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05d}.jpg", quality=88)
    return open_source(folder)


def random_encoder(name: str, size: int) -> Encoder:
    """An encoder that was never trained, on the CPU."""
    torch.manual_seed(0)
    description = ModelDescription(name, 64, ("a", "b"), Preprocessing(size=size))
    return Encoder(tensors_of(NETWORKS[name](size, 64, 2)), description, "cpu")


def index(folder: Path, encoder: Encoder, source: Source) -> dict[str, float]:
    """Images a second of `Archive.add` into a new archive, and of decoding and resizing alone; medians of turns."""
    preprocessing = encoder.description.preprocessing
    added, decoded = [], []
    for number in range(ROUNDS):
        begin = time.perf_counter()
        squares = map_ahead(
            lambda item: preprocessing.square(source.pixels(item, preprocessing.least_side)), source.items, N_AHEAD
        )
        n_squares = sum(1 for _ in squares)
        decoded.append(n_squares / (time.perf_counter() - begin))
        with Archive.create(folder / f"{encoder.description.network}-{number}", encoder) as archive:
            begin = time.perf_counter()
            n_added = archive.add(source).n_added
            added.append(n_added / (time.perf_counter() - begin))
        if n_added != len(source):
            raise RuntimeError(f"{n_added} of {len(source)} images were added")
    rates = {"indexed_per_s": statistics.median(added), "decoded_per_s": statistics.median(decoded)}
    return rates | {"indexed_by_decoded": rates["indexed_per_s"] / rates["decoded_per_s"]}


def query(path: Path, encoder: Encoder, source: Source, n_cases: int) -> dict[str, float]:
    """Milliseconds from an image's path to ten hits with their records, and of the parts."""
    with Archive.create(path, encoder) as archive:
        catalogue = Catalogue(path / "catalogue.sqlite", writable=True)
        words = np.random.default_rng(1).integers(0, 2**64, (n_cases, 1), np.uint64)
        segment = write_segment(path / "segments", [Codes(words, 64, encoder.model_id)], n_cases, 64, first_id=1)
        cases = [NewCase(f"{n}.jpg", n.to_bytes(32, "big"), str(n % 5)) for n in range(n_cases)]
        catalogue.add(str(path), segment, cases)
        catalogue.close()
        paths = [source.root / item.source for item in itertools.islice(itertools.cycle(source.items), N_QUERIES)]
        archive.search(paths[0])
        whole, encoding, searching = [], [], []
        for image in paths:
            begin = time.perf_counter()
            hits = archive.search(image)
            whole.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            codes = encoder.encode(image)
            encoding.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            again = archive.search(codes)
            searching.append(time.perf_counter() - begin)
            if hits != again or len(hits) != 10:
                raise RuntimeError("the same image found other cases")
    parts = {"query": whole, "encode": encoding, "search": searching}
    return {"n_cases": n_cases} | {
        f"{name}_ms_{label}": percentile(times, share) * 1e3
        for name, times in parts.items()
        for label, share in (("p50", 0.5), ("p99", 0.99))
    }


def percentile(times: Sequence[float], share: float) -> float:
    """The time that so large a share of the times does not exceed."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


if __name__ == "__main__":
    main()
