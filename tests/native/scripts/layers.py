"""Runs inside ComfyUI: LoRAs, hooks and merges on our MODEL, plain and packed, in little memory.

Every case gives (largest difference to what it must give, difference to doing nothing at all).
"""

from __future__ import annotations

import gc
import json
import logging
import mmap
import weakref
from pathlib import Path
from typing import Any

import comfy.hooks
import comfy.model_management as management
import comfy.ops
import comfy.sd
import torch
from native_flux import host_model, ksampler, our_model, pack_module, randn, random_flux, text
from safetensors.torch import load_file

CPU = torch.device("cpu")
STRENGTH = 0.8
ROUNDS = 12
# Bytes that may be loaded more (or less, below 0), one after the other, on one MODEL: all of it, a
# little less, half, nothing, and back.
BUDGETS = (1e9, -1e4, -2e5, -1e9, 1e5, 3e5, 1e9, -1e5, 1e9)
ENDS = (1e9, -1e9)
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


class Said(logging.Handler):
    """Keeps warnings about memory."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "memory" in record.getMessage():
            self.texts.append(record.getMessage())


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


def main(pack: Any, folder: str) -> dict[str, Any]:
    """Name of a case to its results."""
    root = Path(folder)
    found: dict[str, Any] = {}
    for kind in ("plain", "Q8_0", "fp8"):
        case = Case(root, kind)
        found[kind] = {
            "loras": loras(case),
            "merges": merges(case),
            "streaming": streaming(case),
        }
        if kind != "fp8":
            # Scaled float8 takes the same ways as blocks do.
            found[kind] |= {
                "several": several(case),
                "hooks": hooks(case),
                "mapped": mapped(root, case),
                "eviction": eviction(case),
                "sampled": sampled(case),
                "size": [case.model.model_size(), sum(v.numel() * 4 for v in case.state.values())],
            }
        if kind == "plain":
            found[kind]["on the host's"] = on_the_hosts(case)
            found[kind]["cast when used"] = cast_when_used(case)
            found[kind]["out of memory"] = out_of_memory(case)
        else:
            found[kind]["refusals"] = refusals(case)
        management.unload_all_models()
    found["growth"] = growth(root)
    return found
