"""Files of other models and other kinds of quantization are named, with what to use instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from published import Listing, flux_listing, shapes, t5_listing
from safetensors.torch import save_file
from sparse import sparse_gguf, sparse_safetensors

from kontext_core.errors import CheckpointError
from kontext_core.weights.detect import Contents, detect, require
from kontext_core.weights.sizes import flux_params
from kontext_core.weights.source import open_weights
from kontext_core.weights.state import read_state

PROJECTION = "double_blocks.0.img_attn.qkv"


def names(*wanted: str, shape: tuple[int, ...] = (4, 4)) -> Listing:
    """A listing of these names, half precision."""
    return {name: ("BF16", shape) for name in wanted}


def flux(**changes: tuple[int, ...]) -> Listing:
    """FLUX.1's listing with other shapes; `__` in a keyword stands for a dot."""
    changed = {name.replace("__", "."): ("BF16", shape) for name, shape in changes.items()}
    return {**flux_listing("BF16"), **changed}


OTHERS: dict[str, tuple[Listing, str]] = {
    "nunchaku": (
        names("transformer_blocks.0.attn.to_qkv.qweight", "transformer_blocks.0.attn.to_qkv.wscales"),
        "Nunchaku",
    ),
    "bitsandbytes nf4": (
        {
            **flux_listing("BF16"),
            **names(
                f"{PROJECTION}.weight.absmax",
                f"{PROJECTION}.weight.quant_map",
                f"{PROJECTION}.weight.quant_state.bitsandbytes__nf4",
            ),
        },
        "bitsandbytes",
    ),
    "bitsandbytes int8": (names("x_embedder.weight", "x_embedder.SCB"), "bitsandbytes"),
    "GPTQ": (names("a.qweight", "a.qzeros", "a.scales"), "GPTQ"),
    "quanto": (names("a.weight._data", "a.weight._scale"), "quanto"),
    "Fill": (flux(img_in__weight=(3072, 384)), "Fill"),
    "Canny": (flux(img_in__weight=(3072, 128)), "Canny or Depth"),
    "Fill, diffusers": (
        {n: ("BF16", (3072, 384) if n == "x_embedder.weight" else s)
         for n, s in shapes("flux_diffusers").items()},
        "Fill",
    ),
    "Redux": (names("redux_up.weight", "redux_down.weight"), "Redux"),
    "ControlNet": ({**flux_listing("BF16"), **names("controlnet_blocks.0.weight")}, "ControlNet"),
    "ControlNet alone": (names("controlnet_blocks.0.weight", "x_embedder.weight"), "ControlNet"),
    "FLUX.2": (
        {**names("double_stream_modulation_img.lin.weight", "img_in.weight", "txt_in.weight"),
         **names("double_blocks.0.img_attn.norm.key_norm.scale", shape=(128,))},
        "FLUX.2",
    ),
    "Chroma": (
        {**names("img_in.weight", "txt_in.weight", "distilled_guidance_layer.in_proj.weight"),
         **names("double_blocks.0.img_attn.norm.key_norm.scale", shape=(128,))},
        "Chroma",
    ),
    "SD3": (names("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"), "Stable Diffusion 3"),
    "SDXL": (
        names(
            "model.diffusion_model.input_blocks.0.0.weight",
            "model.diffusion_model.label_emb.0.0.weight",
        ),
        "Stable Diffusion XL",
    ),
    "SD1.5": (names("model.diffusion_model.input_blocks.0.0.weight"), "Stable Diffusion 1 or 2"),
    "SDXL, diffusers": (
        names("add_embedding.linear_1.weight", "down_blocks.0.resnets.0.conv1.weight"),
        "Stable Diffusion XL",
    ),
    "Qwen-Image": (
        names("transformer_blocks.0.img_mlp.net.0.proj.weight", "txt_norm.weight"), "Qwen-Image",
    ),
    "Wan": (names("blocks.0.self_attn.q.weight", "blocks.0.cross_attn.q.weight"), "Wan"),
    "HunyuanVideo": (
        {**names("img_in.proj.weight", "txt_in.individual_token_refiner.blocks.0.norm1.weight"),
         **names("double_blocks.0.img_attn_q_norm.weight", shape=(128,))},
        "HunyuanVideo",
    ),
    "a language model": (names("model.layers.0.self_attn.q_proj.weight"), "language model"),
    "CLIP-G": (
        names(
            "text_model.encoder.layers.0.mlp.fc1.weight",
            "text_model.embeddings.token_embedding.weight",
            shape=(8, 1280),
        ),
        "CLIP-G",
    ),
    "SD autoencoder": (
        names("encoder.conv_in.weight", "decoder.conv_in.weight", shape=(512, 4, 3, 3)),
        "4-channel",
    ),
    "FLUX.2 autoencoder": (
        {**names("encoder.conv_in.weight", "decoder.conv_in.weight", shape=(512, 32, 3, 3)),
         **names("bn.running_mean")},
        "FLUX.2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_other_models(tmp_path: Path, case: str) -> None:
    listing, reason = OTHERS[case]
    file = open_weights(sparse_safetensors(tmp_path / "other.safetensors", listing))
    for role in ("transformer", "autoencoder", "t5", "clip_l"):
        with pytest.raises(CheckpointError, match=reason) as caught:
            require(file, role)
        assert "Use " in str(caught.value)
        assert "other.safetensors" in str(caught.value)
    assert detect(file) == ()


ROLES: dict[str, tuple[Listing, str]] = {
    "transformer": (flux_listing("BF16"), "a FLUX.1 model"),
    "autoencoder": ({n: ("F32", s) for n, s in shapes("autoencoder_bfl").items()}, "autoencoder"),
    "t5": (t5_listing("F16"), "a T5 text encoder"),
    "clip_l": (
        {
            **names("text_model.embeddings.token_embedding.weight", shape=(49408, 768)),
            **names("text_model.encoder.layers.0.mlp.fc1.weight", shape=(3072, 768)),
        },
        "a CLIP-L text encoder",
    ),
    "taef1_decoder": (
        {
            **names("1.weight", shape=(64, 16, 3, 3)),
            **names("3.conv.0.weight", shape=(64, 64, 3, 3)),
        },
        "TAEF1 preview decoder",
    ),
    "taef1_encoder": (
        {
            **names("0.weight", shape=(64, 3, 3, 3)),
            **names("1.conv.0.weight", shape=(64, 64, 3, 3)),
            **names("14.weight", shape=(16, 64, 3, 3)),
        },
        "TAEF1 encoder",
    ),
    "lora": (
        names(
            "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
            "transformer.transformer_blocks.0.attn.to_q.lora_B.weight",
        ),
        "a LoRA",
    ),
}


@pytest.mark.parametrize("role", ROLES)
def test_a_file_in_the_wrong_place_says_what_it_is(tmp_path: Path, role: str) -> None:
    listing, name = ROLES[role]
    file = open_weights(sparse_safetensors(tmp_path / "file.safetensors", listing))
    for wanted in ROLES:
        if wanted == role:
            assert require(file, wanted).role == role
        else:
            with pytest.raises(CheckpointError, match=f"holds .*{name}"):
                require(file, wanted)


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight",
        "base_model.model.double_blocks.0.img_attn.qkv.lora_A.weight",
        "lora_transformer_transformer_blocks_0_attn_to_q.alpha",
        "lycoris_transformer_blocks_0_attn_to_q.lokr_w1",
        "double_blocks.0.processor.qkv_lora1.down.weight",
        "single_blocks.0.processor.proj_lora.down.weight",
        "diffusion_model.double_blocks.0.img_attn.qkv.diff",
        "diffusion_model.double_blocks.0.img_attn.qkv.hada_w1_a",
    ],
)
def test_loras_are_told_by_their_names(tmp_path: Path, name: str) -> None:
    path = sparse_safetensors(tmp_path / "lora.safetensors", names(name))
    assert [contents.role for contents in detect(open_weights(path))] == ["lora"]


def test_control_lora_is_a_lora(tmp_path: Path) -> None:
    """Black Forest Labs' control LoRA brings whole norms along, as a model does."""
    listing = {
        **names("img_in.lora_A.weight", "img_in.lora_B.weight", "img_in.lora_B.bias"),
        **names("double_blocks.0.img_attn.norm.key_norm.scale", shape=(128,)),
    }
    path = sparse_safetensors(tmp_path / "lora.safetensors", listing)
    assert [contents.role for contents in detect(open_weights(path))] == ["lora"]


def test_umt5_is_not_t5(tmp_path: Path) -> None:
    listing = dict(t5_listing("F16"))
    for number in range(24):
        name = f"encoder.block.{number}.layer.0.SelfAttention.relative_attention_bias.weight"
        listing[name] = ("F16", (32, 64))
    file = open_weights(sparse_safetensors(tmp_path / "umt5.safetensors", listing))
    with pytest.raises(CheckpointError, match="UMT5.*t5xxl"):
        require(file, "t5")
    listing = {**t5_listing("Q8_0"), "enc.blk.1.attn_rel_b.weight": ("F32", (32, 64))}
    file = open_weights(sparse_gguf(tmp_path / "umt5.gguf", listing))
    with pytest.raises(CheckpointError, match="UMT5.*t5xxl"):
        require(file, "t5")


def test_gguf_of_another_architecture(tmp_path: Path) -> None:
    path = sparse_gguf(
        tmp_path / "x.gguf", {"a.weight": ("F32", (4,))}, {"general.architecture": "hidream"}
    )
    with pytest.raises(CheckpointError, match="architecture 'hidream'"):
        require(open_weights(path), "transformer")


def test_two_networks_of_a_kind(tmp_path: Path) -> None:
    """The one with the shorter prefix is meant; the other does not get into its parameters."""
    listing = dict(ROLES["clip_l"][0])
    listing.update({f"other.place.{name}": value for name, value in listing.items()})
    file = open_weights(sparse_safetensors(tmp_path / "two.safetensors", listing))
    assert require(file, "clip_l") == Contents("clip_l", "hf", "")
    assert set(read_state(file, require(file, "clip_l"))) == set(ROLES["clip_l"][0])


FORMATS: dict[str, tuple[Any, str]] = {
    "nvfp4": ({"format": "nvfp4"}, "'nvfp4'"),
    "mxfp8": ({"format": "mxfp8"}, "'mxfp8'"),
    "rotated int8": ({"format": "int8_tensorwise", "convrot": True}, "rotated columns"),
    "rotated int8, inside": (
        {"format": "int8_tensorwise", "params": {"convrot": True}},
        "rotated columns",
    ),
    "unknown": ({"format": 3}, "expected float8_e4m3fn"),
    "nothing": (None, "expected float8_e4m3fn"),
}


@pytest.mark.parametrize("case", FORMATS)
def test_quantized_in_a_way_that_is_not_read(tmp_path: Path, case: str) -> None:
    form, reason = FORMATS[case]
    metadata = {"_quantization_metadata": json.dumps({"layers": {PROJECTION: form}})}
    path = sparse_safetensors(tmp_path / "a.safetensors", flux_listing("BF16"), metadata)
    file = open_weights(path)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_state(file, require(file, "transformer"))
    assert PROJECTION in str(caught.value)
    assert "GGUF" in str(caught.value)
    other = {"_quantization_metadata": json.dumps({"layers": {"text_encoders.t5.q": form}})}
    file = open_weights(sparse_safetensors(path, flux_listing("BF16"), other))
    assert len(read_state(file, require(file, "transformer"))) == 780
    raw = torch.tensor(list(json.dumps(form).encode()), dtype=torch.uint8)
    save_file({**zeros("img_in", "txt_in"), f"{PROJECTION}.comfy_quant": raw}, path)
    file = open_weights(path)
    with pytest.raises(CheckpointError):
        read_state(file, Contents("transformer", "bfl", ""))


def zeros(*layers: str) -> dict[str, torch.Tensor]:
    return {f"{layer}.weight": torch.zeros(4, 4) for layer in layers}


def test_int8_with_a_scale(tmp_path: Path) -> None:
    raw = torch.tensor(list(b'{"format": "int8_tensorwise"}'), dtype=torch.uint8)
    stored = torch.arange(-8, 8, dtype=torch.int8).reshape(4, 4)
    save_file(
        {"a.weight": stored, "a.weight_scale": torch.full((4, 1), 0.5), "a.comfy_quant": raw},
        tmp_path / "a.safetensors",
    )
    file = open_weights(tmp_path / "a.safetensors")
    state = read_state(file, Contents("transformer", "bfl", ""))
    assert set(state) == {"a.weight"}
    assert state["a.weight"].kind == "I8"
    assert torch.equal(state["a.weight"].data(), stored)
    assert state["a.weight"].scale is not None and state["a.weight"].scale.shape == (4, 1)


SCALES: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "without its weight": ({"a.weight_scale": torch.ones(())}, "without its weight"),
    "of blocks": ({**zeros("a"), "a.weight_scale": torch.ones(4, 2)}, "nvfp4"),
    "of a wrong kind": ({**zeros("a"), "a.weight_scale": torch.ones(4, dtype=torch.int32)}, "I32"),
    "on packed numbers": (
        {"a.weight": torch.zeros(4, 4, dtype=torch.uint8), "a.weight_scale": torch.ones(())},
        "U8 with a scale",
    ),
}


@pytest.mark.parametrize("case", SCALES)
def test_bad_scales(tmp_path: Path, case: str) -> None:
    tensors, reason = SCALES[case]
    save_file(tensors, tmp_path / "a.safetensors")
    file = open_weights(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=reason):
        read_state(file, Contents("transformer", "bfl", ""))


def change(path: Path, listing: Listing) -> CheckpointError:
    file = open_weights(sparse_safetensors(path, listing))
    with pytest.raises(CheckpointError) as caught:
        flux_params(read_state(file, Contents("transformer", "bfl", "")))
    return caught.value


def test_sizes_that_no_flux_has(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    norm = "double_blocks.0.img_attn.norm.key_norm.scale"
    whole = flux_listing("BF16")
    for gone in ("img_in.weight", norm, "final_layer.linear.weight"):
        assert gone in str(change(path, {n: v for n, v in whole.items() if n != gone}))
    assert "head size is 64" in str(change(path, {**whole, norm: ("BF16", (64,))}))
    assert "axes" in str(change(path, {**whole, norm: ("BF16", (8, 16))}))
    assert "multiple" in str(change(path, {**whole, "img_in.weight": ("BF16", (3000, 64))}))
    for first, last in (("double_blocks", 18), ("single_blocks", 37)):
        less = {n: v for n, v in whole.items() if not n.startswith(f"{first}.3.")}
        assert f"{first}.3 is missing, though {first}.{last}" in str(change(path, less))
    far = {**whole, "double_blocks.900000.img_mod.lin.bias": ("BF16", (4,))}
    assert "double_blocks.19 is missing" in str(change(path, far))


def test_missing_piece_of_a_split_matrix(tmp_path: Path) -> None:
    listing: Listing = {n: ("BF16", s) for n, s in shapes("flux_diffusers").items()}
    del listing["transformer_blocks.4.attn.to_k.weight"]
    file = open_weights(sparse_safetensors(tmp_path / "a.safetensors", listing))
    with pytest.raises(CheckpointError, match="double_blocks.4.img_attn.qkv.weight needs 3"):
        read_state(file, require(file, "transformer"))
    listing["transformer_blocks.4.attn.to_k.weight"] = ("BF16", (3072, 64))
    file = open_weights(sparse_safetensors(tmp_path / "a.safetensors", listing))
    with pytest.raises(CheckpointError, match="don't fit each other"):
        read_state(file, require(file, "transformer"))


def test_both_names_of_a_norm(tmp_path: Path) -> None:
    """Newer ComfyUI writes `.weight` for the norms' gains; one file has one of them."""
    name = "double_blocks.0.img_attn.norm.key_norm"
    newer = {n.replace("_norm.scale", "_norm.weight"): v for n, v in flux_listing("BF16").items()}
    file = open_weights(sparse_safetensors(tmp_path / "a.safetensors", newer))
    state = read_state(file, require(file, "transformer"))
    assert {n: w.shape for n, w in state.items()} == shapes("flux_bfl")
    both = {**newer, f"{name}.scale": ("BF16", (128,))}
    file = open_weights(sparse_safetensors(tmp_path / "b.safetensors", both))
    with pytest.raises(CheckpointError, match="are the same parameter"):
        read_state(file, require(file, "transformer"))


PARTS: dict[str, tuple[Listing, str]] = {
    "img_in": (
        {n: e for n, e in flux_listing("BF16").items() if not n.startswith("img_in.")},
        "but img_in is missing",
    ),
    "blocks alone": (
        {n: e for n, e in flux_listing("BF16").items() if "_blocks." in n},
        "but img_in and txt_in and time_in and vector_in and final_layer are missing",
    ),
    "second half, under a prefix": (
        {f"model.diffusion_model.{n}": e for n, e in flux_listing("BF16").items() if n.startswith("single_blocks.")},
        "final_layer and double_blocks.0 are missing",
    ),
    "diffusers": (
        {n: ("BF16", s) for n, s in shapes("flux_diffusers").items() if not n.startswith("x_embedder.")},
        "but x_embedder is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_a_part_of_a_model_says_what_it_lacks(case: str, tmp_path: Path) -> None:
    listing, message = PARTS[case]
    file = open_weights(sparse_safetensors(tmp_path / "part.safetensors", listing))
    with pytest.raises(
        CheckpointError, match=f"is a part of a FLUX.1 model: .*{message}.* the whole"
    ):
        require(file, "transformer")
