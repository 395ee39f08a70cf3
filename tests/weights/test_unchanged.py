"""A mapped file overwritten in place is refused before its pages are touched; one renamed over is safe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from files import published_flux, write_bfl
from small_models import draw
from torch import Tensor

from kontext_core import Flux, load_model
from kontext_core.errors import CheckpointError
from kontext_core.lora import load_lora, set_loras


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_bfl(path, published_flux(1, depth=1, depth_single_blocks=1).state_dict())
    return path


def forward(flux: Flux) -> Tensor:
    with torch.no_grad():
        return flux(
            draw(1, 1, 4, 64), torch.zeros(1, 4, 3), draw(2, 1, 2, 40), torch.zeros(1, 2, 3),
            torch.tensor([0.5]), draw(3, 1, 24), torch.tensor([3.0]),
        )  # fmt: skip


def test_overwritten_in_place(path: Path) -> None:
    flux = load_model(path, pack=True)
    expected = forward(flux)
    # As `cp` and `wget -O` write: the same file, cut to nothing first.
    with path.open("wb") as file:
        file.write(b"half")
    with pytest.raises(CheckpointError, match="was written to after it was loaded") as error:
        forward(flux)
    assert str(path) in str(error.value)
    assert bool(torch.isfinite(expected).all())


def test_renamed_over_or_removed(path: Path) -> None:
    flux = load_model(path, pack=True)
    expected = forward(flux)
    other = path.with_name("new")
    other.write_bytes(b"half")
    os.replace(other, path)
    assert torch.equal(forward(flux), expected)
    path.unlink()
    assert torch.equal(forward(flux), expected)


def test_weights_of_its_own_are_not_bound_to_the_file(path: Path) -> None:
    flux = load_model(path)
    expected = forward(flux)
    path.write_bytes(b"half")
    assert torch.equal(forward(flux), expected)


def test_a_lora(path: Path, tmp_path: Path) -> None:
    stem = "double_blocks.0.img_attn.proj"
    file, flux = tmp_path / "lora.safetensors", load_model(path)
    pair = {f"{stem}.lora_A.weight": draw(1, 4, 256), f"{stem}.lora_B.weight": draw(2, 256, 4)}
    write_bfl(file, pair)
    lora = load_lora(file)
    set_loras(flux, [(lora, 1.0)])
    file.write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"lora\.safetensors: was written to"):
        set_loras(flux, [(lora, 0.5)])


@pytest.mark.skipif(sys.platform != "linux", reason="how a page behind the end of a file dies")
def test_what_it_is_good_for(path: Path) -> None:
    """Without the check the same kills the process."""
    script = (
        "import sys, torch, pathlib\n"
        "from kontext_core import load_model\n"
        "flux = load_model(sys.argv[1], pack=True)\n"
        "flux._forward_pre_hooks.clear()\n"
        "pathlib.Path(sys.argv[1]).write_bytes(b'half')\n"
        "print(sum(float(p.float().sum()) for p in flux.parameters()))\n"
    )
    copy = path.with_name("copy.safetensors")
    shutil.copyfile(path, copy)
    done = subprocess.run([sys.executable, "-c", script, str(copy)], capture_output=True)
    assert done.returncode == -7, done.stderr.decode()[-300:]
