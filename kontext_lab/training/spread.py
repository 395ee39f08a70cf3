"""Tensors that are spread over processes, and whole ones: from one to the other, and as checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate


def whole(state: Any) -> Any:
    """A state with every spread tensor put together; all processes have to call it."""
    if isinstance(state, DTensor):
        return state.full_tensor().detach()
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(value) for value in state)
    return state


def like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor spread as another one is; as it is where that one is whole."""
    if not isinstance(pattern, DTensor) or isinstance(tensor, DTensor):
        return tensor
    mesh = pattern.device_mesh
    everywhere = [Replicate()] * mesh.ndim
    made = DTensor.from_local(tensor.to(pattern.device), mesh, everywhere, run_check=False)
    return made.redistribute(placements=pattern.placements)


def spread_states(optimizer: torch.optim.Optimizer) -> None:
    """Spread what an optimizer has loaded from a checkpoint as its parameters are."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = like(value, parameter)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, the tensor's own memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
