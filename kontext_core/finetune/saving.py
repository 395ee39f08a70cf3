"""A trained LoRA as a file, in the names that kohya's scripts or diffusers (PEFT) write.

kohya (`lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight`, with `.alpha`) names BFL's layers and is
read by every program. diffusers (`transformer.transformer_blocks.0.attn.to_q.lora_A.weight`) keeps q, k, v
and the MLP apart, which cuts `up` by rows; alpha / rank is multiplied into `lora_B`, because some of its
readers look for alpha in the file, some in its header, and some nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ..checks import check_choice
from ..errors import InputError
from ..lora.formats_names import Target, diffusers_names
from ..partial import whole_file
from .adapters import Adapters

NAMINGS = ("kohya", "diffusers")


def lora_tensors(
    adapters: Adapters, naming: str = NAMINGS[0], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """What a file of this naming holds.

    Raises:
        InputError: an unknown naming.
    """
    check_choice(naming, "naming", NAMINGS)
    form = _kohya if naming == "kohya" else _diffusers
    return {
        key: tensor.detach().to("cpu", dtype, copy=True).contiguous()
        for key, tensor in form(adapters)
    }


def save_lora(
    path: str | Path,
    adapters: Adapters,
    *,
    naming: str = NAMINGS[0],
    dtype: torch.dtype = torch.float32,
    told: Mapping[str, object] | None = None,
) -> Path:
    """Write a LoRA; the file appears whole or not at all.

    Args:
        dtype: of its tensors; bfloat16 halves them.
        told: what to keep in the header about the training.

    Raises:
        InputError: an unknown naming, or a place that can't be written to.
    """
    path = Path(path)
    tensors = lora_tensors(adapters, naming, dtype)
    header = {
        "format": "pt",
        "modelspec.architecture": "flux-1-kontext/lora",
        "kontext_training": json.dumps(dict(told or {}), sort_keys=True),
    }
    if naming == "kohya":
        header |= {
            "ss_network_module": "networks.lora_flux",
            "ss_base_model_version": "flux1",
            "ss_network_dim": str(adapters.rank),
            "ss_network_alpha": f"{adapters.scale * adapters.rank:g}",
        }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, sync=True) as file:
            file.write(save(tensors, header))
    except OSError as error:
        raise InputError(
            f"can't write the LoRA {path} ({error}); free some space or choose another place"
        ) from error
    return path


def _kohya(adapters: Adapters) -> Iterator[tuple[str, Tensor]]:
    for name, pair in adapters.pairs.items():
        stem = "lora_unet_" + name.replace(".", "_")
        yield f"{stem}.lora_down.weight", pair.down
        yield f"{stem}.lora_up.weight", pair.up
        yield f"{stem}.alpha", torch.tensor(pair.scale * len(pair.down))


def _diffusers(adapters: Adapters) -> Iterator[tuple[str, Tensor]]:
    for name, pair in adapters.pairs.items():
        count, width = len(pair.up), pair.down.shape[1]
        for spelled, part in diffusers_names(name):
            rows = Target(name, part).rows(count, width)
            up = torch.cat([pair.up[start:stop] for start, stop in rows])
            yield f"transformer.{spelled}.lora_A.weight", pair.down
            yield f"transformer.{spelled}.lora_B.weight", up * pair.scale
