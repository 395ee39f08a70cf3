"""TAEF1 beside diffusers' AutoencoderTiny, from its own files and from diffusers'."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from safetensors.torch import save_file
from small_models import draw, randomise
from torch import Tensor

from kontext_core import CheckpointError, ModelNotFoundError, ShapeError
from kontext_core.models.taef1 import TinyDecoder, TinyEncoder
from kontext_core.weights.load_taef1 import load_taef1_decoder, load_taef1_encoder


@pytest.fixture(scope="module")
def theirs() -> AutoencoderTiny:
    twin = AutoencoderTiny(latent_channels=16)
    randomise(twin, 3)
    return twin


def plain_names(theirs: AutoencoderTiny, half: str) -> dict[str, Tensor]:
    """The published names: positions, of which the decoder's start with a clamp diffusers lacks."""
    shift = int(half == "decoder")
    found = {}
    for name, value in getattr(theirs, half).layers.state_dict().items():
        index, rest = name.split(".", 1)
        found[f"{int(index) + shift}.{rest}"] = value
    return found


@pytest.fixture(scope="module", params=["own", "one file", "folder"])
def files(
    theirs: AutoencoderTiny,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """Files for decoder and encoder in each published form."""
    folder = tmp_path_factory.mktemp("taef1")
    if request.param == "own":
        for half in ("decoder", "encoder"):
            save_file(plain_names(theirs, half), folder / f"taef1_{half}.safetensors")
        return folder / "taef1_decoder.safetensors", folder / "taef1_encoder.safetensors"
    theirs.save_pretrained(folder)
    path = folder if request.param == "folder" else folder / "diffusion_pytorch_model.safetensors"
    return path, path


def test_sixty_seven_tensors_by_position() -> None:
    state = TinyDecoder().state_dict()
    assert len(state) == 67
    assert state["1.weight"].shape == (64, 16, 3, 3) and state["19.bias"].shape == (3,)
    assert not any(name.startswith(("0.", "6.", "11.", "16.")) for name in state)
    assert TinyEncoder().state_dict()["14.weight"].shape == (16, 64, 3, 3)


def test_decoder_agrees_with_diffusers(theirs: AutoencoderTiny, files: tuple[Path, Path]) -> None:
    latent = 4 * draw(1, 2, 16, 5, 7)  # beyond the clamp
    with torch.no_grad():
        wanted = theirs.decode(latent, return_dict=False)[0] / 2 + 0.5
        found = load_taef1_decoder(files[0])(latent)
    assert found.shape == (2, 3, 40, 56)
    # Measured 2e-8 of the largest.
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-6
    assert float(wanted.std()) > 0.1


def test_encoder_agrees_with_diffusers(theirs: AutoencoderTiny, files: tuple[Path, Path]) -> None:
    picture = draw(2, 2, 3, 40, 56).sigmoid()
    with torch.no_grad():
        wanted = theirs.encode(picture * 2 - 1, return_dict=False)[0]
        found = load_taef1_encoder(files[1])(picture)
    assert found.shape == (2, 16, 5, 7)
    # Measured 1.2e-6 of the largest.
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5


def test_dtype_and_device_of_the_load(files: tuple[Path, Path]) -> None:
    decoder = load_taef1_decoder(files[0], dtype=torch.bfloat16)
    assert {value.dtype for value in decoder.parameters()} == {torch.bfloat16}


def test_other_files_are_refused(theirs: AutoencoderTiny, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        load_taef1_decoder(tmp_path / "taef1_decoder.safetensors")
    save_file(plain_names(theirs, "encoder"), tmp_path / "swapped.safetensors")
    with pytest.raises(CheckpointError, match="swapped.safetensors.*TAEF1 encoder"):
        load_taef1_decoder(tmp_path / "swapped.safetensors")
    short = plain_names(theirs, "decoder")
    del short["18.conv.0.bias"]
    save_file(short, tmp_path / "short.safetensors")
    with pytest.raises(CheckpointError, match=r"18\.conv\.0\.bias"):
        load_taef1_decoder(tmp_path / "short.safetensors")


def test_shapes_are_checked() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 4, 8, 8\)"):
        TinyDecoder()(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ShapeError, match="multiples of 8"):
        TinyEncoder()(torch.zeros(1, 3, 8, 12))
