"""The folder of a training run: its state after every epoch, so that it can go on, and its history to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import CheckpointError
from .files import replacing
from .model.checkpoint import digest_of

FORMAT = 2
State = dict[str, dict[str, Tensor]]  # group -> name -> tensor


class RunFolder:
    """A folder with weights.safetensors, history.json, curves.png and, until the run ends, state.safetensors.

    identity: what the run is made of, plain values; a folder that holds a run with another identity is refused, and one
    with weights that no run wrote there, an archive's above all, for they may be the only ones that make its codes.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.weights, self.history, self.curves = (
            path / name for name in ("weights.safetensors", "history.json", "curves.png")
        )
        self._state = path / "state.safetensors"
        self._path = path
        self._identity = json.loads(json.dumps(identity))
        if (path / "catalogue.sqlite").exists():
            raise CheckpointError(f"{path} is an archive, whose weights a run would replace; choose another folder")
        if self.weights.exists() and not self.history.exists():
            raise CheckpointError(
                f"{path} holds weights and no history of the run that wrote them; choose another folder"
            )
        path.mkdir(parents=True, exist_ok=True)

    def is_finished(self) -> bool:
        """Whether the run came to its end. Raises CheckpointError if the folder holds another run."""
        if not self.history.exists():
            return False
        try:
            history = json.loads(self.history.read_text(encoding="utf-8"))
            identity, finished = dict(history["run"]), bool(history["finished"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._unusable(self.history, str(error)) from error
        self._compare(identity)
        return finished and self.weights.exists()

    def write_history(self, epochs: list[dict[str, Any]], finished: bool, summary: Mapping[str, Any]) -> None:
        """history.json: what the run is, how it stands, and a report for every epoch."""
        content = {"finished": finished, "run": self._identity, "summary": dict(summary), "epochs": epochs}
        _write(self.history, json.dumps(content, indent=1).encode())

    def save(self, state: State, notes: Mapping[str, Any]) -> None:
        """The state after an epoch; a crash at any moment leaves this one or the one before."""
        tensors = {
            f"{group}/{name}": tensor.contiguous() for group, part in state.items() for name, tensor in part.items()
        }
        about = json.dumps({"format": FORMAT, "run": self._identity, "notes": dict(notes), "sha256": _digest(tensors)})
        _write(self._state, save(tensors, {"athsearch": about}))

    def load(self) -> tuple[State, dict[str, Any]] | None:
        """What `save` wrote last, or None. Raises CheckpointError if it cannot be used or belongs to another run."""
        if not self._state.exists():
            return None
        try:
            with safe_open(self._state, framework="pt") as file:
                about = json.loads((file.metadata() or {})["athsearch"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            if about["format"] != FORMAT:
                raise self.unusable_state(f"its format is {about['format']}, this athsearch reads {FORMAT}")
            if about["sha256"] != _digest(tensors):
                raise self.unusable_state("damaged: its tensors are not those it was written with")
            state: State = {}
            for key, tensor in tensors.items():
                group, name = key.split("/", 1)
                state.setdefault(group, {})[name] = tensor
            identity, notes = dict(about["run"]), dict(about["notes"])
        except (SafetensorError, ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            raise self.unusable_state(str(error)) from error
        self._compare(identity)
        return state, notes

    def unusable_state(self, reason: str) -> CheckpointError:
        """The error of a state that a run cannot go on from."""
        return self._unusable(self._state, " ".join(reason.split()))

    def drop_state(self) -> None:
        """A finished run needs its state no more."""
        self._state.unlink(missing_ok=True)

    def _compare(self, there: Mapping[str, Any]) -> None:
        for name, here in self._identity.items():
            if there.get(name) != here:
                raise CheckpointError(
                    f"{self._path} holds a run with another {name}: {there.get(name)} there, {here} now; "
                    "choose another folder, or delete that one to start again"
                )

    def _unusable(self, path: Path, reason: str) -> CheckpointError:
        return CheckpointError(f"{path} cannot be used ({reason}); delete it to start the run again")


def flatten_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors an optimiser keeps for each parameter, by "<number of parameter>.<name>"."""
    return {
        f"{number}.{name}": tensor
        for number, kept in optimiser.state_dict()["state"].items()
        for name, tensor in kept.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `flatten_optimiser`; rates and other settings stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return digest_of("state", {name: tensor.cpu().numpy() for name, tensor in tensors.items()})


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
