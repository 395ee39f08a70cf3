"""What happens to whole pictures: textures of the background, styles of drawing, looks, the box.

Everything works on rows of a batch [b, 3, h, w] in 0..1, and only on the rows that ask for it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .scene import Scene

__all__ = ["BOX_COLOUR", "add_textures", "apply_looks", "draw_boxes", "mosaic", "rows_where"]

# Half the step between the two tones of a texture, the same on all channels, and a period of 8
# px on the pixel grid: so a texture is one component of the autoencoder's 8x8 patches.
_TEXTURE_STEP = 0.05
_NOISE = 0.09
_PERIOD = 8

BOX_COLOUR = (1.0, 0.0, 0.86)
_BOX_WIDTH = 2


def rows_where(scenes: Sequence[Scene], field: str, value: str) -> list[int]:
    """Indices of the scenes whose field has this value."""
    return [i for i, scene in enumerate(scenes) if getattr(scene, field) == value]


@functools.lru_cache(maxsize=64)
def _tile(texture: str, height: int, width: int) -> Tensor:
    """[height, width] in -1..1."""
    ys, xs = torch.arange(height)[:, None] % _PERIOD, torch.arange(width)[None] % _PERIOD
    half = _PERIOD // 2
    if texture == "striped":
        light = (xs < half).expand(height, width)
    elif texture == "checked":
        light = (xs < half) == (ys < half)
    else:  # dotted: a soft dot in the middle of each tile
        squared = (xs - 3.5) ** 2 + (ys - 3.5) ** 2
        return 2 * torch.clamp(2.9 - squared.sqrt(), 0, 1) - 1
    return light.float() * 2 - 1


def _hash(seed: int, rows: int, columns: int) -> Tensor:
    """[rows, columns] in -1..1 from integers only, so the same on every machine."""
    ys, xs = torch.arange(rows)[:, None], torch.arange(columns)[None]
    value = (xs * 374761393 + ys * 668265263 + (seed & 0xFFFFFF) * 974634777) & 0x7FFFFFFF
    for shift, factor in ((15, 739982445), (12, 695872825)):
        value = ((value ^ (value >> shift)) * factor) & 0x7FFFFFFF
    value = value ^ (value >> 15)
    return (value & 0xFFFF).float() / 32767.5 - 1


def add_textures(picture: Tensor, scenes: Sequence[Scene]) -> None:
    """Texture the backgrounds, in place."""
    height, width = picture.shape[-2:]
    for texture in ("striped", "checked", "dotted"):
        rows = rows_where(scenes, "texture", texture)
        if rows:
            picture[rows] += _TEXTURE_STEP * _tile(texture, height, width)
    rows = rows_where(scenes, "texture", "noisy")
    if rows:
        # Smooth between the corners of the tiles.
        down, across = -(-height // _PERIOD), -(-width // _PERIOD)
        lattice = torch.stack([_hash(scenes[i].seed, down + 1, across + 1) for i in rows])
        size = (down * _PERIOD, across * _PERIOD)
        noise = F.interpolate(lattice[:, None], size, mode="bilinear", align_corners=True)
        picture[rows] += _NOISE * noise[..., :height, :width]


def mosaic(picture: Tensor, scenes: Sequence[Scene], block: int = 4) -> None:
    """Make squares of `block` pixels out of the rows in pixel style, in place."""
    rows = rows_where(scenes, "style", "pixel")
    if not rows:
        return
    height, width = picture.shape[-2:]
    small = F.avg_pool2d(picture[rows], block, ceil_mode=True)
    large = small.repeat_interleave(block, 2).repeat_interleave(block, 3)
    picture[rows] = large[..., :height, :width]


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
        if scene.box is None:
            continue
        left, right = (round(scene.box[k] * width) for k in (0, 2))
        top, bottom = (round(scene.box[k] * height) for k in (1, 3))
        edge = _BOX_WIDTH
        picture[i, :, top : top + edge, left:right] = colour
        picture[i, :, max(top, bottom - edge) : bottom, left:right] = colour
        picture[i, :, top:bottom, left : left + edge] = colour
        picture[i, :, top:bottom, max(left, right - edge) : right] = colour
