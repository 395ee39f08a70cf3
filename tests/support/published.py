"""What published files list: names, shapes and kinds of the full-size networks, without weights.

`tests/data/*.json` hold names and shapes; kinds follow the rules the files were made by.
"""

from __future__ import annotations

import json
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"
# Name to (kind, shape).
Listing = dict[str, tuple[str, tuple[int, ...]]]

# Layers that quantized files keep: llama.cpp's patch for Flux names them.
KEPT = ("img_in.", "txt_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer.")
T5_BLOCK = {
    "attn_q": (4096, 4096), "attn_k": (4096, 4096), "attn_v": (4096, 4096),
    "attn_o": (4096, 4096), "ffn_gate": (10240, 4096), "ffn_up": (10240, 4096),
    "ffn_down": (4096, 10240), "attn_norm": (4096,), "ffn_norm": (4096,),
}  # fmt: skip
T5_HF = {
    "attn_q": "layer.0.SelfAttention.q", "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v", "attn_o": "layer.0.SelfAttention.o",
    "attn_norm": "layer.0.layer_norm", "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1", "ffn_down": "layer.1.DenseReluDense.wo",
    "ffn_norm": "layer.1.layer_norm",
}  # fmt: skip


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes: `flux_bfl`, `flux_diffusers`, `autoencoder_bfl`, `autoencoder_diffusers`."""
    data = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return {key: tuple(shape) for key, shape in data.items()}


def flux_listing(kind: str) -> Listing:
    """FLUX.1 Kontext [dev] under BFL's names.

    Args:
        kind: `BF16`, `F16`, `F32`; `F8_E4M3` (plain cast); `fp8_scaled` (with `scaled_fp8` and
            `scale_weight`, as ComfyUI published it); or a ggml type, as GGUF files are made.
    """
    listing: Listing = {}
    for name, shape in shapes("flux_bfl").items():
        kept = len(shape) == 1 or name.startswith(KEPT)
        if kind == "fp8_scaled":
            listing[name] = ("BF16" if kept else "F8_E4M3", shape)
            if not kept:
                listing[name.removesuffix("weight") + "scale_weight"] = ("F32", ())
                listing[name.removesuffix("weight") + "scale_input"] = ("F32", ())
        elif kind in ("BF16", "F16", "F32", "F8_E4M3"):
            listing[name] = (kind, shape)
        else:
            listing[name] = ("F32" if len(shape) == 1 else "F16" if kept else kind, shape)
    if kind == "fp8_scaled":
        listing["scaled_fp8"] = ("F8_E4M3", (0,))
    return listing


def t5_listing(kind: str) -> Listing:
    """The encoder of T5-v1.1-XXL: HF names for `F16`, `BF16`, `F8_E4M3` and `fp8_scaled`, else
    llama.cpp's names with ggml types.
    """
    hf = kind in ("F16", "BF16", "F8_E4M3", "fp8_scaled")
    matrix = "F8_E4M3" if kind == "fp8_scaled" else kind
    plain = ("F16" if kind == "fp8_scaled" else kind) if hf else "F32"
    listing: Listing = {
        "shared.weight" if hf else "token_embd.weight": (matrix, (32128, 4096)),
        "encoder.final_layer_norm.weight" if hf else "enc.output_norm.weight": (plain, (4096,)),
    }
    for number in range(24):
        for layer, shape in T5_BLOCK.items():
            name = f"encoder.block.{number}.{T5_HF[layer]}" if hf else f"enc.blk.{number}.{layer}"
            listing[f"{name}.weight"] = (plain if len(shape) == 1 else matrix, shape)
            if kind == "fp8_scaled" and len(shape) == 2:
                listing[f"{name}.scale_weight"] = ("F32", ())
    bias = (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        if hf
        else "enc.blk.0.attn_rel_b.weight"
    )
    listing[bias] = (plain, (32, 64))
    if kind == "fp8_scaled":
        listing["scaled_fp8"] = ("F8_E4M3", (0,))
    return listing
