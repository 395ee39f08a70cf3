"""Networks of plain and packed weights inside ComfyUI, LoRAs for them, and what they must give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.sd
import torch
from native_flux import our_model, pack_module, randn, random_flux
from safetensors.torch import load_file

CPU = torch.device("cpu")
STRENGTH = 0.8
# Bytes that may be loaded more (or less, below 0), one after the other, on one MODEL: all of it, a
# little less, half, nothing, and back.
BUDGETS = (1e9, -1e4, -2e5, -1e9, 1e5, 3e5, 1e9, -1e5, 1e9)
ENDS = (1e9, -1e9)


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def give(model: Any, budget: float) -> None:
    """Load so many bytes more of a MODEL, or unload so many."""
    model.partially_load(CPU, int(max(budget, 0)))
    if budget < 0:
        model.partially_unload(CPU, int(-budget))


def evaluate(model: Any) -> torch.Tensor:
    """One forward of a MODEL's network as it is loaded now."""
    network = model.model.diffusion_model
    with torch.inference_mode():
        return network(
            randn(1, 1, 16, 6, 8),
            torch.tensor([0.7]),
            context=randn(2, 1, 5, 40),
            y=randn(3, 1, 24),
            guidance=torch.tensor([2.5]),
            ref_latents=[randn(4, 1, 16, 4, 6)],
            transformer_options={},
        )


class Case:
    """The networks and files of one kind of weights."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.names: list[str] = json.loads((folder / "names.json").read_text())
        self.state = load_file(folder / f"{kind}.safetensors")
        self.model = self.load()
        self.nothing = self.run(self.model)

    def plain(self, state: dict[str, torch.Tensor]) -> Any:
        network = random_flux()
        network.load_state_dict(state)
        return network

    def network(self) -> Any:
        """The core's network, with packed layers where the case has them."""
        network = self.plain(self.state)
        if self.kind == "plain":
            return network
        linear = pack_module("kontext_core.quant.linear")
        stored = load_file(self.folder / f"{self.kind} stored.safetensors")
        for name, module in list(network.named_modules()):
            weight = stored.get(f"{name}.weight")
            if weight is None:
                continue
            if self.kind == "Q8_0":
                layer = linear.QuantLinear(weight, "Q8_0", module.in_features, module.bias)
            else:
                layer = linear.ScaledLinear(weight, module.bias, stored[f"{name}.scale"])
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, layer)
        return network

    def load(self) -> Any:
        return our_model(self.network())

    def run(self, model: Any, budgets: tuple[float, ...] = ()) -> torch.Tensor:
        """Output after a full load, or the outputs after each of several loads, put together."""
        outs = []
        for budget in budgets or (1e9,):
            give(model, budget)
            if not 0 <= model.loaded_size() <= model.model_size():
                raise ValueError(f"{model.loaded_size()} of {model.model_size()} bytes loaded")
            outs.append(evaluate(model))
        return torch.cat(outs)

    def file(self, name: str) -> Path:
        return self.folder / f"lora {self.names.index(name)}.safetensors"

    def wanted_state(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / f"{self.kind} {self.names.index(name)}.safetensors")

    def wanted(self, name: str) -> torch.Tensor:
        return self.of_state(self.wanted_state(name))

    def of_state(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.run(our_model(self.plain(state)))

    def here(self, key: str) -> str:
        """One of our keys as this host's own Flux has it."""
        known = self.model.model.diffusion_model.state_dict()
        return key if key in known else key.replace("_norm.scale", "_norm.weight")

    def both(self, name: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        return load_file(self.file(name)), self.wanted(name)

    def lora(self, name: str) -> Any:
        return pack_module("kontext_core.lora").load_lora(self.file(name))

    def host_lora(self, model: Any, name: str, strength: float = STRENGTH) -> Any:
        """By what LoraLoaderModelOnly calls."""
        return comfy.sd.load_lora_for_models(model, None, load_file(self.file(name)), strength, 0)[
            0
        ]

    def our_lora(self, model: Any, name: str, strength: float = STRENGTH, **how: Any) -> Any:
        """By what Kontext: Load LoRA calls."""
        return pack_module("nodes.native.lora").add_lora(model, self.lora(name), strength, **how)[0]

    def row(self, found: torch.Tensor, wanted: torch.Tensor) -> list[float]:
        """See the module's text; `found` may be several outputs one after the other."""
        return [gap(found, wanted.expand_as(found)), gap(wanted, self.nothing)]
