"""Pictures on the grid and back: in their place, at their size, never distorted without a word."""

from __future__ import annotations

import pytest
import torch

from kontext_core.errors import InputError, ShapeError
from kontext_core.framing import (
    FITS,
    Framing,
    alike,
    at_resolution,
    bring_to,
    fit_picture,
    frame_mask,
    plan_fit,
    put_back,
    same_shape,
)

SIZES = ((64, 64), (96, 64), (64, 96))


def lines(width: int, height: int) -> torch.Tensor:
    """Two dark columns on white, at 12 and 98: what a shift or a stretch would move."""
    picture = torch.ones(1, height, width, 3)
    picture[:, :, 12] = picture[:, :, 98] = 0
    return picture


@pytest.mark.parametrize("size", [(111, 79), (127, 31), (112, 80), (400, 17)])
def test_kept_pixels_come_back_where_they_were(size: tuple[int, int]) -> None:
    picture = lines(*size)
    framing = plan_fit(*size, SIZES, "keep")
    fitted = fit_picture(picture, framing)
    assert (fitted.shape[2], fitted.shape[1]) == framing.size
    assert not any(side % 16 for side in framing.size)
    assert torch.equal(put_back(fitted, picture, framing), picture)
    # What was painted stands in the box, the rest is the original's.
    painted = put_back(torch.zeros_like(fitted), picture, framing)
    left, top, width, height = framing.box
    assert not painted[:, top : top + height, left : left + width].any()
    painted[:, top : top + height, left : left + width] = picture[
        :, top : top + height, left : left + width
    ]
    assert torch.equal(painted, picture)


def test_a_trained_size_shows_the_whole_picture() -> None:
    framing = plan_fit(111, 79, SIZES, "trained size")
    assert framing.covers and not framing.whole
    assert framing.size == framing.trained == (96, 64)
    # Padded to 3:2 instead of squashed into it.
    assert framing.box == (-4, 0, 118, 79)
    back = put_back(torch.rand(2, 64, 96, 3), lines(111, 79), framing)
    assert back.shape == (2, 79, 111, 3)


def test_a_larger_original_gets_a_larger_box() -> None:
    framing = plan_fit(111, 79, SIZES, "keep")
    original = torch.ones(1, 158, 222, 3)
    back = put_back(torch.zeros(1, 64, 96, 3), original, framing)
    rows, columns = (back[0, ..., 0] == 0).nonzero().T
    assert (int(columns.min()), int(columns.max()) + 1) == (14, 206)
    assert (int(rows.min()), int(rows.max()) + 1) == (14, 142)


def test_a_box_beyond_the_picture_is_cut_off() -> None:
    framing = Framing((20, 20), (-6, -6, 32, 32), (32, 32), (64, 64))
    result = torch.zeros(1, 32, 32, 3)
    result[:, 6:26, 6:26] = 1
    assert torch.equal(
        put_back(result, torch.zeros(1, 20, 20, 3), framing), torch.ones(1, 20, 20, 3)
    )


def test_batches_must_fit() -> None:
    framing = plan_fit(111, 79, SIZES, "keep")
    with pytest.raises(ShapeError, match="batch of 3"):
        put_back(torch.zeros(2, 64, 96, 3), torch.zeros(3, 79, 111, 3), framing)
    with pytest.raises(InputError, match="'cover'"):
        plan_fit(111, 79, SIZES, "cover")
    assert FITS == ("trained size", "shrink", "keep", "exact")


def test_a_masks_padding_is_black() -> None:
    framing = plan_fit(20, 60, SIZES, "trained size")
    assert framing.box == (-10, 0, 40, 60)
    for times in (1, 3):
        mask = frame_mask(torch.ones(60 * times, 20 * times), framing)
        assert mask.shape == (60 * times, 40 * times)
        assert mask[:, 10 * times : 30 * times].all()
        assert mask.sum() == 1200 * times**2


def test_a_masks_part_of_the_box_at_any_resolution() -> None:
    framing = plan_fit(76, 40, SIZES, "keep")
    mask = torch.zeros(40, 76)
    mask[:, 6:22] = 1
    assert frame_mask(mask, framing)[0].tolist() == [1.0] * 16 + [0.0] * 48
    double = mask.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert frame_mask(double, framing)[0].tolist() == [1.0] * 32 + [0.0] * 96


@pytest.mark.parametrize(
    ("a", "b", "slack", "same"),
    [
        ((300, 600), (800, 400), 8, False),
        ((800, 400), (800, 400), 0, True),
        ((256, 256), (100, 50), 1, False),
        ((111, 79), (112, 80), 8, True),
        ((1000, 667), (500, 333), 1, True),
        ((1000, 667), (500, 334), 1, True),
        ((1000, 667), (500, 340), 1, False),
        ((8192, 1024), (1024, 128), 1, True),
    ],
)
def test_shapes(a: tuple[int, int], b: tuple[int, int], slack: float, same: bool) -> None:
    assert same_shape(a, b, slack) is same
    if slack == 1:
        assert alike(a, b) is alike(b, a) is same


def test_another_shape_is_cropped_or_padded_without_distortion() -> None:
    """A square stays a square; 30 x 60 with a 10 x 10 square in its middle."""
    result = torch.full((1, 60, 30, 3), 0.25)
    result[:, 25:35, 10:20] = 1
    for rule, scale in (("crop", 80 / 30), ("pad", 40 / 60)):
        made = bring_to(result, 80, 40, rule)
        assert made.shape == (1, 40, 80, 3)
        rows, columns = (made[0, ..., 0] > 0.6).nonzero().T
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert abs(height - 10 * scale) <= 1
        assert abs(width - 10 * scale) <= 1
        assert bool((made[:, :, 0] == 0).all()) is (rule == "pad")
    assert bring_to(result, 80, 40, "stretch").min() > 0.1


@pytest.mark.parametrize(
    ("size", "fit", "share", "expected"),
    [
        ((64, 64), "trained size", 0.5, (32, 32)),
        ((111, 79), "trained size", 0.5, (48, 32)),
        ((111, 79), "keep", 0.5, (48, 32)),
        # A half is rounded up, one token is the least.
        ((111, 79), "keep", 0.25, (32, 16)),
        ((64, 64), "trained size", 0.25, (16, 16)),
        ((64, 64), "trained size", 0.95, (64, 64)),
    ],
)
def test_fewer_pixels_keep_the_shape(
    size: tuple[int, int], fit: str, share: float, expected: tuple[int, int]
) -> None:
    whole = plan_fit(*size, SIZES, fit)
    framing = at_resolution(whole, share)
    assert (framing.size, framing.picture, framing.trained) == (expected, size, whole.trained)
    _, _, width, height = framing.box
    # To half a pixel of the picture.
    assert width * framing.size[1] == pytest.approx(
        height * framing.size[0], abs=max(framing.size) / 2
    )
    made = fit_picture(torch.rand(1, size[1], size[0], 3), framing)
    assert made.shape == (1, expected[1], expected[0], 3)


def test_all_pixels_are_the_same_framing() -> None:
    framing = plan_fit(111, 79, SIZES, "trained size")
    assert at_resolution(framing, 1.0) is framing
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="resolution"):
            at_resolution(framing, share)
