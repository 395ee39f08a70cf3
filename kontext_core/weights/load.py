"""Builds the networks from an embedded model's folder or from published files of any form.

A model folder holds `config.json`, `vocab.json` and one file a network, in any form. Of a published
file (safetensors, GGUF, diffusers folder, all-in-one checkpoint) everything is read off its header.
Weights stay mapped from the file as they are stored and are decoded while they are used, so that a
model is ready at once and takes no more memory than its file; see `weights/install.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checks import check_choice
from ..config import FluxParams, TextEncoderParams, params_from, read_config, resolutions_from
from ..errors import CheckpointError
from ..latents import FLUX_LATENT, LatentFormat
from ..models.autoencoder import AutoEncoder
from ..models.flux import Flux
from ..models.text import TextEncoder
from ..resolutions import KONTEXT_RESOLUTIONS
from ..small_files import read_small_text
from .detect import detect, require
from .eight_bit import CHOICES, use_eight_bit
from .files import find, is_model_folder
from .install import Progress, default_dtype, install
from .sizes import autoencoder_params, flux_params
from .source import WeightsFile, open_weights
from .state import Weight, read_state
from .unchanged import guard

if TYPE_CHECKING:
    from ..text.pair import FluxTextEncoders


def load_model(
    name: str | Path = "tiny",
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    pack: bool | None = None,
    eight_bit: str = "off",
    progress: Progress | None = None,
) -> Flux:
    """The transformer of an embedded model, a model folder or a published file.

    Args:
        name: "tiny" or a path: safetensors (BFL or diffusers names, any prefix, all-in-one, the
            three fp8 forms), GGUF, a diffusers folder or its shard index.
        dtype: to compute in, and of the weights that are not kept as stored; None takes float32 on
            the CPU and bfloat16 elsewhere.
        device: where to put it.
        pack: whether weights of another number type than `dtype` stay as stored and are cast layer
            by layer in every forward. None: in models of 1e9 parameters and more. Blocks (GGUF) and
            fp8 always stay.
        eight_bit: "int8" or "fp8" multiply the blocks' layers as 8-bit numbers, nearly twice as fast
            for a small error, see `use_eight_bit`; "auto" where the device gains, "off" nowhere.
        progress: called with (tensors done, tensors in all).

    Raises:
        ModelNotFoundError: nothing there.
        CheckpointError: a file that is damaged or not a FLUX.1 transformer; says what it is.
        InputError: 8-bit products that the device does not have.
    """
    check_choice(eight_bit, "eight_bit", CHOICES)
    path = find(name)
    latent_format, resolutions = FLUX_LATENT, KONTEXT_RESOLUTIONS
    file = open_weights(path, "transformer")
    state = _state(file, "transformer")
    folder = path if path.is_dir() else path.parent
    beside = path.is_dir() or (folder / "config.json").is_file()
    if beside and is_model_folder(folder):
        # A model of the user's own may have been trained on other latents and sizes.
        config = read_config(folder / "config.json")
        params = _params(FluxParams, config, "transformer", folder)
        latent_format = _params(LatentFormat, config, "latent_format", folder)
        resolutions = resolutions_from(config, folder / "config.json")
    else:
        params = flux_params(state)
    with torch.device("meta"):
        model = Flux(params, latent_format=latent_format, resolutions=resolutions)
    dtype = dtype or default_dtype(device)
    install(model, state, file.path, dtype=dtype, device=device, pack=pack, progress=progress)
    use_eight_bit(model, eight_bit)
    guard(model, file.stamps)
    return model


def load_autoencoder(
    name: str | Path = "tiny",
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> AutoEncoder:
    """The autoencoder of an embedded model, a model folder or a published file.

    Takes BFL's `ae.safetensors`, diffusers' form (the file, its folder, or a pipeline's folder) and
    all-in-one checkpoints. Other arguments and errors as `load_model`.
    """
    path = find(name)
    file = open_weights(path, "autoencoder")
    state = _state(file, "autoencoder")
    params = autoencoder_params(state)
    with torch.device("meta"):
        autoencoder = AutoEncoder(params)
    dtype = dtype or default_dtype(device)
    install(
        autoencoder, state, file.path, dtype=dtype, device=device, pack=False, progress=progress
    )
    return autoencoder


def load_text_encoders(
    name: str | Path = "tiny",
    clip_l: str | Path | None = None,
    *,
    max_length: int = 256,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> TextEncoder | FluxTextEncoders:
    """The text encoder of an embedded model or model folder, or FLUX.1's pair T5-XXL and CLIP-L.

    Args:
        name: "tiny", a model folder, a T5 file (safetensors or GGUF), or what holds both encoders:
            an all-in-one checkpoint or a diffusers pipeline's folder.
        clip_l: a CLIP-L file; needed with a T5 file.
        max_length: 256 pads T5's prompts to 256 tokens and keeps longer ones, as ComfyUI does; 512
            pads and cuts to 512, as BFL and diffusers do. The embedded encoder has its own.
        dtype, device: as `load_model`; T5 computes in float32 where float16 is asked for.
        progress: as `load_model`, first for T5, then for CLIP-L.

    Raises:
        ModelNotFoundError, CheckpointError: as `load_model`.
    """
    path = find(name)
    dtype = dtype or default_dtype(device)
    if not is_model_folder(path):
        # Tokenizers are needed here only.
        from ..text.load import load_flux_text_encoders

        clip = None if clip_l is None else find(clip_l)
        return load_flux_text_encoders(
            path, clip, dtype=dtype, device=device, max_length=max_length, progress=progress
        )
    if clip_l is not None and find(clip_l) != path:
        raise CheckpointError(
            f"{path}: its text encoder serves as T5 and CLIP-L at once, but {clip_l} was given for "
            "CLIP-L; leave that out"
        )
    params = _params(TextEncoderParams, read_config(path / "config.json"), "text_encoder", path)
    vocabulary = path / "vocab.json"
    try:
        words = json.loads(read_small_text(vocabulary))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{vocabulary}: can't read the vocabulary ({error})") from error
    with torch.device("meta"):
        encoder = TextEncoder(params, words)
    file = open_weights(path, "t5")
    install(
        encoder,
        _as_named(file),
        file.path,
        dtype=dtype,
        device=device,
        pack=False,
        progress=progress,
    )
    return encoder


def _state(file: WeightsFile, role: str) -> Mapping[str, Weight]:
    """Parameters of a network under our names. What is not recognised in a model folder counts as
    named by the network's own names, so that the network says what is wrong."""
    found = next((contents for contents in detect(file) if contents.role == role), None)
    if found is None and file.path.is_dir() and is_model_folder(file.path):
        return _as_named(file)
    return read_state(file, found or require(file, role))


def _as_named(file: WeightsFile) -> dict[str, Weight]:
    """Weights of a model folder's file, whose names are the network's own."""
    return {
        name: Weight((file.tensor(name),), entry.kind, entry.shape)
        for name, entry in file.entries.items()
    }


def _params(kind: Any, config: dict[str, Any], section: str, path: Path) -> Any:
    values = config.get(section)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path / 'config.json'}: section {section!r} is missing")
    return params_from(kind, values, f"{path / 'config.json'} ({section})")
