"""Writes small networks in every form that files are published in.

Names of diffusers' form are spelled out here once more, not taken from the package, so that a wrong
name in its key maps shows. Every writer gives what the weights are worth in float32, by BFL's names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from published import KEPT
from safetensors.torch import save_file
from small_models import make_autoencoder, make_flux
from torch import Tensor

from kontext_core.models.autoencoder import AutoEncoder
from kontext_core.models.flux import Flux

State = dict[str, Tensor]
FP8_FORMS = ("cast", "legacy", "metadata", "comfy_quant")


def published_flux(seed: int = 0, **changes: Any) -> Flux:
    """A small transformer that can pass for a published one: heads of 128, rows of 256."""
    values: dict[str, Any] = {
        "hidden_size": 256,
        "num_heads": 2,
        "axes_dim": (16, 56, 56),
        "depth": 2,
        "depth_single_blocks": 2,
    }
    return make_flux(seed, **{**values, **changes})


def published_autoencoder(seed: int = 0, **changes: Any) -> AutoEncoder:
    """A small autoencoder that can pass for a published one: 32 groups in its norms."""
    return make_autoencoder(seed, **{"ch": 32, "norm_groups": 32, "num_res_blocks": 2, **changes})


def write_bfl(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    prefix: str = "",
    dtype: torch.dtype | None = None,
    metadata: dict[str, str] | None = None,
    extra: Mapping[str, Tensor] | None = None,
) -> State:
    """One .safetensors file under BFL's names."""
    stored = {name: t.to(dtype or t.dtype).contiguous() for name, t in state.items()}
    save_file({**{prefix + n: t for n, t in stored.items()}, **(extra or {})}, path, metadata)
    return {name: tensor.float() for name, tensor in stored.items()}


def write_all_in_one(
    path: Path,
    flux: Mapping[str, Tensor],
    autoencoder: Mapping[str, Tensor] | None = None,
    t5: Mapping[str, Tensor] | None = None,
    clip_l: Mapping[str, Tensor] | None = None,
) -> None:
    """A checkpoint as ComfyUI saves it; text encoders under the names of transformers."""
    parts = {
        "model.diffusion_model.": flux,
        "vae.": autoencoder,
        "text_encoders.t5xxl.transformer.": t5,
        "text_encoders.clip_l.transformer.": clip_l,
    }
    tensors = {p + n: t.contiguous() for p, part in parts.items() for n, t in (part or {}).items()}
    save_file(tensors, path)


def write_diffusers(
    folder: Path,
    state: Mapping[str, Tensor],
    *,
    shards: int = 1,
    dtype: torch.dtype | None = None,
    stem: str = "diffusion_pytorch_model",
) -> Path:
    """A folder with tensors under the given (diffusers' or transformers') names, and an index if
    there are several shards. Gives the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: t.to(dtype or t.dtype).contiguous() for name, t in state.items()}
    if shards == 1:
        save_file(stored, folder / f"{stem}.safetensors", {"format": "pt"})
        return folder
    names = list(stored)
    files = [f"{stem}-{n:05d}-of-{shards:05d}.safetensors" for n in range(1, shards + 1)]
    where = {name: files[index * shards // len(names)] for index, name in enumerate(names)}
    for file in files:
        save_file({n: stored[n] for n in names if where[n] == file}, folder / file)
    size = sum(t.numel() * t.element_size() for t in stored.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def write_fp8(
    path: Path,
    state: Mapping[str, Tensor],
    form: str,
    *,
    dtype: torch.dtype = torch.float8_e4m3fn,
    per_row: bool = False,
    prefix: str = "",
    rest: torch.dtype = torch.bfloat16,
    keep: Callable[[str], bool] = lambda name: name.startswith(KEPT),
) -> State:
    """An fp8 file in one of `FP8_FORMS`; matrices that `keep` does not name are fp8.

    `cast` makes everything fp8, biases and norms too, as such files are published.
    """
    stored: State = {}
    worth: State = {}
    layers: dict[str, Any] = {}
    name_of_scale = "scale_weight" if form == "legacy" else "weight_scale"
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        if form == "cast":
            stored[prefix + name] = tensor.to(dtype)
            worth[name] = tensor.to(dtype).float()
            continue
        if tensor.ndim != 2 or leaf != "weight" or keep(name):
            stored[prefix + name] = tensor.to(rest)
            worth[name] = tensor.to(rest).float()
            continue
        peak = tensor.abs().amax(1, keepdim=True) if per_row else tensor.abs().amax()
        scale = (peak / torch.finfo(dtype).max).float()
        stored[prefix + name] = (tensor / scale).to(dtype)
        worth[name] = stored[prefix + name].float() * scale
        stored[f"{prefix}{layer}.{name_of_scale}"] = scale
        form_of = {"format": str(dtype).removeprefix("torch.")}
        layers[prefix + layer] = form_of
        if form == "legacy":
            stored[f"{prefix}{layer}.scale_input"] = torch.ones(())
        elif form == "comfy_quant":
            raw = json.dumps(form_of).encode()
            stored[f"{prefix}{layer}.comfy_quant"] = torch.tensor(list(raw), dtype=torch.uint8)
            stored[f"{prefix}{layer}.input_scale"] = torch.ones(())
    if form == "legacy":
        stored[f"{prefix}scaled_fp8"] = torch.zeros(0, dtype=dtype)
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    save_file(
        {name: tensor.contiguous() for name, tensor in stored.items()},
        path,
        metadata if form == "metadata" else None,
    )
    return worth


# Where a block has its half-precision scales, so that random bytes are finite numbers.
HALF_SCALES = {
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ4_NL": (0,), "IQ4_XS": (0,), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,),
    "IQ3_XXS": (0,), "IQ3_S": (0,), "IQ1_S": (0,), "Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2),
    "Q5_0": (0,), "Q5_1": (0, 2), "TQ1_0": (52,), "TQ2_0": (64,),
}  # fmt: skip


def random_blocks(kind: str, rows: int, columns: int, seed: int = 0) -> Tensor:
    """Random packed rows uint8 [rows, row_bytes] whose scales are small and finite."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    draw = np.random.default_rng(seed)
    raw = draw.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
    for position in HALF_SCALES[kind]:
        scale = draw.uniform(-0.01, 0.01, len(raw)).astype(np.float16)
        raw[:, position : position + 2] = scale.view(np.uint8).reshape(-1, 2)
    return torch.from_numpy(raw.reshape(rows, -1))


def write_gguf(
    path: Path,
    state: Mapping[str, Tensor],
    kind: str | Callable[[str, Tensor], str] = "Q8_0",
    *,
    architecture: str | None = "flux",
    prefix: str = "",
    orig_shape: Mapping[str, tuple[int, ...]] | None = None,
    values: Mapping[str, Any] | None = None,
) -> State:
    """A GGUF file by gguf-py's own writer. Types that it can't encode get random blocks.

    Args:
        path: the file.
        state: tensors by name.
        kind: ggml type of every matrix outside of what published files keep, or a function that
            names the type of each tensor. Vectors are F32, kept matrices F16.
        architecture: None leaves `general.architecture` out, as stable-diffusion.cpp does.
        prefix: before every name.
        orig_shape: shapes to note as metadata; the tensor itself is stored as given.
        values: more metadata: texts, numbers and lists.

    Returns:
        What gguf-py makes of each tensor, float32, in the shape of `state`.
    """
    writer = gguf.GGUFWriter(path, architecture or "unknown")
    if architecture is None:
        del writer.kv_data[0]["general.architecture"]
    for key, value in (values or {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(key, value)
    for name, shape in (orig_shape or {}).items():
        writer.add_array(f"comfy.gguf.orig_shape.{prefix}{name}", list(shape))
    worth: State = {}
    for number, (name, tensor) in enumerate(state.items()):
        of = kind(name, tensor) if callable(kind) else _usual(name, tensor, kind)
        ggml = gguf.GGMLQuantizationType[of]
        try:
            raw = gguf.quantize(tensor.float().numpy(), ggml)
        except NotImplementedError:
            raw = random_blocks(of, tensor[..., 0].numel(), tensor.shape[-1], number).numpy()
            raw = raw.reshape(*tensor.shape[:-1], -1)
        writer.add_tensor(prefix + name, raw, raw_dtype=ggml)
        worth[name] = torch.from_numpy(dequantize(raw, ggml).copy()).reshape(tensor.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return worth


def _usual(name: str, tensor: Tensor, kind: str) -> str:
    if tensor.ndim < 2:
        return "F32"
    return "F16" if name.startswith(KEPT) else kind


def flux_to_diffusers(state: Mapping[str, Tensor]) -> State:
    """A transformer under diffusers' names."""
    out: State = {}
    hidden = state["img_in.weight"].shape[0]
    double = {
        "img_mod.lin": ("norm1.linear",), "txt_mod.lin": ("norm1_context.linear",),
        "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "img_attn.proj": ("attn.to_out.0",), "txt_attn.proj": ("attn.to_add_out",),
        "img_mlp.0": ("ff.net.0.proj",), "img_mlp.2": ("ff.net.2",),
        "txt_mlp.0": ("ff_context.net.0.proj",), "txt_mlp.2": ("ff_context.net.2",),
        "img_attn.norm.query_norm": ("attn.norm_q",), "img_attn.norm.key_norm": ("attn.norm_k",),
        "txt_attn.norm.query_norm": ("attn.norm_added_q",),
        "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    }  # fmt: skip
    single = {
        "modulation.lin": ("norm.linear",), "linear2": ("proj_out",),
        "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        "norm.query_norm": ("attn.norm_q",), "norm.key_norm": ("attn.norm_k",),
    }  # fmt: skip
    embed = "time_text_embed"
    top = {
        "img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out",
        "time_in.in_layer": f"{embed}.timestep_embedder.linear_1",
        "time_in.out_layer": f"{embed}.timestep_embedder.linear_2",
        "guidance_in.in_layer": f"{embed}.guidance_embedder.linear_1",
        "guidance_in.out_layer": f"{embed}.guidance_embedder.linear_2",
        "vector_in.in_layer": f"{embed}.text_embedder.linear_1",
        "vector_in.out_layer": f"{embed}.text_embedder.linear_2",
    }  # fmt: skip
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        leaf = "weight" if leaf == "scale" else leaf
        if layer == "final_layer.adaLN_modulation.1":
            shift, scale = tensor.chunk(2)
            out[f"norm_out.linear.{leaf}"] = torch.cat((scale, shift))
        elif layer in top:
            out[f"{top[layer]}.{leaf}"] = tensor
        else:
            kind, number, inner = layer.split(".", 2)
            names = (double if kind == "double_blocks" else single)[inner]
            block = "transformer_blocks" if kind == "double_blocks" else "single_transformer_blocks"
            sizes = [hidden] * 3 + [len(tensor) - 3 * hidden] if len(names) == 4 else None
            pieces = tensor.split(sizes) if sizes else tensor.chunk(len(names))
            for piece_name, piece in zip(names, pieces, strict=True):
                out[f"{block}.{number}.{piece_name}.{leaf}"] = piece.clone()
    return out


def autoencoder_to_diffusers(state: Mapping[str, Tensor]) -> State:
    """An autoencoder under diffusers' names."""
    levels = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("decoder.up."))
    attention = {
        "q": "to_q",
        "k": "to_k",
        "v": "to_v",
        "proj_out": "to_out.0",
        "norm": "group_norm",
    }
    out: State = {}
    for name, tensor in state.items():
        half, *rest = name.split(".")
        if rest[0] in ("down", "up"):
            way, level = rest[0], int(rest[1])
            level = level if way == "down" else levels - 1 - level
            inner = (
                f"resnets.{rest[3]}." + ".".join(rest[4:]).replace("nin_", "conv_")
                if rest[2] == "block"
                else f"{way}samplers.0." + ".".join(rest[3:])
            )
            out[f"{half}.{way}_blocks.{level}.{inner}"] = tensor
        elif rest[0] == "mid" and rest[1] == "attn_1":
            matrix = tensor.ndim == 4
            ours = f"{half}.mid_block.attentions.0.{attention[rest[2]]}.{rest[3]}"
            out[ours] = tensor.flatten(1) if matrix else tensor
        elif rest[0] == "mid":
            number = int(rest[1].removeprefix("block_")) - 1
            out[f"{half}.mid_block.resnets.{number}." + ".".join(rest[2:])] = tensor
        else:
            out[name.replace("norm_out", "conv_norm_out")] = tensor
    return out
