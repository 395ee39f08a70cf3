"""Layers in little memory: brought over by the host, mapped, unloaded, and attention in parts."""

from __future__ import annotations

import gc
import logging
import mmap
import weakref
from pathlib import Path
from typing import Any

import comfy.hooks
import comfy.model_management as management
import comfy.ops
import torch
from layers_case import BUDGETS, Case, evaluate, gap, give
from memory_warnings import Said
from native_flux import our_model, randn, random_flux
from safetensors.torch import load_file

ROUNDS = 12


def streaming(case: Case) -> dict[str, Any]:
    """Layers that don't fit are brought over by the host, each in each forward; an interrupt
    leaves them as they were."""
    calls = []
    cast = comfy.ops.cast_bias_weight
    comfy.ops.cast_bias_weight = lambda layer, *a, **k: (
        calls.append(id(layer)),
        cast(layer, *a, **k),
    )[1]
    model = case.host_lora(case.model, "kohya")
    counts = []
    for budget in (1e9, -1e9):
        give(model, budget)
        calls.clear()
        evaluate(model)
        counts.append(len(set(calls)))
    comfy.ops.cast_bias_weight = cast
    layers = [m for m in model.model.modules() if hasattr(m, "comfy_cast_weights")]
    management.interrupt_current_processing(True)
    try:
        evaluate(model)
        interrupted = False
    except management.InterruptProcessingException:
        interrupted = True
    management.interrupt_current_processing(False)
    after = case.row(evaluate(model), case.wanted("kohya"))
    return {"casts": counts, "layers": len(layers), "interrupted": interrupted, "after": after}


def mapped(folder: Path, case: Case) -> dict[str, Any]:
    """Weights that lie in a file mapped read-only stay there through LoRAs, hooks and unloading;
    a write to them would end the process."""
    path = folder / "mapped"
    network = case.network()
    layers = [
        m for m in network.modules() if "Linear" in type(m).__name__ and m is not network.img_in
    ]
    size = sum(m.weight.numel() * m.weight.element_size() for m in layers)
    path.write_bytes(bytes(size))
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    at, places = 0, []
    for layer in layers:
        weight = layer.weight
        count = weight.numel() * weight.element_size()
        memory[at : at + count] = weight.detach().view(torch.uint8).numpy().tobytes()
        places.append((at, count, weight.dtype, weight.shape))
        at += count
    memory.close()
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for layer, (at, count, dtype, shape) in zip(layers, places, strict=True):
        data = torch.frombuffer(memory, dtype=torch.uint8, offset=at, count=count)
        layer.weight = torch.nn.Parameter(data.view(dtype).view(shape), requires_grad=False)
    pointers = [layer.weight.data_ptr() for layer in layers]
    model = our_model(network)
    before = gap(case.run(model), case.nothing)
    patched = case.host_lora(model, "kohya")
    group = comfy.hooks.create_hook_lora(load_file(case.file("diffusers")), 0.5, 0.0)
    target = comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model)
    patched.register_all_hook_patches(group, target, patched.model_options)
    for budget in BUDGETS:
        give(patched, budget)
        patched.apply_hooks(group)
        evaluate(patched)
    patched.detach()
    management.unload_all_models()
    same = [layer.weight.data_ptr() for layer in layers] == pointers
    return {"same memory": same, "before": before, "after": gap(case.run(model), case.nothing)}


def eviction(case: Case) -> dict[str, Any]:
    """Models go with their last MODEL; the host counts them right, and no round leaves memory."""
    alive = []
    sizes = []
    for _ in range(4):
        model = case.host_lora(case.load(), "kohya")
        with_branch = case.our_lora(model, "diffusers")
        management.load_models_gpu([with_branch], memory_required=0)
        evaluate(with_branch)
        sizes.append(with_branch.loaded_size())
        alive.append(weakref.ref(with_branch.model.diffusion_model))
        management.load_models_gpu([case.model], memory_required=0)
        del model, with_branch
        management.cleanup_models_gc()
        gc.collect()
        management.cleanup_models()
    return {
        "alive": sum(ref() is not None for ref in alive),
        "loaded": len(management.current_loaded_models),
        "sizes": sizes,
        "size": case.model.model_size(),
    }


def out_of_memory(case: Case) -> dict[str, Any]:
    """Attention with memory for some queries only: the same numbers, and one warning."""
    import comfy.ldm.modules.attention as host

    def far() -> torch.Tensor:
        with torch.inference_mode():
            return case.model.model.diffusion_model(
                randn(1, 1, 16, 32, 24),
                torch.tensor([0.7]),
                context=randn(2, 1, 5, 40),
                y=randn(3, 1, 24),
                guidance=torch.tensor([2.5]),
                attention_mask=randn(5, 1, 1, 197, 197),
                transformer_options={},
            )

    whole, sizes = host.optimized_attention, []

    def small(q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        sizes.append(q.shape[2])
        if q.shape[2] > least:
            raise management.OOM_EXCEPTION("CUDA out of memory. (made up)")
        return whole(q, *args, **kwargs)

    case.run(case.model)
    wanted = far()
    said = Said()
    logging.getLogger().addHandler(said)
    host.optimized_attention = small
    try:
        least = 100
        found = [far(), far()]
        least, raised = 10, False
        try:
            far()
        except management.OOM_EXCEPTION:
            raised = True
    finally:
        host.optimized_attention = whole
        logging.getLogger().removeHandler(said)
    differences = [gap(one, wanted) for one in found]
    return {
        "differences": differences,
        "effect": gap(wanted, torch.zeros_like(wanted)),
        "sizes": sorted(set(sizes)),
        "raised": raised,
        "said": said.texts,
    }


def growth(folder: Path) -> list[int]:
    """Bytes of memory of this process after each of many rounds of two workflows with different
    models, which come from files and get a LoRA."""
    case = Case(folder, "Q8_0")
    sizes = []
    for _ in range(ROUNDS):
        for form in ("kohya", "DoRA on rows"):
            network = random_flux(hidden_size=192, num_heads=6)
            model = our_model(network)
            branch = case.our_lora(case.host_lora(case.load(), form), "diffusers")
            for one in (model, branch):
                management.load_models_gpu([one], memory_required=0)
                evaluate(one)
            del network, model, branch, one
        gc.collect()
        management.cleanup_models()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        sizes.append(pages * mmap.PAGESIZE)
    return sizes
