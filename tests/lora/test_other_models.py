"""LoRAs of other models, as trainers write them, of full size: refused as a whole, by what tells them.

Their shapes partly fit FLUX.1: Qwen-Image, FLUX.2 klein 4B and HunyuanVideo are 3072 wide as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from published import Listing
from sparse import sparse_safetensors

from kontext_core import Flux
from kontext_core.config import FluxParams
from kontext_core.errors import CheckpointError
from kontext_core.lora import load_lora, match_loras

WIDE = 3072
SQUARE = (WIDE, WIDE)
RANK = 4
Layers = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def flux() -> Flux:
    """FLUX.1 of full size, without weights."""
    with torch.device("meta"):
        return Flux(FluxParams())


def lora(layers: Layers, prefix: str = "", *, kohya: bool = False) -> Listing:
    """The layers' factors under dotted names of PEFT's, or kohya's with underscores."""
    listing: Listing = {}
    for name, (rows, columns) in layers.items():
        stem = prefix + (name.replace(".", "_") if kohya else name)
        down, up = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
        listing[f"{stem}.{down}.weight"] = ("BF16", (RANK, columns))
        listing[f"{stem}.{up}.weight"] = ("BF16", (rows, RANK))
        if kohya:
            listing[f"{stem}.alpha"] = ("F32", ())
    return listing


def joint(blocks: Iterable[int], names: str) -> Layers:
    """Square layers of diffusers' transformer blocks."""
    return {f"transformer_blocks.{i}.{name}": SQUARE for i in blocks for name in names.split()}


ATTENTION = (
    "attn.to_q attn.to_k attn.to_v attn.to_out.0 "
    "attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_add_out"
)


def qwen(feed_forward: bool) -> Layers:
    layers = joint(range(60), ATTENTION)
    for i in range(60 if feed_forward else 0):
        for side in ("img", "txt"):
            layers[f"transformer_blocks.{i}.{side}_mlp.net.0.proj"] = (4 * WIDE, WIDE)
            layers[f"transformer_blocks.{i}.{side}_mlp.net.2"] = (WIDE, 4 * WIDE)
    return layers


def klein(feed_forward: bool) -> Layers:
    """FLUX.2 klein 4B in diffusers' names: 5 double and 20 single blocks."""
    layers = joint(range(5), ATTENTION)
    for i in range(20 if feed_forward else 0):
        layers[f"single_transformer_blocks.{i}.attn.to_qkv_mlp_proj"] = (9 * WIDE, WIDE)
        layers[f"single_transformer_blocks.{i}.attn.to_out"] = (WIDE, 4 * WIDE)
    return layers


def klein_bfl() -> Layers:
    return {
        f"double_blocks.{i}.{side}_attn.{name}": (rows, WIDE)
        for i in range(5)
        for side in ("img", "txt")
        for name, rows in (("qkv", 3 * WIDE), ("proj", WIDE))
    }


def hunyuan(feed_forward: bool) -> Layers:
    """HunyuanVideo: 20 double and 40 single blocks whose linear1 and linear2 are FLUX.1's."""
    layers: Layers = {}
    for i in range(20):
        for side in ("img", "txt"):
            layers[f"double_blocks.{i}.{side}_attn_qkv"] = (3 * WIDE, WIDE)
            layers[f"double_blocks.{i}.{side}_attn_proj"] = SQUARE
            if feed_forward:
                layers[f"double_blocks.{i}.{side}_mlp.fc1"] = (4 * WIDE, WIDE)
    for i in range(40):
        layers[f"single_blocks.{i}.linear1"] = (7 * WIDE, WIDE)
        layers[f"single_blocks.{i}.linear2"] = (WIDE, 5 * WIDE)
    return layers


def flux1() -> Layers:
    """Attention and single blocks of FLUX.1, BFL's names."""
    layers: Layers = {}
    for i in range(19):
        layers[f"double_blocks.{i}.img_attn.qkv"] = (3 * WIDE, WIDE)
        layers[f"double_blocks.{i}.txt_attn.proj"] = SQUARE
    for i in range(38):
        layers[f"single_blocks.{i}.linear1"] = (7 * WIDE, WIDE)
    return layers


def adapter(model: str, kind: str, prefix: str = "transformer.") -> dict[str, str]:
    config = {
        f"{prefix}base_model_name_or_path": model,
        f"{prefix}auto_mapping": {"base_model_class": kind},
    }
    return {"lora_adapter_metadata": json.dumps(config)}


Case = tuple[Listing, dict[str, str], str]
REFUSED: dict[str, Callable[[], Case]] = {
    "Qwen-Image-Edit, diffusers": lambda: (
        lora(qwen(True), "transformer."), {}, "made for Qwen-Image.*_mlp",
    ),
    "Qwen-Image-Edit, attention only": lambda: (
        lora(qwen(False), "transformer."), {}, r"changes double_blocks\.59",
    ),
    "Qwen-Image-Edit, few blocks, named in the header": lambda: (
        lora(joint(range(10), ATTENTION), "diffusion_model."),
        {"modelspec.architecture": "Qwen-Image-Edit/lora"}, "made for Qwen-Image, as its header",
    ),
    "Qwen-Image-Edit, musubi": lambda: (
        lora(joint(range(10), ATTENTION), "lora_unet_", kohya=True),
        {"ss_base_model_version": "qwen_image_edit_plus"}, "ss_base_model_version",
    ),
    "Qwen-Image-Edit, PEFT": lambda: (
        lora(joint(range(10), ATTENTION), "transformer."),
        adapter("Qwen/Qwen-Image-Edit-2509", "QwenImageTransformer2DModel"),
        "base_model_class: 'QwenImageTransformer2DModel'",
    ),
    "FLUX.2 klein, ai-toolkit": lambda: (
        lora(klein_bfl(), "diffusion_model."),
        {"ss_base_model_version": "flux2_klein_4b"}, r"made for FLUX\.2, as its header",
    ),
    "FLUX.2 klein, kohya": lambda: (
        lora(klein_bfl(), "lora_unet_", kohya=True),
        {"modelspec.architecture": "Flux.2-klein-base-4b/lora"}, r"made for FLUX\.2",
    ),
    "FLUX.2 klein, diffusers": lambda: (lora(klein(True), "transformer."), {}, r"FLUX\.2.*to_qkv_mlp"),
    "FLUX.2 klein, diffusers, attention only": lambda: (
        lora(klein(False), "transformer."),
        adapter("black-forest-labs/FLUX.2-klein-4B", "Flux2Transformer2DModel"), r"FLUX\.2",
    ),
    "HunyuanVideo": lambda: (lora(hunyuan(True), "lora_unet_", kohya=True), {}, "made for Hunyuan"),
    "HunyuanVideo, what fits": lambda: (
        lora(hunyuan(False), "diffusion_model."), {}, r"changes (double_blocks\.19|single_blocks\.39)",
    ),
    "Chroma": lambda: (
        lora(flux1(), "lora_unet_", kohya=True), {"ss_base_model_version": "chroma"}, "Chroma",
    ),
    "nobody knows what": lambda: (
        lora({**joint(range(3), "attn.to_q"), **{f"joint_layers.{i}.mixer": SQUARE for i in range(9)}}),
        {}, "only 3 of its 12 layers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_another_models_lora_is_refused(name: str, tmp_path: Path, flux: Flux) -> None:
    listing, metadata, says = REFUSED[name]()
    path = sparse_safetensors(tmp_path / "other.safetensors", listing, metadata)
    with pytest.raises(CheckpointError, match=says) as error:
        match_loras(flux, [(load_lora(path), 1.0)])
    assert str(path) in str(error.value) and "FLUX.1 [dev] or Kontext" in str(error.value)


def test_the_configuration_beside_an_adapter_counts(tmp_path: Path) -> None:
    listing = lora(joint(range(3), ATTENTION), "base_model.model.")
    path = sparse_safetensors(tmp_path / "adapter_model.safetensors", listing)
    config = tmp_path / "adapter_config.json"
    config.write_text('{"base_model_name_or_path": "black-forest-labs/FLUX.1-dev"}', "utf-8")
    assert len(load_lora(path).entries) == 24
    config.write_text('{"base_model_name_or_path": "/models/flux/Qwen-Image-Edit/"}', "utf-8")
    with pytest.raises(CheckpointError, match="made for Qwen-Image"):
        load_lora(path)


HEADERS = (
    {},
    {"modelspec.architecture": "flux-1-dev/lora", "ss_base_model_version": "flux1"},
    {"modelspec.architecture": "Flux.1-kontext-dev/lora"},
    {"ss_base_model_version": "flux_kontext"},
    {"ss_base_model_version": "flux.1", "base_model": "black-forest-labs/FLUX.1-Krea-dev"},
    {"ss_base_model_version": "my own model"},
    adapter("black-forest-labs/FLUX.1-Kontext-dev", "FluxTransformer2DModel"),
    adapter("/data/qwen and wan/flux1-dev", "FluxTransformer2DModel"),
)


@pytest.mark.parametrize("metadata", HEADERS)
def test_loras_of_flux1_are_not(metadata: dict[str, str], tmp_path: Path, flux: Flux) -> None:
    for listing in (lora(flux1(), "diffusion_model."), lora(flux1(), "lora_unet_", kohya=True)):
        path = sparse_safetensors(tmp_path / "own.safetensors", listing, metadata)
        (part,) = match_loras(flux, [(load_lora(path), 1.0)]).loras
        assert (part.matched, part.layers, part.unmatched, part.notes) == (76, 76, (), ())


def test_a_default_left_in_the_header_is_said_and_no_more(tmp_path: Path) -> None:
    """A version field of a model that shares no name with FLUX.1 can't be true of these keys."""
    path = tmp_path / "own.safetensors"
    sparse_safetensors(path, lora(flux1()), {"ss_base_model_version": "sd_1.5"})
    (note,) = load_lora(path).notes
    assert "sd_1.5" in note and "Stable Diffusion 1 or 2" in note
