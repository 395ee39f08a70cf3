"""Kontext: Load LoRA: several MODELs over one network, each with its own LoRAs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
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
