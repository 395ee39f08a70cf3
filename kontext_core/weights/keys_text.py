"""Names of the text encoders' tensors: llama.cpp's T5 names to HF's, and what is left out.

llama.cpp: gguf-py `tensor_mapping.py`, MODEL_ARCH.T5ENCODER.
"""

from __future__ import annotations

import re

from .keys import DROP, Destination

T5_LAYERS = {
    "attn_q": "layer.0.SelfAttention.q",
    "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o",
    "attn_norm": "layer.0.layer_norm",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
    "ffn_norm": "layer.1.layer_norm",
}
T5_TOP = {
    "token_embd.weight": "shared.weight",
    "enc.output_norm.weight": "encoder.final_layer_norm.weight",
}
T5_BLOCK = re.compile(r"enc\.blk\.(\d+)\.([a-z_]+)\.weight")
CLIP_BARE = ("embeddings.", "encoder.", "final_layer_norm.")


def place_t5(name: str) -> Destination:
    """HF names; the decoder of a whole T5, its output layer and a stored vocabulary are dropped."""
    if name == "encoder.embed_tokens.weight":
        # The same table as shared.weight; takes its place where that is missing.
        return Destination("shared.weight", piece=1)
    if name == "shared.weight" or name.startswith("encoder."):
        return Destination(name)
    return DROP


def place_t5_ggml(name: str) -> Destination:
    """llama.cpp's names of T5; the decoder is dropped."""
    if name in T5_TOP:
        return Destination(T5_TOP[name])
    if (match := T5_BLOCK.fullmatch(name)) and match[2] in T5_LAYERS:
        return Destination(f"encoder.block.{match[1]}.{T5_LAYERS[match[2]]}.weight")
    if name.startswith(("dec.", "output.")):
        return DROP
    return Destination(name)


def place_clip(name: str) -> Destination:
    """CLIP's text half; the picture half, projections and position numbers are dropped."""
    if name.endswith("position_ids"):
        return DROP
    if name.startswith("text_model."):
        return Destination(name)
    # transformers 5 saves a lone text encoder without `text_model.`.
    return Destination(f"text_model.{name}") if name.startswith(CLIP_BARE) else DROP
