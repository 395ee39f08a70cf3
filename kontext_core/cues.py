"""Visual cues: a box drawn into a picture, which the instruction then speaks about (arXiv 2506.15742).

Pictures are [b, h, w, 3] in 0..1, masks [b or 1, h, w].
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_number
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


def draw_box(
    image: Tensor, box: Outline, colour: str = "magenta", line: float = 1 / 32
) -> tuple[Tensor, Tensor]:
    """A picture with the outline of a box, and the box as a mask.

    Args:
        box: cut off where it leaves the picture.
        colour: of `COLOURS`.
        line: thickness as a share of the shorter side, 0.002..0.2; at least a pixel.

    Returns:
        ([b, h, w, 3], [1, h, w] with 1 inside the box and on its outline).

    Raises:
        ShapeError, InputError: no picture; an unknown colour; a box outside the picture or empty.
    """
    image = check_image(image)
    if colour not in COLOURS:
        raise InputError(f"colour is {colour!r}; expected one of {', '.join(COLOURS)}")
    share = check_number(line, "line", 0.002, 0.2, "a share of the shorter side")
    height, width = image.shape[1:3]
    left, top, across, down = (
        check_number(value, name, low, 1)
        for value, name, low in zip(
            box, ("left", "top", "width", "height"), (0, 0, 0.001, 0.001), strict=True
        )
    )
    x, y = min(round(left * width), width - 1), min(round(top * height), height - 1)
    right = min(width, max(x + 1, round((left + across) * width)))
    bottom = min(height, max(y + 1, round((top + down) * height)))
    thick = max(1, round(share * min(height, width)))
    mask = torch.zeros(1, height, width, device=image.device)
    mask[:, y:bottom, x:right] = 1
    outline = mask.clone()
    outline[:, y + thick : bottom - thick, x + thick : right - thick] = 0
    paint = torch.tensor(COLOURS[colour]).to(image)
    return torch.where(outline[..., None].bool(), paint, image), mask
