"""Builds the networks from an embedded model's folder or from published files.

A model folder holds `config.json`, `vocab.json` and one safetensors file per network; a published
file holds one network under BFL's key names, and its sizes are read off its tensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import AutoEncoderParams, FluxParams, TextEncoderParams, params_from, read_config
from ..errors import CheckpointError
from ..latents import FLUX_LATENT, LatentFormat
from ..models.autoencoder import AutoEncoder
from ..models.flux import Flux
from ..models.text import TextEncoder
from ..resolutions import KONTEXT_RESOLUTIONS
from .files import fill, find, read_safetensors, strip_prefix

__all__ = ["load_autoencoder", "load_model", "load_text_encoders"]


def default_dtype(device: torch.device | str) -> torch.dtype:
    """float32 on the CPU, bfloat16 elsewhere."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16


def load_model(
    name: str | Path = "tiny",
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Flux:
    """The transformer of an embedded model, a model folder or a published .safetensors file.

    Args:
        name: "tiny" or a path.
        dtype: of the weights; None takes float32 on the CPU and bfloat16 elsewhere.
        device: where to put it.

    Raises:
        ModelNotFoundError: nothing there.
        CheckpointError: a file that is not a FLUX.1 transformer.
    """
    path = find(name)
    latent_format, resolutions = FLUX_LATENT, KONTEXT_RESOLUTIONS
    if path.is_dir():
        config = read_config(path / "config.json")
        source = path / "transformer.safetensors"
        params = _params(FluxParams, config, "transformer", path)
        latent_format = _params(LatentFormat, config, "latent_format", path)
        resolutions = tuple((int(w), int(h)) for w, h in config.get("resolutions", resolutions))
        tensors = read_safetensors(source)
    else:
        source = path
        tensors = strip_prefix(read_safetensors(path), "img_in.weight")
        params = _detect_flux(tensors, path)
    with torch.device("meta"):
        model = Flux(params, latent_format=latent_format, resolutions=resolutions)
    fill(model, tensors, source, dtype or default_dtype(device))
    return model.to(device)


def load_autoencoder(
    name: str | Path = "tiny",
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> AutoEncoder:
    """The autoencoder of an embedded model, a model folder or BFL's `ae.safetensors`.

    Arguments and errors as `load_model`.
    """
    path = find(name)
    source = path / "autoencoder.safetensors" if path.is_dir() else path
    tensors = read_safetensors(source)
    params = AutoEncoderParams()
    if path.is_dir():
        params = _params(AutoEncoderParams, read_config(path / "config.json"), "autoencoder", path)
    elif "encoder.conv_in.weight" not in tensors or "decoder.conv_in.weight" not in tensors:
        raise CheckpointError(
            f"{path}: no encoder.conv_in and decoder.conv_in in it, so this is not the Flux "
            "autoencoder in its published form (ae.safetensors)"
        )
    with torch.device("meta"):
        autoencoder = AutoEncoder(params)
    fill(autoencoder, tensors, source, dtype or default_dtype(device))
    return autoencoder.to(device)


def load_text_encoders(
    name: str | Path = "tiny",
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> TextEncoder:
    """The text encoder of an embedded model or a model folder. Arguments and errors as `load_model`."""
    path = find(name)
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: a single file does not say what vocabulary it belongs to; give the folder "
            "of an embedded model"
        )
    params = _params(TextEncoderParams, read_config(path / "config.json"), "text_encoder", path)
    vocabulary = path / "vocab.json"
    try:
        words = json.loads(vocabulary.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{vocabulary}: can't read the vocabulary ({error})") from error
    with torch.device("meta"):
        encoder = TextEncoder(params, words)
    source = path / "text_encoder.safetensors"
    fill(encoder, read_safetensors(source), source, dtype or default_dtype(device))
    return encoder.to(device)


def _params(kind: Any, config: dict[str, Any], section: str, path: Path) -> Any:
    values = config.get(section)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path / 'config.json'}: section {section!r} is missing")
    return params_from(kind, values, f"{path / 'config.json'} ({section})")


def _detect_flux(tensors: dict[str, Tensor], path: Path) -> FluxParams:
    """Sizes of a published transformer, read off its tensors."""
    marker = "double_blocks.0.img_attn.norm.key_norm.scale"
    needed = ("img_in.weight", "txt_in.weight", "vector_in.in_layer.weight", marker)
    missing = [key for key in needed if key not in tensors]
    if missing:
        raise CheckpointError(
            f"{path}: not a FLUX.1 transformer, {', '.join(missing)} not in it. Expected the "
            "published single-file form (flux1-kontext-dev.safetensors)"
        )
    hidden, in_channels = tensors["img_in.weight"].shape
    head_dim = tensors[marker].shape[0]
    if in_channels != 64:
        raise CheckpointError(
            f"{path}: takes {in_channels} token channels; expected 64. Fill, Canny and Depth "
            "variants of FLUX.1 are not Kontext models: use flux1-kontext-dev"
        )
    if head_dim != 128:
        raise CheckpointError(
            f"{path}: head size is {head_dim}; expected FLUX.1's 128. A model of other sizes "
            "needs a folder with a config.json beside its weights"
        )

    def count(kind: str) -> int:
        return 1 + max(
            (int(k.split(".")[1]) for k in tensors if k.startswith(kind + ".")), default=-1
        )

    return FluxParams(
        vec_in_dim=tensors["vector_in.in_layer.weight"].shape[1],
        context_in_dim=tensors["txt_in.weight"].shape[1],
        hidden_size=hidden,
        num_heads=hidden // head_dim,
        depth=count("double_blocks"),
        depth_single_blocks=count("single_blocks"),
        guidance_embed="guidance_in.in_layer.weight" in tensors,
    )
