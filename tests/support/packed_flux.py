"""A small FLUX.1 with packed layers and LoRA files on it, written to a folder for a script that runs
inside a host: stored weights, the numbers they stand for, and what each LoRA must turn those into."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lora_files import lora_files
from safetensors.torch import save_file
from small_models import make_flux
from torch import Tensor, nn

from kontext_core import Flux
from kontext_core.quant.encode import quantize_blocks
from kontext_core.quant.linear import QuantLinear, ScaledLinear, plain_weight

PACKS = ("plain", "Q8_0", "fp8")
STRENGTH = 0.8


def pack(linear: nn.Linear, kind: str) -> QuantLinear | ScaledLinear:
    """A packed layer of a plain one."""
    weight, bias = linear.weight.detach(), linear.bias
    if kind == "Q8_0":
        return QuantLinear(quantize_blocks(weight, kind), kind, linear.in_features, bias)
    scale = weight.abs().amax(1, keepdim=True) / 448
    return ScaledLinear((weight / scale).to(torch.float8_e4m3fn), bias, scale)


def packed(kind: str) -> tuple[Flux, dict[str, Tensor]]:
    """The plain network that stands for the packed one, and the packed weights by layer."""
    flux, stored = make_flux(), {}
    for name, module in list(flux.named_modules()):
        if kind == "plain" or not isinstance(module, nn.Linear) or "blocks" not in name:
            continue
        layer = pack(module, kind)
        with torch.no_grad():
            module.weight.copy_(plain_weight(layer))
        stored[f"{name}.weight"] = layer.weight.detach()
        if isinstance(layer, ScaledLinear) and layer.scale is not None:
            stored[f"{name}.scale"] = layer.scale
    return flux, stored


def write_case(folder: Path) -> list[str]:
    """Everything into `folder`; the names of the LoRAs, in the order of their files."""
    names: list[str] = []
    for kind in PACKS:
        flux, stored = packed(kind)
        save_file(flux.state_dict(), folder / f"{kind}.safetensors")
        if stored:
            save_file(stored, folder / f"{kind} stored.safetensors")
        made = lora_files(flux)
        names = list(made)
        for index, one in enumerate(made.values()):
            if kind == "plain":
                one.write(folder / f"lora {index}.safetensors")
            state = one.merged(flux, STRENGTH).state_dict()
            save_file(state, folder / f"{kind} {index}.safetensors")
    (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")
    return names
