"""Published files by name, for the templates that need them."""

from __future__ import annotations

HUB = "https://huggingface.co"
ENCODERS = f"{HUB}/comfyanonymous/flux_text_encoders/resolve/main"
# Published files by name: where they are, and the folder below models/ they belong into.
FILES = {
    "flux1-dev-kontext_fp8_scaled.safetensors": (
        f"{HUB}/Comfy-Org/flux1-kontext-dev_ComfyUI/resolve/main/split_files/diffusion_models",
        "diffusion_models",
    ),
    "flux1-kontext-dev.safetensors": (
        f"{HUB}/black-forest-labs/FLUX.1-Kontext-dev/resolve/main",
        "diffusion_models",
    ),
    "flux1-kontext-dev-Q4_K_M.gguf": (
        f"{HUB}/QuantStack/FLUX.1-Kontext-dev-GGUF/resolve/main",
        "diffusion_models",
    ),
    "t5-v1_1-xxl-encoder-Q5_K_M.gguf": (
        f"{HUB}/city96/t5-v1_1-xxl-encoder-gguf/resolve/main",
        "text_encoders",
    ),
    "t5xxl_fp8_e4m3fn_scaled.safetensors": (ENCODERS, "text_encoders"),
    "clip_l.safetensors": (ENCODERS, "text_encoders"),
    "ae.safetensors": (
        f"{HUB}/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae",
        "vae",
    ),
    "Hyper-FLUX.1-dev-8steps-lora.safetensors": (f"{HUB}/ByteDance/Hyper-SD/resolve/main", "loras"),
}
FP8 = "flux1-dev-kontext_fp8_scaled.safetensors"
GGUF = "flux1-kontext-dev-Q4_K_M.gguf"
T5 = "t5xxl_fp8_e4m3fn_scaled.safetensors"
T5_GGUF = "t5-v1_1-xxl-encoder-Q5_K_M.gguf"
CLIP_L = "clip_l.safetensors"
AE = "ae.safetensors"
LORA = "Hyper-FLUX.1-dev-8steps-lora.safetensors"
