"""Masks of what may change: brought to another size without leaking, grown, and softened inwards.

A mask is [..., h, w] in 0..1: 1 may change, 0 stays. Boxes are (left, top, width, height) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError, ShapeError
from .framing import alike

PixelBox = tuple[int, int, int, int]


def fit_mask(mask: Tensor, width: int, height: int) -> Tensor:
    """A mask at another size, that frees no pixel beyond it.

    A pixel that lies over any black of the mask, even in part, is 0; one that lies over white alone
    is 1. What is grey is resized bilinearly, over the whole area when it becomes smaller.
    """
    if mask.shape[-2:] == (height, width):
        return mask
    least = _over(_over(mask.float(), width, -1, torch.minimum), height, -2, torch.minimum)
    flat = mask.float().reshape(-1, 1, *mask.shape[-2:])
    smooth = F.interpolate(flat, (height, width), mode="bilinear", antialias=True)
    smooth = smooth.reshape(least.shape).clamp(0, 1)
    return least.where((least == 0) | (least == 1), smooth)


def cover_mask(mask: Tensor, width: int, height: int) -> Tensor:
    """A mask over a grid of cells, in which each cell may change as much as the freest pixel that it
    covers: what is painted on top is then painted in full."""
    return _over(_over(mask.float(), width, -1, torch.maximum), height, -2, torch.maximum)


def _over(mask: Tensor, cells: int, dim: int, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """One axis in so many cells, each with the least or most of the pixels it lies over."""
    total = mask.shape[dim]
    if cells == total:
        return mask
    place = torch.arange(cells, device=mask.device)
    first = place * total // cells
    last = -(-(place + 1) * total // cells) - 1
    made = mask.index_select(dim, first)
    for step in range(1, int((last - first).max()) + 1):
        made = pick(made, mask.index_select(dim, (first + step).minimum(last)))
    return made


def mask_for(mask: Tensor, width: int, height: int, name: str = "the picture") -> Tensor:
    """A mask [b, h, w] or [h, w] as [b, height, width] of a picture of this size.

    Raises:
        ShapeError: of another shape, unless it is black all over.
    """
    if mask.ndim == 2:
        mask = mask[None]
    size = mask.shape[-1], mask.shape[-2]
    if not alike((width, height), size) and bool(mask.any()):
        raise ShapeError(
            f"the mask is {size[0]} x {size[1]}, {name} {width} x {height}: of another shape, so it "
            "can't say which part is meant. Draw it on the picture itself (Load Image gives both), "
            "or crop or pad it to the picture's shape"
        )
    return fit_mask(mask, width, height)


def grow_mask(mask: Tensor, pixels: int) -> Tensor:
    """A mask [b, h, w] whose white reaches so many pixels further, in rows and columns; fewer than 0
    takes away from it, but not at the picture's edge."""
    if pixels == 0:
        return mask
    sign, side = (1, 2 * pixels + 1) if pixels > 0 else (-1, 1 - 2 * pixels)
    x = mask.float()[:, None] * sign
    x = F.max_pool2d(x, (1, side), 1, (0, side // 2))
    x = F.max_pool2d(x, (side, 1), 1, (side // 2, 0))
    return x[:, 0] * sign


def soften(mask: Tensor, feather: int) -> Tensor:
    """Fade the inside of a mask [b, h, w] over about `feather` pixels; outside stays exactly 0."""
    if feather <= 0:
        return mask
    radius = feather
    grid = torch.arange(-radius, radius + 1, dtype=torch.float32, device=mask.device)
    kernel = torch.exp(-0.5 * (grid / (feather / 2)) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    x = mask.float()[:, None]
    # One axis after the other: the edge may be padded by more than the picture has.
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), kernel[..., None, :])
    x = F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), kernel[..., :, None])[:, 0]
    # At an edge the blur is one half: from there it rises inwards, so nothing leaks outwards.
    # Where all is white the kernel's rounded sum must not make it less than 1.
    return torch.minimum(mask.float(), ((2 * x - 1) * (1 + 1e-5)).clamp(0, 1))


def box_mask(box: PixelBox, width: int, height: int) -> Tensor:
    """[1, height, width], white in the box, as far as it lies in the picture.

    Raises:
        InputError: a box without area, or one that lies outside.
    """
    left, top, columns, rows = box
    if columns < 1 or rows < 1:
        raise InputError(
            f"the box is {columns} x {rows} pixels; expected a width and a height of at least 1"
        )
    mask = torch.zeros(1, height, width)
    mask[:, max(0, top) : max(0, top + rows), max(0, left) : max(0, left + columns)] = 1
    if not bool(mask.any()):
        raise InputError(
            f"the box begins at {left}, {top} and is {columns} x {rows}; nothing of the picture of "
            f"{width} x {height} lies in it"
        )
    return mask


def bounds(mask: Tensor) -> PixelBox | None:
    """The smallest box around all that is not black in a mask [b, h, w], None when all of it is."""
    there = (mask > 0).any(dim=0)
    rows, columns = there.any(dim=1).nonzero().flatten(), there.any(dim=0).nonzero().flatten()
    if not len(rows):
        return None
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top
