"""Whole files into GGUF: types of every tensor, every source, what is left behind when it fails."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
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
from torch import Tensor

from kontext_core import convert
from kontext_core.commands.quantize import add_quantize
from kontext_core.convert import quantize_file
from kontext_core.errors import Cancelled, CheckpointError
from kontext_core.quant.mixes import MIXES
from kontext_core.weights.write_gguf import GgufTensor, GgufWriter

pytestmark = pytest.mark.parity

State = dict[str, Tensor]
SENSITIVE = ("img_in.", "txt_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer.")
# Relative errors on the normal weights of the small network (256 columns, so small samples), 2 %
# above the figures of tests/quant/test_encode.py; the others as measured, rounded up.
LIMITS = {
    "Q2_K": 0.273, "Q3_K": 0.148, "Q4_K": 0.0722, "Q5_K": 0.0361, "Q6_K": 0.0177, "Q8_0": 0.0055,
    "Q4_0": 0.084, "Q4_1": 0.073, "Q5_0": 0.042, "Q5_1": 0.035, "BF16": 0.002, "F16": 0.0003,
    "F32": 0.0, "TQ1_0": 1.0, "TQ2_0": 1.0, "MXFP4": 0.14,
}  # fmt: skip


@pytest.fixture(scope="module")
def state() -> State:
    return dict(published_flux(vec_in_dim=32, depth_single_blocks=1).state_dict())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, state: State) -> Path:
    path = tmp_path_factory.mktemp("source") / "flux1-kontext-dev.safetensors"
    write_bfl(path, state, dtype=torch.bfloat16)
    return path


def read(path: Path) -> dict[str, tuple[str, Tensor]]:
    """Type and numbers of every tensor, as gguf-py reads them."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type).copy()
        shape = [int(side) for side in reversed(tensor.shape)]
        found[tensor.name] = (tensor.tensor_type.name, torch.from_numpy(numbers).reshape(shape))
    return found


def value(path: Path, key: str) -> object:
    field = gguf.GGUFReader(path).get_field(key)
    assert field is not None
    return field.contents()


@pytest.mark.parametrize("name", MIXES)
def test_types_and_errors_of_every_mix(
    name: str, source: Path, state: State, tmp_path: Path
) -> None:
    report = quantize_file(source, tmp_path / "out.gguf", name.lower())
    mix = MIXES[name]
    number = mix.kind in ("F32", "F16", "BF16")
    written = read(report.path)
    assert written.keys() == state.keys()
    for key, (kind, numbers) in written.items():
        stored = state[key].bfloat16().float()
        if stored.ndim == 1 or stored.numel() <= 1024:
            expected = "F32"
        elif number:
            expected = mix.kind
        elif key.startswith(SENSITIVE):
            expected = "BF16"
        else:
            expected = mix.attention if "attn.qkv.weight" in key else mix.kind
        assert (key, kind) == (key, expected)
        assert numbers.shape == stored.shape
        assert (numbers - stored).norm() <= LIMITS[kind] * stored.norm(), key
    assert sum(report.kinds.values()) == len(written)
    assert report.numbers == sum(tensor.numel() for tensor in state.values())
    assert report.bytes_after == report.path.stat().st_size
    assert value(report.path, "general.architecture") == "flux"
    assert value(report.path, "general.quantization_version") == gguf.GGML_QUANT_VERSION
    # gguf-py names all but these: Q3_K and the like are files of the _S mix, MXFP4 has number 38.
    alike = {"F32": "ALL_F32", "Q3_K": "MOSTLY_Q3_K_S", "Q4_K": "MOSTLY_Q4_K_S"}
    alike["Q5_K"] = "MOSTLY_Q5_K_S"
    file_type = getattr(gguf.LlamaFileType, alike.get(name, f"MOSTLY_{name}"), 38)
    assert value(report.path, "general.file_type") == file_type


def test_m_mixes_bump_the_fused_attention_of_double_blocks_only(
    source: Path, tmp_path: Path
) -> None:
    written = read(quantize_file(source, tmp_path / "out.gguf", "Q4_K_M").path)
    bumped = {name for name, (kind, _) in written.items() if kind == "Q5_K"}
    assert bumped == {
        f"double_blocks.{n}.{side}_attn.qkv.weight" for n in (0, 1) for side in ("img", "txt")
    }
    assert written["single_blocks.0.modulation.lin.weight"][0] == "Q4_K"


def as_diffusers(folder: Path, state: State) -> tuple[Path, State]:
    path = write_diffusers(folder / "transformer", flux_to_diffusers(state), shards=2)
    return path, state


def as_all_in_one(folder: Path, state: State) -> tuple[Path, State]:
    path = folder / "all.safetensors"
    write_all_in_one(path, state, dict(published_autoencoder().state_dict()))
    return path, state


SOURCES: dict[str, Callable[[Path, State], tuple[Path, State]]] = {
    "diffusers": as_diffusers,
    "all in one": as_all_in_one,
    **{
        f"fp8 {form}": lambda folder, state, form=form: (
            folder / "a.safetensors",
            write_fp8(folder / "a.safetensors", state, form, per_row=form == "metadata"),
        )
        for form in FP8_FORMS
    },
    "Q8_0": lambda folder, state: (
        folder / "a.gguf", write_gguf(folder / "a.gguf", state, "Q8_0", architecture=None)
    ),
    "Q4_K": lambda folder, state: (
        folder / "a.gguf", write_gguf(folder / "a.gguf", state, "Q4_K", prefix="model.diffusion_model.")
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", SOURCES)
def test_every_source_gives_its_numbers(form: str, state: State, tmp_path: Path) -> None:
    path, worth = SOURCES[form](tmp_path, state)
    written = read(quantize_file(path, tmp_path / "out.gguf", "F32").path)
    assert written.keys() == worth.keys()
    for name, (kind, numbers) in written.items():
        assert kind == "F32"
        assert torch.equal(numbers, worth[name]), name


def test_pieces_are_joined_whatever_their_size(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def watched(weight: Tensor, kind: str) -> Tensor:
        sizes.append(weight.numel())
        return pack(weight, kind)

    pack = convert.quantize_blocks
    path, worth = as_diffusers(tmp_path, state)
    monkeypatch.setattr(convert, "quantize_blocks", watched)
    monkeypatch.setattr(convert, "GROUP", 3000)
    written = read(quantize_file(path, tmp_path / "out.gguf", "F32").path)
    assert all(torch.equal(numbers, worth[name]) for name, (_, numbers) in written.items())
    # Nothing larger than a group is ever held; 3072 are the columns of a vector here.
    assert max(sizes) <= 3072


def test_tensors_that_have_their_type_are_copied(state: State, tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", state, "Q4_K")
    quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q4_K_S")
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    after = gguf.GGUFReader(tmp_path / "b.gguf").tensors
    assert {tensor.name for tensor in after} == before.keys()
    for tensor in after:
        if tensor.tensor_type.name != "F32":
            assert tensor.tensor_type == before[tensor.name].tensor_type
        assert np.array_equal(
            np.asarray(tensor.data).view(np.uint8),
            np.asarray(before[tensor.name].data.astype(tensor.data.dtype)).view(np.uint8),
        )


def test_requantizing_warns(state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_gguf(tmp_path / "a.gguf", state, "Q4_0")
    quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q8_0")
    assert "quantized already" in caplog.text and "Q4_0" in caplog.text
    caplog.clear()
    quantize_file(tmp_path / "b.gguf", tmp_path / "c.gguf", "Q8_0")
    assert not caplog.text


def test_progress_counts_every_number(source: Path, state: State, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    quantize_file(source, tmp_path / "out.gguf", "Q8_0", progress=lambda *step: seen.append(step))
    total = sum(tensor.numel() for tensor in state.values())
    assert {whole for _, whole in seen} == {total}
    done = [count for count, _ in seen]
    assert done == sorted(done) and done[-1] == total and len(done) >= len(state)


def test_stopping_leaves_nothing(source: Path, tmp_path: Path) -> None:
    calls = iter([False] * 20 + [True])
    with pytest.raises(Cancelled):
        quantize_file(source, tmp_path / "out.gguf", "Q8_0", should_stop=lambda: next(calls))
    assert not list(tmp_path.iterdir())


def test_failing_leaves_nothing_and_names_the_tensor(state: State, tmp_path: Path) -> None:
    name = "double_blocks.1.txt_mlp.2.weight"
    broken = {**state, name: state[name].clone()}
    broken[name][3, 5] = float("nan")
    write_bfl(tmp_path / "a.safetensors", broken)
    with pytest.raises(CheckpointError, match=f"a.safetensors: {name}: .*NaN"):
        quantize_file(tmp_path / "a.safetensors", tmp_path / "out.gguf", "Q4_K")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_file_that_is_there_stays_until_the_new_one_is_whole(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    with pytest.raises(CheckpointError, match="there already"):
        quantize_file(source, out, "Q8_0")
    with pytest.raises(Cancelled):
        quantize_file(source, out, "Q8_0", overwrite=True, should_stop=lambda: True)
    assert out.read_bytes() == b"old"
    quantize_file(source, out, "Q8_0", overwrite=True)
    assert len(read(out)) > 50
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_bad_destinations_and_types(source: Path, state: State, tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", state)
    for name, kind, message in (
        ("out.safetensors", "Q8_0", "must end in .gguf"),
        ("nowhere/out.gguf", "Q8_0", "no folder"),
        ("out.gguf", "Q9_K", "choose one of .*Q4_K_M"),
        ("out.gguf", "IQ4_XS", "choose one of"),
    ):
        with pytest.raises(CheckpointError, match=message):
            quantize_file(source, tmp_path / name, kind)
    with pytest.raises(CheckpointError, match="is the source"):
        quantize_file(tmp_path / "a.gguf", tmp_path / "a.gguf", "Q4_K", overwrite=True)
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(CheckpointError, match="no file"):
        quantize_file(source, tmp_path / "folder.gguf", "Q4_K", overwrite=True)


def test_incomplete_and_wrong_sources(state: State, tmp_path: Path) -> None:
    missing = {n: t for n, t in state.items() if n != "single_blocks.0.linear2.bias"}
    write_bfl(tmp_path / "a.safetensors", missing)
    with pytest.raises(CheckpointError, match=r"1 missing \(single_blocks.0.linear2.bias\)"):
        quantize_file(tmp_path / "a.safetensors", tmp_path / "out.gguf", "Q8_0")
    write_bfl(tmp_path / "c.safetensors", dict(published_autoencoder().state_dict()))
    with pytest.raises(CheckpointError, match="autoencoder"):
        quantize_file(tmp_path / "c.safetensors", tmp_path / "out.gguf", "Q8_0")


def test_no_room(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda _: Full)
    with pytest.raises(CheckpointError, match="make room"):
        quantize_file(source, tmp_path / "out.gguf", "Q8_0")
    assert not list(tmp_path.iterdir())


def test_command(source: Path, tmp_path: Path) -> None:
    top = argparse.ArgumentParser()
    add_quantize(top.add_subparsers())
    options = top.parse_args(["quantize", str(source), str(tmp_path), "--type", "q5_k_m"])
    said = options.run(options)
    out = tmp_path / "flux1-kontext-dev-Q5_K_M.gguf"
    assert str(out) in said and "Q6_K" in said
    assert read(out)["double_blocks.0.img_attn.qkv.weight"][0] == "Q6_K"


def test_writer_holds_what_gguf_py_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    values = {"text": "zwölf", "yes": True, "few": 7, "many": 1 << 40, "part": 0.5}
    tensors = [GgufTensor("a", (3,), "F32"), GgufTensor("none", (0, 4), "F32")]
    tensors.append(GgufTensor("b", (2, 3, 5), "F16"))
    a, b = torch.randn(3), torch.randn(2, 3, 5).half()
    with GgufWriter(path, values, tensors) as out:
        out.write(a.view(torch.uint8)[:5])
        out.write(a.view(torch.uint8)[5:])
        out.write(b.view(torch.uint8))
    assert {key: value(path, key) for key in values} == values
    assert path.stat().st_size == out.size
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert np.array_equal(found["a"].data, a.numpy())
    assert np.array_equal(found["b"].data, b.numpy())


def test_writer_refuses_too_much_and_too_little(tmp_path: Path) -> None:
    tensors = [GgufTensor("a", (8,), "F32"), GgufTensor("b", (8,), "F32")]
    bytes_of = torch.zeros(40, dtype=torch.uint8)
    with pytest.raises(CheckpointError, match="room for 32"):
        with GgufWriter(tmp_path / "a.gguf", {}, tensors) as out:
            out.write(bytes_of)
    with pytest.raises(CheckpointError, match="no data for b"):
        with GgufWriter(tmp_path / "a.gguf", {}, tensors) as out:
            out.write(bytes_of[:32])
    for name, shape, message in (
        ("x" * 64, (8,), "at most 63 bytes"),
        ("a", (1, 1, 1, 1, 1), "at most 4"),
    ):
        with pytest.raises(CheckpointError, match=message):
            GgufWriter(tmp_path / "a.gguf", {}, [GgufTensor(name, shape, "F32")])
    with pytest.raises(CheckpointError, match="each once"):
        GgufWriter(tmp_path / "a.gguf", {}, tensors[:1] * 2)
    assert not list(tmp_path.iterdir())
