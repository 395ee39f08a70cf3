"""What other nodes and packs hang on a MODEL, on ours and on the host's own Flux."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from native_flux import (
    call,
    host_model,
    ksampler,
    our_model,
    pack_module,
    randn,
    random_flux,
    text,
    with_references,
)
from torch import Tensor

# Adds something to a MODEL and returns the clone.
Change = Callable[[Any], Any]


def positive() -> Any:
    return with_references(text(1), randn(50, 1, 16, 8, 12))


def negative() -> Any:
    return with_references(text(2), randn(50, 1, 16, 8, 12))


def replaced(model: Any) -> Any:
    """Blocks that run the original on changed input and change its output."""
    model = model.clone()

    def double(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        out = extra["original_block"]({**args, "vec": args["vec"] * 1.1})
        return {"img": out["img"] * 1.2, "txt": out["txt"] * 1.1}

    def single(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        out = extra["original_block"]({**args, "pe": args["pe"].clone()})
        return {"img": out["img"] * 0.9}

    model.set_model_patch_replace(double, "dit", "double_block", 1)
    model.set_model_patch_replace(single, "dit", "single_block", 0)
    return model


def post_input(model: Any) -> Any:
    """Changes tokens and places after the projections."""
    model = model.clone()

    def patch(given: dict[str, Any]) -> dict[str, Any]:
        ids = given["img_ids"].clone()
        ids[..., 2] += 3
        return {**given, "img": given["img"] * 1.3, "txt": given["txt"] * 0.7, "img_ids": ids}

    # set_model_post_input_patch is newer than the oldest host.
    model.set_model_patch(patch, "post_input")
    return model


def controlled(model: Any) -> Any:
    """What a ControlNet adds after the blocks, with gaps, for the target's tokens only."""
    model = model.clone()
    control = {"input": [None, randn(80, 1, 24, 96)], "output": [randn(81, 1, 24, 96)]}

    def run(apply: Any, given: dict[str, Any]) -> Tensor:
        return apply(given["input"], given["timestep"], **{**given["c"], "control": control})

    model.set_model_unet_function_wrapper(run)
    return model


def wrapped(model: Any) -> Any:
    """Wrappers around the whole model and around the transformer."""
    model = model.clone()

    def outer(executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return executor(x * 1.01, t, *args, **kwargs)

    def inner(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        x, t, context, y, guidance, latents, control, options = args
        assert control is None and "sigmas" in options and len(latents) == 1
        return executor(x, t, context * 1.1, y, guidance, latents, control, options, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", outer)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", inner)
    return model


def functions(model: Any) -> Any:
    """Guidance computed by somebody else."""
    model = model.clone()
    model.set_model_sampler_cfg_function(
        lambda given: given["uncond"] + (given["cond"] - given["uncond"]) * 1.7
    )
    model.set_model_sampler_post_cfg_function(lambda given: given["denoised"] * 0.99)
    return model


def attention(seen: list[Any]) -> Change:
    """Patches of queries, keys, positions and results, which write down what they are told."""

    def change(model: Any) -> Any:
        model = model.clone()

        def before(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> dict[str, Any]:
            options = more["extra_options"]
            names = ("block_type", "block_index", "total_blocks", "img_slice")
            told = [options[name] for name in names]
            seen.append([*told, options["reference_image_num_tokens"], list(more["pe"].shape)])
            return {"q": q * 1.1, "v": v, "pe": more["pe"].transpose(-1, -2)}

        def after(out: Tensor, extra_options: dict[str, Any]) -> Tensor:
            first, end = extra_options["img_slice"]
            out = out.clone()
            out[:, first:end] *= 1.2
            return out

        model.set_model_patch(before, "attn1_patch")
        model.set_model_patch(after, "attn1_output_patch")
        return model

    return change


def roped(model: Any) -> Any:
    model = model.clone()
    model.set_model_rope_options(
        scale_x=0.7, shift_x=2.0, scale_y=1.5, shift_y=1.0, scale_t=1.0, shift_t=3.0
    )
    return model


def cached(node: str) -> Change:
    """By the host's EasyCache or LazyCache."""

    def change(model: Any) -> Any:
        found = getattr(importlib.import_module("comfy_extras.nodes_easycache"), node)
        settings = {"reuse_threshold": 3.0, "start_percent": 0.15, "end_percent": 0.95}
        return call(found, model=model, **settings, verbose=False)

    return change


def overridden(model: Any) -> Any:
    """Attention by a function of somebody else, as sage attention nodes set it."""
    model = model.clone()

    def other(function: Any, *args: Any, **kwargs: Any) -> Tensor:
        return function(*args, **kwargs) * 1.1

    model.model_options["transformer_options"]["optimized_attention_override"] = other
    return model


def nag(model: Any) -> Any:
    node = importlib.import_module("comfy_extras.nodes_nag").NAGuidance
    return call(node, model=model, nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)


def kv_cache(model: Any) -> Any:
    nodes = importlib.import_module("comfy_extras.nodes_flux")
    return call(nodes.FluxKVCache, model=model)


class Calls:
    """Counts how often a MODEL's transformer runs."""

    def __init__(self, model: Any) -> None:
        self.count = 0
        network = model.model.diffusion_model
        self.handle = network.double_blocks[0].register_forward_pre_hook(self.tick)

    def tick(self, *_: Any) -> None:
        self.count += 1

    def end(self) -> int:
        self.handle.remove()
        return self.count


def main_cases(new: bool) -> dict[str, tuple[Change, dict[str, Any]]]:
    """Name to a change and KSampler's settings. `new`: the host's Flux knows attention patches."""
    cfg = {"negative": negative(), "cfg": 2.0}
    found: dict[str, tuple[Change, dict[str, Any]]] = {
        "replaced blocks": (replaced, {}),
        "post_input": (post_input, {}),
        "control": (controlled, {}),
        "wrappers": (wrapped, {}),
        "cfg functions": (functions, cfg),
        "attention override": (overridden, {}),
        "EasyCache": (cached("EasyCacheNode"), {"steps": 12}),
        "LazyCache": (cached("LazyCacheNode"), {"steps": 12}),
    }
    if new:
        found["rope options"] = (roped, {})
        found["NAG"] = (nag, {"negative": negative(), "cfg": 1.0})
    return found


def answers() -> dict[str, Any]:
    import comfy.ldm.flux.layers
    import comfy.model_patcher

    network = random_flux()
    theirs, ours = host_model(network), our_model(network)
    new = hasattr(comfy.model_patcher.ModelPatcher, "set_model_rope_options")
    plain = ksampler(ours, positive())
    made: dict[str, Any] = {}
    for name, (change, settings) in main_cases(new).items():
        calls = Calls(theirs), Calls(ours)
        a, b = (ksampler(change(model), positive(), **settings) for model in (theirs, ours))
        made[name] = {
            "difference": float((a - b).abs().max()),
            "effect": float((b - plain).abs().max()),
            "calls": [one.end() for one in calls],
        }
    seen: list[list[Any]] = [[], []]
    b = ksampler(attention(seen[1])(ours), positive())
    a = ksampler(attention(seen[0])(theirs), positive()) if new else b
    made["attention patches"] = {
        "difference": float((a - b).abs().max()),
        "effect": float((b - plain).abs().max()),
        "same": not new or seen[0] == seen[1],
        "seen": seen[1][-1],
        "count": len(seen[1]),
    }
    made["attention mask"] = _masked(theirs, ours)
    made["interrupt"] = _interrupted(ours, plain)
    made["memory"] = _memory(theirs, ours)
    made["at timestep 0"] = _still(ours)
    if hasattr(importlib.import_module("comfy_extras.nodes_flux"), "FluxKVCache"):
        cache = kv_cache(ours)
        out = ksampler(cache, positive())
        made["FluxKVCache"] = {
            "finite": bool(torch.isfinite(out).all()),
            "effect": float((out - plain).abs().max()),
        }
    return made


def _masked(theirs: Any, ours: Any) -> dict[str, Any]:
    """A style model's mask, without references, which the host's Flux can't have beside it, and
    with one."""
    tokens = 12 + 24
    values = {"attention_mask": randn(90, 1, tokens, tokens), "attention_mask_img_shape": (4, 6)}
    run = text(1, **values)
    # Hosts hand the mask on only when it has to be scaled.
    size = (12, 16)
    a, b = ksampler(theirs, run, size=size), ksampler(ours, run, size=size)
    beside = with_references(run, randn(50, 1, 16, 8, 12))
    both = ksampler(ours, beside, size=size)
    return {
        "difference": float((a - b).abs().max()),
        "effect": float((b - ksampler(ours, text(1), size=size)).abs().max()),
        "with a reference": float((b - both).abs().max()),
    }


def _interrupted(ours: Any, plain: Tensor) -> dict[str, Any]:
    """Stopped in the third call, then run again."""
    import comfy.model_management

    stopped = ours.clone()
    count = 0

    def run(apply: Any, given: dict[str, Any]) -> Tensor:
        nonlocal count
        count += 1
        if count == 3:
            comfy.model_management.interrupt_current_processing()
        return apply(given["input"], given["timestep"], **given["c"])

    stopped.set_model_unet_function_wrapper(run)
    try:
        ksampler(stopped, positive())
        raised = False
    except comfy.model_management.InterruptProcessingException:
        raised = True
    comfy.model_management.interrupt_current_processing(False)
    again = ksampler(ours, positive())
    return {"raised": raised, "calls": count, "again": float((again - plain).abs().max())}


def _memory(theirs: Any, ours: Any) -> dict[str, Any]:
    """What the host expects a run to need, with one reference, and what it counts as weights."""
    shape = [1, 16, 128, 128]
    needed = []
    for model in (theirs, ours):
        conds = model.model.extra_conds_shapes(reference_latents=[randn(1, 1, 16, 128, 128)])
        needed.append(
            [
                model.model.memory_required(shape),
                model.model.memory_required(shape, cond_shapes={k: [v] for k, v in conds.items()}),
            ]
        )
    # Beside that, the modulation rows that a run may keep.
    modulation = pack_module("nodes.native.modulation")
    width = sum(m.out_features for m in modulation.modulation_layers(ours.model.diffusion_model))
    kept = modulation.KEPT * width * 4
    return {"needed": needed, "kept": kept, "size": [theirs.model_size(), ours.model_size()]}


def _still(ours: Any) -> dict[str, Any]:
    """References modulated as finished pictures."""
    refs = randn(50, 1, 16, 8, 12), randn(51, 1, 16, 8, 12)
    runs = [
        ksampler(ours, with_references(text(1), *refs, method=m))
        for m in ("index", "index_timestep_zero")
    ]
    return {
        "effect": float((runs[0] - runs[1]).abs().max()),
        "finite": bool(torch.isfinite(runs[1]).all()),
    }
