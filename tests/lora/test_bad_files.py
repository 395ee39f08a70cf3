"""Files that can't be used: what is wrong, which key, what to do. And what is left out is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lora_writer import Made, linears
from safetensors.torch import save_file
from small_models import draw
from torch import Tensor

from kontext_core import Flux
from kontext_core.errors import CheckpointError, ModelNotFoundError
from kontext_core.lora import load_lora, set_loras
from kontext_core.lora.factors import is_finite

STEM = "lora_unet_double_blocks_0_img_attn_proj"


def pair(stem: str = STEM, rows: int = 96, columns: int = 96) -> dict[str, Tensor]:
    return {
        f"{stem}.lora_down.weight": draw(1, 4, columns),
        f"{stem}.lora_up.weight": draw(2, rows, 4),
    }


def write(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    save_file(tensors, path, metadata)
    return path


REFUSED = {
    "no counterpart": ({f"{STEM}.lora_up.weight": draw(1, 96, 4)}, "lora_up.weight has no counterpart"),
    "ranks differ": (
        {**pair(), f"{STEM}.lora_up.weight": draw(1, 96, 5)},
        r"up is \[96, 5\] and down is \[4, 96\]",
    ),
    "integers": (
        {**pair(), f"{STEM}.lora_up.weight": torch.ones(96, 4, dtype=torch.int32)},
        "lora_up.weight is I32; expected a floating",
    ),
    "one dimension": ({**pair(), f"{STEM}.lora_up.weight": draw(1, 96)}, r"has shape \[96\]"),
    "a convolution": (
        {**pair(), f"{STEM}.lora_up.weight": draw(1, 96, 4, 3, 3)},
        "a convolution; FLUX.1 has linear layers only",
    ),
    "alpha of two numbers": ({**pair(), f"{STEM}.alpha": draw(1, 2)}, "alpha is .* one finite"),
    "alpha not a number": ({**pair(), f"{STEM}.alpha": torch.tensor(torch.nan)}, "one finite"),
    "NaN": (
        {**pair(), f"{STEM}.lora_up.weight": draw(1, 96, 4) * torch.nan},
        f"{STEM}.lora_up.weight holds NaN or infinite values: the LoRA's training failed",
    ),
    "one infinite number, float16": (
        {**pair(), f"{STEM}.lora_down.weight": torch.full((4, 96), 1e5).half()},
        f"{STEM}.lora_down.weight holds NaN",
    ),
    "NaN, float8": (
        {**pair(), f"{STEM}.lora_up.weight": torch.full((96, 4), torch.nan).to(torch.float8_e5m2)},
        f"{STEM}.lora_up.weight holds NaN",
    ),
    "NaN in DoRA's lengths": ({**pair(), f"{STEM}.dora_scale": torch.full((96, 1), torch.nan)}, "dora_scale holds NaN"),
    "half a LoHa": ({f"{STEM}.hada_w1_a": draw(1, 96, 4)}, "hada_w1_a has no counterpart"),
    "half a LoKr": ({f"{STEM}.lokr_w1": draw(1, 4, 4)}, "lokr_w1 has no counterpart"),
    "LoHa of two shapes": (
        {
            f"{STEM}.hada_w1_a": draw(1, 96, 4), f"{STEM}.hada_w1_b": draw(2, 4, 96),
            f"{STEM}.hada_w2_a": draw(1, 96, 4), f"{STEM}.hada_w2_b": draw(2, 4, 95),
        },
        "two products",
    ),
    "IA3": ({f"{STEM}.weight": draw(1, 96), f"{STEM}.on_input": draw(1, 1)}, "IA3, which is not"),
    "PEFT's OFT": ({"transformer.proj_out.oft_R.weight": draw(1, 2, 6)}, "OFT as PEFT"),
    "BOFT": ({f"{STEM}.oft_blocks": draw(1, 2, 12, 8, 8)}, "BOFT, which is not supported"),
    "VeRA": ({"base_model.model.proj_out.vera_lambda_b": draw(1, 64)}, "VeRA, which is not"),
    "SDXL": (pair("lora_unet_down_blocks_0_attentions_0_proj_in"), "Stable Diffusion 1.5 or SDXL"),
    "SD3": (pair("lora_unet_joint_blocks_3_context_block_mlp_fc1"), "Stable Diffusion 3"),
    "FLUX.2": (pair("base_model.model.double_stream_modulation_img.lin"), r"FLUX\.2"),
    "Wan": (pair("diffusion_model.blocks.0.self_attn.q"), "Wan"),
    "a model": ({"double_blocks.0.img_attn.qkv.weight": draw(1, 8, 8)}, "into the model loader"),
    "a control LoRA": (
        {
            "img_in.lora_A.weight": draw(1, 4, 128), "img_in.lora_B.weight": draw(1, 96, 4),
            "img_in.lora_B.bias": draw(1, 96),
            "single_blocks.0.norm.key_norm.scale": draw(1, 32),
        },
        "a control LoRA .* as a reference instead",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_while_reading(name: str, file: Path) -> None:
    tensors, says = REFUSED[name]
    with pytest.raises(CheckpointError, match=says) as error:
        load_lora(write(file, tensors))
    assert str(file) in str(error.value)


UNFIT = {
    "too wide": (pair(columns=128), "changes 96 x 128; double_blocks.0.img_attn.proj of this model"),
    "too high": (pair(rows=128), "changes 128 x 96; .* has 96 x 96"),
    "control names": (
        {"transformer.x_embedder.lora_A.weight": draw(1, 4, 128),
         "transformer.x_embedder.lora_B.weight": draw(1, 96, 4)},
        "Fill, Canny or Depth",
    ),
    "part too high": (
        {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": draw(1, 4, 96),
         "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": draw(1, 288, 4)},
        "changes 288 x 96; double_blocks.0.img_attn.qkv of this model has 96 x 96",
    ),
    "lengths": ({**pair(), f"{STEM}.dora_scale": draw(1, 40, 1)}, "40 DoRA lengths"),
    "a gain": ({"double_blocks.0.img_attn.norm.query_norm.diff": draw(1, 31)}, "of 32 numbers"),
    "a low-rank gain": (
        {"double_blocks.0.img_attn.norm.query_norm.lora_A.weight": draw(1, 4, 32),
         "double_blocks.0.img_attn.norm.query_norm.lora_B.weight": draw(1, 32, 4)},
        "for the norm",
    ),
    "a bias": ({f"{STEM}.diff_b": draw(1, 95)}, "changes 95;"),
    "a flat difference": ({f"{STEM}.diff": draw(1, 96)}, "changes 96;"),
    "OFT blocks": ({f"{STEM}.oft_blocks": draw(1, 5, 8, 8)}, "changes 40;"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(UNFIT))
def test_refused_by_the_model(name: str, file: Path, flux: Flux) -> None:
    tensors, says = UNFIT[name]
    with pytest.raises(CheckpointError, match=says) as error:
        set_loras(flux, [(load_lora(write(file, tensors)), 1.0)])
    assert str(file) in str(error.value)
    assert not any(module._forward_hooks for module in flux.modules())


def test_what_is_left_out_is_named(made: dict[str, Made], file: Path, flux: Flux) -> None:
    odd = {
        "lora_unet_double_blocks_7_img_attn_proj": "a block this model does not have",
        "lora_unet_no_such_layer": "no layer at all",
    }
    text = (
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "text_encoder.text_model.encoder.layers.0.mlp.fc2",
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q",
    )
    tensors = dict(made["kohya"].tensors)
    for stem in (*odd, *text):
        tensors |= pair(stem)
    tensors["some_number"] = draw(1, 3)
    lora = load_lora(write(file, tensors))
    report = set_loras(flux, [(lora, 1.0)])
    assert report.matched == len(linears(flux))
    assert set(report.unmatched) == {
        "lora_unet_double_blocks_7_img_attn_proj",
        "lora_unet_no_such_layer.lora_down.weight",
        "lora_unet_no_such_layer.lora_up.weight",
        "some_number",
    }
    assert {key.rsplit(".", 2)[0] for key in report.text_encoder} == set(text)
    said = report.text()
    assert "4 keys matched nothing" in said and "8 keys are for the text encoders" in said
    assert "rank 4" in said and "some_number" in said


def test_a_text_encoder_file_is_told_apart(file: Path, flux: Flux) -> None:
    lora = load_lora(write(file, pair("lora_te1_text_model_encoder_layers_0_mlp_fc1")))
    report = set_loras(flux, [(lora, 1.0)])
    assert (lora.format, report.matched, len(report.text_encoder)) == ("text encoder LoRA", 0, 2)


def test_alpha_in_the_header(file: Path) -> None:
    """diffusers' way; by layer, with rsLoRA, and off on request."""
    stems = [f"transformer.transformer_blocks.{i}.attn.to_out.0" for i in (0, 1)]
    tensors: dict[str, Tensor] = {}
    for stem in stems:
        tensors |= {
            f"{stem}.lora_A.weight": draw(1, 4, 96),
            f"{stem}.lora_B.weight": draw(2, 96, 4),
        }
    config = {
        "transformer.lora_alpha": 6,
        "transformer.r": 4,
        "transformer.alpha_pattern": {"transformer_blocks.1.attn.to_out.0": 2},
    }
    lora = load_lora(write(file, tensors, lora_adapter_metadata=json.dumps(config)))
    assert [entry.scale for entry in lora.entries] == [1.5, 0.5]
    assert any("header" in note for note in lora.notes)
    assert [e.scale for e in load_lora(file, header_alpha=False).entries] == [1.0, 1.0]
    config["transformer.use_rslora"] = True
    lora = load_lora(write(file, tensors, lora_adapter_metadata=json.dumps(config)))
    assert [entry.scale for entry in lora.entries] == [3.0, 1.0]
    tensors[f"{stems[0]}.alpha"] = torch.tensor(4.0)
    lora = load_lora(write(file, tensors, lora_adapter_metadata=json.dumps(config)))
    assert [entry.scale for entry in lora.entries] == [1.0, 1.0]


@pytest.mark.parametrize(
    "config", ["{", "[1]", '{"lora_alpha": "4"}', '{"r": 0}', '{"alpha_pattern": 3}',
               '{"lora_alpha": NaN}', '{"rank_pattern": {"a": -1}}', "[" * 100_000],
)  # fmt: skip
def test_a_broken_header(config: str, file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"header"):
        load_lora(write(file, pair(), lora_adapter_metadata=config))


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="give the LoRA file itself"):
        load_lora(tmp_path)
    with pytest.raises(ModelNotFoundError):
        load_lora(tmp_path / "none.safetensors")
    write(tmp_path / "adapter_model.safetensors", pair())
    assert load_lora(tmp_path).entries[0].scale == 1.0
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8, "r": 4}', encoding="utf-8")
    assert load_lora(tmp_path).entries[0].scale == 2.0
    # Only the file PEFT wrote belongs to PEFT's configuration.
    write(tmp_path / "other.safetensors", pair())
    assert load_lora(tmp_path / "other.safetensors").entries[0].scale == 1.0


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_truncated(cut: int, made: dict[str, Made], file: Path) -> None:
    whole = made["kohya"].write(file).read_bytes()
    file.write_bytes(whole[:cut])
    with pytest.raises(CheckpointError, match=r"lora\.safetensors"):
        load_lora(file)


def test_large_numbers_are_numbers() -> None:
    """Their sum is not finite in float32; NaN hides in no place of any type."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn):
        tensor = torch.full((3, 5), 0.9, dtype=torch.float64).mul(torch.finfo(dtype).max).to(dtype)
        assert is_finite(tensor)
        for place in ((0, 0), (1, 3), (2, 4)):
            broken = tensor.clone()
            broken[place] = torch.nan
            assert not is_finite(broken)
