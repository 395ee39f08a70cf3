"""Names of the transformer's tensors: diffusers' to BFL's.

Read off huggingface/diffusers, `convert_flux_transformer_checkpoint_to_diffusers`, backwards. Where
diffusers splits a matrix, the pieces are rows of BFL's in the order given here.
"""

from __future__ import annotations

import re

from .keys import DROP, KEEP, Destination

DOUBLE = {
    "norm1.linear": ("img_mod.lin", 0),
    "norm1_context.linear": ("txt_mod.lin", 0),
    "attn.to_q": ("img_attn.qkv", 0),
    "attn.to_k": ("img_attn.qkv", 1),
    "attn.to_v": ("img_attn.qkv", 2),
    "attn.add_q_proj": ("txt_attn.qkv", 0),
    "attn.add_k_proj": ("txt_attn.qkv", 1),
    "attn.add_v_proj": ("txt_attn.qkv", 2),
    "attn.to_out.0": ("img_attn.proj", 0),
    "attn.to_add_out": ("txt_attn.proj", 0),
    "ff.net.0.proj": ("img_mlp.0", 0),
    "ff.net.2": ("img_mlp.2", 0),
    "ff_context.net.0.proj": ("txt_mlp.0", 0),
    "ff_context.net.2": ("txt_mlp.2", 0),
}
DOUBLE_NORMS = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
SINGLE = {
    "norm.linear": ("modulation.lin", 0),
    "attn.to_q": ("linear1", 0),
    "attn.to_k": ("linear1", 1),
    "attn.to_v": ("linear1", 2),
    "proj_mlp": ("linear1", 3),
    "proj_out": ("linear2", 0),
}
SINGLE_NORMS = {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}
TOP = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "proj_out": "final_layer.linear",
}
# What `fuse_qkv_projections` adds; the single matrices stay beside it in the file.
JOINED = ("attn.to_qkv", "attn.to_added_qkv")
# How many pieces make one of our matrices.
PARTS_WANTED = {"img_attn.qkv": 3, "txt_attn.qkv": 3, "linear1": 4}
BLOCK = re.compile(r"(transformer_blocks|single_transformer_blocks)\.(\d+)\.(.+)\.(weight|bias)")
# Newer ComfyUI saves the gains of query and key norms under torch's name.
NORM_WEIGHT = re.compile(r"((?:double|single)_blocks\.\d+\..*norm\.(?:query|key)_norm)\.weight")


def place_bfl(name: str) -> Destination:
    """Where a tensor of BFL's layout belongs: where it is, but for the norms' second name."""
    match = NORM_WEIGHT.fullmatch(name)
    return Destination(f"{match[1]}.scale" if match else name)


def place_diffusers(name: str) -> Destination:
    """Where a tensor of diffusers' layout belongs; unknown names stay as they are."""
    layer, _, leaf = name.rpartition(".")
    if layer in TOP:
        return Destination(f"{TOP[layer]}.{leaf}")
    if layer == "norm_out.linear":
        # diffusers orders the last modulation (scale, shift), BFL (shift, scale).
        return Destination(f"final_layer.adaLN_modulation.1.{leaf}", change="swap halves")
    match = BLOCK.fullmatch(name)
    if match is None:
        return Destination(name)
    kind, number, inner, leaf = match.groups()
    double = kind == "transformer_blocks"
    block = f"{'double' if double else 'single'}_blocks.{number}"
    norms = DOUBLE_NORMS if double else SINGLE_NORMS
    if inner in norms and leaf == "weight":
        return Destination(f"{block}.{norms[inner]}.scale")
    if inner in JOINED:
        return DROP
    layers = DOUBLE if double else SINGLE
    if inner not in layers:
        return Destination(name)
    target, piece = layers[inner]
    if target not in PARTS_WANTED:
        return Destination(f"{block}.{target}.{leaf}")
    return Destination(f"{block}.{target}.{leaf}", piece, PARTS_WANTED[target], KEEP)
