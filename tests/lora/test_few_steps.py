"""LoRAs for few steps, told by the file's name and by what it changes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kontext_core import edit
from kontext_core.lora.few_steps import few_steps, lora_notes, run_notes
from kontext_core.model_files import LORAS

BLOCKS = ("double_blocks.0.img_attn.qkv", "single_blocks.3.linear1")
EMBEDDED = (*BLOCKS, "guidance_in.in_layer")


def lora(path: str, modules: tuple[str, ...] = BLOCKS) -> Any:
    entries = [SimpleNamespace(target=SimpleNamespace(module=module)) for module in modules]
    return SimpleNamespace(path=Path(path), entries=entries)


@pytest.mark.parametrize(
    ("path", "steps", "strength"),
    [
        ("FLUX.1-Turbo-Alpha.safetensors", 8, 1.0),
        ("flux1_turbo_alpha_fp16.safetensors", 8, 1.0),
        ("FLUX.1-Turbo-Alpha/diffusion_pytorch_model.safetensors", 8, 1.0),
        ("flux.1-turbo.safetensors", 8, 1.0),
        ("Hyper-FLUX.1-dev-8steps-lora.safetensors", 8, 0.125),
        ("hyper_flux_16step_rank1.safetensors", 16, 0.125),
        ("Hyper_Flux.1_Dev_4_step_Lora.safetensors", 4, None),
        ("flux-lightning-4step.safetensors", 4, None),
    ],
)
def test_names(path: str, steps: int, strength: float | None) -> None:
    found = few_steps(lora(path))
    assert found is not None and (found.steps, found.strength) == (steps, strength)


@pytest.mark.parametrize(
    "path", ["turbo-cars.safetensors", "hyperreal.safetensors", "portrait-1000steps.safetensors"]
)
def test_other_names(path: str) -> None:
    assert few_steps(lora(path, EMBEDDED)) is None


def test_shapes() -> None:
    """A style that changes some attention alone is none, whatever it is called; a file without a name
    of its own is one if it changes embedders."""
    assert few_steps(lora("FLUX.1-Turbo-Alpha.safetensors", BLOCKS[:1])) is None
    unnamed = "downloads/diffusion_pytorch_model.safetensors"
    assert few_steps(lora(unnamed)) is None
    found = few_steps(lora(unnamed, EMBEDDED))
    assert found is not None and found.steps is None
    assert "made for few steps" in lora_notes(found, 1.0)[0]


def test_by_name_from_python() -> None:
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"seed": 1, "steps": 1}
    plain, named, by_path = (
        edit("tiny", "make it night", picture, loras=loras, **options)
        for loras in ((), "tiny-turbo-2-steps", LORAS["tiny-turbo-2-steps"])
    )
    assert torch.equal(named, by_path) and not torch.equal(named, plain)


def test_what_is_said() -> None:
    found = few_steps(lora("Hyper-FLUX.1-dev-8steps-lora.safetensors"))
    assert lora_notes(None, 1.0) == run_notes(None, 28, True) == []
    [said] = lora_notes(found, 0.125)
    assert "8 steps at strength 0.125" in said and "here" not in said
    assert lora_notes(found, 1.0)[0].endswith("strength is 1 here")
    assert run_notes(found, 8, False) == run_notes(found, 12, False) == []
    assert run_notes(found, 28, False)[0].endswith("and runs 28: set steps to 8")
    assert "Take one of them" in run_notes(found, 8, True)[0]
