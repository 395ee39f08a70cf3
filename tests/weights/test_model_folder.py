"""A model folder is a kind of weights file: inspected, quantized and loaded like published ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from files import flux_to_diffusers, write_bfl, write_diffusers, write_fp8, write_gguf

from kontext_core import CheckpointError, load_autoencoder, load_model
from kontext_core.convert import quantize_file
from kontext_core.weights.files import ASSETS
from kontext_core.weights.source import open_weights
from kontext_core.weights.summary import summary

TINY = ASSETS / "tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded model without its transformer."""
    for name in (
        "config.json",
        "vocab.json",
        "autoencoder.safetensors",
        "text_encoder.safetensors",
    ):
        shutil.copyfile(TINY / name, tmp_path / name)
    return tmp_path


def test_the_folder_and_its_files_are_the_same_model() -> None:
    assert open_weights(TINY).files == (TINY / "transformer.safetensors",)
    assert open_weights(TINY, "autoencoder").files == (TINY / "autoencoder.safetensors",)
    for load, name in ((load_model, "transformer"), (load_autoencoder, "autoencoder")):
        whole, alone = load(TINY), load(TINY / f"{name}.safetensors")
        assert alone.params == whole.params
        for (key, ours), theirs in zip(
            alone.state_dict().items(), whole.state_dict().values(), strict=True
        ):
            assert torch.equal(ours, theirs), key
    alone, whole = load_model(TINY / "transformer.safetensors"), load_model("tiny")
    assert (alone.latent_format, alone.resolutions) == (whole.latent_format, whole.resolutions)


@pytest.mark.parametrize("source", [TINY, TINY / "transformer.safetensors"])
def test_inspect(source: Path) -> None:
    assert summary(open_weights(source))["networks"][0]["role"] == "transformer"


@pytest.mark.parametrize("source", [TINY, TINY / "transformer.safetensors"])
def test_quantize_and_load_again(source: Path, folder: Path) -> None:
    quantize_file(source, folder / "transformer.gguf", "Q8_0")
    found, plain = load_model(folder).state_dict(), load_model("tiny")
    assert load_model(folder).params == plain.params
    name = "double_blocks.0.img_attn.norm.key_norm.scale"
    torch.testing.assert_close(found[name].float(), plain.state_dict()[name].float())


@pytest.mark.parametrize("form", ["bfl", "diffusers", "fp8", "gguf"])
def test_every_form_of_file(form: str, folder: Path) -> None:
    state = {k: v.clone() for k, v in load_model("tiny").state_dict().items()}
    if form == "gguf":
        write_gguf(folder / "transformer.gguf", state, "Q8_0")
    elif form == "fp8":
        write_fp8(folder / "transformer.safetensors", state, "legacy")
    elif form == "diffusers":
        write_diffusers(folder / "x", flux_to_diffusers(state), shards=1)
        next((folder / "x").glob("*.safetensors")).rename(folder / "transformer.safetensors")
    else:
        write_bfl(folder / "transformer.safetensors", state)
    model = load_model(folder)
    assert model.params == load_model("tiny").params
    bias = "final_layer.linear.bias"
    # float8 and Q8_0 files keep biases in half precision or better.
    torch.testing.assert_close(
        model.state_dict()[bias].float(), state[bias].float(), rtol=1e-2, atol=1e-3
    )


def test_a_folder_without_the_network_says_so(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="this model folder has no transformer"):
        load_model(folder)
    (folder / "config.json").unlink()
    shutil.copyfile(TINY / "transformer.safetensors", folder / "transformer.safetensors")
    with pytest.raises(CheckpointError, match="head size is|config"):
        load_model(folder)
