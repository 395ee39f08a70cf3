"""The pack's CLIP on a real ComfyUI: one of the host's own, with the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from files import write_bfl, write_fp8, write_gguf
from native_host import native_hosts, run_in_host
from safetensors.torch import save_file
from small_encoders import make_clip, make_t5
from small_models import draw

SCRIPT = Path(__file__).with_name("scripts") / "clip.py"

# Files of T5, and the class that holds their weights.
FORMS = {
    "t5.safetensors": "Linear(",
    "t5-half.safetensors": "HostScaledLinear(",
    "t5-fp8.safetensors": "HostScaledLinear(",
    "t5-Q8_0.gguf": "HostQuantLinear(",
}
# Largest difference to the host's own CLIP with the same weights. Measured on 0.3.64 and 0.33.0:
# 2.1e-5 on features up to 3.2, with and without LoRAs, packed or not.
CLOSE = 8e-5
# Half-precision weights take a LoRA as the host's do, rounded to half again. Measured: 5.1e-4.
ROUNDED = 2e-3
PACKED = ("t5-fp8.safetensors", "t5-Q8_0.gguf")


def write_encoders(folder: Path) -> Path:
    """Small T5 and CLIP-L, T5 in several forms with what they are worth, and a LoRA for both."""
    t5, clip = make_t5().state_dict(), make_clip().state_dict()
    write_bfl(folder / "clip_l.safetensors", clip)
    write_bfl(folder / "t5.safetensors", t5)
    write_bfl(folder / "clip_l-half.safetensors", clip, dtype=torch.float16)
    write_bfl(folder / "t5-half.safetensors", t5, dtype=torch.float16)

    def keep(name: str) -> bool:
        return "relative_attention_bias" in name

    worth = write_fp8(folder / "t5-fp8.safetensors", t5, "legacy", keep=keep)
    save_file(worth, folder / "worth-t5-fp8.safetensors.safetensors")

    def kind(name: str, tensor: torch.Tensor) -> str:
        return "F32" if tensor.ndim == 1 or keep(name) else "Q8_0"

    worth = write_gguf(folder / "t5-Q8_0.gguf", t5, kind, architecture="t5encoder")
    save_file(worth, folder / "worth-t5-Q8_0.gguf.safetensors")

    lora = {}
    layers = {
        "lora_te1_text_model_encoder_layers_1_self_attn_q_proj": clip[
            "text_model.encoder.layers.1.self_attn.q_proj.weight"
        ],
        "lora_te1_text_model_encoder_layers_2_mlp_fc1": clip[
            "text_model.encoder.layers.2.mlp.fc1.weight"
        ],
        "lora_te2_encoder_block_1_layer_0_SelfAttention_v": t5[
            "encoder.block.1.layer.0.SelfAttention.v.weight"
        ],
        "lora_te2_encoder_block_2_layer_1_DenseReluDense_wo": t5[
            "encoder.block.2.layer.1.DenseReluDense.wo.weight"
        ],
    }
    for seed, (name, weight) in enumerate(layers.items()):
        rows, columns = weight.shape
        lora[f"{name}.lora_down.weight"] = draw(seed, 4, columns) / columns**0.5
        lora[f"{name}.lora_up.weight"] = draw(seed + 50, rows, 4)
        lora[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(lora, folder / "lora.safetensors")
    return folder


@pytest.fixture(scope="module", params=native_hosts())
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_in_host(
        request.param, SCRIPT, write_encoders(tmp_path_factory.mktemp("te")), timeout=3600
    )


def test_numbers_are_the_hosts_and_the_plain_ones(found: dict[str, Any]) -> None:
    differences = found["differences"]
    assert len(differences) == 19
    over = {
        name: gap
        for name, gap in differences.items()
        if not gap <= (0 if name.endswith("plain") else CLOSE)
    }
    assert over == {}
    # Features of order one, and every text kept whole.
    assert found["size"] == [pytest.approx(3.2, abs=0.1), [1, 331, 64]]


def test_it_is_a_clip_of_the_hosts(found: dict[str, Any]) -> None:
    assert found["classes"] == ["CLIP", "CLIP", "KontextClip"]
    assert found["missing"] == []
    # Tokens with word numbers, in the halves that the host's nodes ask for.
    assert found["tokens"] == [[3, 3], ["l", "t5xxl"]]
    assert found["embedded"] == [True, 0]


def test_nodes_of_the_host(found: dict[str, Any]) -> None:
    assert found["guidance"] == 2.5
    assert found["padded"] == 300
    # An earlier layer is another conditioning, one that is not there means the last.
    assert found["layers differ"] == [False, True, True, False]
    assert found["zero"] == [0, 0]
    assert found["clone"] == ["CLIP", 0]
    # Select CLIP Device is newer than the oldest host.
    assert found.get("device", 0) == 0


@pytest.mark.parametrize("name", FORMS)
def test_loras_on_both_encoders(found: dict[str, Any], name: str) -> None:
    loras = found["loras"][name]
    assert loras["keys"] == [4, 4]
    assert loras["effect"] > 1 and loras["hook effect"] > 1
    limit = ROUNDED if "half" in name else CLOSE
    assert loras["theirs"] < limit and loras["hook, theirs"] < limit
    assert loras["twice"] == loras["afterwards"] == loras["after hook"] == 0
    for beside, afterwards, matched in loras["of the pack"]:
        assert beside < limit and afterwards == 0 and matched == 4


@pytest.mark.parametrize("name", FORMS)
def test_layers_that_stay_behind_give_the_same(found: dict[str, Any], name: str) -> None:
    """One layer after another is brought over for its product, in every form of weights."""
    partial = found["partial"][name]
    assert partial["lowered"][0] > 1 and partial["lowered"][2] <= 1
    assert max(partial["gaps"]) == 0
    assert FORMS[name] in found["stored"][name]


def test_packed_weights_are_not_saved_raw(found: dict[str, Any]) -> None:
    assert found["saved"] == 0
    refused = found["refused"]
    for name in FORMS:
        if name in PACKED:
            assert "packed weights" in refused[name]
        else:
            assert refused[name] is None


def test_what_does_not_fit_is_refused(found: dict[str, Any]) -> None:
    assert "embedded text encoder gives its last layer only" in found["refused"]["layer"]
    assert "no half 't5xxl' (found ['g'])" in found["refused"]["half"]


def test_memory_is_the_hosts(found: dict[str, Any]) -> None:
    memory = found["memory"]
    assert memory["before"] == 0 and memory["known"] == [True]
    assert memory["size"][0] == memory["size"][1]
    # 256 tokens: three times the logits of 4 heads; twice the maps of one layer; one matrix.
    numbers = 3 * 4 * 256**2 + 2 * 256 * (2 * 96 + 5 * 64) + 96 * 64
    assert memory["estimate"] == 4 * numbers
    assert memory["prefixes"] == ["clip_l.transformer", "t5xxl.transformer"]
    assert memory["released"] == [True, True]


def test_an_interrupt_stops_it_within_t5(found: dict[str, Any]) -> None:
    assert found["interrupted"] == [True, [0], 0]
