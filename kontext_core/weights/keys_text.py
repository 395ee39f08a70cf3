"""Names of the text encoders' tensors: llama.cpp's T5 and OpenAI's CLIP to HF's, and what is left out.

llama.cpp: gguf-py `tensor_mapping.py`, MODEL_ARCH.T5ENCODER. OpenAI: `clip/model.py` of openai/CLIP,
whose attention has query, key and value as the rows of one `in_proj`.
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
CLIP_TOP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
CLIP_LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
CLIP_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.([a-z0-9_.]+)[._](weight|bias)")
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


def place_clip_openai(name: str) -> Destination:
    """OpenAI's names of CLIP's text half; the picture half, projection and scale are dropped."""
    if name in CLIP_TOP:
        return Destination(f"text_model.{CLIP_TOP[name]}")
    if match := CLIP_BLOCK.fullmatch(name):
        number, layer, kind = match.groups()
        ours = f"text_model.encoder.layers.{number}"
        if layer == "attn.in_proj":
            q, k, v = (f"{ours}.self_attn.{letter}_proj.{kind}" for letter in "qkv")
            return Destination(q, split=(k, v))
        if layer in CLIP_LAYERS:
            return Destination(f"{ours}.{CLIP_LAYERS[layer]}.{kind}")
    return DROP
