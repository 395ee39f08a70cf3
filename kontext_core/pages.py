"""What a result is to show beside or instead of the whole picture: more than it (outpainting), or a
part of it. A page is planned and laid out in the picture's own pixels, before anything is resized.

Sizes are (width, height) in pixels, pictures [b, h, w, 3] in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_choice, check_number
from .errors import InputError
from .resolutions import MAX_SIDE

# What stands on the new area before it is encoded, the best first (docs/canvas.md has figures).
FILLS = ("edge", "mirror", "grey")
SHAPES = ("pad", "crop")
# Of a ratio of width to height.
WIDEST = 64
Margins = tuple[int, int, int, int]


@dataclass(frozen=True)
class Page:
    """Where a page lies.

    Attributes:
        picture: the picture's size.
        box: (left, top, width, height) of the page in the picture's pixels; what lies beyond the
            picture is new.
        fill: one of FILLS.
    """

    picture: tuple[int, int]
    box: tuple[int, int, int, int]
    fill: str = FILLS[0]

    @property
    def size(self) -> tuple[int, int]:
        return self.box[2], self.box[3]

    @property
    def margins(self) -> Margins:
        """New pixels at (left, top, right, bottom); negative where some of the picture is cut off."""
        left, top, width, height = self.box
        return -left, -top, left + width - self.picture[0], top + height - self.picture[1]


def plan_page(
    picture: tuple[int, int],
    *,
    aspect: float | None = None,
    margins: Margins = (0, 0, 0, 0),
    other_shape: str = SHAPES[0],
    fill: str = FILLS[0],
) -> Page | None:
    """The page of a picture of this size; None where it is the picture itself.

    Args:
        aspect: width to height that it is to have, 1/64..64; None keeps that of picture and margins.
        margins: pixels to add at (left, top, right, bottom).
        other_shape: how it gets its aspect. "pad" adds at two edges, alike; "crop" cuts off there.
        fill: what stands on the new area: the outermost pixels repeated, the picture mirrored, or
            grey.

    Raises:
        InputError: a value out of range, or a page with a side of more than 16384 pixels.
    """
    check_choice(other_shape, "other_shape", SHAPES)
    check_choice(fill, "fill", FILLS)
    if len(margins) != 4 or any(not isinstance(one, int) or one < 0 for one in margins):
        raise InputError(
            f"margins are {margins!r}; expected four whole numbers of pixels, 0 or more: left, top, "
            "right, bottom"
        )
    left, top, right, bottom = margins
    width, height = picture[0] + left + right, picture[1] + top + bottom
    box = (-left, -top, width, height)
    if aspect is not None:
        aspect = check_number(aspect, "aspect", 1 / WIDEST, WIDEST, "1 is square, 1.5 is 3:2")
        pick = min if other_shape == "crop" else max
        wanted = (
            max(1, pick(width, round(height * aspect))),
            max(1, pick(height, round(width / aspect))),
        )
        box = (-left + (width - wanted[0]) // 2, -top + (height - wanted[1]) // 2, *wanted)
    if max(box[2:]) > MAX_SIDE:
        raise InputError(
            f"the page would be {box[2]} x {box[3]} pixels; at most {MAX_SIDE} a side are taken. Ask "
            "for smaller margins or another aspect"
        )
    return None if box == (0, 0, *picture) else Page(picture, box, fill)


def lay_out(image: Tensor, page: Page) -> Tensor:
    """The page as a picture [b, H, W, 3]: `image` in its place, the rest filled.

    Args:
        image: [b, h, w, 3] of the page's picture, at its size or another one of its shape; the
            page's is scaled alike.
    """
    places = []
    for axis in (0, 1):
        have = image.shape[2 - axis]
        scale = have / page.picture[axis]
        first = round(page.box[axis] * scale)
        count = round((page.box[axis] + page.box[2 + axis]) * scale) - first
        places.append((first + torch.arange(max(1, count), device=image.device), have))
    if page.fill == "grey":
        inside = [(place >= 0) & (place < have) for place, have in places]
        made = _taken(image, *(place.clamp(0, have - 1) for place, have in places))
        return made.where((inside[1][:, None] & inside[0])[None, :, :, None], 0.5)
    if page.fill == "mirror":
        # The outermost pixel stands twice, so that one pixel can be mirrored too.
        turned = [(place % (2 * have), have) for place, have in places]
        return _taken(image, *(place.minimum(2 * have - 1 - place) for place, have in turned))
    return _taken(image, *(place.clamp(0, have - 1) for place, have in places))


def _taken(image: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    return image[:, rows][:, :, columns]


def lay_out_mask(mask: Tensor, page: Page, new: float) -> Tensor:
    """A mask [..., h, w] of the page's picture, at any size of its shape, as one of the page.

    Args:
        new: what it says of the new area.
    """
    x, y = mask.shape[-1] / page.picture[0], mask.shape[-2] / page.picture[1]
    left, top, right, bottom = page.margins
    padding = [round(margin * scale) for margin, scale in
               ((left, x), (right, x), (top, y), (bottom, y))]  # fmt: skip
    # Negative padding crops.
    return F.pad(mask, padding, value=new)


def new_area(page: Page, feather: int = 0) -> Tensor:
    """Which of the page's pixels are new: [height, width] in 0..1, 1 beyond the picture.

    Args:
        feather: pixels of the picture beside a new edge over which it falls to 0, so that the seam
            may be painted, too.
    """
    left, top, right, bottom = page.margins
    across = _beside(page.box[2], left, right, feather)
    down = _beside(page.box[3], top, bottom, feather)
    return torch.maximum(across[None, :], down[:, None])


def _beside(length: int, before: int, after: int, feather: int) -> Tensor:
    """[length]: 1 on the margins, falling to 0 within `feather` pixels of them."""
    place = torch.arange(length) + 0.5
    new = torch.zeros(length)
    for margin, inward in ((before, place - before), (after, length - after - place)):
        if margin > 0:
            ramp = (1 - inward / feather).clamp(0, 1) if feather else torch.zeros(length)
            new = torch.maximum(new, ramp.where(inward > 0, 1.0))
    return new
