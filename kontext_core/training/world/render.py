"""Draws scenes: anti-aliased signed distance fields, a batch at a time, fast enough for training.

Distances are in units of the thing's radius, negative inside; y grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .scene import BACKGROUNDS, COLOURS, SIZES, Scene, Thing, centre

__all__ = ["render"]


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.sqrt(x * x + y * y) - 0.95


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.82


def _diamond(x: Tensor, y: Tensor) -> Tensor:
    return (1.35 * x.abs() + y.abs() - 1.05) / math.hypot(1.35, 1)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    sides = (1.75 * x.abs() - 0.98 * (y + 1)) / math.hypot(1.75, 0.98)
    return torch.maximum(sides, y - 0.75)


def _star(x: Tensor, y: Tensor) -> Tensor:
    # Fold the plane onto half a point, then it is the distance to one edge.
    half = math.pi / 5
    angle = torch.atan2(x, -y)
    angle = (torch.remainder(angle + half, 2 * half) - half).abs()
    radius = torch.sqrt(x * x + y * y)
    px, py = radius * torch.cos(angle), radius * torch.sin(angle)
    tip, inner = 1.08, 0.5
    ex, ey = inner * math.cos(half) - tip, inner * math.sin(half)
    return (ex * py - ey * (px - tip)) / -math.hypot(ex, ey)


def _heart(x: Tensor, y: Tensor) -> Tensor:
    # Two round lobes over a right-angled point (after I. Quilez, "heart" 2D distance).
    scale = 0.6
    px, py = x.abs() * scale, 0.58 - y * scale
    lobes = torch.sqrt((px - 0.25) ** 2 + (py - 0.75) ** 2) - math.sqrt(2) / 4
    along = 0.5 * torch.clamp(px + py, min=0)
    near = torch.minimum(px**2 + (py - 1) ** 2, (px - along) ** 2 + (py - along) ** 2)
    point = torch.sqrt(near) * torch.sign(px - py)
    return torch.where(px + py > 1, lobes, point) / scale


_DISTANCE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "diamond": _diamond,
}


def render(scenes: Sequence[Scene], height: int = 64, width: int = 64) -> Tensor:
    """Pictures [b, 3, height, width] float32 in 0..1.

    Sizes and jitter follow the shorter side, places follow each side, so a scene looks right at
    any size and aspect ratio.
    """
    ys = (torch.arange(height) + 0.5)[None, :, None]
    xs = (torch.arange(width) + 0.5)[None, None, :]
    top = torch.tensor([BACKGROUNDS[scene.top] for scene in scenes])[:, :, None, None]
    bottom = torch.tensor([BACKGROUNDS[scene.bottom] for scene in scenes])[:, :, None, None]
    picture = top + (bottom - top) * (ys / height)[:, None]
    picture = picture.expand(-1, -1, -1, width).contiguous()
    for layer in range(max((len(scene.things) for scene in scenes), default=0)):
        by_shape: dict[str, list[int]] = {}
        for i, scene in enumerate(scenes):
            if layer < len(scene.things):
                by_shape.setdefault(scene.things[layer].shape, []).append(i)
        for shape, rows in by_shape.items():
            things = [scenes[i].things[layer] for i in rows]
            boxes = torch.tensor([_box(thing, height, width) for thing in things])
            cx, cy, radius = (column[:, None, None] for column in boxes.unbind(1))
            u, v = (xs - cx) / radius, (ys - cy) / radius
            u, v = torch.broadcast_tensors(u, v)
            cover = torch.clamp(0.5 - _DISTANCE[shape](u, v) * radius, 0, 1)[:, None]
            colour = torch.tensor([COLOURS[thing.colour] for thing in things])[:, :, None, None]
            # A little light from above makes flat shapes look like paper cut-outs.
            paint = torch.clamp(colour * (1.0 - 0.16 * v[:, None]), 0, 1)
            picture[rows] += cover * (paint - picture[rows])
    return _look(picture, [scene.look for scene in scenes])


def _box(thing: Thing, height: int, width: int) -> tuple[float, float, float]:
    """Centre x, y and radius in pixels; a thing never leaves the picture."""
    short = min(height, width)
    radius = SIZES[thing.size] * short
    x, y = centre(thing)
    cx, cy = x * width + thing.dx * short, y * height + thing.dy * short
    edge = radius + 0.02 * short
    return min(max(cx, edge), width - edge), min(max(cy, edge), height - edge), radius


def _look(picture: Tensor, looks: Sequence[str]) -> Tensor:
    for i, look in enumerate(looks):
        if look == "night":
            tint = torch.tensor([0.26, 0.30, 0.48])[:, None, None]
            picture[i] = picture[i] * tint + torch.tensor([0.0, 0.01, 0.05])[:, None, None]
        elif look == "grey":
            weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
            picture[i] = (picture[i] * weights).sum(0, keepdim=True)
        elif look == "inverted":
            picture[i] = 1 - picture[i]
    return picture
