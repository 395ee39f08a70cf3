"""Every published form of a transformer and an autoencoder gives the same parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import files
import pytest
import torch
from torch import Tensor

from kontext_core.quant.decode import dequantize
from kontext_core.quant.types import is_packed
from kontext_core.weights.detect import Contents, detect, require
from kontext_core.weights.sizes import autoencoder_params, flux_params
from kontext_core.weights.source import open_weights
from kontext_core.weights.state import Weight, read_state

FLUX = files.published_flux(1)
STATE = FLUX.state_dict()
AUTOENCODER = files.published_autoencoder(2)


def worth(weight: Weight) -> Tensor:
    """What a stored parameter stands for, in float32."""
    data = weight.data()
    value = dequantize(data, weight.kind) if is_packed(weight.kind) else data.float()
    if weight.scale is not None:
        scale = weight.scale.reshape(-1, 1) if weight.scale.numel() > 1 else weight.scale
        value = value * scale
    assert tuple(value.shape) == weight.shape
    return value


def check(path: Path, wanted: Mapping[str, Tensor], role: str = "transformer") -> Contents:
    """The file gives exactly these values."""
    file = open_weights(path)
    contents = require(file, role)
    state = read_state(file, contents)
    assert set(state) == set(wanted)
    for name, value in wanted.items():
        assert state[name].shape == tuple(value.shape), name
        assert torch.equal(worth(state[name]), value), name
    if role == "transformer":
        assert flux_params(state) == FLUX.params
    if role == "autoencoder":
        assert autoencoder_params(state) == AUTOENCODER.params
    return contents


@pytest.mark.parametrize(
    ("prefix", "dtype"),
    [
        ("", torch.float32),
        ("", torch.float16),
        ("", torch.bfloat16),
        ("model.diffusion_model.", torch.bfloat16),
        ("diffusion_model.", torch.bfloat16),
        ("model.", torch.bfloat16),
        ("net.", torch.bfloat16),
        ("any.thing.", torch.bfloat16),
    ],
)
def test_single_file(tmp_path: Path, prefix: str, dtype: torch.dtype) -> None:
    path = tmp_path / "flux.safetensors"
    wanted = files.write_bfl(path, STATE, prefix=prefix, dtype=dtype)
    assert check(path, wanted) == Contents("transformer", "bfl", prefix)


@pytest.mark.parametrize("shards", [1, 3])
def test_diffusers_folder(tmp_path: Path, shards: int) -> None:
    folder = files.write_diffusers(
        tmp_path / "pipe" / "transformer", files.flux_to_diffusers(STATE), shards=shards
    )
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    assert check(folder, STATE).layout == "diffusers"
    check(tmp_path / "pipe", STATE)
    for file in folder.iterdir():
        # The index, and any shard, stand for the whole.
        check(file, STATE)


def test_autoencoder_forms(tmp_path: Path) -> None:
    state = AUTOENCODER.state_dict()
    files.write_bfl(tmp_path / "ae.safetensors", state)
    check(tmp_path / "ae.safetensors", state, "autoencoder")
    folder = files.write_diffusers(tmp_path / "vae", files.autoencoder_to_diffusers(state))
    check(folder, state, "autoencoder")


def test_all_in_one(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    files.write_all_in_one(path, STATE, AUTOENCODER.state_dict())
    roles = [contents.role for contents in detect(open_weights(path))]
    assert roles == ["transformer", "autoencoder"]
    check(path, STATE)
    check(path, AUTOENCODER.state_dict(), "autoencoder")


@pytest.mark.parametrize(
    ("dtype", "per_row", "prefix"),
    [
        (torch.float8_e4m3fn, False, ""),
        (torch.float8_e4m3fn, True, "model.diffusion_model."),
        (torch.float8_e5m2, False, "model.diffusion_model."),
    ],
)
@pytest.mark.parametrize("form", files.FP8_FORMS)
def test_fp8(tmp_path: Path, form: str, dtype: torch.dtype, per_row: bool, prefix: str) -> None:
    path = tmp_path / "fp8.safetensors"
    wanted = files.write_fp8(path, STATE, form, dtype=dtype, per_row=per_row, prefix=prefix)
    check(path, wanted)


@pytest.mark.parametrize(
    ("kind", "architecture", "prefix"),
    [
        ("F32", "flux", ""), ("F16", "flux", ""), ("BF16", "flux", ""), ("Q6_K", "flux", ""),
        ("Q5_K", "flux", ""), ("Q4_K", "flux", ""), ("Q3_K", "flux", ""), ("IQ4_XS", "flux", ""),
        ("Q8_0", None, ""), ("Q5_1", None, "model.diffusion_model."), ("Q2_K", "pig", ""),
    ],
)  # fmt: skip
def test_gguf(tmp_path: Path, kind: str, architecture: str | None, prefix: str) -> None:
    path = tmp_path / "flux.gguf"
    wanted = files.write_gguf(path, STATE, kind, architecture=architecture, prefix=prefix)
    check(path, wanted)


def test_gguf_mixed_kinds(tmp_path: Path) -> None:
    kinds = ("Q4_K", "Q6_K", "Q8_0", "F16")

    def pick(name: str, tensor: Tensor) -> str:
        return "F32" if tensor.ndim < 2 or name.startswith(files.KEPT) else kinds[len(name) % 4]

    wanted = files.write_gguf(tmp_path / "mixed.gguf", STATE, pick)
    check(tmp_path / "mixed.gguf", wanted)
