"""Loads T5, CLIP-L and the pair of them from published files.

Every form that `weights.open_weights` reads: safetensors in float32, float16, bfloat16 and float8
(scaled or not), GGUF, sharded folders of transformers and diffusers, and all-in-one files.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..models.clip import ClipTextModel, clip_params
from ..models.t5 import T5Encoder, t5_params
from ..small_files import read_small_text
from ..weights.detect import detect, require
from ..weights.install import Progress, default_dtype, install
from ..weights.source import WeightsFile, open_weights
from ..weights.state import read_state
from ..weights.unchanged import guard
from .pair import COMFYUI_LENGTH, FluxTextEncoders


def load_t5(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    pack: bool | None = None,
    progress: Progress | None = None,
) -> T5Encoder:
    """The T5 encoder of a file or folder.

    Args:
        path: a weights file, index, shard, or folder (of T5 or of a diffusers pipeline).
        dtype: to compute in; None takes float32 on the CPU and bfloat16 elsewhere. float16 is
            taken as float32, since T5-XXL's features do not fit into it. The weights of a large
            encoder stay in memory as they are stored.
        device: where to put it.
        pack: as for `weights.install`.
        progress: called with (tensors done, tensors in all).

    Raises:
        ModelNotFoundError: nothing there.
        CheckpointError: not a T5 v1.1 encoder, or a damaged file.
    """
    return _t5(open_weights(path, "t5"), dtype, device, pack, progress)


def load_clip_l(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    pack: bool | None = None,
    progress: Progress | None = None,
) -> ClipTextModel:
    """CLIP-L's text model of a file or folder. Arguments and errors as for `load_t5`.

    The number of heads leaves no trace in the weights: it comes from a `config.json` beside them,
    else heads have 64 channels.
    """
    return _clip_l(open_weights(path, "clip_l"), dtype, device, pack, progress)


def load_flux_text_encoders(
    t5_path: str | Path,
    clip_l_path: str | Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    max_length: int = COMFYUI_LENGTH,
    weights: bool = True,
    pack: bool | None = None,
    progress: Progress | None = None,
) -> FluxTextEncoders:
    """Both encoders with their tokenizers.

    Args:
        t5_path: as for `load_t5`.
        clip_l_path: as for `load_clip_l`; None takes both from `t5_path`, a diffusers pipeline
            folder or an all-in-one file. The two may be given in either order.
        dtype, device, pack: as for `load_t5`.
        max_length, weights: as for `FluxTextEncoders`.
        progress: called with (tensors done, tensors in all), first for T5, then for CLIP-L.

    Raises:
        ModelNotFoundError, CheckpointError: as `load_t5`.
        InputError: another `max_length` than 256 and 512.
    """
    t5_file = open_weights(t5_path, "t5")
    clip_file = open_weights(t5_path if clip_l_path is None else clip_l_path, "clip_l")
    if _holds(t5_file, "clip_l") and _holds(clip_file, "t5"):
        if not _holds(t5_file, "t5"):
            t5_file, clip_file = clip_file, t5_file
    t5 = _t5(t5_file, dtype, device, pack, progress)
    clip_l = _clip_l(clip_file, dtype, device, pack, progress)
    return FluxTextEncoders(t5, clip_l, max_length=max_length, weights=weights)


def _t5(
    file: WeightsFile,
    dtype: torch.dtype | None,
    device: torch.device | str,
    pack: bool | None,
    progress: Progress | None,
) -> T5Encoder:
    state = read_state(file, require(file, "t5"))
    params = t5_params(state, file.path)
    with torch.device("meta"):
        t5 = T5Encoder(params)
    compute = dtype or default_dtype(device)
    if compute == torch.float16:
        compute = torch.float32
    install(t5, state, file.path, dtype=compute, device=device, pack=pack, progress=progress)
    guard(t5, file.stamps)
    return t5


def _clip_l(
    file: WeightsFile,
    dtype: torch.dtype | None,
    device: torch.device | str,
    pack: bool | None,
    progress: Progress | None,
) -> ClipTextModel:
    state = read_state(file, require(file, "clip_l"))
    params = clip_params(state, file.path, num_heads=_heads(file))
    with torch.device("meta"):
        clip_l = ClipTextModel(params)
    compute = dtype or default_dtype(device)
    install(clip_l, state, file.path, dtype=compute, device=device, pack=pack, progress=progress)
    guard(clip_l, file.stamps)
    return clip_l


def _holds(file: WeightsFile, role: str) -> bool:
    return any(contents.role == role for contents in detect(file))


def _heads(file: WeightsFile) -> int | None:
    """The number of heads that transformers wrote beside a CLIP text model."""
    config = next(iter(file.entries.values())).path.parent / "config.json"
    if not config.is_file():
        return None
    try:
        values = json.loads(read_small_text(config))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{config}: can't be read ({error}); download it again, or remove it if the file "
            "beside it is clip_l.safetensors"
        ) from error
    if not isinstance(values, dict) or values.get("model_type") not in ("clip", "clip_text_model"):
        return None
    inner = values.get("text_config")
    heads = (inner if isinstance(inner, dict) else values).get("num_attention_heads")
    return heads if isinstance(heads, int) and heads > 0 else None
