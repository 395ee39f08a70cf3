"""Full-size headers in front of zeros: what is found, how much memory that takes, and `inspect`."""

from __future__ import annotations

import argparse
import json
import tracemalloc
from pathlib import Path

import pytest
from published import Listing, flux_listing, shapes, t5_listing
from sparse import sparse_gguf, sparse_safetensors

from kontext_core.commands.inspect import add_inspect
from kontext_core.config import AutoEncoderParams, FluxParams
from kontext_core.weights.detect import require
from kontext_core.weights.sizes import autoencoder_params, flux_params
from kontext_core.weights.source import open_weights
from kontext_core.weights.state import read_state
from kontext_core.weights.summary import activation_bytes

PARAMETERS = 11_901_408_320


def write(path: Path, listing: Listing) -> Path:
    ggml = {"Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"}
    packed = any(kind in ggml for kind, _ in listing.values())
    return (sparse_gguf if packed else sparse_safetensors)(path, listing)


def inspect(*arguments: str) -> str:
    parser = argparse.ArgumentParser()
    add_inspect(parser.add_subparsers())
    options = parser.parse_args(["inspect", *arguments])
    return options.run(options)


@pytest.mark.parametrize(
    ("kind", "gigabytes"),
    [
        ("BF16", 23.80), ("F8_E4M3", 11.90), ("fp8_scaled", 11.97), ("Q8_0", 12.71), ("Q4_K", 6.80),
        ("Q2_K", 4.02),
    ],
)  # fmt: skip
def test_transformer(tmp_path: Path, kind: str, gigabytes: float) -> None:
    path = write(tmp_path / "flux", flux_listing(kind))
    tracemalloc.start()
    file = open_weights(path)
    state = read_state(file, require(file, "transformer"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Measured: 1.3 MB at most, the header as text and objects. Weights are views of the file.
    assert peak < 16 << 20
    assert flux_params(state) == FluxParams()
    assert {name: weight.shape for name, weight in state.items()} == shapes("flux_bfl")
    told = json.loads(inspect(str(path), "--json"))
    network = told["networks"][0]
    assert network["parameters"] == PARAMETERS
    assert round(network["bytes"] / 1e9, 2) == gigabytes
    assert sum(counts["parameters"] for counts in network["kinds"].values()) == PARAMETERS
    assert [row["references"] for row in network["memory"]] == [0, 1, 2, 4]
    assert all(row["total"] == row["weights"] + row["activations"] for row in network["memory"])


def test_diffusers_transformer(tmp_path: Path) -> None:
    listing: Listing = {n: ("BF16", s) for n, s in shapes("flux_diffusers").items()}
    file = open_weights(sparse_safetensors(tmp_path / "flux.safetensors", listing))
    state = read_state(file, require(file, "transformer"))
    assert {name: weight.shape for name, weight in state.items()} == shapes("flux_bfl")


@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
def test_autoencoder(tmp_path: Path, layout: str) -> None:
    listing: Listing = {n: ("F32", s) for n, s in shapes(f"autoencoder_{layout}").items()}
    file = open_weights(sparse_safetensors(tmp_path / "ae.safetensors", listing))
    contents = require(file, "autoencoder")
    assert contents.layout == layout
    state = read_state(file, contents)
    assert autoencoder_params(state) == AutoEncoderParams()
    assert {name: weight.shape for name, weight in state.items()} == shapes("autoencoder_bfl")


@pytest.mark.parametrize("kind", ["F16", "F8_E4M3", "fp8_scaled", "Q8_0", "Q3_K"])
def test_t5(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "t5", t5_listing(kind))
    file = open_weights(path)
    state = read_state(file, require(file, "t5"))
    wanted = {n for n in t5_listing("F16")}
    assert set(state) == wanted
    network = json.loads(inspect(str(path), "--json"))["networks"][0]
    assert network["parameters"] == 4_762_310_656
    assert network["architecture"]["layers"] == 24


def test_activations_are_those_of_the_formula() -> None:
    """Figures of the arithmetic in `summary`, in MB: 11 tensors of L x 3072 in half precision."""
    found = [round(activation_bytes(3072, count) / 1e6) for count in (0, 1, 2, 4)]
    assert found == [311, 588, 865, 1419]


def test_report_for_people(tmp_path: Path) -> None:
    text = inspect(str(write(tmp_path / "flux.gguf", flux_listing("Q4_K"))))
    for part in ("gguf, 780 tensors, 6.80 GB", "11,901,408,320 parameters", "Q4_K x 304",
                 "depth: 19", "1 references: 6.80 GB + 0.59 GB = 7.39 GB"):  # fmt: skip
        assert part in text
    other = sparse_safetensors(tmp_path / "redux.safetensors", {"redux_up.weight": ("BF16", (4, 4)),
                                                               "redux_down.weight": ("BF16", (4, 4))})  # fmt: skip
    text = inspect(str(other))
    assert "can't be used: it is the FLUX.1 Redux adapter" in text
    assert "use instead: FLUX.1 Kontext [dev]" in text
    assert json.loads(inspect(str(other), "--json"))["networks"] == []


def test_report_on_a_lora(tmp_path: Path) -> None:
    listing: Listing = {
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": ("BF16", (16, 3072)),
        "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": ("BF16", (3072, 16)),
        "transformer.transformer_blocks.0.attn.to_k.lora_A.weight": ("BF16", (8, 3072)),
        "transformer.transformer_blocks.0.attn.to_k.lora_B.weight": ("BF16", (3072, 8)),
    }
    path = sparse_safetensors(tmp_path / "lora.safetensors", listing, {"ss_network_dim": "16"})
    network = json.loads(inspect(str(path), "--json"))["networks"][0]
    assert network["ranks"] == [8, 16]
    assert network["algorithms"] == ["LoRA"]
    assert "ss_network_dim: '16'" in inspect(str(path))
