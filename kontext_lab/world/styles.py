"""What happens to whole pictures: textures of the background, styles of drawing, looks, the box.

Everything works on rows of a batch [b, 3, h, w] in 0..1, and only on the rows that ask for it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from .names import TEXTURES
from .thing import Scene, Thing, box_around

# Half the step between the two tones of a texture, the same on all channels, and a period of 8
# px on the pixel grid: so a texture is one component of the autoencoder's 8x8 patches.
_TEXTURE_STEP = 0.05
_PERIOD = 8

BOX_COLOUR = (1.0, 0.0, 0.86)
_BOX_WIDTH = 2


def rows_where(scenes: Sequence[Scene], field: str, value: str) -> list[int]:
    """Indices of the scenes whose field has this value."""
    return [i for i, scene in enumerate(scenes) if getattr(scene, field) == value]


@functools.lru_cache(maxsize=64)
def _tile(texture: str, height: int, width: int) -> Tensor:
    """[height, width] in -1..1."""
    # As wide as in the pictures of training, 64 pixels, and wider in larger ones.
    half = max(_PERIOD // 2, round(_PERIOD * min(height, width) / 128))
    ys, xs = torch.arange(height)[:, None] % (2 * half), torch.arange(width)[None] % (2 * half)
    if texture == "striped":
        light = (xs < half).expand(height, width)
    else:  # checked
        light = (xs < half) == (ys < half)
    return light.float() * 2 - 1


def add_textures(picture: Tensor, scenes: Sequence[Scene]) -> None:
    """Texture the backgrounds, in place."""
    height, width = picture.shape[-2:]
    for texture in TEXTURES[1:]:
        rows = rows_where(scenes, "texture", texture)
        if rows:
            picture[rows] += _TEXTURE_STEP * _tile(texture, height, width)


# Per look: factor and offset of each channel.
_TINTS = {
    "night": ((0.36, 0.39, 0.60), (0.0, 0.01, 0.05)),
    "sunset": ((0.90, 0.62, 0.40), (0.10, 0.05, 0.0)),
    "inverted": ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)),
}


def apply_looks(picture: Tensor, scenes: Sequence[Scene]) -> None:
    """Change the light of the rows whose look isn't plain, in place."""
    for look, (factor, offset) in _TINTS.items():
        rows = rows_where(scenes, "look", look)
        if rows:
            scale, shift = (torch.tensor(values)[:, None, None] for values in (factor, offset))
            picture[rows] = picture[rows] * scale + shift
    rows = rows_where(scenes, "look", "grey")
    if rows:
        weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
        picture[rows] = (picture[rows] * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)


def draw_boxes(picture: Tensor, scenes: Sequence[Scene]) -> None:
    """Outline each scene's box, in place."""
    height, width = picture.shape[-2:]
    colour = torch.tensor(BOX_COLOUR)[:, None, None]
    for i, scene in enumerate(scenes):
        box = scene.box
        if box is None:
            continue
        if isinstance(box, Thing):
            box = box_around(box, height, width)
        left, right = (round(box[k] * width) for k in (0, 2))
        top, bottom = (round(box[k] * height) for k in (1, 3))
        edge = _BOX_WIDTH
        picture[i, :, top : top + edge, left:right] = colour
        picture[i, :, max(top, bottom - edge) : bottom, left:right] = colour
        picture[i, :, top:bottom, left : left + edge] = colour
        picture[i, :, top:bottom, max(left, right - edge) : right] = colour
