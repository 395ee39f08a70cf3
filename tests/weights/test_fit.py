"""Loaders, `inspect` and `quantize` judge a file alike: what is over is noted, what is missing refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from files import flux_to_diffusers, published_autoencoder, published_flux
from safetensors.torch import save_file
from small_encoders import make_clip, make_t5
from torch import Tensor

from kontext_core import load_autoencoder, load_model
from kontext_core.commands.inspect import as_text
from kontext_core.convert import quantize_file
from kontext_core.errors import CheckpointError
from kontext_core.text.load import load_clip_l, load_t5
from kontext_core.weights.source import open_weights
from kontext_core.weights.summary import summary

State = dict[str, Tensor]
EXTRA: State = {
    "model_sampling.sigmas": torch.linspace(0, 1, 10),
    "global_step": torch.tensor(120_000),
    "encoder.version": torch.zeros(3, dtype=torch.uint8),
}


def flux_state() -> State:
    return published_flux(1, depth=1, depth_single_blocks=1).state_dict()


# Role: its state, what loads it, a tensor that can't be left out.
NETWORKS: dict[str, tuple[Callable[[], State], Callable[..., Any], str]] = {
    "transformer": (flux_state, load_model, "img_in.bias"),
    "transformer, diffusers": (
        lambda: flux_to_diffusers(flux_state()), load_model, "x_embedder.bias",
    ),
    "autoencoder": (
        lambda: published_autoencoder(1, num_res_blocks=1).state_dict(), load_autoencoder,
        "decoder.conv_out.bias",
    ),
    "t5": (lambda: make_t5(1, num_layers=1).state_dict(), load_t5, "encoder.final_layer_norm.weight"),
    "clip_l": (
        lambda: make_clip(1, num_layers=1).state_dict(), load_clip_l, "text_model.final_layer_norm.bias",
    ),
}  # fmt: skip


def told(path: Path) -> dict[str, Any]:
    (network,) = summary(open_weights(path))["networks"]
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_over_is_noted(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, load, _ = NETWORKS[name]
    plain, more = tmp_path / "plain.safetensors", tmp_path / "more.safetensors"
    state = {key: value.contiguous() for key, value in make().items()}
    save_file(state, plain)
    save_file(state | EXTRA, more)
    expected, found = load(plain), load(more)
    for (key, ours), theirs in zip(
        found.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), key
    assert expected.left_over == () and "notes" not in told(plain)
    report = told(more)
    assert "problem" not in report and report["parameters"] == told(plain)["parameters"]
    if name == "clip_l":
        # Of a CLIP only the text half is looked at.
        assert found.left_over == ("text_model.encoder.version",)
        return
    kept = {"encoder.version"} if name == "t5" else set(EXTRA)
    assert set(found.left_over) == kept
    assert all(key in report["notes"][0] and key in caplog.text for key in kept)
    assert "note: " in as_text(summary(open_weights(more)))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("fault", ["missing", "misshapen", "integers"])
def test_what_loading_refuses_inspect_refuses(name: str, fault: str, tmp_path: Path) -> None:
    make, load, key = NETWORKS[name]
    state = {name: value.contiguous() for name, value in make().items()}
    if fault == "missing":
        del state[key]
    elif fault == "misshapen":
        state[key] = torch.zeros(5)
    else:
        state[key] = torch.ones_like(state[key], dtype=torch.int32)
    path = tmp_path / "bad.safetensors"
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"1 (missing|misshapen|stored as a type)") as error:
        load(path)
    assert told(path)["problem"] == str(error.value)
    if name.startswith("transformer"):
        with pytest.raises(CheckpointError) as same:
            quantize_file(path, tmp_path / "new.gguf", "Q8_0")
        assert str(same.value) == str(error.value)
        assert not list(tmp_path.glob("*.gguf*"))


def test_what_is_over_is_not_quantized(tmp_path: Path) -> None:
    source, new = tmp_path / "more.safetensors", tmp_path / "new.gguf"
    save_file(flux_state() | EXTRA, source)
    quantize_file(source, new, "Q8_0")
    assert set(open_weights(new).entries) == set(flux_state())
    assert load_model(new).left_over == ()
