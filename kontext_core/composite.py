"""A result laid over the picture it was made from: what the mask leaves black keeps its own pixels,
bit for bit, and colours can be matched across the seam.

Pictures are [b, h, w, 3] in 0..1, masks [b, h, w].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ShapeError
from .masks import PixelBox, grow_mask, mask_for, soften

# Width of the ring around a mask in which colours are compared, a share of the shorter side: narrow,
# since what is closest to the seam tells most of it. Pixels at least.
RING, LEAST_RING = 1 / 32, 4
# Share of the ring that is believed; the rest differs most, as what the edit itself changed does.
BELIEVED = 0.8


def composite(
    result: Tensor,
    original: Tensor,
    mask: Tensor | None,
    feather: int = 0,
    *,
    match: bool = False,
    shown: PixelBox | None = None,
) -> Tensor:
    """The result laid over the original where the mask is white.

    Args:
        result: [b, h, w, 3].
        original: [1 or b, h, w, 3].
        mask: None, or [1 or b, h, w], of the original's shape at any size; 1 = from the result.
        feather: pixels over which the result fades in.
        match: correct the result's colours by what differs around the mask, see `match_colours`.
        shown: the part of the original that the result was made of; None is all of it.

    Returns:
        [b, h, w, 3] in the wider of both dtypes. Where the mask is 0 it equals the original.

    Raises:
        ShapeError: batches that don't fit each other, or a mask of another shape.
    """
    if mask is None:
        return result
    height, width = original.shape[1:3]
    mask = mask_for(mask, width, height, "the original")
    for name, tensor in (("original", original), ("mask", mask)):
        if len(tensor) not in (1, len(result)):
            raise ShapeError(
                f"{name} is a batch of {len(tensor)}, the result one of {len(result)}; give one, "
                "or as many"
            )
    # In the wider dtype, so that no pixel of the original is rounded.
    dtype = torch.promote_types(result.dtype, original.dtype)
    result, original, mask = (x.to(result.device, dtype) for x in (result, original, mask))
    if match:
        result = match_colours(result, original, mask, shown)
    weight = soften(mask, feather)[..., None].to(dtype)
    blended = original + weight * (result - original)
    # Exact where nothing was to change: no rounding from the sum.
    return original.expand_as(blended).where(weight == 0, blended)


def match_colours(
    result: Tensor, original: Tensor, mask: Tensor, shown: PixelBox | None = None
) -> Tensor:
    """The result with the colours of the original around the mask.

    What the two differ by in a ring just outside the mask is spread inwards and outwards as a smooth
    offset of each channel (normalised averages over ever larger cells: Gortler et al., The
    Lumigraph, 1996, pull and push), and added. An offset only: how much a colour's contrast differs
    can't be told from surroundings that are of one colour.

    Args:
        result, original: [b, h, w, 3]; [1 or b, h, w, 3].
        mask: [1 or b, h, w]. One that leaves no ring changes nothing.
        shown: as for `composite`.
    """
    height, width = original.shape[1:3]
    reach = max(LEAST_RING, round(min(height, width) * RING))
    inside = (mask > 0).to(torch.float32)
    ring = (grow_mask(inside, reach) > 0) & (inside == 0)
    if shown is not None:
        left, top, columns, rows = shown
        part = torch.zeros_like(ring)
        part[:, max(0, top) : max(0, top + rows), max(0, left) : max(0, left + columns)] = True
        ring &= part
    differs = (original - result).float()
    known = torch.stack(
        [
            _believed(one, where)
            for one, where in zip(differs, ring.expand(len(differs), -1, -1), strict=True)
        ]
    )
    return (result + _spread(differs.movedim(-1, 1), known, reach).movedim(1, -1)).clamp(0, 1)


def _believed(differs: Tensor, ring: Tensor) -> Tensor:
    """The pixels of a ring [h, w] that agree most about what differs, [h, w, 3]; float 0 and 1."""
    values = differs[ring]
    known = ring.float()
    if len(values):
        far = (values - values.median(dim=0).values).abs().amax(dim=1)
        keep = max(1, round(BELIEVED * len(far)))
        known[ring] = (far <= far.kthvalue(keep).values).float()
    return known


def _spread(values: Tensor, known: Tensor, cell: int) -> Tensor:
    """Values [b, 3, h, w], known where [b, h, w] is 1, as a smooth field over everything."""
    height, width = values.shape[-2:]
    weight = known[:, None]
    both = torch.cat([values * weight, weight], dim=1)
    both = F.pad(both, (0, -width % cell, 0, -height % cell))
    levels = [F.avg_pool2d(both, cell)]
    while max(levels[-1].shape[-2:]) > 1:
        levels.append(F.avg_pool2d(levels[-1], 2, ceil_mode=True))
    field = torch.zeros_like(levels[-1][:, :3])
    for level in reversed(levels):
        total, weight = level[:, :3], level[:, 3:]
        if field.shape[-2:] != level.shape[-2:]:
            field = F.interpolate(field, level.shape[-2:], mode="bilinear")
        field = torch.where(weight > 0, total / weight.clamp_min(1e-12), field)
    field = F.interpolate(field, both.shape[-2:], mode="bilinear")
    return field[..., :height, :width]
