"""Visual cues: boxes drawn into a picture, which the instruction then speaks about (arXiv 2506.15742).

Pictures are [b, h, w, 3] in 0..1, masks [b or 1, h, w].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .checks import check_number, is_number
from .errors import InputError, ShapeError
from .images import check_image
from .masks import bounds

# Names to red, green, blue in 0..1. Magenta is rare in pictures, and what the embedded model knows.
COLOURS = {
    "magenta": (1.0, 0.0, 0.86),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 0.8, 0.0),
    "blue": (0.0, 0.3, 1.0),
    "yellow": (1.0, 0.9, 0.0),
    "black": (0.0, 0.0, 0.0),
    "white": (1.0, 1.0, 1.0),
}
# Of the shorter side, around what a mask covers.
MARGIN = 0.05

# What ComfyUI calls them in a box.
_BOX = ("x", "y", "width", "height")
# Left, top, width and height in shares of the picture's.
Outline = tuple[float, float, float, float]


def box_of(mask: Tensor, margin: float = MARGIN) -> Outline:
    """The box around what is white in any of the masks, and a margin.

    Raises:
        ShapeError: not [b, h, w]; InputError: a mask without anything white.
    """
    if mask.ndim != 3:
        raise ShapeError(f"mask has shape {tuple(mask.shape)}; expected [batch, height, width]")
    found = bounds(mask >= 0.5)
    if found is None:
        raise InputError(
            "the mask is all black, so there is nothing to draw a box around; paint over what is meant, "
            "or take the mask away"
        )
    x, y, across, down = found
    height, width = mask.shape[1:]
    reach = margin * min(height, width)
    left, top = max(0.0, x - reach), max(0.0, y - reach)
    right, bottom = min(float(width), x + across + reach), min(float(height), y + down + reach)
    return left / width, top / height, (right - left) / width, (bottom - top) / height


def read_boxes(value: Any) -> list[tuple[int, int, int, int]]:
    """Boxes (x, y, width, height) in pixels, from what ComfyUI's BOUNDING_BOX sockets carry: one box as
    {"x", "y", "width", "height"}, a list of them, or a list of such lists, one for each picture of a
    batch, of which the first counts.

    Raises:
        InputError: something else, or no box at all.
    """
    found: Any = [value] if isinstance(value, Mapping) else value
    if isinstance(found, Sequence) and found and isinstance(found[0], Sequence):
        found = found[0]
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise InputError(
            f"boxes is {str(value)[:80]!r}; expected at least one box, as Create Bounding Boxes or a "
            "detector gives, or take the link away"
        )
    boxes = []
    for number, one in enumerate(found, 1):
        values: list[Any] = [one.get(key) if isinstance(one, Mapping) else None for key in _BOX]
        if not all(is_number(each) for each in values) or min(values[2:]) <= 0:
            raise InputError(
                f"box {number} is {str(one)[:80]!r}; expected x, y, width and height in pixels"
            )
        x, y, width, height = (round(float(each)) for each in values)
        boxes.append((x, y, max(1, width), max(1, height)))
    return boxes


def outlines(boxes: Sequence[tuple[int, int, int, int]], size: tuple[int, int]) -> list[Outline]:
    """Boxes in pixels of a picture of this size (width, height) as shares of it, cut off at its edges.

    Raises:
        InputError: one lies outside of it.
    """
    width, height = size
    found = []
    for x, y, across, down in boxes:
        left, top, right, bottom = (
            max(0, x),
            max(0, y),
            min(width, x + across),
            min(height, y + down),
        )
        if right <= left or bottom <= top:
            raise InputError(
                f"the box at {x}, {y} of {across} x {down} lies outside of the picture, which is {width} "
                f"x {height}; boxes count in its pixels: draw them at that size"
            )
        found.append((left / width, top / height, (right - left) / width, (bottom - top) / height))
    return found


def draw_boxes(
    image: Tensor, boxes: Sequence[Outline], colour: str = "magenta", line: float = 1 / 32
) -> tuple[Tensor, Tensor]:
    """A picture with the outlines of boxes, and the boxes as a mask.

    Args:
        boxes: cut off where they leave the picture.
        colour: of `COLOURS`.
        line: thickness as a share of the shorter side, 0.002..0.2; at least a pixel.

    Returns:
        ([b, h, w, 3], [1, h, w] with 1 inside of boxes and on their outlines).

    Raises:
        ShapeError, InputError: no picture; an unknown colour; a box outside the picture or empty.
    """
    image = check_image(image)
    if colour not in COLOURS:
        raise InputError(f"colour is {colour!r}; expected one of {', '.join(COLOURS)}")
    share = check_number(line, "line", 0.002, 0.2, "a share of the shorter side")
    height, width = image.shape[1:3]
    thick = max(1, round(share * min(height, width)))
    outline = torch.zeros(1, height, width, dtype=torch.bool, device=image.device)
    for box in boxes:
        x, y, right, bottom = _edges(box, (width, height))
        # What is inside of one box may be the outline of another.
        own = torch.zeros_like(outline)
        own[:, y:bottom, x:right] = True
        own[:, y + thick : bottom - thick, x + thick : right - thick] = False
        outline |= own
    paint = torch.tensor(COLOURS[colour]).to(image)
    mask = inside(boxes, (width, height)).to(image.device)
    return torch.where(outline[..., None], paint, image), mask


def inside(boxes: Sequence[Outline], size: tuple[int, int]) -> Tensor:
    """[1, h, w] of a picture of this size (width, height): 1 in boxes, 0 elsewhere."""
    mask = torch.zeros(1, size[1], size[0])
    for box in boxes:
        x, y, right, bottom = _edges(box, size)
        mask[:, y:bottom, x:right] = 1
    return mask


def _edges(box: Outline, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in whole pixels, at least one each way."""
    width, height = size
    left, top, across, down = (
        check_number(value, name, low, 1)
        for value, name, low in zip(
            box, ("left", "top", "width", "height"), (0, 0, 1e-6, 1e-6), strict=True
        )
    )
    x, y = min(round(left * width), width - 1), min(round(top * height), height - 1)
    right = min(width, max(x + 1, round((left + across) * width)))
    bottom = min(height, max(y + 1, round((top + down) * height)))
    return x, y, right, bottom
