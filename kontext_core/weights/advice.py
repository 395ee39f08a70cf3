"""Names files that are recognised but can't be used here, and says what to use instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from .entry import TensorEntry
from .source import WeightsFile

MODEL_NAMES = {
    "transformer": "a FLUX.1 model",
    "autoencoder": "the Flux autoencoder",
    "t5": "a T5 text encoder",
    "clip_l": "a CLIP-L text encoder",
    "taef1_decoder": "the TAEF1 preview decoder",
    "taef1_encoder": "the TAEF1 encoder",
    "lora": "a LoRA",
}
KONTEXT = (
    "FLUX.1 Kontext [dev]: flux1-kontext-dev.safetensors, an fp8 version of it or a GGUF file such "
    "as flux1-kontext-dev-Q4_K_M.gguf"
)
WANTED = {
    "transformer": KONTEXT,
    "autoencoder": "ae.safetensors of FLUX.1",
    "t5": "t5xxl_fp16.safetensors, an fp8 version of it or a GGUF of t5-v1_1-xxl-encoder",
    "clip_l": "clip_l.safetensors",
    "taef1_decoder": "taef1_decoder.safetensors, or taef1 in diffusers' form",
    "taef1_encoder": "taef1_encoder.safetensors, or taef1 in diffusers' form",
    "lora": "a LoRA made for FLUX.1 or FLUX.1 Kontext",
}
ORDINARY = "a bf16, fp8 or GGUF version of the same model"


@dataclass(frozen=True)
class Other:
    """What a file is, and what to use; an empty `instead` stands for what the caller wants."""

    what: str
    instead: str = ""


class _View:
    """Names and shapes of a file, for short tests."""

    def __init__(self, file: WeightsFile) -> None:
        self.entries: Mapping[str, TensorEntry] = file.entries
        self.metadata = file.metadata
        # Tests for endings and parts run over one text: files can have thousands of names.
        self.text = "\n" + "\n".join(file.entries) + "\n"

    def ends(self, *endings: str) -> bool:
        return all(f"{ending}\n" in self.text for ending in endings)

    def part(self, *parts: str) -> bool:
        return all(part in self.text for part in parts)

    def side(self, ending: str, axis: int) -> int:
        for name, entry in self.entries.items():
            if name.endswith(ending) and len(entry.shape) > axis:
                return entry.shape[axis]
        return 0


def _flux_channels(view: _View) -> int:
    """Token channels, if the file is a FLUX.1 transformer."""
    if view.part("double_blocks.0.img_attn.norm.") and view.ends("txt_in.weight"):
        return view.side("img_in.weight", 1)
    if view.part("transformer_blocks.0.attn.norm_added_k.") and view.ends(
        "context_embedder.weight"
    ):
        return view.side("x_embedder.weight", 1)
    return 0


# Weights in a form that is not read, whatever the model; these come before anything else.
BLOCKED: tuple[tuple[Callable[[_View], bool], Other], ...] = (
    (
        lambda v: v.part(".qweight") and (v.part(".wscales") or v.part(".smooth")),
        Other(
            "a Nunchaku (SVDQuant) file, whose 4-bit layers need that project's CUDA kernels",
            "the Nunchaku nodes for it, or here a GGUF file such as flux1-kontext-dev-Q4_K_M.gguf, "
            "which is as small",
        ),
    ),
    (
        lambda v: v.part(".quant_state.bitsandbytes__") or v.ends(".absmax", ".quant_map")
        or v.ends(".SCB"),
        Other("quantized by bitsandbytes (nf4, fp4 or int8)", ORDINARY),
    ),
    (
        lambda v: v.ends(".qweight", ".qzeros") or v.ends(".qweight", ".g_idx"),
        Other("quantized by GPTQ or AWQ", ORDINARY),
    ),
    (
        lambda v: v.ends(".weight._data") or v.ends(".weight.qdata") or v.ends(".weight._packed"),
        Other("quantized by quanto or torchao", ORDINARY),
    ),
    (
        lambda v: v.ends(".weight.scales", ".weight.zero_points") or v.ends(".weight_packed"),
        Other("quantized in compressed-tensors form", ORDINARY),
    ),
)  # fmt: skip

MODELS: tuple[tuple[Callable[[_View], bool], Other], ...] = (
    (
        lambda v: v.ends("redux_up.weight", "redux_down.weight"),
        Other("the FLUX.1 Redux adapter, not a model", KONTEXT),
    ),
    (
        lambda v: v.part("controlnet_blocks.0.") or v.part("controlnet_x_embedder."),
        Other("a FLUX.1 ControlNet", KONTEXT),
    ),
    (
        lambda v: v.part("ip_adapter_") or v.part("pulid_"),
        Other("an adapter (IP-Adapter or PuLID)", KONTEXT),
    ),
    (
        lambda v: v.part("double_stream_modulation_img."),
        Other("FLUX.2, another architecture with its own text encoder and autoencoder", KONTEXT),
    ),
    (
        lambda v: v.part("distilled_guidance_layer."),
        Other("Chroma, which computes its modulations by another network", KONTEXT),
    ),
    (
        lambda v: v.part("individual_token_refiner.") or v.part("byt5_in."),
        Other("HunyuanVideo", KONTEXT),
    ),
    (
        lambda v: _flux_channels(v) == 384,
        Other("FLUX.1 Fill, whose input has 384 channels in place of 64", KONTEXT),
    ),
    (
        lambda v: _flux_channels(v) == 128,
        Other("FLUX.1 Canny or Depth, whose input has 128 channels in place of 64", KONTEXT),
    ),
    (
        lambda v: _flux_channels(v) not in (0, 64),
        Other("a FLUX.1 variant whose input does not have 64 channels", KONTEXT),
    ),
    (lambda v: v.part("joint_blocks.0."), Other("Stable Diffusion 3", KONTEXT)),
    (
        lambda v: v.part("transformer_blocks.0.attn.add_k_proj") and v.ends("pos_embed.proj.weight"),
        Other("Stable Diffusion 3", KONTEXT),
    ),
    (
        lambda v: v.part("transformer_blocks.0.img_mod.1.") or v.part("transformer_blocks.0.img_mlp."),
        Other("Qwen-Image", KONTEXT),
    ),
    (
        lambda v: v.part("blocks.0.self_attn.q.") and v.part("blocks.0.cross_attn."),
        Other("a Wan video model", KONTEXT),
    ),
    (
        lambda v: v.part("cap_embedder.") and v.part("noise_refiner.0."),
        Other("Lumina 2 or Z-Image", KONTEXT),
    ),
    (lambda v: v.part("double_layers.0.") and v.part("single_layers."), Other("AuraFlow", KONTEXT)),
    (lambda v: v.part("double_stream_blocks.0.block."), Other("HiDream", KONTEXT)),
    (lambda v: v.part("adaln_single.") and v.part("caption_projection."),
     Other("PixArt or LTX-Video", KONTEXT)),
    (
        lambda v: v.part("input_blocks.0.0.") and v.part("label_emb.0.0."),
        Other("Stable Diffusion XL", KONTEXT),
    ),
    (
        lambda v: v.part("input_blocks.0.0.") or v.part("unet.down_blocks."),
        Other("Stable Diffusion 1 or 2", KONTEXT),
    ),
    (
        lambda v: v.part("\nadd_embedding.linear_1.") and v.part("\ndown_blocks."),
        Other("Stable Diffusion XL", KONTEXT),
    ),
    (
        lambda v: v.part("\ntime_embedding.linear_1.") and v.part("\ndown_blocks."),
        Other("Stable Diffusion 1 or 2", KONTEXT),
    ),
    (
        lambda v: v.part("encoder.block.1.layer.0.SelfAttention.relative_attention_bias")
        or v.part("enc.blk.1.attn_rel_b."),
        Other("UMT5, the text encoder of Wan", WANTED["t5"]),
    ),
    (
        lambda v: v.part("encoder.block.0.layer.1.DenseReluDense.wi.")
        or (v.part("enc.blk.0.ffn_up.") and not v.part("enc.blk.0.ffn_gate.")),
        Other("a T5 of the first version", WANTED["t5"]),
    ),
    (
        lambda v: v.part("transformer.resblocks.0.") or v.part("embeddings.token_embedding."),
        Other("another CLIP than CLIP-L (CLIP-G, CLIP-H or OpenCLIP)", WANTED["clip_l"]),
    ),
    (
        lambda v: v.part("vision_model.encoder.layers.") or v.part("visual.blocks.0."),
        Other("a vision encoder", WANTED["clip_l"]),
    ),
    (
        lambda v: v.part("layers.0.self_attn.q_proj.") or v.part("\nblk.0.attn_q."),
        Other("a language model (Llama, Qwen or the like)", WANTED["t5"]),
    ),
    (
        lambda v: v.ends("decoder.conv_in.weight") and v.side("decoder.conv_in.weight", 1) == 4,
        Other("the 4-channel autoencoder of Stable Diffusion", WANTED["autoencoder"]),
    ),
    (
        lambda v: v.ends("bn.running_mean") and v.ends("decoder.conv_in.weight"),
        Other("the autoencoder of FLUX.2", WANTED["autoencoder"]),
    ),
    (
        lambda v: v.part("decoder.middle.0.residual.") or v.part("decoder.conv_in.conv.")
        or len(next((e.shape for n, e in v.entries.items()
                     if n.endswith("decoder.conv_in.weight")), ())) == 5,
        Other("the autoencoder of a video model", WANTED["autoencoder"]),
    ),
    (
        lambda v: v.ends("decoder.conv_in.weight"),
        Other("another autoencoder than that of FLUX.1", WANTED["autoencoder"]),
    ),
    (
        lambda v: v.part("taesd") or v.side("\n1.weight", 1) == 4 or v.ends("decoder.layers.0.weight"),
        Other("a tiny autoencoder of another model", WANTED["taef1_decoder"]),
    ),
    (
        lambda v: v.ends("emb_params") or v.ends("string_to_param"),
        Other("a textual inversion embedding"),
    ),
)  # fmt: skip


# What stands around FLUX.1's blocks in BFL's and in diffusers' names, with the first of the blocks.
AROUND = (
    (
        re.compile(r"(?P<prefix>.*?)(double_blocks\.\d+\.(img|txt)_(attn|mlp)|single_blocks\.\d+\.linear1)\."),
        ("img_in.", "txt_in.", "time_in.", "vector_in.", "final_layer.", "double_blocks.0.", "single_blocks.0."),
    ),
    (
        re.compile(r"(?P<prefix>.*?)(transformer_blocks\.\d+\.attn\.norm_added_k|single_transformer_blocks\.\d+\.proj_mlp)\."),
        ("x_embedder.", "context_embedder.", "time_text_embed.", "norm_out.", "proj_out.",
         "transformer_blocks.0.", "single_transformer_blocks.0."),
    ),
)  # fmt: skip


def _part_of_flux(names: Collection[str]) -> Other | None:
    """A FLUX.1 transformer without some of what stands around its blocks."""
    for block, around in AROUND:
        found = next((match for name in names if (match := block.match(name))), None)
        if found is None:
            continue
        prefix = found["prefix"]
        missing = [
            part.rstrip(".")
            for part in around
            if not any(name.startswith(prefix + part) for name in names)
        ]
        if missing:
            return Other(
                f"a part of a FLUX.1 model: it has blocks of one, but {' and '.join(missing)} "
                f"{'are' if len(missing) > 1 else 'is'} missing (an export of the blocks alone, or "
                "one of several shards under a name of its own)",
                "the whole file it comes from; shards go into one folder, under their own names",
            )
    return None


def blocked(file: WeightsFile) -> Other | None:
    """How the weights are quantized, if it is a way that is not read."""
    view = _View(file)
    if "quantization_config" in view.metadata and "comfy_config" in view.metadata:
        return BLOCKED[0][1]
    return next((other for test, other in BLOCKED if test(view)), None)


def what_is_it(file: WeightsFile) -> Other | None:
    """What a file is that holds nothing usable; None where it is not known."""
    view = _View(file)
    found = blocked(file)
    if found is None:
        found = next((other for test, other in MODELS if test(view)), None)
    if found is None:
        found = _part_of_flux(file.entries)
    architecture = file.metadata.get("general.architecture")
    if found is None and isinstance(architecture, str) and architecture not in ("flux", "t5"):
        return Other(f"a GGUF file of architecture {ascii(architecture[:40])}")
    return found
