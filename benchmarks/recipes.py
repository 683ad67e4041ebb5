"""How well do the recipes retrieve on real images? The README's commands on three public sets, the result as JSON.

    python benchmarks/recipes.py DATA [--runs FOLDER] [--seeds 0,1,2] [--sets rbc12] [--recipes default]

DATA holds the sets of SETS. Every seed of a recipe is trained on a set's training images, and its answers to the test
images are scored, by Hamming distance and, as the paper's code ranks, by the Euclidean distance of logits ("l2": macro
precision). What is finished in FOLDER is not done again; results/recipes.json is written anew after every run, and a
line of other settings than those of now is replaced.
Two of these at once, with other sets and OMP_NUM_THREADS=1, use two cores better than one with two threads.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from machine import cpu_name

from athsearch.data import open_source
from athsearch.encoder import Encoder
from athsearch.files import replacing
from athsearch.recipes import TrainingSettings, recipe_settings

sys.path.insert(0, str(Path(__file__).parent / "quality"))
from measure import macro_precision, nearest_by_l2
from runs import RECIPE_SETS as SETS

RESULTS = Path(__file__).parent / "results" / "recipes.json"
RECIPES: dict[str, dict[str, int]] = {"default": {}, "paper": {"epochs": 12}}  # and what is changed of them
BITS = 32


def main() -> None:
    """Runs what is missing and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("recipe-runs"))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--sets", default=",".join(SETS), help="only these")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="only these")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for recipe in arguments.recipes.split(","):
        for seed in seeds:
            for name in arguments.sets.split(","):
                measure(arguments.data, arguments.runs, name, recipe, seed)


def measure(data: Path, runs: Path, name: str, recipe: str, seed: int) -> None:
    """One run from training to scores, unless its line is among the results already."""
    path, reading, sizes = SETS[name]
    settings = recipe_settings(recipe, bits=BITS, size=sizes[recipe], seed=seed, **RECIPES[recipe])
    identity = {"set": name, "recipe": recipe, "seed": seed}
    known_by = identity | {"reading": reading, "settings": dataclasses.asdict(settings)}
    if any(known_by.items() <= result.items() for result in known_results()):
        return
    folder = runs / f"{name}-{recipe}-{seed}"
    options = [word for option, value in reading.items() for word in (f"--{option.replace('_', '-')}", value)]
    source = [str(data / path), *options]
    cpu_before_s = cpu_s()
    training = athsearch("train", *source, "--out", str(folder), *words_of(settings))
    train_cpu_s = cpu_s() - cpu_before_s
    epochs = json.loads((folder / "history.json").read_text())["epochs"]
    train_s = sum(epoch["seconds"] for epoch in epochs)  # that of an interrupted run too
    archive = str(folder / "archive")
    athsearch("index", archive, *source, "--split", "train", "--weights", str(folder / "weights.safetensors"))
    scores = athsearch("evaluate", archive, *source, "--split", "test")
    result = {
        **known_by,
        **{key: scores[key] for key in ("k", "n_queries", "n_cases", "macro", "micro", "chance", "majority", "health")},
        "per_class": {label: values["precision"] for label, values in scores["per_class"].items()},
        "l2": precision_by_l2(folder / "weights.safetensors", data / path, reading),
        "validation": training["validation_macro_precision_at_10"],
        "best_epoch": training["best_epoch"],
        "train_s": round(train_s, 1),
        "train_cpu_s": round(train_cpu_s, 1),
        "threads": torch.get_num_threads(),
        "machine": f"{cpu_name()}, {len(os.sched_getaffinity(0))} processors, torch {torch.__version__}",
    }
    add_result(result, identity)
    print(name, recipe, seed, f"macro P@10 {scores['macro']['precision']:.3f} after {train_s:.0f} s", flush=True)


def precision_by_l2(weights: Path, path: Path, reading: dict[str, str]) -> float:
    """Macro P@10 where the nearest cases are those with the nearest logits."""
    encoder, source = Encoder.load(weights, "cpu"), open_source(path, **reading)
    parts = source.split("train"), source.split("test")
    logits = [encoder.logits(part) for part in parts]
    labels = [[str(item.label) for item in part.items] for part in parts]
    return macro_precision(nearest_by_l2(*logits), (labels[0], labels[1]))


def words_of(settings: TrainingSettings) -> list[str]:
    """What `athsearch train` is told, so that it trains with these settings."""
    told = {name: str(getattr(settings, name)) for name in ("recipe", "seed", "bits", "size", "epochs")}
    return [word for name, value in told.items() for word in (f"--{name}", value)]


def known_results() -> list[dict[str, Any]]:
    """As they are now: another of these programs may have added some."""
    known: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return known


def add_result(result: dict[str, Any], identity: dict[str, Any]) -> None:
    """In place of the one with this identity, if there is one. Others of these programs wait."""
    folder = os.open(RESULTS.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        others = [known for known in known_results() if not identity.items() <= known.items()]
        with replacing(RESULTS) as temporary:
            temporary.write_text(json.dumps([*others, result], indent=1) + "\n")
    finally:
        os.close(folder)


def cpu_s() -> float:
    """Of the commands that have ended. An interrupted training that goes on counts from there."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def athsearch(*words: str) -> dict[str, Any]:
    """What a command prints with --json; its progress goes to standard error."""
    done = subprocess.run([sys.executable, "-m", "athsearch", *words, "--json"], stdout=subprocess.PIPE, check=True)
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


if __name__ == "__main__":
    main()
