"""Previews: TAEF1 where the host has its file, the published figures else."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_models import draw, randomise

from kontext_core.models.taef1 import TinyDecoder


@pytest.fixture
def preview(pack: Any) -> Any:
    return pack.module("nodes.preview")


@pytest.fixture
def published(pack: Any) -> Any:
    return pack.module("kontext_core.latents").FLUX_LATENT


@pytest.fixture
def folder(host: Any, tmp_path: Path) -> Path:
    """The host's vae_approx, empty."""
    host.models = tmp_path
    (tmp_path / "vae_approx").mkdir()
    return tmp_path / "vae_approx"


def put(path: Path, seed: int = 1) -> TinyDecoder:
    decoder = TinyDecoder()
    randomise(decoder, seed)
    save_file(decoder.state_dict(), path)
    return decoder


def reported(preview: Any, latent_format: Any, x0: torch.Tensor, host: Any) -> Any:
    callback, _ = preview.reporter(1, latent_format)
    callback(1, 1, x0)
    return np.asarray(host.previews[-1], dtype=float)


def test_the_file_is_used(preview: Any, published: Any, folder: Path, host: Any) -> None:
    x0 = draw(1, 2, 16, 6, 8)
    linear = reported(preview, published, x0, host)
    assert np.array_equal(linear, np.asarray(preview.picture_of(x0, published), dtype=float))
    decoder = put(folder / "taef1_decoder.safetensors")
    shown = reported(preview, published, x0, host)
    with torch.no_grad():
        wanted = decoder(x0[:1]).clamp(0, 1)[0].movedim(0, -1).numpy() * 255
    # Shown in the size of the picture to come, which is the decoder's: compare the means of cells.
    assert shown.shape == (48, 64, 3)
    cells = shown.reshape(6, 8, 8, 8, 3).mean((1, 3))
    expected = wanted.reshape(6, 8, 8, 8, 3).mean((1, 3))
    assert np.abs(cells - expected).mean() < 3
    assert np.abs(shown - linear).mean() > 10


def test_a_model_with_latents_of_its_own_keeps_its_figures(
    pack: Any, preview: Any, folder: Path
) -> None:
    put(folder / "taef1_decoder.safetensors")
    own = pack.module("kontext_core.latents").LatentFormat(rgb_factors=((0.1, 0.2, 0.3),) * 16)
    assert preview.tiny_decoder(own, "cpu") is None


def test_it_is_loaded_once_and_anew_when_the_file_changes(
    preview: Any, published: Any, folder: Path
) -> None:
    path = folder / "taef1_decoder.safetensors"
    assert preview.tiny_decoder(published, "cpu") is None
    put(path, 1)
    first = preview.tiny_decoder(published, "cpu")
    assert first is not None and preview.tiny_decoder(published, "cpu") is first
    put(path, 2)
    os.utime(path, ns=(1, 1))
    second = preview.tiny_decoder(published, "cpu")
    assert second is not first
    assert not torch.equal(second[1].weight, first[1].weight)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["taef1_encoder.safetensors"], None),
        (["taesd_decoder.safetensors", "taef2_decoder.safetensors"], None),
        (["taef1_decoder.pth"], None),
        (["taef1.safetensors", "taef1_decoder.sft"], "taef1_decoder.sft"),
        (["taef1_encoder.safetensors", "TAEF1.safetensors"], "TAEF1.safetensors"),
        (
            ["taef1/diffusion_pytorch_model.safetensors"],
            "taef1/diffusion_pytorch_model.safetensors",
        ),
    ],
)
def test_which_file(preview: Any, folder: Path, names: list[str], chosen: str | None) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert preview._file() == (None if chosen is None else folder / chosen)


def test_a_bad_file_is_told_of_once_and_fails_no_run(
    preview: Any, published: Any, folder: Path, host: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "taef1_decoder.safetensors").write_bytes(b"\x10" * 100)
    x0 = draw(1, 1, 16, 4, 4)
    with caplog.at_level(logging.WARNING):
        shown = [reported(preview, published, x0, host) for _ in range(2)]
    assert np.array_equal(shown[0], np.asarray(preview.picture_of(x0, published), dtype=float))
    assert len(caplog.records) == 1 and "taef1_decoder.safetensors" in caplog.text


def test_no_memory_for_it_is_no_failure(
    preview: Any, published: Any, folder: Path, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder / "taef1_decoder.safetensors")

    def full(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Sequential, "forward", full)
    x0 = draw(1, 1, 16, 4, 4)
    linear = np.asarray(preview.picture_of(x0, published), dtype=float)
    assert np.array_equal(reported(preview, published, x0, host), linear)


def test_nothing_is_drawn_that_nobody_sees(
    preview: Any, published: Any, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blind:
        def update(self, step: int, preview: Any = None) -> None:
            host.previews.append(preview)

        def wanted(self) -> bool:
            return False

    monkeypatch.setattr(type(host), "progress", lambda self, total: Blind())
    callback, _ = preview.reporter(1, published)
    callback(1, 1, draw(1, 1, 16, 4, 4))
    assert host.previews == [None]
