"""A training between two of its steps, as one file: weights, AdamW's averages, and whose run it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import CheckpointError, InputError
from ..partial import whole_file
from .adapters import Adapters

NAME = "state.safetensors"
AVERAGES = ("exp_avg", "exp_avg_sq")


def save_state(
    path: Path,
    adapters: Adapters,
    optimizer: torch.optim.AdamW,
    step: int,
    about: Mapping[str, Any],
) -> None:
    """Write the state after `step` steps; an earlier one stays until the new one is on the disk.

    Raises:
        InputError: it can't be written.
    """
    tensors: dict[str, Tensor] = {}
    for (name, tensor), parameter in zip(
        adapters.state().items(), adapters.parameters(), strict=True
    ):
        tensors[name] = tensor.cpu()
        for average in AVERAGES:
            if average in optimizer.state[parameter]:
                tensors[f"{average}.{name}"] = optimizer.state[parameter][average].cpu()
    header = {"kontext_state": json.dumps({"step": step, **about})}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, sync=True) as file:
            file.write(save({name: t.contiguous() for name, t in tensors.items()}, header))
    except OSError as error:
        raise InputError(
            f"can't write the training's state {path} ({error}); free some space. The last one that "
            "was written is whole: the same command goes on from it"
        ) from error


def load_state(
    path: Path, adapters: Adapters, optimizer: torch.optim.AdamW, about: Mapping[str, Any]
) -> int:
    """Take up a state; gives the steps that are done.

    Raises:
        CheckpointError: damaged, or of other layers.
        InputError: of a run with other settings, examples or model; says which.
    """
    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {})["kontext_state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: can't be read as a training's state ({error}); start anew, or give another "
            "folder for the run"
        ) from error
    step = int(found.pop("step"))
    _same(path, found, json.loads(json.dumps(about)))
    adapters.load(tensors)
    parameters: Sequence[Tensor] = adapters.parameters()
    for name, parameter in zip(adapters.state(), parameters, strict=True):
        kept = {
            a: tensors[f"{a}.{name}"].to(parameter) for a in AVERAGES if f"{a}.{name}" in tensors
        }
        if kept:
            optimizer.state[parameter] = {"step": torch.tensor(float(step)), **kept}
    return step


def _same(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    flat = [{**run.get("settings", {}), **{k: v for k, v in run.items() if k != "settings"}}
            for run in (then, now)]  # fmt: skip
    names = dict.fromkeys([*flat[0], *flat[1]])
    other = [name for name in names if flat[0].get(name) != flat[1].get(name)]
    if other:
        told = "; ".join(f"{n} was {flat[0].get(n)!r}, is {flat[1].get(n)!r}" for n in other[:6])
        raise InputError(
            f"the training in {path.parent} has other settings ({told}). Give those again to go on "
            "with it, or start anew, or give another name"
        )
