"""Which part of a picture stands on the token grid, so that a result goes back exactly where it
came from.

Sizes are (width, height) in pixels, pictures [b, h, w, 3] in 0..1, masks [..., h, w].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError, ShapeError
from .images import resize
from .resolutions import nearest_resolution

FITS = ("trained size", "shrink", "keep")
OTHER_SHAPE = ("refuse", "crop", "pad", "stretch")
TOKEN = 16
# Pixels that a side may be off when a shape was rounded to whole tokens.
ROUNDED = 8


@dataclass(frozen=True)
class Framing:
    """How a picture was brought onto the grid.

    Attributes:
        picture: its size.
        box: (left, top, width, height) of what is shown of it, in its pixels; what lies beyond its
            edges is padding.
        size: what the box was resized to.
        trained: the size with the closest shape that the model was trained at.
    """

    picture: tuple[int, int]
    box: tuple[int, int, int, int]
    size: tuple[int, int]
    trained: tuple[int, int]

    @property
    def whole(self) -> bool:
        """Whether all of the picture is shown, and nothing else."""
        return self.box == (0, 0, *self.picture)


def plan_fit(width: int, height: int, sizes: Sequence[tuple[int, int]], fit: str) -> Framing:
    """What becomes of a picture of this size.

    Args:
        sizes: that the model was trained at.
        fit: "trained size" resizes to the one of them with the closest shape; "shrink" does so
            only with larger pictures; "keep" leaves every pixel and crops to whole tokens of 16
            pixels: half a token would be filled with what stands at the opposite edge.

    Raises:
        InputError: another `fit`.
    """
    if fit not in FITS:
        raise InputError(f"fit is {fit!r}; expected one of {', '.join(FITS)}")
    picture, trained = (width, height), nearest_resolution(width, height, sizes)
    if fit == "trained size" or (fit == "shrink" and width * height > math.prod(trained)):
        return Framing(picture, (0, 0, width, height), trained, trained)
    columns, rows = width // TOKEN * TOKEN, height // TOKEN * TOKEN
    box = ((width - columns) // 2, (height - rows) // 2, columns, rows)
    return Framing(picture, box, (columns, rows), trained)


def fit_picture(image: Tensor, framing: Framing) -> Tensor:
    """A picture of `framing.picture`'s size as it stands on the grid, `framing.size`."""
    left, top, width, height = framing.box
    return resize(image[:, top : top + height, left : left + width], *framing.size)


def frame_mask(mask: Tensor, framing: Framing) -> Tensor:
    """The part of a mask of the picture's shape, at any resolution, that belongs to the box."""
    (full_width, full_height), (left, top, width, height) = framing.picture, framing.box
    x, y = mask.shape[-1] / full_width, mask.shape[-2] / full_height
    rows = slice(math.floor(top * y), math.ceil((top + height) * y))
    return mask[..., rows, math.floor(left * x) : math.ceil((left + width) * x)]


def put_back(result: Tensor, original: Tensor, framing: Framing) -> Tensor:
    """The opposite of `fit_picture`: a result in its place in the picture that it was made from.

    Args:
        result: [b, h, w, 3] at any resolution.
        original: [1 or b, H, W, 3] of the framing's shape; its own pixels stand where the box does
            not reach. Twice the size of `framing.picture` is fine.

    Returns:
        [b, H, W, 3].

    Raises:
        ShapeError: batches that don't fit each other.
    """
    height, width = original.shape[1:3]
    if framing.whole:
        return resize(result, width, height)
    if len(original) not in (1, len(result)):
        raise ShapeError(
            f"original is a batch of {len(original)}, the result one of {len(result)}; give one, "
            "or as many"
        )
    x, y = width / framing.picture[0], height / framing.picture[1]
    left, top = round(framing.box[0] * x), round(framing.box[1] * y)
    right = round((framing.box[0] + framing.box[2]) * x)
    bottom = round((framing.box[1] + framing.box[3]) * y)
    part = resize(result, right - left, bottom - top)
    made = original.to(result).expand(len(result), -1, -1, -1).clone()
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    made[:, y0:y1, x0:x1] = part[:, y0 - top : y1 - top, x0 - left : x1 - left]
    return made


def same_shape(a: tuple[int, int], b: tuple[int, int], slack: float = 1.0) -> bool:
    """Whether one is the other resized, with each side of `b` up to `slack` pixels off, as after
    rounding to whole pixels (1) or to whole tokens (8)."""
    low = max((b[0] - slack) / a[0], (b[1] - slack) / a[1])
    high = min((b[0] + slack) / a[0], (b[1] + slack) / a[1])
    return low <= high


def alike(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether one size is the other, enlarged or shrunk and rounded to whole pixels."""
    return same_shape(a, b) if a[0] >= b[0] else same_shape(b, a)


def bring_to(result: Tensor, width: int, height: int, rule: str) -> Tensor:
    """A result [b, h, w, 3] of another shape in exactly this size.

    Args:
        rule: "crop" fills the size and cuts off what is too much, alike at both ends; "pad" shows
            all of it, in the middle, on black; "stretch" distorts it.
    """
    rows, columns = result.shape[1:3]
    if rule == "stretch":
        return resize(result, width, height)
    scales = (width / columns, height / rows)
    scale = max(scales) if rule == "crop" else min(scales)
    inner = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    result = resize(result, *inner)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    right, bottom = width - inner[0] - left, height - inner[1] - top
    # Negative padding crops.
    padded: Tensor = F.pad(result.movedim(-1, 1), (left, right, top, bottom))
    return padded.movedim(1, -1).to(torch.float32)
