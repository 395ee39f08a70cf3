"""Per-reference control: strength, mask, and the part of the run in which one is present."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import draw
from torch import Tensor

from kontext_core import Conditioning, Context, Flux, Reference, make_noise, sample, stitch

SHAPE = (1, 16, 6, 8)
TOKENS = 12


def latent(seed: int, height: int = 6, width: int = 8) -> Tensor:
    return draw(seed, 1, 16, height, width)


def run(model: Flux, context: Context, steps: int = 2) -> Tensor:
    """A short run with fixed words and noise."""
    words = Conditioning(draw(50, 1, 4, 40), draw(51, 1, 24))
    times = torch.linspace(1, 0, steps + 1)
    return sample(model, context, words, times, noise=make_noise(3, context.target_shape))


def test_strength_is_a_log_bias_on_its_own_tokens() -> None:
    context = stitch(SHAPE, [Reference(latent(1)), Reference(latent(2, 4, 4), strength=0.25)])
    bias = context.bias
    assert bias is not None and bias.shape == (1, TOKENS + TOKENS + 4)
    assert (bias[0, : 2 * TOKENS] == 0).all()
    assert bias[0, 2 * TOKENS :].tolist() == pytest.approx([math.log(0.25)] * 4)


def test_neutral_strength_needs_no_bias() -> None:
    assert stitch(SHAPE, [Reference(latent(1)), Reference(latent(2))]).bias is None


def test_strength_zero_leaves_it_out_and_its_place_free() -> None:
    references = [Reference(latent(1)), Reference(latent(2), strength=0), Reference(latent(3))]
    context = stitch(SHAPE, references)
    full = stitch(SHAPE, [references[0], Reference(latent(2)), references[2]])
    assert [p.index for p in context.layout] == [0, 1, 3]
    assert context.layout[2] == full.layout[3]
    kept = [*range(2 * TOKENS), *range(3 * TOKENS, 4 * TOKENS)]
    assert context.img_ids.equal(full.img_ids[:, kept])
    assert context.tokens.equal(torch.cat([full.tokens[:, :TOKENS], full.tokens[:, -TOKENS:]], 1))
    assert context.bias is None


def test_strength_moves_the_result_from_absent_to_full(small_flux: Flux) -> None:
    def at(strength: float) -> Tensor:
        return run(small_flux, stitch(SHAPE, [Reference(latent(1), strength=strength)]))

    absent, full = (
        run(small_flux, stitch(SHAPE)),
        run(small_flux, stitch(SHAPE, [Reference(latent(1))])),
    )
    assert at(0).equal(absent)
    assert at(1).equal(full)
    # Measured: 4.8e-6, of 1.6 for the whole way; the limit has to be continuous.
    assert (at(1e-6) - absent).abs().max() < 1e-3
    way = [(at(strength) - absent).abs().mean() for strength in (0.1, 0.5, 1.0)]
    assert 0 < way[0] < way[1] < way[2]


@pytest.mark.parametrize("resolution", [1, 8])
def test_mask_keeps_the_painted_tokens(resolution: int) -> None:
    """Cells (2..3, 4..7) painted are tokens (1, 2) and (1, 3), at any mask resolution."""
    mask = torch.zeros(6, 8)
    mask[2:4, 4:8] = 1
    mask = mask.repeat_interleave(resolution, 0).repeat_interleave(resolution, 1)
    full = stitch(SHAPE, [Reference(latent(1))])
    context = stitch(SHAPE, [Reference(latent(1), mask=mask)])
    kept = [1 * 4 + 2, 1 * 4 + 3]
    assert context.layout[1].tokens == 2
    assert context.tokens.equal(full.tokens[:, kept])
    assert context.img_ids[0, TOKENS:].equal(full.img_ids[0, [TOKENS + k for k in kept]])


def test_mask_does_not_move_later_references() -> None:
    mask = torch.zeros(6, 8)
    mask[0, 0] = 1
    masked = stitch(SHAPE, [Reference(latent(1), mask=mask), Reference(latent(2))])
    full = stitch(SHAPE, [Reference(latent(1)), Reference(latent(2))])
    assert masked.layout[1].tokens == 1
    assert masked.layout[2] == full.layout[2]


def test_a_full_mask_changes_nothing() -> None:
    full = stitch(SHAPE, [Reference(latent(1))])
    masked = stitch(SHAPE, [Reference(latent(1), mask=torch.full((6, 8), 0.5))])
    assert masked.tokens.equal(full.tokens) and masked.img_ids.equal(full.img_ids)


def test_window_of_a_run() -> None:
    """Of four steps (progress 0, .25, .5, .75), start .25 and end .75 leave the middle two."""
    context = stitch(
        SHAPE, [Reference(latent(1)), Reference(latent(2), strength=2, start=0.25, end=0.75)]
    )
    counts = [context.at(step / 4).tokens.shape[1] for step in range(4)]
    assert counts == [TOKENS, 2 * TOKENS, 2 * TOKENS, TOKENS]
    early, middle = context.at(0), context.at(0.5)
    assert early.img_ids.equal(context.img_ids[:, : 2 * TOKENS])
    assert early.tokens.equal(context.tokens[:, :TOKENS])
    assert early.bias is not None and early.bias.shape == (1, 2 * TOKENS)
    assert middle.tokens is context.tokens and middle.img_ids is context.img_ids


def test_window_in_a_run_equals_switching_contexts(small_flux: Flux) -> None:
    """Present in the first of two steps only, compared with the two steps run one by one."""
    reference = latent(1)
    windowed = run(small_flux, stitch(SHAPE, [Reference(reference, end=0.5)]))

    seen: list[int] = []

    class Counting(Flux):
        def forward(self, img: Tensor, *args: object, **kwargs: object) -> Tensor:
            seen.append(img.shape[1])
            return super().forward(img, *args, **kwargs)

    counting = Counting(small_flux.params)
    counting.load_state_dict(small_flux.state_dict())
    assert run(counting, stitch(SHAPE, [Reference(reference, end=0.5)])).equal(windowed)
    assert seen == [2 * TOKENS, TOKENS]
    assert not windowed.equal(run(small_flux, stitch(SHAPE, [Reference(reference)])))
    assert not windowed.equal(run(small_flux, stitch(SHAPE)))


def test_a_window_over_everything_is_no_window() -> None:
    context = stitch(SHAPE, [Reference(latent(1))])
    for progress in (0.0, 0.5, 0.99):
        assert context.at(progress).tokens is context.tokens
