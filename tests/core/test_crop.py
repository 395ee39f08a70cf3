"""Crop and stitch: what is shown, and a paste that neither shifts nor touches what is outside."""

from __future__ import annotations

import pytest
import torch
from registration import displacement
from torch import Tensor

from kontext_core import InputError, ShapeError, cut_crop, paste_crop
from kontext_core.masks import box_mask
from kontext_core.resolutions import KONTEXT_RESOLUTIONS


def smooth(seed: int, height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").movedim(1, -1)


SMALL = ((64, 64), (96, 64), (64, 96))
# Picture (width, height), region: middle, every edge, a corner, a line, a pixel, all of it.
PLACES = [
    ((300, 200), (120, 80, 30, 40)),
    ((300, 200), (0, 90, 25, 25)),
    ((300, 200), (270, 150, 30, 50)),
    ((301, 199), (100, 0, 90, 3)),
    ((301, 199), (150, 100, 1, 1)),
    ((301, 199), (0, 0, 301, 199)),
    ((800, 100), (700, 40, 90, 30)),
]


@pytest.mark.parametrize("sizes", [SMALL, KONTEXT_RESOLUTIONS])
@pytest.mark.parametrize(("size", "region"), PLACES)
def test_the_region_is_shown_with_its_surroundings(
    size: tuple[int, int], region: tuple[int, int, int, int], sizes: tuple
) -> None:
    crop = cut_crop(smooth(1, size[1], size[0]), None, sizes, box=region, context=2.0)
    left, top, width, height = crop.framing.box
    assert crop.framing.size in sizes
    for first, extent, at, side, total in (
        (left, width, region[0], region[2], size[0]),
        (top, height, region[1], region[3], size[1]),
    ):
        assert first <= at and first + extent >= at + side
        assert extent >= min(2 * side, total)
        # Inside the picture, unless it is smaller than what is shown.
        assert (first >= 0 and first + extent <= total) or extent > total
    # Not squashed by more than half a pixel of the picture.
    assert (
        abs(width / crop.framing.size[0] - height / crop.framing.size[1]) * max(crop.framing.size)
        <= 1.5
    )
    assert crop.enlarged <= 4.001
    assert crop.picture().shape[1:3] == crop.seen_mask().shape[1:] == crop.framing.size[::-1]


@pytest.mark.parametrize(("size", "region"), PLACES)
@pytest.mark.parametrize("times", [1, 2])
def test_a_crop_that_was_not_edited_comes_back_in_its_place(
    size: tuple[int, int], region: tuple[int, int, int, int], times: int
) -> None:
    picture = smooth(5, size[1], size[0])
    crop = cut_crop(picture, None, SMALL, box=region, margin=4)
    part = crop.picture().repeat_interleave(times, 1).repeat_interleave(times, 2)
    pasted = paste_crop(part, crop)
    outside = box_mask(region, *size) == 0
    assert pasted[outside].equal(picture[outside])
    # 8-bit Lanczos down and up again on smooth colours; measured up to 0.028.
    assert (pasted - picture).abs().max() < 0.04


def test_the_paste_does_not_shift() -> None:
    """Registered against the original below a tenth of a pixel, at scales that are no whole number."""
    picture = smooth(5, 203, 307)
    generator = torch.Generator().manual_seed(9)
    dots = torch.rand(1, 3, 50, 76, generator=generator)
    picture = (picture + torch.nn.functional.interpolate(dots, (203, 307), mode="bicubic")
               .movedim(1, -1)).clamp(0, 2) / 2  # fmt: skip
    for region in ((120, 80, 37, 41), (0, 150, 29, 53), (260, 3, 47, 30)):
        crop = cut_crop(picture, None, KONTEXT_RESOLUTIONS, box=region, enlarge=9.7)
        pasted = paste_crop(crop.picture(), crop)
        left, top, width, height = region
        part = (slice(None), slice(top, top + height), slice(left, left + width))
        # Measured: 0.0016 at most.
        assert displacement(picture[part], pasted[part])[0] < 0.1, region


def test_masks_grow_blur_and_come_at_another_size() -> None:
    picture = smooth(1, 200, 300)
    mask = torch.zeros(1, 100, 150)
    mask[:, 40:60, 50:70] = 1
    crop = cut_crop(picture, mask, SMALL, grow=3, blur=8)
    pasted = paste_crop(torch.zeros(1, *crop.framing.size[::-1], 3), crop)
    changed = (pasted != picture).any(dim=-1)[0]
    rows, columns = (changed.any(dim=dim).nonzero().flatten() for dim in (1, 0))
    assert (int(rows[0]), int(rows[-1])) == (80 - 11, 119 + 11)
    assert (int(columns[0]), int(columns[-1])) == (100 - 11, 139 + 11)
    # All that was painted is the edit's, and it fades out beyond.
    assert (pasted[0, 80:120, 100:140].max()) < 0.02
    assert 0.2 < float(pasted[0, 100, 92].mean() / picture[0, 100, 92].mean()) < 1
    assert crop.seen_mask().max() == 1 and crop.seen_mask().min() == 0


def test_batches_alpha_and_several_results() -> None:
    alpha = torch.rand(2, 120, 150, 1)
    pictures = torch.cat([smooth(1, 120, 150, 2), alpha], dim=-1)
    masks = torch.zeros(2, 120, 150)
    masks[0, 10:40, 20:50], masks[1, 30:60, 40:90] = 1, 1
    crop = cut_crop(pictures, masks, SMALL)
    left, top, width, height = crop.framing.box
    # One box for both, around what is white in either.
    assert left <= 20 and top <= 10 and left + width >= 90 and top + height >= 60
    pasted = paste_crop(torch.zeros(4, *crop.framing.size[::-1], 3), crop)
    assert pasted.shape == (4, 120, 150, 4)
    for number in range(4):
        own = number % 2
        assert pasted[number, ..., 3:].equal(alpha[own])
        assert pasted[number, masks[own] == 0].equal(pictures[own, masks[own] == 0])
        assert pasted[number, masks[own] == 1][..., :3].max() == 0
    with pytest.raises(ShapeError, match="the result is a batch of 3, the crop one of 2"):
        paste_crop(torch.zeros(3, *crop.framing.size[::-1], 3), crop)


def test_megapixels_and_matching() -> None:
    picture = smooth(1, 200, 300)
    crop = cut_crop(picture, None, KONTEXT_RESOLUTIONS, box=(100, 50, 40, 40), megapixels=0.25)
    assert crop.framing.size == (496, 496)
    tinted = (crop.picture() + torch.tensor([0.05, 0.0, -0.05])).clamp(0, 1)
    inside = (slice(None), slice(50, 90), slice(100, 140))
    plain, matched = (
        (paste_crop(tinted, crop, match=match) - picture)[inside].abs().mean()
        for match in (False, True)
    )
    # Measured: 0.0343 and 0.0010.
    assert plain > 0.03 and matched < 0.003


def mask_of(value: float, height: int = 100, width: int = 150) -> Tensor:
    return torch.full((1, height, width), value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither a mask nor a box"),
        ({"mask": mask_of(0)}, "the mask is all black"),
        ({"mask": mask_of(1, 100, 400)}, "the mask is 400 x 100, the picture 150 x 100"),
        ({"mask": mask_of(1).repeat(2, 1, 1)}, "the mask is a batch of 2, the image one of 1"),
        ({"box": (0, 0, 0, 5)}, "the box is 0 x 5"),
        ({"mask": box_mask((40, 40, 6, 6), 150, 100), "grow": -9}, "grow is -9, which leaves"),
        ({"box": (0, 0, 5, 5), "context": 0.5}, "context is 0.5"),
        ({"box": (0, 0, 5, 5), "margin": -1}, "margin is -1"),
        ({"box": (0, 0, 5, 5), "enlarge": 0}, "enlarge is 0"),
    ],
)
def test_what_can_not_be_cropped(given: dict, message: str) -> None:
    values = {"mask": None, "sizes": SMALL, **given}
    with pytest.raises(InputError, match=message):
        cut_crop(smooth(1, 100, 150), **values)


def test_another_picture_is_not_pasted() -> None:
    crop = cut_crop(smooth(1, 100, 150), None, SMALL, box=(0, 0, 30, 30))
    with pytest.raises(InputError, match="to paste is 96 x 64, the crop was 64 x 64"):
        paste_crop(torch.zeros(1, 64, 96, 3), crop)
