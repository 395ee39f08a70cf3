"""How the pictures of a question are shown: one by one, or arranged in a single picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Around and between pictures on a canvas, as a share of a picture's side.
GAP = 1 / 32


@dataclass(frozen=True)
class PageLayout:
    """An arrangement, and what the words call the pictures in it.

    Attributes:
        calls: of the first and the second picture, in place of "image 1" and "image 2".
        introduction: a sentence that says what is shown.
    """

    name: str
    calls: tuple[str, str]
    introduction: str


SIDE_BY_SIDE = PageLayout(
    "side by side",
    ("the left picture", "the right picture"),
    "The image shows two pictures side by side.",
)
STACKED = PageLayout(
    "stacked",
    ("the upper picture", "the lower picture"),
    "The image shows two pictures, one above the other.",
)
FALLING = PageLayout(
    "canvas, falling",
    ("the picture at the top left", "the picture at the bottom right"),
    "The image shows two pictures on a white canvas.",
)
RISING = PageLayout(
    "canvas, rising",
    ("the picture at the bottom left", "the picture at the top right"),
    "The image shows two pictures on a white canvas.",
)


def arranged(layout: PageLayout, pictures: Sequence[Tensor]) -> Tensor:
    """Two pictures [3, s, s] as one: side by side [3, s, 2 s + gap], stacked [3, 2 s + gap, s], or at
    opposite corners of a white square [3, s, s], each half as large."""
    first, second = pictures
    side = first.shape[-1]
    gap = max(1, round(GAP * side))
    if layout is SIDE_BY_SIDE:
        return torch.cat([first, torch.ones(3, side, gap), second], 2)
    if layout is STACKED:
        return torch.cat([first, torch.ones(3, gap, side), second], 1)
    small = side // 2 - gap
    page = torch.ones(3, side, side)
    rows = (side - gap - small, gap) if layout is RISING else (gap, side - gap - small)
    for picture, top, left in zip((first, second), rows, (gap, side - gap - small), strict=True):
        page[:, top : top + small, left : left + small] = smaller(picture, small)
    return page


def smaller(picture: Tensor, side: int) -> Tensor:
    """A picture [3, s, s] at another size, smoothed as far as it shrinks."""
    shrunk = F.interpolate(picture[None], (side, side), mode="bicubic", antialias=True)[0]
    return shrunk.clamp(0, 1)
