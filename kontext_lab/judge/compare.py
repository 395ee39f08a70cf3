"""How near a picture is to one rendition rather than another, and whatever neither explains.

Pictures are [3, h, w] in 0..1, lists of them [k, 3, h, w]; areas are [h, w] in 0..1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Differences fainter than this (root mean square, of 1) are not to be seen in a picture with a
# little noise, so nobody is asked about them: red or blue in a grey picture, for example.
VISIBLE = 0.045


# How soft a right picture may be: sigmas of a blur, in pixels.
SOFT = (0.0, 0.6, 0.9, 1.2)


def smooth(pictures: Tensor) -> Tensor:
    """A light blur (1 2 1), so that noise and soft edges count little. Any leading dimensions."""
    x = torch.cat([pictures[..., :1, :], pictures, pictures[..., -1:, :]], -2)
    x = x[..., :-2, :] + x[..., 2:, :] + 2 * x[..., 1:-1, :]
    x = torch.cat([x[..., :1], x, x[..., -1:]], -1)
    return (x[..., :-2] + x[..., 2:] + 2 * x[..., 1:-1]) / 16


def blur(pictures: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [k, c, h, w]; sigma in pixels."""
    reach = max(1, min(round(3 * sigma), min(pictures.shape[-2:]) - 1))
    at = torch.arange(-reach, reach + 1, dtype=pictures.dtype)
    line = torch.exp(-(at**2) / (2 * sigma**2))
    line = line / line.sum()
    k, c, h, w = pictures.shape
    x = pictures.reshape(k * c, 1, h, w)
    x = F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), line[None, None, :, None])
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), line[None, None, None, :])
    return x.reshape(k, c, h, w)


def fitted_blur(picture: Tensor, right: Tensor) -> tuple[Tensor, float]:
    """The rendition as soft as the picture is, within limits, and the blur's sigma in pixels."""
    soft = torch.cat([right[None], *(blur(right[None], sigma) for sigma in SOFT[1:])])
    best = int((soft - picture).square().sum((1, 2, 3)).argmin())
    return soft[best], SOFT[best]


def shifted(pictures: Tensor, dx: int, dy: int) -> Tensor:
    """Moved right and down by whole pixels; the border repeats."""
    if not dx and not dy:
        return pictures
    h, w = pictures.shape[-2:]
    rows = (torch.arange(h) - dy).clamp(0, h - 1)
    columns = (torch.arange(w) - dx).clamp(0, w - 1)
    return pictures[..., rows[:, None], columns]


def wrongness(
    picture: Tensor, right: Tensor, wrong: Tensor, area: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """How far the picture has gone from `right` to each of `wrong`.

    That is the position of its foot on the straight line between the two renditions, so only
    pixels in which they differ count, the more the more they differ; noise and other faults cancel
    out or are another attribute's.

    Args:
        area: where to look; everywhere if None.

    Returns:
        position [k]: 0 is right, 1 the wrong one, 0.5 half-way; and visible [k] bool: whether the
        two renditions differ enough to be told apart.
    """
    difference = wrong - right
    if area is not None:
        difference = difference * area
    square = difference.square().mean(1).flatten(1)
    energy = square.sum(1).clamp(min=1e-9)
    step = (picture - right).flatten()
    position = (difference.flatten(1) @ step) / (energy * picture.shape[0])
    fourth = square.square().sum(1).clamp(min=1e-12)
    pixels = energy.square() / fourth
    least = 6 * (min(picture.shape[-2:]) / 64) ** 2
    visible = ((fourth / energy).sqrt() >= VISIBLE) & (pixels >= least)
    return position, visible


def grown(area: Tensor, reach: int) -> Tensor:
    """An area [h, w] of 0 and 1, larger by so many pixels all around."""
    return F.max_pool2d(area.float()[None], 2 * reach + 1, 1, reach)[0]


def strangeness(picture: Tensor, right: Tensor, area: Tensor) -> float:
    """The largest local deviation in an area that no pixel's shift or soft edge explains, 0..1.

    Each pixel may be anything between the darkest and the lightest right value around it; what
    is beyond that is averaged (root mean square) over windows of a small thing's size.
    """
    short = min(picture.shape[-2:])
    highest = F.max_pool2d(right[None], 3, 1, 1)[0]
    lowest = -F.max_pool2d(-right[None], 3, 1, 1)[0]
    beyond = torch.maximum(picture - highest, lowest - picture).clamp(min=0) * area
    side = max(3, round(9 * short / 64)) // 2 * 2 + 1
    local = F.avg_pool2d(beyond.square().mean(0)[None, None], side, 1)
    return float(local.max().sqrt())


def misfit(picture: Tensor, right: Tensor, layer: Tensor) -> float:
    """Error where a thing is, over what the thing adds to the picture (root mean squares).

    0 is drawn to the pixel; a thing that isn't there at all has about 1.

    Args:
        layer: what the thing adds to the right picture, [3, h, w].
    """
    place = (layer.abs().amax(0) > 0.03).float()
    size = float((layer.square() * place).sum())
    if size <= 3 * VISIBLE**2 * float(place.sum()):
        return 0.0
    error = (picture - right).square() * grown(place, 2)
    return (float(error.sum()) / size) ** 0.5


def untouched_psnr(picture: Tensor, before: Tensor, area: Tensor, reach: int = 1) -> float:
    """PSNR in dB where `area` is 1, the picture shifted by up to `reach` px as suits it best."""
    inside = area.clone()
    h, w = inside.shape
    inside[:reach] = inside[h - reach :] = 0
    inside[:, :reach] = inside[:, w - reach :] = 0
    total = inside.sum()
    if total < 1:
        return 100.0
    best = min(
        float((inside * (shifted(picture, dx, dy) - before).square().mean(0)).sum() / total)
        for dx in range(-reach, reach + 1)
        for dy in range(-reach, reach + 1)
    )
    return float(-10 * torch.log10(torch.tensor(max(best, 1e-10))))
