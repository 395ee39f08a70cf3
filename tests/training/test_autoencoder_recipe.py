"""The encoder that is written down, the decoder that starts linear, and their recipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kontext_core.config import AutoEncoderParams
from kontext_core.errors import InputError
from kontext_core.finetune.run_log import read_log
from kontext_core.latents import FLUX_LATENT
from kontext_core.models.autoencoder import AutoEncoder
from kontext_lab.training.checkpoint import load_state
from kontext_lab.training.linear_decoder import write_linear_decoder
from kontext_lab.training.linear_encoder import step_matrices, write_linear_encoder
from kontext_lab.training.linear_parts import Fixed
from kontext_lab.training.patch_pca import fit_patch_pca

ROOT = Path(__file__).parents[2]
SMALL = AutoEncoderParams(ch=16, ch_mult=(1, 2, 4, 8), num_res_blocks=1, norm_groups=4)
EXACT = AutoEncoderParams(ch=16, ch_mult=(1, 3, 4, 8), num_res_blocks=2, norm_groups=4)
SIZES = ((64, 64), (64, 96), (72, 104), (8, 8), (16, 40))


def blobs(count, height, width, seed=0):
    """Coloured discs on grounds with a faint tile of 8 pixels: pictures like those of the world."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(count, *shape, 1, 1, generator=random)

    ys, xs = torch.arange(height)[:, None], torch.arange(width)[None]
    away = ((ys - height * draw(1)) ** 2 + (xs - width * draw(1)) ** 2).sqrt()
    disc = torch.clamp(6 + 8 * draw(1) - away, 0, 1)
    tile = 0.05 * ((xs % 8 < 4) * 2.0 - 1) * (draw(1) < 0.5)
    return (disc * draw(3) + (1 - disc) * (0.1 + 0.8 * draw(3) + tile)) * 2 - 1


@pytest.fixture(scope="module")
def pca():
    return fit_patch_pca(blobs(300, 64, 64))


def rounded(model):
    """As after a file in half precision."""
    return model.half().float()


@pytest.mark.parametrize("params", [SMALL, EXACT], ids=["narrow", "wide"])
def test_written_encoder_gives_the_linear_latents_at_any_size(pca, params):
    model = AutoEncoder(params)
    write_linear_encoder(model.encoder, pca, params)
    rounded(model)
    for height, width in SIZES:
        x = blobs(8, height, width, seed=height + width)
        with torch.no_grad():
            moments = model.encoder(x)
            z = FLUX_LATENT.process_in(model.encode(x))
        error = (z - pca.encode(x)).square().mean().sqrt()
        assert float(error) < 2e-3  # rounding; measured 3e-4 to 9e-4
        # A sampler of the posterior gets its mean.
        assert (moments[:, 16:] == -20).all()


def test_steps_down_multiply_to_the_components(pca):
    goal = pca.components * pca.scale[:, None]
    first, second, third = step_matrices(goal, (12, 48))
    assert [len(m) for m in (first, second, third)] == [12, 48, 16]
    # With room for everything the first two only move pixels.
    for step in (first, second):
        assert torch.equal(step, torch.eye(len(step)))
    narrow = step_matrices(goal, (12, 20))
    assert [tuple(m.shape) for m in narrow] == [(12, 12), (20, 48), (16, 80)]


def test_encoder_in_bfloat16_stays_near(pca):
    model = AutoEncoder(SMALL)
    write_linear_encoder(model.encoder, pca, SMALL)
    x = blobs(8, 64, 64, seed=3)
    with torch.no_grad():
        z = FLUX_LATENT.process_in(model.bfloat16().encode(x).float())
    assert float((z - pca.encode(x)).square().mean().sqrt()) < 0.02  # measured 0.006


@pytest.mark.parametrize("params", [SMALL, EXACT], ids=["narrow", "wide"])
def test_decoder_starts_as_the_linear_inverse(pca, params):
    torch.manual_seed(0)
    model = AutoEncoder(params)
    write_linear_decoder(model.decoder, pca, params, pca.encode(blobs(24, 64, 64)))
    rounded(model)
    for height, width in ((64, 64), (72, 104), (128, 128)):
        z = pca.encode(blobs(2, height, width, seed=height + width))
        with torch.no_grad():
            back = model.decode(FLUX_LATENT.process_out(z))
        error = (back - pca.decode(z)).square().mean() / 4
        assert float(-10 * torch.log10(error)) > 34  # dB; measured 38.7 to 40.9


def test_shapes_without_room_are_refused(pca):
    sample = pca.encode(blobs(2, 16, 16))
    for ch, mult, groups in ((16, (1, 2, 4, 4), 4), (16, (1, 2, 4), 4), (16, (1, 2, 4, 8), 16)):
        params = AutoEncoderParams(ch=ch, ch_mult=mult, num_res_blocks=1, norm_groups=groups)
        model = AutoEncoder(params)
        with pytest.raises(InputError, match="start linear"):
            write_linear_decoder(model.decoder, pca, params, sample)
        if groups == 4:
            with pytest.raises(InputError, match="can't carry"):
                write_linear_encoder(model.encoder, pca, params)


def test_fixed_entries_are_restored_and_taken_anew():
    layer = nn.Linear(3, 2)
    fixed = Fixed()
    fixed.add(layer.weight, torch.tensor([True, False])[:, None])
    kept = layer.weight[0].detach().clone()
    nn.init.ones_(layer.weight)
    fixed.restore()
    assert torch.equal(layer.weight[0], kept)
    assert torch.equal(layer.weight[1], torch.ones(3))
    nn.init.zeros_(layer.weight)
    fixed.take()
    nn.init.ones_(layer.weight)
    fixed.restore()
    assert torch.equal(layer.weight, torch.tensor([[0.0] * 3, [1.0] * 3]))


def recipe(name, *options):
    result = subprocess.run(
        [sys.executable, "-m", f"kontext_lab.recipes.{name}", *map(str, options)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_recipe_stops_and_goes_on_to_the_same_numbers(tmp_path):
    pca = tmp_path / "pca.safetensors"
    recipe("fit_pca", "--out", pca, "--count", 128)
    shared = ("--pca", pca, "--steps", 4, "--every", 2, "--batch", 2, "--held", 4)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    recipe("train_autoencoder", "--run", straight, *shared)
    recipe("train_autoencoder", "--run", stopped, *shared, "--stop-at", 2)
    assert "going on at step 2" in recipe("train_autoencoder", "--run", stopped, *shared)
    one, other = load_state(straight / "last.pt"), load_state(stopped / "last.pt")
    assert one["step"] == other["step"] == 4 and one["params"] == other["params"]
    for key, value in one["ema"]["average"].items():
        assert torch.equal(value, other["ema"]["average"][key]), key
    for a, b in zip(*(read_log(run / "log.jsonl") for run in (straight, stopped)), strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}
