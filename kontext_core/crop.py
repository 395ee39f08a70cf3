"""Crop and stitch: a small region of a picture at the model's full resolution, and back in its place.

Sizes are (width, height) in pixels, pictures [b, h, w, 3] in 0..1, masks [b, h, w].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_number, check_whole
from .composite import composite
from .errors import InputError, ShapeError
from .framing import ROUNDED, TOKEN, Framing, fit_picture, frame_mask, put_back, same_shape
from .images import check_image
from .masks import PixelBox, bounds, box_mask, cover_mask, grow_mask, mask_for, soften


@dataclass(frozen=True, eq=False)
class Crop:
    """What was cut out of which picture.

    Attributes:
        original: [b, H, W, 3 or 4], with alpha if it has one.
        mask: [1 or b, H, W] of it, white where it may change.
        framing: which box of it, brought to which size.
    """

    original: Tensor
    mask: Tensor
    framing: Framing

    @property
    def enlarged(self) -> float:
        """How many times larger, in length, the crop is than what it shows."""
        return self.framing.size[0] / self.framing.box[2]

    def picture(self) -> Tensor:
        """[b, h, w, 3] of the framing's size."""
        return fit_picture(self.original[..., :3], self.framing)

    def seen_mask(self) -> Tensor:
        """[b, h, w] of the framing's size: all that is free in part is white in it, as sampling
        wants; `paste` knows the exact one."""
        return cover_mask(frame_mask(self.mask, self.framing), *self.framing.size)


def cut_crop(
    image: Tensor,
    mask: Tensor | None,
    sizes: Sequence[tuple[int, int]],
    *,
    box: PixelBox | None = None,
    context: float = 1.5,
    margin: int = 0,
    enlarge: float = 4.0,
    grow: int = 0,
    blur: int = 0,
    megapixels: float = 0.0,
) -> Crop:
    """A region with some of its surroundings, at a size that the model was trained at.

    Args:
        image: [b, h, w, 3 or 4]. A batch has one region, around what is white in any of its masks.
        mask: None, or [1 or b, h, w] of its shape at any size: 1 may change.
        sizes: that the model was trained at.
        box: the region; None is the smallest around the mask. Without a mask all of it may change.
        context: side of what is shown over that of the region, 1..100.
        margin: pixels shown around it beyond that, 0..16384.
        enlarge: how many times the crop may be larger than what it shows, above 0; a smaller region
            takes more of its surroundings.
        grow: pixels by which the mask is grown, or shrunk below 0.
        blur: pixels outside the mask over which the change fades out.
        megapixels: of the crop, 0 for the trained size.

    Raises:
        InputError: neither a mask nor a box, nothing in them, or a setting out of its range.
        ShapeError: a mask of another shape or batch.
    """
    check_image(image[..., :3], "image")
    context = check_number(context, "context", 1, 100)
    margin = check_whole(margin, "margin", 0, 16384)
    enlarge = check_number(enlarge, "enlarge", 0.01, 1000)
    megapixels = check_number(megapixels, "megapixels", 0, 268)
    height, width = image.shape[1:3]
    if mask is None and box is None:
        raise InputError(
            "neither a mask nor a box says what to crop; paint a mask (Load Image gives it), or give "
            "the box's width and height"
        )
    inside = None if box is None else box_mask(box, width, height)
    free = inside if mask is None else mask_for(mask, width, height)
    if free is None or not bool((free > 0).any()):
        raise InputError(
            "the mask is all black, so there is nothing to crop. Paint what may change (Load Image "
            "gives an empty mask when nothing was painted), or take the mask away and give a box"
        )
    if len(free) not in (1, len(image)):
        raise ShapeError(
            f"the mask is a batch of {len(free)}, the image one of {len(image)}; give one, or as many"
        )
    free = soften(grow_mask(free, check_whole(grow, "grow", -16384, 16384) + blur), blur)
    region = bounds(free if inside is None else inside)
    if region is None:
        raise InputError(f"grow is {grow}, which leaves nothing of the mask; shrink it by less")
    framing = plan_crop(
        (width, height), region, sizes,
        context=context, margin=margin, enlarge=enlarge, megapixels=megapixels,
    )  # fmt: skip
    return Crop(image, free, framing)


def plan_crop(
    picture: tuple[int, int],
    region: PixelBox,
    sizes: Sequence[tuple[int, int]],
    *,
    context: float,
    margin: int,
    enlarge: float,
    megapixels: float,
) -> Framing:
    """Which box around a region is shown, at which size: that of `sizes` whose box lies inside the
    picture as far as it can, and whose shape suits best then. It is moved inwards at the edge.
    """
    left, top, columns, rows = region
    # No more than there is: a region across the whole picture needs no padding for its context.
    wanted = (
        min(columns * context + 2 * margin, picture[0]),
        min(rows * context + 2 * margin, picture[1]),
    )

    def framed(trained: tuple[int, int]) -> Framing:
        across, down = size = _size(trained, megapixels)
        scale = max(wanted[0] / across, wanted[1] / down, 1 / enlarge)
        box = max(1, math.ceil(across * scale)), max(1, math.ceil(down * scale))
        first = (
            _begin(left + columns / 2, box[0], picture[0]),
            _begin(top + rows / 2, box[1], picture[1]),
        )
        return Framing(picture, (*first, *box), size, trained)

    def costs(framing: Framing) -> tuple[float, float]:
        across, down = framing.size
        return 1 - framing.filled, across * down * max(wanted[0] / across, wanted[1] / down) ** 2

    return min((framed(size) for size in sizes), key=costs)


def _begin(middle: float, extent: int, total: int) -> int:
    """First pixel of a span around this middle, moved into the picture, or over all of it."""
    if extent >= total:
        return (total - extent) // 2
    return min(max(round(middle - extent / 2), 0), total - extent)


def _size(trained: tuple[int, int], megapixels: float) -> tuple[int, int]:
    """A trained size brought to so many megapixels, in whole tokens; 0 leaves it."""
    if megapixels == 0:
        return trained
    scale = math.sqrt(megapixels * 1e6 / math.prod(trained))
    across, down = (max(TOKEN, round(side * scale / TOKEN) * TOKEN) for side in trained)
    return across, down


def paste_crop(result: Tensor, crop: Crop, *, feather: int = 0, match: bool = False) -> Tensor:
    """An edited crop back in its place; every pixel that its mask leaves black is the original's.

    Args:
        result: [b, h, w, 3] of the crop's shape, at any resolution.
        feather: pixels inside the mask's edge over which the result fades in.
        match: correct its colours by what differs around the mask.

    Returns:
        [b, H, W, 3], or 4 with the original's own alpha.

    Raises:
        InputError: of another shape than the crop. ShapeError: batches that don't fit each other.
    """
    made, framing = (result.shape[2], result.shape[1]), crop.framing
    if not same_shape(framing.size, made, ROUNDED):
        raise InputError(
            f"the picture to paste is {made[0]} x {made[1]}, the crop was {framing.size[0]} x "
            f"{framing.size[1]}: another shape, so it would be distorted. Connect the edit of that "
            "crop, not cut or padded on the way"
        )
    if len(result) % len(crop.original):
        raise ShapeError(
            f"the result is a batch of {len(result)}, the crop one of {len(crop.original)}; expected "
            "as many, or several of each"
        )
    times = len(result) // len(crop.original)
    # Results of several seeds follow each other, each for the whole batch.
    original = crop.original.to(result.device).repeat(times, 1, 1, 1)
    mask = crop.mask if len(crop.mask) == 1 else crop.mask.repeat(times, 1, 1)
    colours = original[..., :3]
    placed = put_back(result[..., :3], colours, framing)
    pasted = composite(placed, colours, mask, feather, match=match, shown=framing.box)
    if original.shape[-1] == 3:
        return pasted
    return torch.cat([pasted, original[..., 3:].to(pasted)], dim=-1)
