"""Kontext: Load LoRA: several MODELs over one network, each with its own LoRAs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from files import write_bfl
from safetensors.torch import save_file
from small_encoders import make_clip, make_t5
from small_models import draw

LAYER = "double_blocks.0.img_attn.qkv"
OTHER = "single_blocks.0.linear2"


def write_lora(path: Path, model: Any, seed: int, layers: tuple[str, ...] = (LAYER,)) -> None:
    """A rank 4 LoRA in ComfyUI's own key names, strong enough to be seen."""
    tensors = {}
    for number, name in enumerate(layers):
        rows, columns = model.load().get_submodule(name).weight.shape
        key = f"diffusion_model.{name}"
        tensors[f"{key}.lora_A.weight"] = draw(seed + 2 * number, 4, columns)
        tensors[f"{key}.lora_B.weight"] = draw(seed + 2 * number + 1, rows, 4) / 4
    save_file(tensors, path)


@pytest.fixture
def folder(host: Any, tmp_path: Path, model: Any) -> Path:
    """The folder of LoRAs with two of them: a.safetensors and b.safetensors."""
    host.models = tmp_path
    folder = tmp_path / "loras"
    folder.mkdir()
    write_lora(folder / "a.safetensors", model, 1)
    write_lora(folder / "b.safetensors", model, 11, (LAYER, OTHER))
    return folder


@pytest.fixture
def velocity(model: Any) -> Any:
    """What a MODEL's network makes of fixed inputs."""
    params = model.load().params
    inputs = {
        "img": draw(21, 1, 12, params.in_channels),
        "img_ids": torch.zeros(1, 12, 3),
        "txt": draw(22, 1, 5, params.context_in_dim),
        "txt_ids": torch.zeros(1, 5, 3),
        "timesteps": torch.tensor([0.5]),
        "y": draw(23, 1, params.vec_in_dim),
        "guidance": torch.tensor([2.5]),
    }

    @torch.no_grad()
    def run(which: Any) -> torch.Tensor:
        return which.load()(**inputs)

    return run


def test_one_network_serves_models_with_different_loras(
    pack: Any, model: Any, folder: Path, velocity: Any
) -> None:
    plain = velocity(model)
    a = pack.run("KontextLoadLora", model=model, lora_file="a.safetensors")[0]
    b = pack.run("KontextLoadLora", model=model, lora_file="b.safetensors")[0]
    assert a.load() is b.load() is model.load()
    with_a, with_b = velocity(a), velocity(b)
    # Measured 3.2 and 4.2, on outputs of mean 1.
    assert (with_a - plain).abs().max() > 0.5
    assert (with_b - with_a).abs().max() > 0.5
    for which, expected in ((model, plain), (b, with_b), (a, with_a), (model, plain)):
        assert torch.equal(velocity(which), expected)


def test_merged_equals_branch_and_leaves_the_model_alone(
    pack: Any, model: Any, folder: Path, velocity: Any
) -> None:
    plain = velocity(model)
    inputs = {"model": model, "lora_file": "b.safetensors", "strength": 0.7}
    branch = velocity(pack.run("KontextLoadLora", **inputs)[0])
    merged = pack.run("KontextLoadLora", **inputs, mode="merge")[0]
    # Measured 1.2e-6: the same sum in another order.
    torch.testing.assert_close(velocity(merged), branch, rtol=0, atol=2e-5)
    assert merged.load() is not model.load()
    assert torch.equal(velocity(model), plain)
    # What the LoRA does not touch lies in memory once.
    name = "double_blocks.0.txt_attn.qkv"
    ours, theirs = (m.load().get_submodule(name).weight for m in (merged, model))
    assert ours.data_ptr() == theirs.data_ptr()


def test_loras_add_up_in_any_mode(pack: Any, model: Any, folder: Path, velocity: Any) -> None:
    def chain(first: str, second: str) -> Any:
        one = pack.run("KontextLoadLora", model=model, lora_file="a.safetensors", mode=first)[0]
        return pack.run("KontextLoadLora", model=one, lora_file="b.safetensors", mode=second)[0]

    both = velocity(chain("branch", "branch"))
    one = velocity(pack.run("KontextLoadLora", model=model, lora_file="b.safetensors")[0])
    assert (both - one).abs().max() > 0.5
    for modes in (("merge", "merge"), ("merge", "branch"), ("branch", "merge")):
        # Measured 1.5e-6 at most.
        torch.testing.assert_close(velocity(chain(*modes)), both, rtol=0, atol=2e-5)


def test_another_strength_reads_no_file(
    pack: Any, model: Any, folder: Path, velocity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pack.run("KontextLoadLora", model=model, lora_file="a.safetensors")[0]
    with monkeypatch.context() as patch:
        patch.setattr(pack.module("kontext_core.lora.load"), "load_lora", None)
        other = pack.run("KontextLoadLora", model=model, lora_file="a.safetensors", strength=-1.0)[
            0
        ]
    assert other.loras[0][0] is first.loras[0][0]
    assert (velocity(other) - velocity(first)).abs().max() > 0.5
    # A file that was replaced is read again.
    before = velocity(first)
    write_lora(folder / "a.safetensors", model, 31, (LAYER, OTHER))
    changed = pack.run("KontextLoadLora", model=model, lora_file="a.safetensors")[0]
    assert (velocity(changed) - before).abs().max() > 0.5


def test_strength_0_is_the_model_itself(pack: Any, model: Any, folder: Path) -> None:
    made = pack.run("KontextLoadLora", model=model, lora_file="a.safetensors", strength=0.0)
    assert made[0] is model
    assert "not applied" in made.ui["kontext_notes"][0]


@pytest.mark.parametrize("mode", ["branch", "merge"])
def test_keys_that_match_nothing_are_named(
    pack: Any, model: Any, folder: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.torch import load_file

    tensors = load_file(folder / "a.safetensors")
    tensors["diffusion_model.no_such_layer.lora_A.weight"] = draw(1, 4, 8)
    tensors["diffusion_model.no_such_layer.lora_B.weight"] = draw(2, 8, 4)
    save_file(tensors, folder / "c.safetensors")
    made = pack.run("KontextLoadLora", model=model, lora_file="c.safetensors", mode=mode)
    notes = "\n".join(made.ui["kontext_notes"])
    assert "c.safetensors" in notes
    assert "2 keys matched nothing" in notes
    assert "no_such_layer" in notes
    assert str(folder) not in notes
    assert "diffusion_model.no_such_layer.lora_B.weight" in caplog.text


def test_a_lora_that_fits_no_key_says_that_it_does_nothing(
    pack: Any, model: Any, folder: Path
) -> None:
    tensors = {
        f"lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_{role}.weight": draw(1, *size)
        for role, size in (("down", (4, 8)), ("up", (8, 4)))
    }
    save_file(tensors, folder / "none_fits.safetensors")
    made = pack.run("KontextLoadLora", model=model, lora_file="none_fits.safetensors")
    assert "changes nothing" in made.ui["kontext_notes"][0]
    fits = pack.run("KontextLoadLora", model=model, lora_file="a.safetensors")
    assert "changes nothing" not in "\n".join(fits.ui["kontext_notes"])


T5 = "encoder.block.1.layer.1.DenseReluDense.wi_0"
CLIP_L = "text_model.encoder.layers.2.self_attn.q_proj"


@pytest.fixture
def clip(pack: Any, folder: Path) -> Any:
    """A CLIP of small FLUX.1 text encoders, loaded from files."""
    texts = folder.parent / "text_encoders"
    texts.mkdir()
    write_bfl(texts / "t5.safetensors", make_t5().state_dict())
    write_bfl(texts / "clip_l.safetensors", make_clip().state_dict())
    names = {"t5_name": "t5.safetensors", "clip_l_name": "clip_l.safetensors"}
    return pack.run("KontextLoadTextEncoders", **names)[0]


def write_text_lora(path: Path, extra: dict[str, torch.Tensor] | None = None) -> None:
    tensors = dict(extra or {})
    for number, (name, rows, columns) in enumerate(
        (("t5." + T5, 96, 64), ("clip_l." + CLIP_L, 128, 128))
    ):
        tensors[f"{name}.lora_down.weight"] = draw(41 + number, 4, columns)
        tensors[f"{name}.lora_up.weight"] = draw(51 + number, rows, 4) / 4
    save_file(tensors, path)


def encoded(clip: Any) -> tuple[torch.Tensor, torch.Tensor]:
    [[features, extra]] = clip.encode_from_tokens_scheduled(clip.tokenize("a red star"))
    return features, extra["pooled_output"]


def test_text_encoders_are_changed_through_the_clip_socket(
    pack: Any, model: Any, clip: Any, folder: Path
) -> None:
    write_text_lora(folder / "texts.safetensors")
    inputs = {"model": model, "lora_file": "texts.safetensors"}
    plain = encoded(clip)
    made = pack.run("KontextLoadLora", **inputs, clip=clip, strength=0.5)
    twice = pack.run("KontextLoadLora", **inputs, clip=made[1], strength=-0.5)[1]
    for before, after, back in zip(plain, encoded(made[1]), encoded(twice), strict=True):
        # Measured 0.28 and 0.24 on features of mean 0.8; there and back 4e-7.
        assert (after - before).abs().max() > 0.05
        assert (back - before).abs().max() < 1e-5
    # The CLIP that went in is as it was.
    assert all(map(torch.equal, encoded(clip), plain))
    notes = "\n".join(made.ui["kontext_notes"])
    assert "texts.safetensors: on T5, rank 4, strength 0.5, 1 changes on 1 layers" in notes
    assert "on CLIP-L" in notes and "changes nothing" not in notes
    # With nothing connected the node says what is missing, and gives nothing.
    alone = pack.run("KontextLoadLora", **inputs)
    assert alone[1] is None and "connect clip" in alone.ui["kontext_notes"][0]
    off = pack.run("KontextLoadLora", **inputs, clip=clip, strength=0.0)
    assert off[0] is model and off[1] is clip


def test_what_a_clip_does_not_take_is_told(pack: Any, model: Any, clip: Any, folder: Path) -> None:
    """Through the node's notes, which API clients find in the history."""
    key = "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"
    write_text_lora(folder / "more.safetensors", {key: draw(1, 4, 8)})
    made = pack.run("KontextLoadLora", model=model, clip=clip, lora_file="more.safetensors")
    assert f"1 keys for text encoders matched nothing, such as {key}" in made.ui["kontext_notes"]
    # The embedded encoder has no layers of these names.
    embedded = pack.run("KontextLoadTextEncoders")[0]
    made = pack.run("KontextLoadLora", model=model, clip=embedded, lora_file="more.safetensors")
    assert made[1] is embedded and "changes nothing" in made.ui["kontext_notes"][0]
    wide = {
        f"lora_te1_{CLIP_L.replace('.', '_')}.lora_{role}.weight": draw(1, *size)
        for role, size in (("down", (4, 99)), ("up", (128, 4)))
    }
    save_file(wide, folder / "wide.safetensors")
    with pytest.raises(
        pack.error("CheckpointError"), match="wide.safetensors: .* changes 128 x 99"
    ):
        pack.run("KontextLoadLora", model=model, clip=clip, lora_file="wide.safetensors")
    with pytest.raises(pack.error("InputError"), match="this CLIP is a object; expected one from"):
        pack.run("KontextLoadLora", model=model, clip=object(), lora_file="more.safetensors")


def test_a_lora_that_does_not_fit_leaves_the_others_working(
    pack: Any, model: Any, folder: Path, velocity: Any
) -> None:
    good = pack.run("KontextLoadLora", model=model, lora_file="a.safetensors")[0]
    expected = velocity(good)
    key = f"diffusion_model.{LAYER}"
    wrong = {f"{key}.lora_A.weight": draw(1, 4, 5), f"{key}.lora_B.weight": draw(2, 7, 4)}
    save_file(wrong, folder / "wrong.safetensors")
    with pytest.raises(pack.error("CheckpointError"), match="wrong.safetensors"):
        pack.run("KontextLoadLora", model=model, lora_file="wrong.safetensors")
    assert torch.equal(velocity(good), expected)


def test_a_model_of_the_hosts_is_refused(pack: Any, folder: Path) -> None:
    with pytest.raises(pack.error("KontextError"), match="Kontext: Load Model"):
        pack.run("KontextLoadLora", model=object(), lora_file="a.safetensors")


@pytest.mark.parametrize("name", ["", "none.safetensors", "../a.safetensors"])
def test_a_missing_file_names_its_folder(pack: Any, model: Any, folder: Path, name: str) -> None:
    with pytest.raises(pack.error("ModelNotFoundError"), match="put it into") as caught:
        pack.run("KontextLoadLora", model=model, lora_file=name)
    assert str(folder) in str(caught.value)
    said = pack.nodes["KontextLoadLora"].validate_inputs(lora_file=name)
    assert said == str(caught.value)
