"""Loads TAEF1's halves from published files: madebyollin's, or diffusers' in one file or folder."""

from __future__ import annotations

from pathlib import Path

import torch

from ..models.taef1 import TinyDecoder, TinyEncoder
from .detect import require
from .files import find
from .install import install
from .source import open_weights
from .state import read_state


def load_taef1_decoder(
    name: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> TinyDecoder:
    """TAEF1's decoder from `taef1_decoder.safetensors` or diffusers' form.

    Raises:
        ModelNotFoundError: nothing there.
        CheckpointError: damaged, or something else; the message says what.
    """
    with torch.device("meta"):
        decoder = TinyDecoder()
    _fill(decoder, name, "taef1_decoder", dtype, device)
    return decoder


def load_taef1_encoder(
    name: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> TinyEncoder:
    """TAEF1's encoder; arguments and errors as `load_taef1_decoder`."""
    with torch.device("meta"):
        encoder = TinyEncoder()
    _fill(encoder, name, "taef1_encoder", dtype, device)
    return encoder


def _fill(
    network: torch.nn.Module,
    name: str | Path,
    role: str,
    dtype: torch.dtype,
    device: torch.device | str,
) -> None:
    file = open_weights(find(name), role)
    state = read_state(file, require(file, role))
    install(network, state, file.path, dtype=dtype, device=device, pack=False)
