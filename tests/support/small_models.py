"""Small random networks, alive on purpose: every weight is drawn, so outputs are of order one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kontext_core.config import AutoEncoderParams, FluxParams, TextEncoderParams
from kontext_core.latents import FLUX_LATENT
from kontext_core.models.autoencoder import AutoEncoder
from kontext_core.models.flux import Flux
from kontext_core.models.text import FIRST_WORD, TextEncoder

WORDS = ("put", "the", "red", "blue", "star", "circle", "on", "under", "image", "one", "two", ".")


def randomise(network: nn.Module, seed: int) -> None:
    """Draw every parameter: fan-in scaled matrices, norm gains around 1, biases around 0.

    Fresh networks have norm gains of exactly 1 and biases of 0, which would hide a swap of either.
    """
    generator = torch.Generator().manual_seed(seed)
    gains = {
        id(parameter)
        for module in network.modules()
        if "Norm" in type(module).__name__
        for name, parameter in module.named_parameters(recurse=False)
        if name in ("weight", "scale")
    }
    with torch.no_grad():
        for parameter in network.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if id(parameter) in gains:
                drawn = 1 + 0.2 * drawn
            elif parameter.ndim > 1:
                drawn = drawn / parameter[0].numel() ** 0.5
            else:
                drawn = 0.2 * drawn
            parameter.copy_(drawn)
    network.eval().requires_grad_(False)


def flux_params(**changes: Any) -> FluxParams:
    """A two-plus-two-block transformer with three heads of 32 channels."""
    values: dict[str, Any] = {
        "vec_in_dim": 24,
        "context_in_dim": 40,
        "hidden_size": 96,
        "num_heads": 3,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": (8, 12, 12),
    }
    return FluxParams(**{**values, **changes})


def make_flux(seed: int = 0, **changes: Any) -> Flux:
    """Small transformer; keywords go to `FluxParams`."""
    model = Flux(flux_params(**changes), resolutions=((64, 64), (48, 80), (80, 48)))
    randomise(model, seed)
    return model


def make_autoencoder(seed: int = 0, **changes: Any) -> AutoEncoder:
    """Small autoencoder, 8 pixels per cell and 16 channels as the published one."""
    values: dict[str, Any] = {"ch": 8, "norm_groups": 4, "num_res_blocks": 1}
    autoencoder = AutoEncoder(AutoEncoderParams(**{**values, **changes}))
    randomise(autoencoder, seed)
    return autoencoder


def make_text_encoder(seed: int = 0, **changes: Any) -> TextEncoder:
    """Small text encoder whose features fit `make_flux`."""
    values: dict[str, Any] = {
        "vocab_size": FIRST_WORD + len(WORDS),
        "width": 32,
        "num_heads": 2,
        "out_dim": 40,
        "vec_dim": 24,
        "min_length": 12,
        "max_length": 48,
    }
    encoder = TextEncoder(TextEncoderParams(**{**values, **changes}), WORDS)
    randomise(encoder, seed)
    return encoder


def write_model_folder(folder: Path, seed: int = 0) -> Path:
    """A model folder as `load_model` and the others read it."""
    folder.mkdir(parents=True, exist_ok=True)
    flux, autoencoder = make_flux(seed), make_autoencoder(seed)
    encoder = make_text_encoder(seed)
    networks = {"transformer": flux, "autoencoder": autoencoder, "text_encoder": encoder}
    config: dict[str, Any] = {name: vars(network.params) for name, network in networks.items()}
    config["latent_format"] = vars(FLUX_LATENT)
    config["resolutions"] = flux.resolutions
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(WORDS), encoding="utf-8")
    for name, network in networks.items():
        save_file(network.state_dict(), folder / f"{name}.safetensors")
    return folder


def draw(seed: int, *shape: int) -> Tensor:
    """Standard normal float32 numbers that depend on nothing but the seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
