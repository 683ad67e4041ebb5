"""The command info."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from ..archive.archive import Archive
from ..errors import AthsearchError
from ..model.checkpoint import read_weights
from .common import json_option, print_json, printable, report_failures, say


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def info(path: Path, as_json: bool) -> None:
    """Say what PATH is: an archive, a weights file, or the folder of a training run.

    \b
    Example:
      athsearch info archive
    """
    if path.is_dir() and (path / "catalogue.sqlite").exists():
        facts = _archive_facts(path)
    elif path.is_dir() and (path / "weights.safetensors").exists():
        facts = _weights_facts(path / "weights.safetensors")
    elif path.is_file():
        facts = _weights_facts(path)
    else:
        reason = "neither an archive nor a finished training run" if path.exists() else "no such file or folder"
        raise AthsearchError(f"{path}: {reason}")
    if as_json:
        print_json(facts)
        return
    if failed := facts.get("unreadable"):
        facts["unreadable"] = len(failed)
    _print_facts(facts)
    if failed:
        say(f"\n{len(failed):,} images could not be used when they were last looked at")
        report_failures([(f"{image['root']}/{image['source']}", image["reason"]) for image in failed])


def _print_facts(facts: dict[str, Any]) -> None:
    model = facts.pop("model", None)
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
        click.echo(printable(f"{name:{width}}  {_plain(value)}"))
    if model:
        click.echo("\nmodel")
        _print_facts(model)


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def _archive_facts(path: Path) -> dict[str, Any]:
    with Archive.open(path) as archive:
        return {
            "archive": str(path),
            "format": archive.format,
            "bytes": _bytes_below(path),
            "cases": archive.n_cases,
            **({"without_record": n_alone} if (n_alone := archive.n_codes_alone) else {}),
            "deleted": archive.n_deleted,
            "labels": {label or "(none)": count for label, count in archive.counts().items()},
            "columns": archive.columns,
            "bits": archive.bits,
            "segments": archive.n_segments,
            "index": str(archive.index_plan),
            "unreadable": [
                {"root": root, "source": source, "reason": reason} for root, source, reason in archive.unreadable
            ],
            "model": _weights_facts(path / "weights.safetensors") if archive.model_id else None,
        }


def _bytes_below(path: Path) -> int:
    n_bytes = 0
    for file in path.rglob("*"):
        with suppress(FileNotFoundError):  # a writer at work
            n_bytes += file.stat().st_size * file.is_file()
    return n_bytes


def _weights_facts(path: Path) -> dict[str, Any]:
    weights = read_weights(path)
    description = weights.description
    return {
        "weights": str(path),
        "model_id": weights.model_id,
        "network": description.network,
        "parameters": sum(tensor.size for name, tensor in weights.tensors.items() if _is_learned(name)),
        "bits": description.bits,
        "classes": list(description.classes),
        "preprocessing": description.preprocessing.to_dict(),
        "recipe": description.recipe,
        "training": dict(description.training),
        "written_with": dict(weights.versions),
    }


def _is_learned(name: str) -> bool:
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
