"""ComfyUI's folder of models with one small FLUX.1 in every form that the loaders list."""

from __future__ import annotations

import json
from pathlib import Path

from files import (
    autoencoder_to_diffusers,
    flux_to_diffusers,
    published_autoencoder,
    published_flux,
    write_all_in_one,
    write_bfl,
    write_diffusers,
    write_fp8,
    write_gguf,
)
from safetensors.torch import save_file
from small_encoders import make_clip, make_t5
from small_models import draw

# By name in the lists: the same weights to the bit, and weights that were rounded.
EXACT = ("kontext.safetensors", "checkpoints: all.safetensors", "diffusers: kontext", "part")
ROUNDED = ("kontext-Q8_0.gguf", "kontext-fp8.safetensors")
LORA = "style.safetensors"


def write_models(base: Path) -> Path:
    """Fill a folder laid out as ComfyUI's `models`; gives the folder."""
    for kind in ("diffusion_models", "text_encoders", "vae", "loras", "checkpoints", "diffusers"):
        (base / kind).mkdir(parents=True, exist_ok=True)
    flux = published_flux(context_in_dim=64, vec_in_dim=128).state_dict()
    autoencoder = published_autoencoder().state_dict()
    t5, clip = make_t5().state_dict(), make_clip().state_dict()

    models = base / "diffusion_models"
    write_bfl(models / EXACT[0], flux)
    write_gguf(models / ROUNDED[0], flux, "Q8_0")
    write_fp8(models / ROUNDED[1], flux, "legacy")
    write_diffusers(models / EXACT[3], flux_to_diffusers(flux), shards=2)
    (models / EXACT[3] / "config.json").write_text("{}", encoding="utf-8")
    write_bfl(base / "vae/ae.safetensors", autoencoder)
    write_bfl(base / "text_encoders/t5.safetensors", t5)
    write_bfl(base / "text_encoders/clip_l.safetensors", clip)
    write_all_in_one(base / "checkpoints/all.safetensors", flux, autoencoder, t5, clip)

    whole = base / "diffusers/kontext"
    write_diffusers(whole / "transformer", flux_to_diffusers(flux), shards=2)
    write_diffusers(whole / "vae", autoencoder_to_diffusers(autoencoder))
    write_diffusers(whole / "text_encoder", clip, stem="model")
    write_diffusers(whole / "text_encoder_2", t5, shards=2, stem="model")
    index = json.dumps({"_class_name": "FluxKontextPipeline"})
    (whole / "model_index.json").write_text(index, encoding="utf-8")

    layer = "diffusion_model.double_blocks.0.img_attn.qkv"
    rows, columns = flux[f"{layer.removeprefix('diffusion_model.')}.weight"].shape
    lora = {
        f"{layer}.lora_A.weight": draw(1, 4, columns),
        f"{layer}.lora_B.weight": draw(2, rows, 4) / 4,
        # A layer no FLUX.1 has.
        "diffusion_model.double_blocks.17.img_attn.qkv.lora_A.weight": draw(3, 4, columns),
        "diffusion_model.double_blocks.17.img_attn.qkv.lora_B.weight": draw(4, rows, 4),
    }
    save_file(lora, base / "loras" / LORA)
    return base
