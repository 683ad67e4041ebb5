"""The command device."""

from __future__ import annotations

from typing import Any

import click

from .. import _scan
from ..gpus import Gpus, find_gpus, free_bytes
from .common import json_option, print_json


@click.command()
@json_option
def device(as_json: bool) -> None:
    """Say what searches can run on here: this processor's kernels, and the GPUs.

    \b
    Example:
      athsearch device --json
    """
    gpus = find_gpus()
    facts: dict[str, Any] = {
        "cpu": {"kernel": _scan.selected_kernel(), "available": _scan.kernel_names()},
        "gpus": [_facts(gpus, number) for number in range(len(gpus.devices))],
        "gpu_reason": gpus.reason,
        "cuda_driver": gpus.driver,
        "cuda_runtime": gpus.runtime,
    }
    if as_json:
        print_json(facts)
        return
    click.echo(f"cpu    kernel {facts['cpu']['kernel']} (available: {', '.join(facts['cpu']['available'])})")
    for gpu in facts["gpus"]:
        free = "unknown" if gpu["free_bytes"] is None else f"{gpu['free_bytes'] / 1e9:.1f}"
        unusable = "" if gpu["reason"] is None else f"; not usable: {gpu['reason']}"
        click.echo(
            f"gpu {gpu['device']}  {gpu['name']}, compute capability {gpu['compute_capability']}, "
            f"{gpu['multiprocessors']} multiprocessors, {free} of {gpu['memory_bytes'] / 1e9:.1f} GB free{unusable}"
        )
    if gpus.reason is not None:
        click.echo(f"gpu    none: {gpus.reason}")
    if gpus.runtime is not None:
        click.echo(f"cuda   runtime {gpus.runtime}, driver {gpus.driver or 'none'}")


def _facts(gpus: Gpus, number: int) -> dict[str, Any]:
    reason = gpus.why_not(number)
    free = free_bytes(number) if reason is None else None
    return {"device": number, **gpus.devices[number], "free_bytes": free, "reason": reason}
