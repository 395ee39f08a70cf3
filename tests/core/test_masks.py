"""Masks: other sizes without leaking, grey in sampling, and colours across the seam."""

from __future__ import annotations

import pytest
import torch
from small_models import draw, make_flux
from torch import Tensor

from kontext_core import InputError, ShapeError, make_noise, make_timesteps, sample, stitch
from kontext_core.composite import composite
from kontext_core.guidance import Conditioning
from kontext_core.latents import FLUX_LATENT, pack, unpack
from kontext_core.masks import (
    bounds,
    box_mask,
    cover_mask,
    fit_mask,
    grow_mask,
    mask_for,
    soften,
)
from kontext_core.models.flux import Flux
from kontext_core.noise_mask import mask_now

SIZES = [(64, 64), (37, 53), (300, 200), (1, 1), (129, 7)]


def smooth(seed: int, height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").movedim(1, -1)


def beneath(mask: Tensor, width: int, height: int) -> list[list[Tensor]]:
    """For every pixel of a picture of this size the mask's pixels that it lies over."""
    rows, columns = mask.shape[-2:]

    def span(at: int, cells: int, total: int) -> slice:
        return slice(at * total // cells, -(-(at + 1) * total // cells))

    return [
        [mask[..., span(y, height, rows), span(x, width, columns)] for x in range(width)]
        for y in range(height)
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(8, 8), (20, 33), (90, 60)])
def test_a_mask_of_another_size_leaks_nowhere(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    mask = (draw(3, 1, *shape) > 0.3).float()
    mask[:, 2:5, 2:6] = draw(4, 1, 3, 4).abs().clamp(0, 1)
    fitted, covered = fit_mask(mask, *size), cover_mask(mask, *size)
    assert fitted.shape == covered.shape == (1, size[1], size[0])
    assert 0 <= fitted.min() and fitted.max() <= 1
    for y, row in enumerate(beneath(mask, *size)):
        for x, part in enumerate(row):
            least, most = float(part.min()), float(part.max())
            if least in (0.0, 1.0):
                assert fitted[0, y, x] == least
            assert covered[0, y, x] == most


def test_a_mask_of_the_same_size_is_itself() -> None:
    mask = draw(3, 1, 9, 12)
    assert fit_mask(mask, 12, 9) is mask and cover_mask(mask, 12, 9).equal(mask)


def test_growing_and_softening() -> None:
    mask = box_mask((4, 0, 2, 3), 12, 10)
    assert bounds(mask) == (4, 0, 2, 3)
    assert bounds(grow_mask(mask, 2)) == (2, 0, 6, 5)
    # Away from the picture's edge only.
    assert bounds(grow_mask(box_mask((0, 0, 6, 6), 12, 10), -2)) == (0, 0, 4, 4)
    assert bounds(torch.zeros(1, 5, 5)) is None
    wide = soften(box_mask((0, 0, 20, 40), 40, 40), 6)
    # Exactly 1, or a differential mask would let it wait for a step.
    assert (wide[..., 20:] == 0).all() and (wide[..., :12] == 1).all()
    assert (wide[0, 20, 13:20].diff() < 0).all()
    # More feather than there is picture.
    assert soften(torch.ones(1, 8, 8), 50).equal(torch.ones(1, 8, 8))


@pytest.mark.parametrize(
    ("box", "message"),
    [((0, 0, 0, 4), "the box is 0 x 4"), ((90, 0, 4, 4), "nothing of the picture of 12 x 10")],
)
def test_boxes_that_mean_nothing(box: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        box_mask(box, 12, 10)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match="the mask is 30 x 10, the picture 12 x 10"):
        mask_for(torch.ones(10, 30), 12, 10)
    # As Load Image gives when nothing was painted.
    assert not mask_for(torch.zeros(1, 64, 64), 12, 10).any()


def test_what_is_free_from_which_level() -> None:
    mask = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    found = [mask_now(mask, "differential", t, 1.0, 0.0).tolist() for t in (1.0, 0.9, 0.5, 0.0)]
    assert found == [[0, 0, 0, 0, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]
    # Of a run that begins later, shares of it.
    assert mask_now(mask, "differential", 0.3, 0.6, 0.0).tolist() == [0, 0, 1, 1, 1]
    assert mask_now(mask, "soft", 0.3, 0.6, 0.0) is mask


class Watching(Flux):
    """A transformer that knows the picture, and notes what it is shown."""

    def __init__(self, goal: Tensor) -> None:
        super().__init__(make_flux().params)
        self.goal, self.seen = goal, []

    def forward(self, img: Tensor, *args: Tensor, target_tokens: int, **more: object) -> Tensor:
        self.seen.append(unpack(img[:, :target_tokens], 6, 8))
        return (img[:, :target_tokens] - pack(self.goal)) / args[3][:, None, None]


@pytest.mark.parametrize("denoise", [1.0, 0.6])
def test_grey_cells_join_at_their_level(denoise: float) -> None:
    """Until then they see the picture, as noisy as the rest; what they are painted for ends there."""
    shape = (1, 16, 6, 8)
    times = make_timesteps(8, 12, denoise=denoise)
    noise, raw, goal = make_noise(3, shape), draw(2, *shape), draw(1, *shape)
    clean = FLUX_LATENT.process_in(raw)
    mask = torch.linspace(0, 1, 8).expand(1, 1, 6, 8)
    model = Watching(goal)
    words = Conditioning(draw(50, 1, 4, 40), draw(51, 1, 24))
    made = sample(
        model, stitch(shape), words, times,
        noise=noise, latent=raw, noise_mask=mask, mask_mode="differential",
    )  # fmt: skip
    for t, seen in zip(times[:-1], model.seen, strict=True):
        kept = (mask < t / times[0]) | (mask == 0)
        expected = t * noise + (1 - t) * clean
        # float32 over up to eight Euler steps; measured 0.
        assert ((seen - expected).abs() * kept).max() < 1e-5
    # Cells that were freed at any step have gone all the way, as the model knows the goal.
    last = times[-2] / times[0]
    expected = FLUX_LATENT.process_out(torch.where(mask >= last, goal, clean))
    # Measured: 4.8e-7 on values up to 9.
    assert (made - expected).abs().max() < 1e-4


def test_black_and_white_are_the_same_in_both_ways(small_flux: Flux) -> None:
    shape = (1, 16, 6, 8)
    mask = torch.zeros(6, 8)
    mask[:, 4:] = 1
    words = Conditioning(draw(50, 1, 4, 40), draw(51, 1, 24))
    given = {"noise": make_noise(3, shape), "latent": draw(2, *shape), "noise_mask": mask}
    times = make_timesteps(3, 12)
    soft, differential = (
        sample(small_flux, stitch(shape), words, times, mask_mode=mode, **given)
        for mode in ("soft", "differential")
    )
    assert soft.equal(differential)
    with pytest.raises(InputError, match="unknown mask_mode 'hard'"):
        sample(small_flux, stitch(shape), words, times, mask_mode="hard", **given)


@pytest.mark.parametrize("feather", [0, 5])
@pytest.mark.parametrize("match", [False, True])
@pytest.mark.parametrize("made", [torch.float16, torch.bfloat16, torch.float32])
def test_pixels_outside_are_the_originals_own(feather: int, match: bool, made: torch.dtype) -> None:
    """Of floats that are no multiple of 1/255, in batches, with a mask at another size, beside a
    result in half precision."""
    original, result = smooth(1, 60, 90), smooth(2, 60, 90, 2).to(made)
    mask = torch.zeros(2, 20, 30)
    mask[0, 4:12, 3:20], mask[1, 0:9, 10:30] = 1, 0.6
    both = composite(result, original, mask, feather, match=match)
    assert both.dtype == torch.float32
    for one, free in zip(both, mask, strict=True):
        outside = free.repeat_interleave(3, 0).repeat_interleave(3, 1) == 0
        assert one[outside].equal(original[0][outside])
        assert (one - original[0])[~outside].abs().mean() > 1e-3


def test_a_tint_is_taken_out_of_the_result() -> None:
    """What differs around the mask goes; what was painted inside stays."""
    original = smooth(1, 128, 160)
    tint = torch.linspace(0.02, 0.06, 160)[:, None] * torch.tensor([1.0, -0.5, 0.3])
    mask = box_mask((50, 40, 60, 50), 160, 128)
    result = (original + tint).clone()
    painted = torch.tensor([0.9, 0.1, 0.1])
    result[:, 55:75, 70:90] = painted
    plain = composite(result, original, mask)
    matched = composite(result, original, mask, match=True)
    seam = (mask > 0) & (grow_mask(mask, -6) == 0)
    before, after = ((one - original)[seam].abs().mean() for one in (plain, matched))
    # Measured: 0.0240 before, 0.0002 after.
    assert before > 0.02 and after < before / 15
    moved = (matched - result)[:, 55:75, 70:90].mean(dim=(0, 1, 2))
    # The tint at the middle, taken away; measured to 1e-4.
    assert (moved + tint[80]).abs().max() < 2e-3


def test_what_the_edit_changed_beside_the_mask_is_no_tint() -> None:
    """A shadow that falls out of the mask covers a tenth of the ring: it moves no colour."""
    original = torch.full((1, 128, 128, 3), 0.5)
    mask = box_mask((40, 40, 48, 48), 128, 128)
    result = original.clone()
    result[:, 88:96, 60:80] = 0.1
    matched = composite(result, original, mask, match=True)
    assert (matched - original).abs().max() == 0


def test_a_mask_without_surroundings_matches_nothing() -> None:
    result = smooth(2, 40, 40)
    full = composite(result, smooth(1, 40, 40), torch.ones(1, 40, 40), match=True)
    # The blend's last bit: measured 6e-8.
    assert (full - result).abs().max() < 1e-6
