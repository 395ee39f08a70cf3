"""Our networks rebuilt as diffusers models, by renaming and cutting their published tensors.

Formulas of the renaming: facts about the two layouts, written down independently of the core.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor

from kontext_core import AutoEncoder, Flux

Tensors = dict[str, Tensor]


def diffusers_transformer(model: Flux) -> FluxTransformer2DModel:
    """The same transformer with the same weights."""
    p = model.params
    twin = FluxTransformer2DModel(
        in_channels=p.in_channels,
        num_layers=p.depth,
        num_single_layers=p.depth_single_blocks,
        attention_head_dim=p.hidden_size // p.num_heads,
        num_attention_heads=p.num_heads,
        joint_attention_dim=p.context_in_dim,
        pooled_projection_dim=p.vec_in_dim,
        guidance_embeds=p.guidance_embed,
        axes_dims_rope=p.axes_dim,
    )
    twin.load_state_dict(transformer_tensors(model), strict=True)
    return twin.eval().requires_grad_(False)


def transformer_tensors(model: Flux) -> Tensors:
    """State dict in diffusers' names."""
    p, ours, theirs = model.params, model.state_dict(), {}

    def copy(source: str, target: str) -> None:
        for part in ("weight", "bias"):
            theirs[f"{target}.{part}"] = ours[f"{source}.{part}"]

    def cut(source: str, targets: list[str], sizes: list[int]) -> None:
        for part in ("weight", "bias"):
            pieces = ours[f"{source}.{part}"].split(sizes)
            theirs.update(
                {f"{name}.{part}": piece for name, piece in zip(targets, pieces, strict=True)}
            )

    copy("img_in", "x_embedder")
    copy("txt_in", "context_embedder")
    embedders = {"time_in": "timestep", "vector_in": "text"}
    if p.guidance_embed:
        embedders["guidance_in"] = "guidance"
    for source, kind in embedders.items():
        for layer, number in (("in_layer", 1), ("out_layer", 2)):
            copy(f"{source}.{layer}", f"time_text_embed.{kind}_embedder.linear_{number}")
    for i in range(p.depth):
        a, b = f"double_blocks.{i}", f"transformer_blocks.{i}"
        for stream, norm, qkv, out, ff, qk in (
            ("img", "norm1", "to_{}", "to_out.0", "ff", "norm_"),
            ("txt", "norm1_context", "add_{}_proj", "to_add_out", "ff_context", "norm_added_"),
        ):
            copy(f"{a}.{stream}_mod.lin", f"{b}.{norm}.linear")
            names = [f"{b}.attn.{qkv.format(letter)}" for letter in "qkv"]
            cut(f"{a}.{stream}_attn.qkv", names, [p.hidden_size] * 3)
            copy(f"{a}.{stream}_attn.proj", f"{b}.attn.{out}")
            copy(f"{a}.{stream}_mlp.0", f"{b}.{ff}.net.0.proj")
            copy(f"{a}.{stream}_mlp.2", f"{b}.{ff}.net.2")
            for letter, word in (("q", "query"), ("k", "key")):
                scale = ours[f"{a}.{stream}_attn.norm.{word}_norm.scale"]
                theirs[f"{b}.attn.{qk}{letter}.weight"] = scale
    mlp = int(p.hidden_size * p.mlp_ratio)
    for i in range(p.depth_single_blocks):
        a, b = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        copy(f"{a}.modulation.lin", f"{b}.norm.linear")
        names = [f"{b}.attn.to_q", f"{b}.attn.to_k", f"{b}.attn.to_v", f"{b}.proj_mlp"]
        cut(f"{a}.linear1", names, [p.hidden_size] * 3 + [mlp])
        copy(f"{a}.linear2", f"{b}.proj_out")
        for letter, word in (("q", "query"), ("k", "key")):
            theirs[f"{b}.attn.norm_{letter}.weight"] = ours[f"{a}.norm.{word}_norm.scale"]
    for part in ("weight", "bias"):
        # Published order is shift then scale, diffusers' is scale then shift.
        shift, scale = ours[f"final_layer.adaLN_modulation.1.{part}"].chunk(2)
        theirs[f"norm_out.linear.{part}"] = torch.cat([scale, shift])
    copy("final_layer.linear", "proj_out")
    return theirs


def diffusers_autoencoder(autoencoder: AutoEncoder) -> AutoencoderKL:
    """The same autoencoder with the same weights."""
    p = autoencoder.params
    levels = len(p.ch_mult)
    twin = AutoencoderKL(
        in_channels=p.in_channels,
        out_channels=p.out_ch,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(p.ch * mult for mult in p.ch_mult),
        layers_per_block=p.num_res_blocks,
        latent_channels=p.z_channels,
        norm_num_groups=p.norm_groups,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    twin.load_state_dict(autoencoder_tensors(autoencoder), strict=True)
    return twin.eval().requires_grad_(False)


def autoencoder_tensors(autoencoder: AutoEncoder) -> Tensors:
    """State dict in diffusers' names; 1x1 convolutions of the attention become matrices."""
    levels = len(autoencoder.params.ch_mult)
    attention = {
        "norm": "group_norm",
        "q": "to_q",
        "k": "to_k",
        "v": "to_v",
        "proj_out": "to_out.0",
    }
    theirs = {}
    for key, value in autoencoder.state_dict().items():
        side, *parts = key.split(".")
        part = parts.pop()
        if parts[0] in ("down", "up"):
            level = int(parts[1])
            # Published keys count decoder levels from the finest, diffusers from the coarsest.
            number = level if parts[0] == "down" else levels - 1 - level
            name = f"{parts[0]}_blocks.{number}"
            if parts[2] == "block":
                layer = parts[4].replace("nin_shortcut", "conv_shortcut")
                name += f".resnets.{parts[3]}.{layer}"
            else:
                name += f".{parts[2]}rs.0.conv"
        elif parts[0] == "mid" and parts[1] == "attn_1":
            name = f"mid_block.attentions.0.{attention[parts[2]]}"
            value = value.flatten(1) if value.ndim == 4 else value
        elif parts[0] == "mid":
            name = f"mid_block.resnets.{int(parts[1][-1]) - 1}.{parts[2]}"
        else:
            name = "conv_norm_out" if parts[0] == "norm_out" else parts[0]
        theirs[f"{side}.{name}.{part}"] = value
    return theirs
