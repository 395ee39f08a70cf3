"""Runs whose modulation layers stay off the device, beside runs with everything on it."""

from __future__ import annotations

from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.utils
import torch
from comfy_extras import nodes_flux
from native_flux import (
    call,
    ksampler,
    our_model,
    pack_module,
    randn,
    random_flux,
    text,
    with_references,
)

CPU = torch.device("cpu")


def packed_flux(kind: str) -> Any:
    """A random transformer whose blocks' weights are packed."""
    network = random_flux()
    encode = pack_module("kontext_core.quant.encode").quantize_blocks
    twin = pack_module("kontext_core.quant.linear").QuantLinear
    for path, module in list(network.named_modules()):
        if isinstance(module, torch.nn.Linear) and "blocks" in path:
            layer = twin(encode(module.weight, kind), kind, module.in_features, module.bias)
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, layer)
    return network


def layers(model: Any) -> list[Any]:
    return pack_module("nodes.native.modulation").modulation_layers(model.model.diffusion_model)


class Calls:
    """How often the modulation layers of a MODEL are asked, in runs of the most asked layer."""

    def __init__(self, model: Any) -> None:
        self.counts = dict.fromkeys(layers(model), 0)
        self.hooks = [layer.register_forward_hook(self.count) for layer in self.counts]

    def count(self, layer: Any, *_: Any) -> None:
        self.counts[layer] += 1

    def done(self) -> list[int]:
        for hook in self.hooks:
            hook.remove()
        return sorted(set(self.counts.values()))


def streamed(model: Any) -> Any:
    """A clone whose layers all bring their weights over for each product, once it is loaded anew."""
    comfy.model_management.unload_all_models()
    other = model.clone()
    other.force_cast_weights = True
    return other


def runs() -> dict[str, Any]:
    """Name to a function of a MODEL that gives a latent."""
    p, n = text(1), text(2)
    refs = [randn(50 + i, 1, 16, 8, 8) for i in range(2)]
    p2, n2 = with_references(p, *refs), with_references(n, *refs)
    still = with_references(p, *refs, method="index_timestep_zero")
    other = text(3, guidance=4.0)
    unguided = call(nodes_flux.FluxDisableGuidance, conditioning=p2)
    found = {
        "4 steps": lambda m: ksampler(m, p2, steps=4),
        "cfg 3": lambda m: ksampler(m, p2, n2, cfg=3.0, steps=4),
        "batch of 2, cfg 3": lambda m: ksampler(m, p2, n2, cfg=3.0, batch=2, steps=4),
        "20 steps": lambda m: ksampler(m, p2, steps=20),
        # Asks between the steps' timesteps, too.
        "dpm_2": lambda m: ksampler(m, p2, sampler="dpm_2", steps=4),
        "references at timestep 0": lambda m: ksampler(m, still, steps=4),
        "two texts, two guidances": lambda m: ksampler(m, [*p2, *other], steps=4),
        "no guidance": lambda m: ksampler(m, unguided, steps=4),
        "one after another": lambda m: torch.cat(
            [ksampler(m, p2, steps=2), ksampler(m, other, steps=2)]
        ),
    }
    return found


def compare(model: Any) -> dict[str, Any]:
    """Largest difference between kept and asked, and calls of a layer, for every run."""
    found = {}
    for name, run in runs().items():
        comfy.model_management.unload_all_models()
        plain = run(model)
        calls = Calls(model)
        kept = run(streamed(model))
        found[name] = {"difference": float((kept - plain).abs().max()), "calls": calls.done()}
    return found


def changes(model: Any) -> dict[str, list[float]]:
    """[difference, effect] where the layers' weights are patched, for a run or a part of it."""
    p = text(1)
    comfy.model_management.unload_all_models()
    difference = {
        f"diffusion_model.{path}.weight": 0.3 * randn(5, *layer.weight.shape)
        for path, layer in model.model.diffusion_model.named_modules()
        if layer in layers(model)
    }
    nothing = ksampler(model, p, steps=4)
    found = {}
    patched = model.clone()
    patched.add_patches({key: (value,) for key, value in difference.items()}, 0.5)
    wanted = ksampler(patched, p, steps=4)

    def row(latent: torch.Tensor, right: torch.Tensor) -> list[float]:
        return [float((latent - right).abs().max()), float((latent - nothing).abs().max())]

    found["patches"] = row(ksampler(streamed(patched), p, steps=4), wanted)
    found["patches gone"] = [row(ksampler(streamed(model), p, steps=4), nothing)[0], 1.0]
    file = {key.removesuffix("weight") + "diff": value for key, value in difference.items()}
    for name, keyframes in (("hook", None), ("hook, half of the steps", 0.5)):
        group = comfy.hooks.create_hook_lora(file, 0.5, 0.0)
        if keyframes is not None:
            frames = comfy.hooks.HookKeyframeGroup()
            frames.add(comfy.hooks.HookKeyframe(strength=0.0, start_percent=0.0))
            frames.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=keyframes))
            group.set_keyframes_on_hooks(hook_kf=frames)
        positive = comfy.hooks.set_hooks_for_conditioning(p, hooks=group)
        comfy.model_management.unload_all_models()
        wanted = ksampler(model, positive, steps=4)
        found[name] = row(ksampler(streamed(model), positive, steps=4), wanted)
    return found


def partial(model: Any) -> dict[str, Any]:
    """What a MODEL leaves off the device first, for a room that falls."""
    network = model.model.diffusion_model
    mine = layers(model)
    size = sum(layer.weight.nbytes for layer in mine)
    found: dict[str, Any] = {"modulation": size, "all": model.model_size(), "rooms": []}
    for share in (0.7, 0.5, 0.1, -0.5):
        model.detach()
        model.partially_load(CPU, model.model_size() - int((1 - share) * size))
        on = [bool(getattr(layer, "comfy_patched_weights", False)) for layer in mine]
        others = [
            bool(getattr(layer, "comfy_patched_weights", False))
            for layer in network.modules()
            if hasattr(layer, "comfy_cast_weights") and layer not in mine
        ]
        found["rooms"].append([sum(on), len(on), sum(others), len(others)])
    model.detach()
    model.partially_load(CPU, int(1e9))
    model.partially_unload(CPU, size // 2)
    found["unloaded"] = [
        sum(not layer.comfy_patched_weights for layer in mine),
        sum(
            not getattr(layer, "comfy_patched_weights", True)
            for layer in network.modules()
            if hasattr(layer, "comfy_cast_weights") and layer not in mine
        ),
    ]
    model.detach()
    return found


def kept_after(model: Any) -> int:
    """Rows that are left when a run is over."""
    ksampler(streamed(model), text(1), steps=2)
    return len(model.model.diffusion_model.modulated._tables)


def main(pack: Any) -> dict[str, Any]:
    comfy.utils.PROGRESS_BAR_ENABLED = False
    torch.set_grad_enabled(False)
    found: dict[str, Any] = {}
    for kind in ("plain", "Q8_0"):
        network = random_flux() if kind == "plain" else packed_flux(kind)
        model = our_model(network)
        found[kind] = {
            "runs": compare(model),
            "changes": changes(model),
            "partial": partial(model),
            "left": kept_after(model),
        }
    return found
