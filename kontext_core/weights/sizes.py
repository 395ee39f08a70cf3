"""Sizes of networks, read off the shapes of their parameters, or from a model folder's config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import AutoEncoderParams, FluxParams, Shaped, params_from, read_config
from ..errors import CheckpointError
from .files import is_model_folder

HEAD_DIM = 128
NORM_GROUPS = 32


def flux_params(state: Mapping[str, Shaped]) -> FluxParams:
    """Sizes of a transformer under BFL's names.

    Those of a `config.json` beside the weights count first. Where there is none, heads must have
    FLUX.1's 128 channels, as rotary axes can't be told from weights.

    Raises:
        CheckpointError: a tensor the sizes are read from is missing, or is no FLUX.1's.
    """
    marker = "double_blocks.0.img_attn.norm.key_norm.scale"
    needed = {
        "img_in.weight": 2,
        "txt_in.weight": 2,
        "vector_in.in_layer.weight": 2,
        "double_blocks.0.img_mlp.0.weight": 2,
        "final_layer.linear.weight": 2,
        marker: 1,
    }
    source = _source(state)
    _check(source, state, needed, "a FLUX.1 transformer (flux1-kontext-dev.safetensors)")
    if own := section_beside(source, "transformer"):
        return params_from(FluxParams, own, f"config.json beside {source} (transformer)")
    hidden, in_channels = state["img_in.weight"].shape
    head_dim = state[marker].shape[0]
    if in_channels != 64:
        raise CheckpointError(
            f"{source}: takes {in_channels} token channels; expected 64. Fill, Canny and Depth "
            "variants of FLUX.1 are not Kontext models: use flux1-kontext-dev"
        )
    if head_dim != HEAD_DIM:
        raise CheckpointError(
            f"{source}: head size is {head_dim}; expected FLUX.1's {HEAD_DIM}. A model of other "
            "sizes needs a folder with a config.json beside its weights"
        )
    if hidden % HEAD_DIM or not hidden:
        raise CheckpointError(
            f"{source}: img_in.weight makes {hidden} channels; expected a multiple of the head "
            f"size {HEAD_DIM}. Download the file again"
        )
    return FluxParams(
        out_channels=state["final_layer.linear.weight"].shape[0],
        vec_in_dim=state["vector_in.in_layer.weight"].shape[1],
        context_in_dim=state["txt_in.weight"].shape[1],
        hidden_size=hidden,
        mlp_ratio=state["double_blocks.0.img_mlp.0.weight"].shape[0] / hidden,
        num_heads=hidden // HEAD_DIM,
        depth=_count(state, "double_blocks."),
        depth_single_blocks=_count(state, "single_blocks."),
        qkv_bias="double_blocks.0.img_attn.qkv.bias" in state,
        guidance_embed="guidance_in.in_layer.weight" in state,
    )


def autoencoder_params(state: Mapping[str, Shaped]) -> AutoEncoderParams:
    """Sizes of an autoencoder under BFL's names; those of a `config.json`
    beside the weights count first, else group norms have the published 32 groups.

    Raises:
        CheckpointError: a tensor the sizes are read from is missing or misshapen.
    """
    needed = {
        "encoder.conv_in.weight": 4,
        "decoder.conv_in.weight": 4,
        "decoder.conv_out.weight": 4,
        "encoder.down.0.block.0.conv2.weight": 4,
    }
    source = _source(state)
    _check(source, state, needed, "the Flux autoencoder (ae.safetensors)")
    if own := section_beside(source, "autoencoder"):
        return params_from(AutoEncoderParams, own, f"config.json beside {source} (autoencoder)")
    ch, in_channels = state["encoder.conv_in.weight"].shape[:2]
    widths = []
    for level in range(_count(state, "encoder.down.")):
        name = f"encoder.down.{level}.block.0.conv2.weight"
        _check(source, state, {name: 4}, "the Flux autoencoder (ae.safetensors)")
        widths.append(state[name].shape[0])
    if not ch or ch % NORM_GROUPS or any(width % ch or not width for width in widths):
        raise CheckpointError(
            f"{source}: levels of {widths} channels after {ch}; expected multiples of a multiple of "
            f"{NORM_GROUPS}. An autoencoder of other sizes needs a folder with a config.json"
        )
    return AutoEncoderParams(
        in_channels=in_channels,
        ch=ch,
        out_ch=state["decoder.conv_out.weight"].shape[0],
        ch_mult=tuple(width // ch for width in widths),
        num_res_blocks=_count(state, "encoder.down.0.block."),
        z_channels=state["decoder.conv_in.weight"].shape[1],
        norm_groups=NORM_GROUPS,
    )


def section_beside(source: str | Path, section: str) -> dict[str, Any] | None:
    """What the `config.json` of a model folder says about a network or its latents.

    Args:
        source: the folder, or a file in it.
        section: "transformer", "autoencoder", "text_encoder", "latent_format".

    Returns:
        None where there is no such file or it has no such section: diffusers' own has none.

    Raises:
        CheckpointError: the file of a model folder can't be read.
    """
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    config = folder / "config.json"
    if not is_model_folder(folder) or not config.is_file():
        return None
    values = read_config(config).get(section)
    return values if isinstance(values, dict) else None


def _source(state: Mapping[str, Shaped]) -> str:
    return str(getattr(state, "path", "weights"))


def _check(source: str, state: Mapping[str, Shaped], needed: dict[str, int], what: str) -> None:
    missing = [name for name in needed if name not in state]
    if missing:
        raise CheckpointError(
            f"{source}: not {what}: {', '.join(missing)} not in it. Download a complete file"
        )
    for name, axes in needed.items():
        shape = state[name].shape
        if len(shape) != axes:
            raise CheckpointError(
                f"{source}: {name} has shape {list(shape)}; expected {axes} axes. Download the "
                "file again"
            )


def _count(state: Mapping[str, Shaped], start: str) -> int:
    """How many numbered modules follow `start`, without a gap.

    Raises:
        CheckpointError: a number is left out: the network would be built far too large or wrong.
    """
    parts = {name[len(start) :].partition(".")[0] for name in state if name.startswith(start)}
    numbers = {int(part) for part in parts if part.isdecimal() and len(part) < 8}
    gap = next((n for n in range(len(numbers)) if n not in numbers), None)
    if gap is not None:
        raise CheckpointError(
            f"{_source(state)}: {start}{gap} is missing, though {start}{max(numbers)} is there; "
            "download a complete file"
        )
    return len(numbers)
