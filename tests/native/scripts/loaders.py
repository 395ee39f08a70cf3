"""Runs inside ComfyUI: what the loaders give, beside what other loaders of the host's give."""

from __future__ import annotations

import copy
import importlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_base
import comfy.sd
import torch
from native_flux import ksampler, randn, random_flux
from safetensors.torch import save_file
from torch import Tensor

FILE = "copied.safetensors"


def gap(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().max())


def refusal(call: Any, kind: type[Exception] = Exception) -> str:
    """What a call said when it refused, with the kind of error; empty when it did not."""
    try:
        call()
    except kind as error:
        return f"{type(error).__name__}: {error}"
    return ""


@torch.inference_mode()
def main(pack: Any) -> dict[str, Any]:
    def module(path: str) -> Any:
        return importlib.import_module(f"{pack.__name__}.{path}")

    # No server runs here that could be asked who wants previews.
    host = module("nodes.host")
    host.ComfyHost.progress = lambda self, total: SimpleNamespace(update=lambda *_: None)
    return {"refused": other_kinds(module), "copies": copies(module)}


# The host's own CLIPs with one or a few layers: what counts is how wide they are.
CLIP_L = {f"text_model.encoder.layers.{n}.mlp.fc1.weight": torch.zeros(3072, 768) for n in (0, 1)}
CLIP_G = {"text_model.encoder.layers.30.mlp.fc1.weight": torch.zeros(1, 1)}
LAYERS: dict[str, Any] = {
    f"{name}_model_config": {"num_hidden_layers": 3, "num_layers": 1}
    for name in ("clip_l", "clip_g", "t5xxl")
}


def host_clip(kind: str, *states: dict[str, Tensor]) -> Any:
    return comfy.sd.load_text_encoder_state_dicts(
        [dict(state) for state in states],
        clip_type=getattr(comfy.sd.CLIPType, kind),
        model_options=LAYERS,
    )


def other_kinds(module: Any) -> dict[str, str]:
    loading, edit = module("nodes.loading"), module("nodes.edit").KontextEdit
    sampler = module("nodes.sampler").KontextSampler
    model, clip, vae = loading.load_model(), loading.load_clip(), loading.load_vae()
    image = torch.full((1, 64, 64, 3), 0.5)
    widgets = {"prompt": "a star", "seed": 1, "steps": 1, "guidance": 2.5, "width": 0, "height": 0}
    ours = {"image1": image, "model": model, "clip": clip, "vae": vae}

    def edited(**changes: Any) -> str:
        return refusal(lambda: edit.execute(**widgets, **{**ours, **changes}))

    found = {"nothing": edited()}
    clips = {
        "SD1": host_clip("STABLE_DIFFUSION", CLIP_L),
        "SDXL": host_clip("STABLE_DIFFUSION", CLIP_L, CLIP_G),
        "SD3": host_clip("SD3", CLIP_L, CLIP_G),
    }
    settings = {"seed": 1, "steps": 1, "guidance": 2.5, "cfg": 1.0, "solver": "euler"}
    settings |= {"schedule": "kontext", "denoise": 1.0}
    for name, other in clips.items():
        found[f"{name} CLIP, Edit"] = edited(clip=other)
        text = other.encode_from_tokens_scheduled(other.tokenize("a star"))
        found[f"{name} CLIP, Sampler"] = refusal(
            lambda text=text: sampler.execute(
                model, text, {"samples": torch.zeros(1, 16, 8, 8)}, **settings
            )
        )
        found[f"{name} CLIP, KSampler"] = refusal(lambda text=text: ksampler(model, text, steps=1))
    four = comfy.sd.VAE(sd={"decoder.conv_in.weight": torch.zeros(512, 4, 3, 3)})
    found["SD1 VAE, Edit"] = edited(vae=four)
    found["SD1 VAE, Reference"] = refusal(
        lambda: module("nodes.reference").encode_reference(four, image, "keep", "it")
    )
    found["SD1 VAE, Finish"] = refusal(
        lambda: module("nodes.finish").KontextFinish.execute(
            {"samples": torch.zeros(1, 16, 8, 8)}, four, 0
        )
    )
    # A wrapper of the host's around no network at all.
    stranger = object.__new__(comfy.model_base.BaseModel)
    found["other MODEL, Edit"] = edited(model=SimpleNamespace(model=stranger))
    found["other MODEL, LoRA"] = refusal(
        lambda: module("nodes.native.lora").add_lora(SimpleNamespace(model=stranger), None, 1.0)
    )
    # FLUX.1's text on the embedded MODEL, and the embedded text on FLUX.1's sizes.
    text = [[torch.zeros(1, 4, 4096), {"pooled_output": torch.zeros(1, 768)}]]
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    found["FLUX.1 CLIP, embedded MODEL"] = refusal(
        lambda: sampler.execute(model, text, latent, **settings)
    )
    big = module("nodes.native").make_model(
        random_flux(context_in_dim=4096, vec_in_dim=768), "wide"
    )
    found["embedded CLIP, FLUX.1 MODEL"] = refusal(
        lambda: edit.execute(**widgets, image1=image, model=big, vae=vae)
    )
    found["no VAE, FLUX.1 MODEL"] = refusal(
        lambda: edit.execute(**widgets, image1=image, model=big, clip=clip)
    )
    return found


def copies(module: Any) -> dict[str, Any]:
    """As several devices get them; here both are the CPU."""
    import folder_paths

    folder = Path(folder_paths.models_dir) / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"hidden_size": 256, "num_heads": 2, "axes_dim": (16, 56, 56)}
    save_file(random_flux(**sizes).state_dict(), folder / FILE)
    loading = module("nodes.loading")
    model, vae = loading.load_model(FILE, "float32", "as stored"), loading.load_vae()
    clip = loading.load_clip()
    known = [getattr(m, "cached_patcher_init", None) for m in (model, vae.patcher, clip.patcher)]
    found: dict[str, Any] = {"known": [init is not None for init in known]}
    if not hasattr(model, "deepclone_multigpu"):
        return found
    cpu = torch.device("cpu")
    text = [[randn(1, 1, 9, 40), {"pooled_output": randn(2, 1, 24), "guidance": 2.5}]]
    wanted = ksampler(model, text, steps=2)
    other = model.deepclone_multigpu(new_load_device=cpu)
    network, first = other.model.diffusion_model, model.model.diffusion_model
    apart = {p.data_ptr() for p in network.parameters()} & {
        p.data_ptr() for p in first.parameters()
    }
    found["model"] = [
        gap(ksampler(other, text, steps=2), wanted),
        network is not first and not apart,
        type(other) is type(model),
        other.load_device == cpu,
    ]
    # With a LoRA of ours, which the copy gets too, before and after it is made.
    layer = "diffusion_model.double_blocks.0.img_attn.proj"
    factors = {"A": 0.1 * randn(5, 4, 256), "B": randn(6, 256, 4)}
    save_file(
        {f"{layer}.lora_{k}.weight": v for k, v in factors.items()}, folder / "a-lora.safetensors"
    )
    lora = module("kontext_core.lora.load").load_lora(folder / "a-lora.safetensors")
    patched = module("nodes.native.lora").add_lora(model, lora, 1.0)[0]
    wanted_too = ksampler(patched, text, steps=2)
    before = patched.deepclone_multigpu(new_load_device=cpu)
    patched.set_additional_models("multigpu", [other])
    patched.match_multigpu_clones()
    [after] = patched.get_additional_models_with_key("multigpu")
    patched.set_additional_models("multigpu", [])
    found["lora"] = [
        gap(wanted_too, wanted) > 1e-3,
        gap(ksampler(before, text, steps=2), wanted_too),
        gap(ksampler(after, text, steps=2), wanted_too),
        gap(ksampler(model, text, steps=2), wanted),
    ]
    small = 0.5 * randn(3, 1, 16, 4, 5)
    moved = copy.copy(vae)
    moved.patcher = vae.patcher.clone().deepclone_multigpu(new_load_device=cpu)
    moved.first_stage_model = moved.patcher.model
    found["vae"] = [
        gap(moved.decode(small), vae.decode(small)),
        moved.first_stage_model is not vae.first_stage_model,
        moved.resolutions == vae.resolutions,
    ]
    found["clip"] = refusal(clip.patcher.deepclone_multigpu, RuntimeError)
    os.utime(folder / FILE, ns=(1, 1))
    found["changed"] = refusal(model.deepclone_multigpu)
    (folder / FILE).unlink()
    found["gone"] = refusal(model.deepclone_multigpu)
    return found
