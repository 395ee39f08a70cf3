"""ComfyUI's folder of models with FLUX.1's published files: their names, their forms inside, and small
random networks in place of the real ones.

What is known of each form: transformers in fp8 have scales beside their matrices and bfloat16 else;
GGUF keeps vectors and the layers at both ends; T5 in fp8 has its table in half precision, twice; GGUF
of T5 has llama.cpp's names; LoRAs trained with diffusers name its layers behind "transformer.".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import torch
from files import published_autoencoder, published_flux, write_bfl, write_fp8
from published import KEPT, T5_HF
from safetensors.torch import save_file
from small_encoders import make_clip, make_t5
from small_models import draw
from torch import Tensor

from kontext_core.quant.encode import quantize_blocks

State = dict[str, Tensor]
# ComfyUI's older name of a folder, which both names lead to.
OLDER = {"diffusion_models": "unet", "text_encoders": "clip"}
# As in small_host; rows of 256 numbers, which K-quants need, and as many layers as T5-XXL.
T5 = {"d_model": 256, "d_kv": 64, "d_ff": 256, "num_layers": 24, "num_heads": 4}
# Layers of which llama.cpp's "M" mixes keep more bits.
BETTER = ("attn_v.weight", "ffn_down.weight", "img_attn.qkv.weight", "txt_attn.qkv.weight")


def _flux() -> State:
    return published_flux(context_in_dim=256, vec_in_dim=128).state_dict()


def _t5() -> State:
    return make_t5(**T5).state_dict()


def _fp8_flux(path: Path) -> None:
    write_fp8(path, _flux(), "legacy")


def _plain_flux(path: Path) -> None:
    write_bfl(path, _flux(), dtype=torch.bfloat16)


def _gguf_flux(path: Path) -> None:
    def kind(name: str, tensor: Tensor) -> str:
        kept = "F32" if tensor.ndim < 2 else "BF16" if name.startswith(KEPT) else ""
        return kept or ("Q6_K" if name.endswith(BETTER) else "Q4_K")

    _write_gguf(path, _flux(), kind, "flux")


def _fp8_t5(path: Path) -> None:
    state = _t5()
    keep = ("shared.", "relative_attention_bias.")
    half = torch.float16
    write_fp8(path, state, "legacy", keep=lambda n: any(k in n for k in keep), rest=half)
    stored = dict(_open(path))
    # The table a second time, as transformers saves it.
    stored["encoder.embed_tokens.weight"] = stored["shared.weight"].clone()
    save_file(stored, path)


def _gguf_t5(path: Path) -> None:
    names = {"shared.weight": "token_embd.weight"}
    names["encoder.final_layer_norm.weight"] = "enc.output_norm.weight"
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    names[bias] = "enc.blk.0.attn_rel_b.weight"
    for number in range(T5["num_layers"]):
        for ours, theirs in T5_HF.items():
            names[f"encoder.block.{number}.{theirs}.weight"] = f"enc.blk.{number}.{ours}.weight"

    def kind(name: str, tensor: Tensor) -> str:
        if tensor.ndim == 1 or "attn_rel_b" in name:
            return "F32"
        return "Q6_K" if name.endswith(BETTER) else "Q5_K"

    state = {names[name]: tensor for name, tensor in _t5().items()}
    _write_gguf(path, state, kind, "t5encoder")


def _clip_l(path: Path) -> None:
    write_bfl(path, make_clip().state_dict(), dtype=torch.float16)


def _ae(path: Path) -> None:
    write_bfl(path, published_autoencoder().state_dict())


def _lora(path: Path) -> None:
    hidden, state = 256, {}
    layers = {
        "transformer_blocks.0.attn.to_q": (hidden, hidden),
        "transformer_blocks.1.ff.net.0.proj": (hidden, 4 * hidden),
        "single_transformer_blocks.0.attn.to_v": (hidden, hidden),
        "single_transformer_blocks.1.proj_out": (5 * hidden, hidden),
        "x_embedder": (64, hidden),
    }
    for seed, (name, (columns, rows)) in enumerate(layers.items()):
        state[f"transformer.{name}.lora_A.weight"] = draw(seed, 64, columns) / columns**0.5
        state[f"transformer.{name}.lora_B.weight"] = draw(seed + 50, rows, 64)
    save_file({name: tensor.half() for name, tensor in state.items()}, path)


# Every file that a template names, and who writes it.
FILES: dict[str, Callable[[Path], None]] = {
    "flux1-dev-kontext_fp8_scaled.safetensors": _fp8_flux,
    "flux1-kontext-dev.safetensors": _plain_flux,
    "flux1-kontext-dev-Q4_K_M.gguf": _gguf_flux,
    "t5xxl_fp8_e4m3fn_scaled.safetensors": _fp8_t5,
    "t5-v1_1-xxl-encoder-Q5_K_M.gguf": _gguf_t5,
    "clip_l.safetensors": _clip_l,
    "ae.safetensors": _ae,
    "Hyper-FLUX.1-dev-8steps-lora.safetensors": _lora,
}


def write_published(models: Path, folders: dict[str, str], *, older: bool = False) -> list[Path]:
    """Puts files where their pages say, and gives their paths; what is there stays.

    Args:
        models: laid out as ComfyUI's.
        folders: {name: folder}; names are of `FILES`.
        older: into the folders that ComfyUI used before, where there is such a one.
    """
    paths = []
    for name, folder in folders.items():
        path = models / (OLDER.get(folder, folder) if older else folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            FILES[name](path)
        paths.append(path)
    return paths


def _open(path: Path) -> State:
    from safetensors.torch import load_file

    return load_file(path)


def _write_gguf(
    path: Path, state: State, kind: Callable[[str, Tensor], str], architecture: str
) -> None:
    """With the package's own blocks: gguf-py writes K-quants but can't make them."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, tensor in state.items():
        of = kind(name, tensor)
        ggml = gguf.GGMLQuantizationType[of]
        if of.endswith("_K"):
            raw = quantize_blocks(tensor.float(), of).numpy()
        else:
            raw = gguf.quantize(tensor.float().numpy(), ggml)
        writer.add_tensor(name, raw, raw_dtype=ggml)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
