"""LoRAs on a MODEL: by the host's loader and ours, on clones, through hooks, in KSampler."""

from __future__ import annotations

from typing import Any

import comfy.hooks
import comfy.sd
import torch
from layers_case import BUDGETS, CPU, ENDS, STRENGTH, Case, evaluate, gap, give
from native_flux import host_model, ksampler, our_model, pack_module, randn, text
from safetensors.torch import load_file

# One of each kind of branch.
PACKED_FORMS = (
    "kohya", "diffusers with alpha", "SimpleTuner LoKr, second split", "LoHa", "LoHa of high rank",
    "DoRA on rows", "DoRA of parts on columns", "PEFT DoRA", "full differences",
    "OFT with lengths", "GLoRA",
)  # fmt: skip
# What the host's own LoRA loader reads as ours does.
HOST_FORMS = (
    "kohya", "diffusers with alpha", "OneTrainer",
    "SimpleTuner LoKr, second split", "LoHa", "DoRA on rows", "DoRA of parts on columns",
    "GLoRA",
)  # fmt: skip


def loras(case: Case) -> dict[str, Any]:
    """By the host's loader and by ours, on one MODEL over many loads, the base unchanged."""
    found: dict[str, Any] = {}
    for name in case.names:
        if case.kind != "plain" and name not in PACKED_FORMS and name not in HOST_FORMS:
            continue
        wanted = case.wanted(name)
        if name in HOST_FORMS:
            model = case.host_lora(case.model, name)
            found[f"host: {name}"] = case.row(case.run(model, BUDGETS), wanted)
        model = case.our_lora(case.model, name)
        budgets = BUDGETS if name in PACKED_FORMS[:2] else ENDS
        found[f"ours: {name}"] = case.row(case.run(model, budgets), wanted)
        if case.kind == "plain":
            model = case.our_lora(case.model, name, merge=True)
            found[f"merged: {name}"] = case.row(case.run(model, ENDS), wanted)
    file, wanted = differences(case)
    model = comfy.sd.load_lora_for_models(case.model, None, file, STRENGTH, 0)[0]
    found["host: differences"] = case.row(case.run(model, BUDGETS), wanted)
    found["base afterwards"] = [gap(case.run(case.model), case.nothing), 1.0]
    return found


def differences(case: Case) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A file of differences of weights, biases and the gains of norms, in the host's spelling of
    the network's own names; and the output with it."""
    file, state = {}, dict(case.state)
    for i, key in enumerate(case.state):
        if "single_blocks.1" not in key and "txt_in" not in key:
            continue
        stem = case.here(key).removesuffix(".weight").removesuffix(".bias")
        change = 0.1 * randn(100 + i, *case.state[key].shape)
        file[f"diffusion_model.{stem}.{'diff_b' if key.endswith('.bias') else 'diff'}"] = change
        state[key] = state[key] + STRENGTH * change
    return file, case.of_state(state)


def several(case: Case) -> dict[str, Any]:
    """Clones with different LoRAs of one network, and LoRAs of both kinds on one."""
    case.run(case.model)
    one = case.our_lora(case.model, "kohya", 0.5)
    two = case.our_lora(case.model, "diffusers", -0.7)
    three = case.our_lora(case.host_lora(case.model, "LoHa"), "diffusers", -0.7)
    four = case.host_lora(case.host_lora(case.model, "kohya", 0.3), "kohya", 0.2)
    # The clones are there, but none has been loaded yet.
    found = {"clones before a load": [gap(evaluate(case.model), case.nothing), 1.0]}
    first, second = case.run(one), case.run(two)
    found["clones"] = [gap(first, second), gap(first, case.nothing)]
    for _ in range(2):
        again = torch.cat([case.run(one), case.run(two), case.run(case.model)])
        wanted = torch.cat([first, second, case.nothing])
        found["clones in turn"] = [gap(again, wanted), 1.0]
    base, apart = case.state, case.wanted_state("LoHa")
    # Weights are linear in each LoRA: what the two make of them is the sum of the changes.
    flux = case.plain(base)
    pack_module("kontext_core.lora").merge_lora(flux, [(case.lora("diffusers"), -0.7)])
    merged = flux.state_dict()
    both = {key: merged[key] + apart[key] - base[key] for key in base}
    found["host's and ours"] = case.row(case.run(three, BUDGETS), case.of_state(both))
    found["two of the host's"] = case.row(case.run(four, BUDGETS), first)
    return found


def hooks(case: Case) -> dict[str, Any]:
    """LoRAs for a part of the conditioning, alone and on a MODEL with a LoRA."""
    found: dict[str, Any] = {}
    target = comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model)

    def hooked(model: Any, group: Any) -> Any:
        model = model.clone()
        model.register_all_hook_patches(group, target, model.model_options)
        return model

    for name in ("kohya", "differences", "LoHa"):
        file, wanted = differences(case) if name == "differences" else case.both(name)
        group = comfy.hooks.create_hook_lora(file, STRENGTH, 0.0)
        model = hooked(case.model, group)
        outs, off = [], []
        for budget in (1e9, -2e5, -1e9, 1e9):
            give(model, budget)
            for _ in range(2):
                model.apply_hooks(group)
                outs.append(evaluate(model))
                model.apply_hooks(None)
                off.append(evaluate(model))
        found[name] = case.row(torch.cat(outs), wanted)
        found[f"{name} off"] = [gap(torch.cat(off), case.nothing.expand_as(torch.cat(off))), 1.0]
        model.clean_hooks()
    group = comfy.hooks.create_hook_lora(load_file(case.file("kohya")), 0.3, 0.0)
    model = hooked(case.host_lora(case.model, "kohya", 0.5), group)
    model.partially_load(CPU, int(1e9))
    model.apply_hooks(group)
    found["on a LoRA"] = case.row(evaluate(model), case.wanted("kohya"))
    model.clean_hooks()
    other = {k: v + 0.1 * randn(9, *v.shape) for k, v in case.state.items()}
    weights = {f"diffusion_model.{case.here(k)}": v for k, v in other.items()}
    group = comfy.hooks.create_hook_model_as_lora(weights, None, 1.0, 0.0)
    model = hooked(case.model, group)
    model.partially_load(CPU, int(1e9))
    model.apply_hooks(group)
    found["model as LoRA"] = case.row(evaluate(model), case.of_state(other))
    model.clean_hooks()
    return found


def on_the_hosts(case: Case) -> dict[str, Any]:
    """Kontext: Load LoRA on the host's own Flux: its weights, beside those wanted."""
    found: dict[str, Any] = {}
    model = host_model(case.plain(case.state))
    for name in case.names:
        other = case.our_lora(model, name)
        other.partially_load(CPU, int(1e9))
        state = other.model.diffusion_model.state_dict()
        wanted = case.wanted_state(name)
        named = {k.replace("_norm.weight", "_norm.scale"): v for k, v in state.items()}
        differences = [gap(named[k], wanted[k]) for k in wanted]
        found[name] = [max(differences), max(gap(case.state[k], wanted[k]) for k in wanted)]
    return found


def sampled(case: Case) -> dict[str, Any]:
    """KSampler with a LoRA by the host's node's call, by the host's bypass and by ours."""
    made: dict[str, Any] = {}
    state = case.plain(case.wanted_state("kohya"))
    wanted = ksampler(our_model(state), text(1))
    nothing = ksampler(case.model, text(1))
    made["host"] = [gap(ksampler(case.host_lora(case.model, "kohya"), text(1)), wanted)]
    made["ours"] = [gap(ksampler(case.our_lora(case.model, "kohya"), text(1)), wanted)]
    bypass = getattr(comfy.sd, "load_bypass_lora_for_models", None)
    if bypass is not None:
        model = bypass(case.model, None, load_file(case.file("kohya")), STRENGTH, 0)[0]
        made["bypass"] = [gap(ksampler(model, text(1)), wanted)]
    made["base"] = [gap(ksampler(case.model, text(1)), nothing)]
    halves = []
    for model in (case.model.clone(), host_model(case.plain(case.state))):
        model.set_model_compute_dtype(torch.bfloat16)
        halves.append(ksampler(model, text(1)).float())
    made["bfloat16"] = [gap(*halves)]
    made["base again"] = [gap(ksampler(case.model, text(1)), nothing)]
    effect = gap(wanted, nothing)
    return {name: [*row, effect] for name, row in made.items()}
