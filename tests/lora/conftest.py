"""What the LoRA tests share: inputs for a forward, the files of every form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lora_files import lora_files
from lora_writer import Made
from small_models import draw, make_flux
from torch import Tensor

from kontext_core import Flux

Inputs = tuple[Tensor, ...]


@pytest.fixture(scope="session")
def inputs() -> Inputs:
    """Arguments of `Flux.forward`: batch 2, 10 image and 4 text tokens."""
    return (
        draw(1, 2, 10, 64),
        draw(2, 1, 10, 3),
        draw(3, 2, 4, 40),
        torch.zeros(1, 4, 3),
        torch.tensor([0.3, 0.8]),
        draw(4, 2, 24),
        torch.tensor([2.5, 3.0]),
    )


@pytest.fixture(scope="session")
def made() -> dict[str, Made]:
    """Every form of LoRA file for `make_flux`."""
    return lora_files(make_flux())


@pytest.fixture
def flux() -> Flux:
    """A network of the test's own to change."""
    return make_flux()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where to write a LoRA."""
    return tmp_path / "lora.safetensors"
