"""The transformer from every form of file: its forward is that of the file's weights in float32.

The writers say what each weight is worth, by gguf-py or by plain arithmetic; a network filled with
these numbers is what every loaded file is compared with.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from files import (
    FP8_FORMS,
    flux_to_diffusers,
    published_autoencoder,
    published_flux,
    write_all_in_one,
    write_bfl,
    write_diffusers,
    write_fp8,
    write_gguf,
)
from small_models import draw
from torch import Tensor, nn

from kontext_core import Flux, load_autoencoder, load_model
from kontext_core.quant.linear import QuantLinear, ScaledLinear

State = dict[str, Tensor]
KINDS = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q5_1", "Q4_K", "Q4_0", "Q4_1", "Q3_K",
    "Q2_K", "IQ4_NL", "IQ4_XS",
)  # fmt: skip
# Read through gguf-py's own decoders.
RARE = ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0", "MXFP4")


@functools.cache
def network() -> Flux:
    """One block of each kind is enough, and quick."""
    return published_flux(4, depth=1, depth_single_blocks=1)


@functools.cache
def source() -> State:
    return {name: tensor.clone() for name, tensor in network().state_dict().items()}


def velocity(model: Flux, dtype: torch.dtype = torch.float32) -> Tensor:
    """Forward of two pictures with a text and a reference's ids."""
    img_ids = torch.zeros(1, 6, 3)
    img_ids[0, 4:, 0] = 1
    img_ids[0, :, 1] = torch.arange(6)
    with torch.no_grad():
        return model(
            draw(1, 2, 6, 64).to(dtype), img_ids, draw(2, 2, 3, 40).to(dtype),
            torch.zeros(1, 3, 3), torch.tensor([0.5, 0.9]), draw(3, 2, 24).to(dtype),
            torch.tensor([2.5, 4.0]), target_tokens=4,
        ).float()  # fmt: skip


def expected(worth: State) -> Tensor:
    """Velocity of a plain float32 network with these weights."""
    network().load_state_dict(worth)
    return velocity(network())


def check(path: Path, worth: State, **options: object) -> Flux:
    model = load_model(path, **options)  # type: ignore[arg-type]
    found, wanted = velocity(model), expected(worth)
    assert wanted.std() > 0.05
    # Measured: 0 on values up to 4.3; random blocks of all types at once go up to 30 000.
    assert (found - wanted).abs().max() < 2e-5 * max(1.0, float(wanted.abs().max()) / 10)
    return model


def packed(model: Flux) -> set[type[nn.Module]]:
    """Kinds of layers whose weights stayed as stored."""
    return {type(m) for m in model.modules() if isinstance(m, (QuantLinear, ScaledLinear))}


@pytest.mark.parametrize("kind", [*KINDS, *RARE])
def test_gguf(kind: str, tmp_path: Path) -> None:
    worth = write_gguf(tmp_path / "model.gguf", source(), kind)
    model = check(tmp_path / "model.gguf", worth)
    assert packed(model) == (set() if kind in ("F32", "F16", "BF16") else {QuantLinear})
    assert type(model.img_in) is nn.Linear


def test_gguf_of_mixed_types(tmp_path: Path) -> None:
    """Every type in one file, pieces of blocks included; nothing may depend on the file's type."""

    def kind(name: str, tensor: Tensor) -> str:
        if tensor.ndim < 2:
            return "F32"
        if name.startswith(("img_in", "txt_in", "vector_in")):
            return "BF16"
        return KINDS[hash_of(name) % len(KINDS)]

    def hash_of(name: str) -> int:
        return sum(ord(letter) for letter in name)

    worth = write_gguf(tmp_path / "model.gguf", source(), kind)
    check(tmp_path / "model.gguf", worth)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("architecture", ["flux", None, "pig"])
def test_gguf_headers(prefix: str, architecture: str | None, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    check(path, write_gguf(path, source(), "Q8_0", architecture=architecture, prefix=prefix))


def test_gguf_under_diffusers_names(tmp_path: Path) -> None:
    """Pieces of blocks are joined, the last modulation's halves swapped."""

    def kind(name: str, tensor: Tensor) -> str:
        return "F16" if tensor.ndim < 2 or tensor.shape[1] % 32 else "Q8_0"

    write_gguf(tmp_path / "model.gguf", flux_to_diffusers(source()), kind)
    worth = write_gguf(tmp_path / "bfl.gguf", source(), kind)
    model = check(tmp_path / "model.gguf", worth)
    assert isinstance(model.single_blocks[0].linear1, QuantLinear)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pack", [None, True, False])
def test_bfl(dtype: torch.dtype, pack: bool | None, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = check(path, write_bfl(path, source(), dtype=dtype), pack=pack)
    assert (packed(model) == {ScaledLinear}) == (pack is True and dtype != torch.float32)
    assert model.dtype == torch.float32


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", "model.", "net."])
def test_prefixes(prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    check(path, write_bfl(path, source(), prefix=prefix))


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("named", ["folder", "pipeline", "file"])
def test_diffusers(shards: int, named: str, tmp_path: Path) -> None:
    folder = write_diffusers(
        tmp_path / "transformer", flux_to_diffusers(source()), shards=shards, dtype=torch.bfloat16
    )
    (tmp_path / "model_index.json").write_text("{}", encoding="utf-8")
    single = "diffusion_pytorch_model.safetensors"
    file = folder / (single if shards == 1 else f"{single}.index.json")
    path = {"folder": folder, "pipeline": tmp_path, "file": file}[named]
    worth = {name: tensor.bfloat16().float() for name, tensor in source().items()}
    for pack in (None, True):
        check(path, worth, pack=pack)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("form", FP8_FORMS)
def test_fp8(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    # Scales of whole matrices, and of rows.
    per_row = dtype == torch.float8_e5m2
    worth = write_fp8(path, source(), form, dtype=dtype, per_row=per_row)
    model = check(path, worth)
    assert packed(model) == {ScaledLinear}
    # Nothing that a step has to multiply is stored larger than in the file.
    assert model.single_blocks[0].linear1.weight.dtype == dtype


def test_all_in_one(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    flux, autoencoder = source(), published_autoencoder(2)
    write_all_in_one(path, flux, autoencoder.state_dict())
    check(path, flux)
    loaded, picture = load_autoencoder(path), draw(5, 1, 3, 16, 16)
    # Measured: 0.
    assert (loaded.encode(picture) - autoencoder.encode(picture)).abs().max() < 2e-5


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_gguf(path, source(), "Q8_0"),
        lambda path: write_fp8(path, source(), "legacy"),
        lambda path: write_bfl(path, source(), dtype=torch.bfloat16),
    ],
    ids=["gguf", "fp8", "bf16"],
)
def test_computed_in_bfloat16(write: Callable[[Path], State], tmp_path: Path) -> None:
    path = tmp_path / "model.weights"
    worth = write(path)
    model = load_model(path, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    wanted = expected(worth)
    rounded = velocity(copy.deepcopy(network()).to(torch.bfloat16), torch.bfloat16)
    found = velocity(model, torch.bfloat16)
    # Measured: the same distance from float32 as a network cast whole, 0.8 %.
    assert (found - wanted).norm() < 1.3 * (rounded - wanted).norm()


def test_progress(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_bfl(path, source())
    seen: list[tuple[int, int]] = []
    load_model(path, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1] == (len(source()), len(source()))
