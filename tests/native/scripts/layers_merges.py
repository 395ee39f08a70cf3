"""Weights of a MODEL in a merge, when they are only cast, and what must not be done with packed ones."""

from __future__ import annotations

from typing import Any

import comfy.model_management as management
import torch
from layers_case import BUDGETS, CPU, Case, evaluate, give
from native_flux import host_model, our_model, pack_module, randn


def merges(case: Case) -> dict[str, Any]:
    """ModelMergeSimple with a plain MODEL of ours and with one of the host's own, both ways."""
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    merge = ModelMergeSimple().merge
    other = {k: v + 0.2 * randn(11, *v.shape) for k, v in case.state.items()}
    mixed = {k: 0.3 * case.state[k] + 0.7 * other[k] for k in other}
    wanted = case.of_state(mixed)
    # Ours with a LoRA, which counts as a part of its weights.
    lora = case.wanted_state("kohya")
    with_lora = {k: 0.3 * lora[k] + 0.7 * other[k] for k in other}
    found: dict[str, Any] = {}
    for name, second in (
        ("ours", our_model(case.plain(other))),
        ("the host's", host_model(case.plain(other))),
    ):
        (model,) = merge(case.model, second, 0.3)
        found[f"with {name}"] = case.row(case.run(model, BUDGETS), wanted)
        (model,) = merge(second, case.model, 0.7)
        model.partially_load(CPU, int(1e9))
        found[f"into {name}"] = case.row(evaluate(model), wanted)
        (model,) = merge(second, case.host_lora(case.model, "kohya"), 0.7)
        model.partially_load(CPU, int(1e9))
        found[f"into {name}, with a LoRA"] = case.row(evaluate(model), case.of_state(with_lora))
        management.unload_all_models()
    return found


def cast_when_used(case: Case) -> dict[str, Any]:
    """Weights in float16 that are only cast when they are used: the host merges into them."""
    linear = pack_module("kontext_core.quant.linear").ScaledLinear
    network = case.plain(case.state)
    for name, module in list(network.named_modules()):
        if isinstance(module, torch.nn.Linear) and "blocks" in name:
            parent, _, child = name.rpartition(".")
            layer = linear(module.weight.half(), module.bias)
            setattr(network.get_submodule(parent), child, layer)
    base = our_model(network)
    model = case.host_lora(base, "kohya")
    give(model, 1e9)
    stored = {str(m.weight.dtype) for m in network.modules() if isinstance(m, linear)}
    outs = [evaluate(model)]
    for budget in (-1e9, 1e9):
        give(model, budget)
        outs.append(evaluate(model))
    return {"stored": sorted(stored), "row": case.row(torch.cat(outs), case.wanted("kohya"))}


def refusals(case: Case) -> dict[str, str]:
    """What must not be done with packed weights, and what is no FLUX.1."""
    from comfy_extras.nodes_model_merging import ModelSave

    errors = pack_module("kontext_core.errors")
    lora = pack_module("nodes.native.lora").add_lora
    said: dict[str, str] = {}

    def tried(name: str, function: Any) -> None:
        try:
            function()
        except errors.KontextError as error:
            said[name] = str(error)
        else:
            said[name] = ""

    tried("merge", lambda: case.our_lora(case.model, "kohya", merge=True))
    tried("save", lambda: ModelSave().save(case.model, "saved"))
    tried("not a MODEL", lambda: lora(object(), case.lora("kohya"), 1.0))
    return said
