"""The command device."""

from __future__ import annotations

from typing import Any

import click

from .. import _scan
from ..gpus import find_gpus
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
        "gpus": [{"device": number, **gpu, "kernel": "popcount"} for number, gpu in enumerate(gpus.devices)],
        "gpu_reason": gpus.reason,
        "cuda_driver": gpus.driver,
        "cuda_runtime": gpus.runtime,
    }
    if as_json:
        print_json(facts)
        return
    click.echo(f"cpu    kernel {facts['cpu']['kernel']} (available: {', '.join(facts['cpu']['available'])})")
    for gpu in facts["gpus"]:
        click.echo(
            f"gpu {gpu['device']}  {gpu['name']}, compute capability {gpu['compute_capability']}, "
            f"{gpu['multiprocessors']} multiprocessors, {gpu['free_bytes'] / 1e9:.1f} of "
            f"{gpu['memory_bytes'] / 1e9:.1f} GB free, kernel {gpu['kernel']}"
        )
    if gpus.reason is not None:
        click.echo(f"gpu    none: {gpus.reason}")
    if gpus.runtime is not None:
        click.echo(f"cuda   runtime {gpus.runtime}, driver {gpus.driver or 'none'}")
