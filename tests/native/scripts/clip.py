"""Runs inside ComfyUI: the pack's CLIP under the host's nodes, and beside the host's own CLIP.

Called with a folder of text encoders; see test_clip.py.
"""

from __future__ import annotations

import gc
import importlib
import weakref
from pathlib import Path
from typing import Any

import comfy.hooks
import comfy.model_management as management
import comfy.sd
import comfy.text_encoders.flux
import comfy.utils
import folder_paths
import torch
from torch import Tensor

# By name, or readers take it for this pack's folder.
nodes: Any = importlib.import_module("nodes")

TEXTS = {
    "plain": "put the red star of image 1 on a blue hill",
    "empty": "",
    "weighted": "a (red:1.4) star, ((tiny)) and [odd] (blue sky:0.6), \\(really\\)",
    "long": "one two three four five six seven eight nine ten " * 30,
}
# What small_encoders.py makes, in the words of the host's configurations.
T5 = {"d_model": 64, "d_kv": 8, "d_ff": 96, "num_layers": 3, "num_heads": 4}
CLIP_L = {
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}


def gap(one: Any, other: Any) -> float:
    """Largest difference of two conditionings, features and pooled features."""
    worst = 0.0
    if len(one) != len(other):
        raise ValueError(f"{len(one)} beside {len(other)} parts")
    for mine, theirs in zip(one, other, strict=True):
        for a, b in ((mine[0], theirs[0]), (mine[1]["pooled_output"], theirs[1]["pooled_output"])):
            if a.shape != b.shape:
                raise ValueError(f"{tuple(a.shape)} beside {tuple(b.shape)}")
            worst = max(worst, float((a.float() - b.float()).abs().max()))
    return worst


def hosts_own(t5: Path, clip_l: Path) -> Any:
    """ComfyUI's CLIP for FLUX.1, of these sizes."""

    class Target:
        clip = comfy.text_encoders.flux.FluxClipModel
        tokenizer = comfy.text_encoders.flux.FluxTokenizer
        params: dict[str, Any] = {}

    options = {"t5xxl_model_config": T5, "clip_l_model_config": CLIP_L, "dtype": torch.float32}
    made = comfy.sd.CLIP(target=Target, model_options=options)
    for path in (t5, clip_l):
        missing, _ = made.load_sd(comfy.utils.load_torch_file(str(path)))
        left = [key for key in missing if "text_projection" not in key and "logit" not in key]
        if left:
            raise ValueError(f"{path}: {left[:3]} missing")
    return made


def encode(clip: Any, text: str) -> Any:
    return nodes.CLIPTextEncode().encode(clip, text)[0]


def extra(module: str, name: str, **inputs: Any) -> Any:
    """A node of comfy_extras, of either kind: its first output."""
    made = getattr(importlib.import_module(f"comfy_extras.{module}"), name)
    if hasattr(made, "execute"):
        return made.execute(**inputs).args[0]
    return getattr(made(), made.FUNCTION)(**inputs)[0]


# As the host runs its nodes.
@torch.inference_mode()
def main(pack: Any, folder: str) -> dict[str, Any]:
    def module(path: str) -> Any:
        return importlib.import_module(f"{pack.__name__}.{path}")

    root = Path(folder)
    folder_paths.add_model_folder_path("text_encoders", folder)
    loading, host, errors = module("nodes.loading"), module("nodes.host"), module("kontext_core")
    out: dict[str, Any] = {"differences": {}, "loras": {}, "refused": {}}
    differences = out["differences"]

    ours = loading.load_clip("t5.safetensors", "clip_l.safetensors")
    theirs = hosts_own(root / "t5.safetensors", root / "clip_l.safetensors")
    host.set_host(host.PlainHost())
    plain = module("nodes.native").make_clip(
        module("kontext_core.text.load").load_flux_text_encoders(
            root / "t5.safetensors", root / "clip_l.safetensors"
        ),
        "plain",
    )
    host.set_host(None)
    out["classes"] = [type(c).__name__ for c in (ours, theirs, plain)]
    out["missing"] = sorted(name for name in vars(theirs) if not hasattr(ours, name))
    mine: Any = None
    for name, text in TEXTS.items():
        mine = encode(ours, text)
        differences[f"{name}, theirs"] = gap(mine, encode(theirs, text))
        differences[f"{name}, plain"] = gap(mine, encode(plain, text))
    out["size"] = [float(mine[0][0].abs().max()), list(mine[0][0].shape)]
    wordy = ours.tokenize("a (red:1.4) star", return_word_ids=True)
    out["tokens"] = [[len(row[0][0]) for row in wordy.values()], sorted(wordy)]

    hosts_nodes(ours, theirs, differences, out)
    out["memory"] = memory(ours)
    out["interrupted"] = interrupts(ours)
    out["saved"] = saved(ours, module("kontext_core.text.load"))
    lora = comfy.utils.load_torch_file(str(root / "lora.safetensors"))
    load, make = module("kontext_core.text.load"), module("nodes.native").make_clip
    for path in sorted(root.glob("t5*.*")):
        name = path.name
        small = root / ("clip_l-half.safetensors" if "half" in name else "clip_l.safetensors")
        # Packed however small they are.
        pair = load.load_flux_text_encoders(path, small, dtype=torch.float32, pack=True)
        clip = make(pair, name)
        worth = root / f"worth-{name}.safetensors"
        own = hosts_own(worth if worth.exists() else path, small)
        differences[f"{name}, theirs"] = gap(
            encode(clip, TEXTS["weighted"]), encode(own, TEXTS["weighted"])
        )
        out["loras"][name] = loras(clip, own, lora)
        out["loras"][name]["of the pack"] = packs_loras(
            (clip, own), module, root / "lora.safetensors", lora
        )
        out["refused"][name] = refusal(lambda clip=clip: save(clip), errors.KontextError)
        out.setdefault("partial", {})[name] = partial(clip)
        out.setdefault("stored", {})[name] = str(pair.t5.encoder.block[0].layer[0].SelfAttention.q)

    embedded = loading.load_clip()
    host.set_host(host.PlainHost())
    alone = loading.load_clip()
    host.set_host(None)
    out["memory"]["released"] = released(
        lambda: loading.load_clip("t5-fp8.safetensors", "clip_l.safetensors")
    )
    out["embedded"] = [
        isinstance(embedded, comfy.sd.CLIP),
        gap(encode(embedded, TEXTS["plain"]), encode(alone, TEXTS["plain"])),
    ]
    last = nodes.CLIPSetLastLayer().set_last_layer(embedded, -2)[0]
    out["refused"]["layer"] = refusal(lambda: encode(last, "a"), errors.KontextError)
    out["refused"]["half"] = refusal(
        lambda: ours.encode_from_tokens({"g": [[(1, 1.0)]]}), errors.KontextError
    )
    return out


def hosts_nodes(ours: Any, theirs: Any, differences: dict[str, float], out: Any) -> None:
    """Nodes of the host that take a CLIP."""
    flux = {"clip_l": "a red star", "t5xxl": "a (blue:1.2) hill", "guidance": 2.5}
    both = [extra("nodes_flux", "CLIPTextEncodeFlux", clip=c, **flux) for c in (ours, theirs)]
    differences["CLIPTextEncodeFlux, theirs"] = gap(*both)
    out["guidance"] = both[0][0][1]["guidance"]
    options = {"min_padding": 3, "min_length": 300}
    both = [extra("nodes_cond", "T5TokenizerOptions", clip=c, **options) for c in (ours, theirs)]
    both = [encode(c, TEXTS["plain"]) for c in both]
    differences["T5TokenizerOptions, theirs"] = gap(*both)
    out["padded"] = both[0][0][0].shape[1]
    out["layers differ"] = []
    for layer in (-1, -2, -3, -24):
        both = [nodes.CLIPSetLastLayer().set_last_layer(c, layer)[0] for c in (ours, theirs)]
        both = [encode(c, TEXTS["weighted"]) for c in both]
        differences[f"CLIPSetLastLayer {layer}, theirs"] = gap(*both)
        out["layers differ"].append(gap(both[0], encode(ours, TEXTS["weighted"])) > 0.1)
    zero = nodes.ConditioningZeroOut().zero_out(encode(ours, TEXTS["plain"]))[0]
    out["zero"] = [float(zero[0][0].abs().max()), float(zero[0][1]["pooled_output"].abs().max())]
    clone = ours.clone()
    out["clone"] = [type(clone).__name__, gap(encode(clone, "a"), encode(ours, "a"))]
    merged = [
        extra("nodes_model_merging", "CLIPMergeSimple", clip1=c, clip2=theirs, ratio=0.5)
        for c in (ours, theirs)
    ]
    differences["CLIPMergeSimple, theirs"] = gap(*(encode(c, TEXTS["plain"]) for c in merged))
    try:
        from comfy_extras.nodes_multigpu import SelectCLIPDeviceNode
    except ImportError:
        return  # An older ComfyUI.
    chosen = SelectCLIPDeviceNode.execute(ours, "cpu").args[0]
    out["device"] = gap(encode(chosen, "a"), encode(ours, "a"))


def loras(clip: Any, own: Any, lora: dict[str, Tensor]) -> dict[str, Any]:
    """LoraLoader on both encoders; a LoRA for a part of the steps; and none of it afterwards."""
    text = TEXTS["plain"]
    before = encode(clip, text)
    patched = [comfy.sd.load_lora_for_models(None, c, lora, 1.0, 0.8)[1] for c in (clip, own)]
    mine = encode(patched[0], text)
    found = {
        "keys": [len(c.patcher.patches) for c in patched],
        "theirs": gap(mine, encode(patched[1], text)),
        "effect": gap(mine, before),
        "twice": gap(encode(patched[0], text), mine),
        "afterwards": gap(encode(clip, text), before),
    }
    hooked = []
    for c in (clip, own):
        hooks = comfy.hooks.create_hook_lora(lora, 1.0, 0.8)
        chosen = extra(
            "nodes_hooks", "SetClipHooks", clip=c, schedule_clip=True, apply_to_conds=True,
            hooks=hooks,
        )  # fmt: skip
        hooked.append(encode(chosen, text))
    found["hook, theirs"] = gap(*hooked)
    found["hook effect"] = gap(hooked[0], before)
    found["after hook"] = gap(encode(clip, text), before)
    return found


def packs_loras(
    clips: tuple[Any, Any], module: Any, path: Path, lora: dict[str, Tensor]
) -> list[list[float]]:
    """The pack's own node on its CLIP and on the host's, beside the host's on the host's; and after."""
    own = comfy.sd.load_lora_for_models(None, clips[1], lora, 0.0, 0.8)[1]
    wanted = encode(own, TEXTS["plain"])
    read = module("kontext_core.lora.load").load_lora(path)
    found = []
    for clip in clips:
        before = encode(clip, TEXTS["plain"])
        patched, report = module("nodes.native.text_lora").add_text_lora(clip, read, 0.8)
        gaps = [
            gap(encode(patched, TEXTS["plain"]), wanted),
            gap(encode(clip, TEXTS["plain"]), before),
        ]
        found.append([*gaps, report.matched])
    return found


def partial(clip: Any) -> dict[str, Any]:
    """With only some of its layers loaded, and some sent back."""
    text = TEXTS["plain"]
    wanted = encode(clip, text)
    size = clip.patcher.model_size()
    tokens = clip.tokenize(text)
    gaps, lowered = [], []
    # A host may hold back room for the largest layer, here CLIP-L's table of words.
    for part in (size // 10, size, 3 * size // 2):
        management.unload_all_models()
        clip.patcher.patch_model(clip.patcher.load_device, lowvram_model_memory=part)
        layers = clip.patcher.model.modules()
        lowered.append(sum(getattr(m, "comfy_cast_weights", False) for m in layers))
        cond, pooled, _ = clip.cond_stage_model.encode_token_weights(tokens)
        gaps.append(gap([[cond, {"pooled_output": pooled}]], wanted))
        clip.patcher.detach()
    gaps.append(gap(encode(clip, text), wanted))
    return {"gaps": gaps, "lowered": lowered}


def memory(ours: Any) -> dict[str, Any]:
    """What the host's memory management knows of it."""
    management.unload_all_models()
    before = len(management.current_loaded_models)
    encode(ours, "a")
    known = [m.model is ours.patcher for m in management.current_loaded_models]
    estimate = ours.cond_stage_model.memory_estimation_function(ours.tokenize("a"))
    state = ours.cond_stage_model.state_dict()
    prefixes = sorted({".".join(key.split(".")[:2]) for key in state})
    return {
        "before": before,
        "known": known,
        "size": [ours.patcher.model_size(), sum(t.nbytes for t in state.values())],
        "estimate": estimate,
        "prefixes": prefixes,
    }


def released(load: Any) -> list[bool]:
    """Whether a CLIP is gone, with its weights, when nobody holds it any more."""
    clip = load()
    conditioning = encode(clip, "a")
    network = weakref.ref(clip.cond_stage_model)
    weights = weakref.ref(clip.tokenizer.encoder)
    del clip
    gc.collect()
    management.cleanup_models()
    return [network() is None, weights() is None and len(conditioning) == 1]


def interrupts(ours: Any) -> list[Any]:
    """Stopped in the middle of T5, and usable afterwards."""
    wanted = encode(ours, "a red star")
    blocks = ours.cond_stage_model.t5xxl.transformer.encoder.block
    ran: list[int] = []

    def stop(*_: Any) -> None:
        ran.append(0)
        management.interrupt_current_processing(True)

    def count(*_: Any) -> None:
        ran.append(2)

    handles = [blocks[0].register_forward_hook(stop), blocks[2].register_forward_hook(count)]
    stopped = False
    try:
        encode(ours, "a red star")
    except management.InterruptProcessingException:
        stopped = True
    finally:
        for handle in handles:
            handle.remove()
        management.interrupt_current_processing(False)
    return [stopped, ran, gap(encode(ours, "a red star"), wanted)]


def save(clip: Any) -> None:
    extra_node = importlib.import_module("comfy_extras.nodes_model_merging").CLIPSave
    extra_node().save(clip, "clip/saved")


def saved(ours: Any, load: Any) -> float:
    """CLIPSave's files, loaded by the core: a difference of the first prompt."""
    save(ours)
    output = Path(folder_paths.get_output_directory()) / "clip"
    t5, clip_l = (next(output.glob(f"saved_{half}_*.safetensors")) for half in ("t5xxl", "clip_l"))
    pair = load.load_flux_text_encoders(t5, clip_l)
    features, pooled = pair.encode_halves(pair.halves(TEXTS["plain"]))
    return gap([[features, {"pooled_output": pooled}]], encode(ours, TEXTS["plain"]))


def refusal(call: Any, kind: type[Exception]) -> str | None:
    """What a call said when it refused."""
    try:
        call()
    except kind as error:
        return str(error)
    return None
