"""Finding and loading weights: folders, published single files, and files that don't fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import draw, flux_params, make_autoencoder, make_flux

from kontext_core import (
    AutoEncoder,
    CheckpointError,
    Flux,
    ModelNotFoundError,
    load_autoencoder,
    load_model,
    load_text_encoders,
)

# A published transformer is told from its tensors, which needs FLUX.1's head size and channels.
FULL_HEAD = {"hidden_size": 256, "num_heads": 2, "axes_dim": (16, 56, 56)}

PICTURE = draw(7, 1, 3, 16, 16)


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(model_folder, tmp_path / "broken"))


def velocity(model: Flux) -> torch.Tensor:
    return model(
        draw(1, 1, 4, 64), torch.zeros(1, 4, 3), draw(2, 1, 3, 40), torch.zeros(1, 3, 3),
        torch.tensor([0.5]), draw(3, 1, 24), torch.tensor([2.5]),
    )  # fmt: skip


def test_folder(model_folder: Path, small_flux: Flux) -> None:
    model = load_model(model_folder)
    assert model.params == small_flux.params
    assert model.resolutions == small_flux.resolutions
    assert model.latent_format == small_flux.latent_format
    for name, tensor in small_flux.state_dict().items():
        assert model.state_dict()[name].equal(tensor)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert load_model(model_folder, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "net."])
@pytest.mark.parametrize("guidance", [True, False])
def test_published_single_file(prefix: str, guidance: bool, tmp_path: Path) -> None:
    model = make_flux(1, guidance_embed=guidance, depth_single_blocks=3, **FULL_HEAD)
    tensors = {prefix + name: value for name, value in model.state_dict().items()}
    tensors["vae.something.else" if prefix else "img_in.bias"] = tensors[
        prefix + "img_in.bias"
    ].clone()
    path = tmp_path / "flux1-kontext-dev.safetensors"
    save_file(tensors, path)
    loaded = load_model(path)
    assert loaded.params == flux_params(guidance_embed=guidance, depth_single_blocks=3, **FULL_HEAD)
    # Measured: 1.8e-6. Read tensors lie at other addresses, and products round by alignment.
    assert (velocity(loaded) - velocity(model)).abs().max() < 2e-5
    assert len(loaded.resolutions) == 17


def test_published_autoencoder(small_autoencoder: AutoEncoder, tmp_path: Path) -> None:
    """Sizes are read off the shapes, except for the number of groups, which leaves no trace."""
    save_file(small_autoencoder.state_dict(), tmp_path / "ae.safetensors")
    with pytest.raises(CheckpointError, match="levels of .* needs a folder with a config.json"):
        load_autoencoder(tmp_path / "ae.safetensors")
    other = make_autoencoder(3, ch=32, ch_mult=(1, 2), norm_groups=32, num_res_blocks=2)
    save_file(other.state_dict(), tmp_path / "ae.safetensors")
    loaded = load_autoencoder(tmp_path / "ae.safetensors")
    assert loaded.params == other.params
    # Measured: 0.
    assert (loaded.encode(PICTURE) - other.encode(PICTURE)).abs().max() < 2e-5


@pytest.mark.parametrize("name", ["nothing", "", "nowhere/model.safetensors"])
def test_nothing_there(name: str) -> None:
    for load in (load_model, load_autoencoder, load_text_encoders):
        with pytest.raises(ModelNotFoundError, match=f"there is no model '{name}'"):
            load(name)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    pickle = tmp_path / "model.ckpt"
    pickle.write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match="is a pickle .* never is"):
        load_model(pickle)
    for content in (b"", b"garbage" * 100, (2**60).to_bytes(8, "little")):
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(content)
        for load in (load_model, load_autoencoder, load_text_encoders):
            with pytest.raises(CheckpointError, match="broken.safetensors: .*ownload"):
                load(broken)


def test_other_models(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"unet.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="a FLUX.1 model is wanted here"):
        load_model(path)
    with pytest.raises(CheckpointError, match="the Flux autoencoder is wanted here"):
        load_autoencoder(path)
    with pytest.raises(CheckpointError, match="a T5 text encoder is wanted here"):
        load_text_encoders(path)
    save_file(make_flux(0, in_channels=96, **FULL_HEAD).state_dict(), path)
    with pytest.raises(CheckpointError, match="input does not have 64 channels.*Kontext"):
        load_model(path)
    save_file(make_flux(0).state_dict(), path)
    with pytest.raises(CheckpointError, match="head size is 32"):
        load_model(path)


def test_missing_and_misshapen_tensors(folder: Path) -> None:
    path = folder / "transformer.safetensors"
    tensors = load_file(path)
    del tensors["img_in.weight"]
    tensors["extra.weight"] = torch.zeros(1)
    tensors["txt_in.bias"] = torch.zeros(5)
    save_file(tensors, path)
    expected = r"1 missing \(img_in.weight\); 1 misshapen \(txt_in.bias"
    with pytest.raises(CheckpointError, match=expected):
        load_model(folder)


def test_broken_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())

    def refused(text: str, message: str) -> None:
        (folder / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            load_model(folder)

    refused("{", "can't read the model's config")
    refused("[]", "expected a JSON object, found list")
    refused("{}", "section 'transformer' is missing")
    config["transformer"]["colour"] = 1
    refused(json.dumps(config), r"unknown FluxParams field\(s\) colour")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="can't read the model's config"):
        load_model(folder)


def test_broken_vocabulary(folder: Path) -> None:
    (folder / "vocab.json").write_text("[")
    with pytest.raises(CheckpointError, match="can't read the vocabulary"):
        load_text_encoders(folder)
    (folder / "vocab.json").write_text('["red"]')
    with pytest.raises(CheckpointError, match="config and vocabulary must belong together"):
        load_text_encoders(folder)


def test_missing_file_in_a_folder(folder: Path) -> None:
    (folder / "autoencoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match="autoencoder.safetensors"):
        load_autoencoder(folder)
