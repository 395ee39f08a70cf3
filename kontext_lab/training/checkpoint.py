"""Training state on disk: written whole or not at all, and read back to the step."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from kontext_core.errors import CheckpointError
from kontext_core.partial import whole_file


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write `state` beside `path` first, then move it there, so that the old one survives a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, sync=True) as file:
        torch.save(state, file)


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote.

    Raises:
        CheckpointError: no such file, or not one of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: can't read the training state ({error})") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected a training state, found {type(state).__name__}")
    return state
