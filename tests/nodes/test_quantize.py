"""Kontext: Quantize: a smaller file in the folder of models, or none at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from files import published_flux, write_bfl


@pytest.fixture
def folder(host: Any, tmp_path: Path) -> Path:
    """The folder of diffusion models with source.safetensors, a small FLUX.1."""
    host.models = tmp_path
    folder = tmp_path / "diffusion_models"
    folder.mkdir()
    write_bfl(folder / "source.safetensors", published_flux().state_dict())
    return folder


def test_the_written_file_loads_and_is_named(pack: Any, host: Any, folder: Path) -> None:
    made = pack.run("KontextQuantize", model_name="source.safetensors", type="Q8_0")
    assert made[0] == "source-Q8_0.gguf"
    assert made.ui["kontext_notes"][0] == made[0]
    assert "Q8_0" in made.ui["kontext_notes"][2]
    assert made[0] in pack.module("nodes.files").choices("model")
    assert (folder / made[0]).stat().st_size < (folder / "source.safetensors").stat().st_size
    model = pack.run("KontextLoadModel", model_name=made[0])[0]
    assert model.load().params.hidden_size == 256
    done = [step for step, total in host.steps if total == 100]
    assert done[-1] == 100


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [("small", "small.gguf"), ("sub/mine.gguf", "sub/mine.gguf"), (" a\\b ", "a/b.gguf")],
)
def test_the_name_may_be_chosen(pack: Any, folder: Path, file_name: str, expected: str) -> None:
    inputs = {"model_name": "source.safetensors", "type": "Q8_0", "file_name": file_name}
    assert pack.run("KontextQuantize", **inputs)[0] == expected
    assert (folder / expected).is_file()


def test_nothing_is_overwritten_unless_asked(pack: Any, folder: Path) -> None:
    inputs = {"model_name": "source.safetensors", "type": "Q8_0", "file_name": "x"}
    (folder / "x.gguf").write_bytes(b"mine")
    with pytest.raises(pack.error("CheckpointError"), match="there already"):
        pack.run("KontextQuantize", **inputs)
    assert (folder / "x.gguf").read_bytes() == b"mine"
    pack.run("KontextQuantize", **inputs, overwrite=True)
    assert (folder / "x.gguf").read_bytes()[:4] == b"GGUF"
    with pytest.raises(pack.error("CheckpointError"), match="is the source"):
        pack.run("KontextQuantize", **{**inputs, "model_name": "x.gguf"}, overwrite=True)


@pytest.mark.parametrize("name", ["../x", "/x", "a:b", "sub/", ".gguf", "a\0b", "a/../../b"])
def test_names_that_lead_out_of_the_folder_are_refused(pack: Any, folder: Path, name: str) -> None:
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(pack.error("InputError"), match="file_name"):
        pack.run("KontextQuantize", model_name="source.safetensors", type="Q8_0", file_name=name)
    assert sorted(folder.parent.rglob("*")) == before


def test_an_interrupt_leaves_nothing(
    pack: Any, host: Any, folder: Path, interrupted: type[Exception]
) -> None:
    before = sorted(folder.rglob("*"))
    host.interrupt_after = 2
    with pytest.raises(interrupted):
        pack.run("KontextQuantize", model_name="source.safetensors", type="Q8_0")
    assert sorted(folder.rglob("*")) == before


def test_a_missing_source_names_its_folder(pack: Any, folder: Path) -> None:
    with pytest.raises(pack.error("ModelNotFoundError"), match="put it into"):
        pack.run("KontextQuantize", model_name="none.safetensors")


def test_every_type_on_offer_is_one_the_core_writes(pack: Any) -> None:
    find_mix = pack.module("kontext_core.quant.mixes").find_mix
    types = pack.module("nodes.quantize").TYPES
    assert [find_mix(file_type).name for file_type in types] == list(types)
