"""One run of the study in a process of its own: trains, scores, prints JSON.

python benchmarks/quality/measure.py DATA LOGITS.npz '{"set": "rbc12", "method": "ours", "bits": 32, "seed": 0}'
"""

from __future__ import annotations

import json
import resource
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import variants  # noqa: F401 (enters its networks and losses in the registries)
from runs import FEW_CLASSES, METHODS, N_FEW, Run

from athsearch.codes import Codes
from athsearch.data import Source, open_source
from athsearch.encoder import Encoder
from athsearch.evaluation import evaluate
from athsearch.index import FlatIndex
from athsearch.model.checkpoint import build_network
from athsearch.recipes import recipe_settings
from athsearch.training import EpochReport, train
from athsearch.types import AnyArray, Floats

K = 10
DEPTH = 200  # of the answers that are re-ranked
N_ORDERS = 20  # of the database, over which re-ranked answers are meant


def main() -> None:
    """See the head of the file."""
    data, kept, described = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    run = Run(**described)
    path, reading = run.reading()
    source = open_source(data / path, **reading)
    if run.few:
        source = with_few(source, run.seed)
    settings = recipe_settings(**run.settings())
    reports: list[EpochReport] = []
    encoder = train(source, settings, progress=reports.append, device="cpu")
    trained_s = cpu_s()
    database, queries = source.split("train"), source.split("test")
    labels = [str(item.label) for item in database.items], [str(item.label) for item in queries.items]
    logits = encoder.logits(database), encoder.logits(queries)
    np.savez_compressed(kept, database=logits[0], queries=logits[1], labels=labels[0], query_labels=labels[1])
    best = reports[reports[-1].best_epoch - 1]
    plain = replace(encoder.description, preprocessing=replace(encoder.description.preprocessing, mirrors="none"))
    alone = Encoder(encoder.tensors, plain, "cpu")
    result: dict[str, Any] = {
        **asdict(run),
        "settings": run.digest(),
        **scores(logits, labels),
        "without_mirror_images": scores((alone.logits(database), alone.logits(queries)), labels)["hamming"][
            "precision"
        ],
        "validation": best.validation,
        "best_epoch": best.epoch,
        "n_epochs": len(reports),
        "train_cpu_s": round(trained_s, 1),
        "cpu_s": round(cpu_s(), 1),
        "threads": torch.get_num_threads(),
    }
    if METHODS[run.method].get("recipe") == "paper":
        result["batch_statistics"] = batch_statistics(encoder, database, queries, labels)
    print(json.dumps(result))


def with_few(source: Source, seed: int) -> Source:
    """The source with N_FEW training images of each of its rarest classes."""
    sizes = Counter(item.label for item in source.items if item.split == "train")
    rarest = sorted(sizes, key=lambda label: (sizes[label], str(label)))[:FEW_CLASSES]
    rng = np.random.default_rng([seed, N_FEW])
    dropped: set[str] = set()
    for label in rarest:
        members = [item.source for item in source.items if item.split == "train" and item.label == label]
        dropped.update(rng.permutation(sorted(members))[N_FEW:].tolist())
    return replace(source, items=tuple(item for item in source.items if item.source not in dropped))


def scores(logits: tuple[Floats, Floats], labels: tuple[list[str], list[str]]) -> dict[str, Any]:
    """Macro figures by Hamming distance, by the published float L2, and re-ranked; per class; health; chance."""
    codes = [Codes.from_logits(part) for part in logits]
    found = evaluate(codes[0], labels[0], codes[1], labels[1], K, n_resamples=0)
    return {
        "hamming": asdict(found.macro),
        "micro": asdict(found.micro),
        "chance": asdict(found.chance),
        "majority": asdict(found.majority),
        "l2": macro_precision(nearest_by_l2(*logits), labels),
        "asymmetric": reranked_precision(codes[0], codes[1], logits[1], labels),
        "per_class": {label: values.precision for label, values in found.per_class.items()},
        "health": asdict(found.health),
    }


def reranked_precision(database: Codes, queries: Codes, logits: Floats, labels: tuple[list[str], list[str]]) -> float:
    """Mean over random orders of the database: equal distances and scores go by row, and rows may go by class."""
    rng, found = np.random.default_rng(0), []
    for _ in range(N_ORDERS):
        order = rng.permutation(len(database))
        index = FlatIndex(database[order])
        reranked = index.search(queries, K, logits=logits, rerank="asymmetric", depth=DEPTH)
        found.append(macro_precision(reranked.dense(K)[0], ([labels[0][row] for row in order], labels[1])))
    return float(np.mean(found))


def nearest_by_l2(database: Floats, queries: Floats) -> AnyArray:
    """int64 [q, K]: rows by squared distance of logits, then by row."""
    to = (queries.astype(np.float64) ** 2).sum(axis=1)[:, None] + (database.astype(np.float64) ** 2).sum(axis=1)
    to -= 2 * queries.astype(np.float64) @ database.astype(np.float64).T
    rows: AnyArray = np.argsort(to, axis=1, kind="stable")[:, :K]
    return rows


def macro_precision(rows: AnyArray, labels: tuple[list[str], list[str]]) -> float:
    """Mean over classes of the mean share of rows with the query's label."""
    asked = np.array(labels[1])
    precision = (np.array(labels[0])[rows] == asked[:, None]).mean(axis=1)
    return float(np.mean([precision[asked == label].mean() for label in sorted(set(labels[1]))]))


def batch_statistics(
    encoder: Encoder, database: Source, queries: Source, labels: tuple[list[str], list[str]]
) -> dict[str, dict[str, float]]:
    """The published way to make codes, BatchNorm on statistics of batches of ten: of one class each, and shuffled."""
    network = build_network(encoder.description, encoder.tensors).train()
    rng = np.random.default_rng(0)
    squares = encoder.squares(database), encoder.squares(queries)

    def logits_of(part: int, is_sorted: bool) -> Floats:
        order = np.argsort(labels[part], kind="stable") if is_sorted else rng.permutation(len(labels[part]))
        out = np.empty((len(order), encoder.bits), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), 10):
                rows = order[start : start + 10]
                batch = torch.from_numpy(encoder.description.preprocessing.normalise(squares[part][rows]))
                out[rows] = network(batch).logits.numpy()
        return out

    found = {}
    for name, is_sorted in (("sorted by class", True), ("shuffled", False)):
        logits = logits_of(0, is_sorted), logits_of(1, is_sorted)
        codes = [Codes.from_logits(part) for part in logits]
        hamming = evaluate(codes[0], labels[0], codes[1], labels[1], K, n_resamples=0).macro.precision
        found[name] = {"l2": macro_precision(nearest_by_l2(*logits), labels), "hamming": hamming}
    return found


def cpu_s() -> float:
    """Seconds of processor time so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
