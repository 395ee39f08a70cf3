"""Runs inside ComfyUI: LoRAs trained here, by the host's own loader and ours, on our MODEL and on the host's."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import folder_paths
import torch
from layers_case import Case
from native_flux import host_model, pack_module, randn
from safetensors.torch import load_file

import nodes

# What the node offers, and every linear layer.
TARGETS = {
    "blocks": "blocks",
    "attention": "attention",
    "blocks and modulation": "blocks and modulation",
    "all": "*_blocks.*, img_in, txt_in, time_in.*, guidance_in.*, vector_in.*, final_layer.*",
}


def train(network: Any, path: Path, targets: str, naming: str) -> dict[str, torch.Tensor]:
    """Four steps on one random example. Gives what the trained pairs add to each weight, from the
    training's state, so that nothing of the LoRA's file takes part."""
    finetune = pack_module("kontext_core.finetune")
    encoded = pack_module("kontext_core.finetune.encoded")
    words = encoded.Words(randn(2, 1, 5, 40), randn(3, 1, 24))
    latents = [{"latent": randn(seed, 1, 16, 6, 8)} for seed in (4, 5)]
    pictures = tuple(functools.partial(dict, latent) for latent in latents)
    example = encoded.Encoded("a", "a", "a", pictures, words._asdict)
    settings = finetune.TrainSettings(
        steps=4, rank=4, alpha=6.0, learning_rate=0.02, warmup=0, targets=targets, seed=1
    )
    run = path.with_suffix("")
    finetune.train_lora(network, [example], words, settings, path, run=run, naming=naming)
    adapters = pack_module("kontext_core.finetune.adapters")
    pairs = adapters.Adapters(network, targets, settings.rank, settings.scale)
    pairs.load(load_file(run / "state.safetensors"))
    with torch.no_grad():
        return {name: pair.scale * pair.up @ pair.down for name, pair in pairs.pairs.items()}


def by_host(model: Any, name: str) -> Any:
    """What the host's own node gives for a file of the folder loras."""
    return nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, 1.0)[0]


def by_us(model: Any, path: Path) -> Any:
    lora = pack_module("kontext_core.lora").load_lora(path)
    return pack_module("nodes.native.lora").add_lora(model, lora, 1.0)[0]


def main(pack: Any, folder: str) -> dict[str, Any]:
    """By kind of weights, targets, naming, loader and MODEL: (largest difference of outputs to those of
    the trained weights, to those of none)."""
    found: dict[str, Any] = {}
    place = Path(folder_paths.get_folder_paths("loras")[0])
    place.mkdir(parents=True, exist_ok=True)
    training_network = pack_module("nodes.native.training").training_network
    for kind in ("plain", "Q8_0", "fp8"):
        case = Case(Path(folder), kind)
        theirs = host_model(case.plain(case.state))
        for label, targets in TARGETS.items():
            for naming in ("kohya", "diffusers"):
                path = place / f"{kind} {label} {naming}.safetensors"
                changes = train(training_network(case.model), path, targets, naming)
                state = dict(case.state)
                for name, change in changes.items():
                    state[f"{name}.weight"] = state[f"{name}.weight"] + change
                wanted = case.of_state(state)
                for loader, model in (
                    ("host's loader, our MODEL", by_host(case.model, path.name)),
                    ("host's loader, host's MODEL", by_host(theirs, path.name)),
                    ("our loader, our MODEL", by_us(case.model, path)),
                    ("our loader, host's MODEL", by_us(theirs, path)),
                ):
                    row = case.row(case.run(model), wanted)
                    found[f"{kind}, {label}, {naming}, {loader}"] = row
                    model.unpatch_model()
        # Nothing stays on either.
        for loader, model in (("our MODEL", case.model), ("host's MODEL", theirs)):
            found[f"{kind}, afterwards, {loader}"] = [
                case.row(case.run(model), case.nothing)[0],
                1.0,
            ]
    return found
