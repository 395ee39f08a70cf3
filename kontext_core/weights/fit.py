"""The one check whether stored weights make a network: for loading, `inspect` and `quantize` alike.

A file is refused for what is missing, misshapen or of a type that can't be computed with. What is
left over is harmless (training counters, a sampler's sigmas) and noted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..errors import CheckpointError
from ..models.autoencoder import AutoEncoder
from ..models.clip import ClipTextModel, clip_params
from ..models.flux import Flux
from ..models.t5 import T5Encoder, t5_params
from ..models.taef1 import TinyDecoder, TinyEncoder
from ..quant.types import is_packed
from .entry import shown, shown_list
from .sizes import autoencoder_params, flux_params

if TYPE_CHECKING:
    from .detect import Contents
    from .state import State, Weight

logger = logging.getLogger(__name__)

NUMBERS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def left_over(network: nn.Module, state: Mapping[str, Weight], source: Path) -> tuple[str, ...]:
    """Names in `state` that the network has no use for, sorted; they are logged too.

    Args:
        network: on any device; only names, shapes and number types are looked at.
        state: weights by parameter name.
        source: the file they come from, for messages.

    Raises:
        CheckpointError: missing or misshapen tensors, or numbers of a type that weights don't
            have; the first few are named.
    """
    wanted = network.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    surplus = sorted(state.keys() - wanted.keys())
    shared = [(key, value, state[key]) for key, value in wanted.items() if key in state]
    wrong = [
        f"{key} is {tuple(weight.shape)}, expected {tuple(value.shape)}"
        for key, value, weight in shared
        if tuple(weight.shape) != tuple(value.shape)
    ]
    strange = [
        f"{key} is {weight.kind}"
        for key, value, weight in shared
        if value.is_floating_point() and not _is_number(weight)
    ]
    problems = [
        f"{len(items)} {what} ({', '.join(items[:3])}{', ...' if len(items) > 3 else ''})"
        for what, items in (
            ("missing", missing),
            ("misshapen", wrong),
            ("stored as a type that weights don't have", strange),
        )
        if items
    ]
    if problems:
        raise CheckpointError(
            f"{source}: does not fit {type(network).__name__}: {'; '.join(problems)}. Expected a "
            "file with the published key names of this network, in bf16, fp16, float32, fp8 or as "
            "GGUF: download it again, or another version of it"
        )
    if surplus:
        logger.warning("%s: %s", source, note_of(surplus))
    return tuple(surplus)


def note_of(surplus: tuple[str, ...] | list[str]) -> str:
    """A sentence about what is left over."""
    return f"{len(surplus)} tensors don't belong to this network and were left out: " + shown_list(
        list(surplus)
    )


def blueprint(contents: Contents, state: State) -> nn.Module:
    """The network that a state is for, on the meta device, sizes read off the state.

    Raises:
        CheckpointError: a tensor that the sizes are read from is missing or misshapen.
    """
    with torch.device("meta"):
        if contents.role == "transformer":
            return Flux(flux_params(state))
        if contents.role == "autoencoder":
            return AutoEncoder(autoencoder_params(state))
        if contents.role == "t5":
            return T5Encoder(t5_params(state, state.path))
        if contents.role == "clip_l":
            return ClipTextModel(clip_params(state, state.path))
        if contents.role == "taef1_decoder":
            return TinyDecoder()
        if contents.role == "taef1_encoder":
            return TinyEncoder()
    raise ValueError(f"no network is made of role {shown(contents.role)}")


def _is_number(weight: Weight) -> bool:
    return (
        weight.kind in NUMBERS
        or is_packed(weight.kind)
        or (weight.kind == "I8" and weight.scale is not None)
    )
