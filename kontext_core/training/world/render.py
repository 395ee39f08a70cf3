"""Draws scenes: anti-aliased signed distances, a batch at a time, fast enough for training.

All things of a batch are looked up kind by kind, then painted layer by layer: the first things
of all scenes, the second ones, and so on. h and w are pixels, b scenes, n things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError
from .scene import BACKGROUNDS, COLOURS, KINDS, Scene, Thing, box_around, placed
from .shapes import RANGE, table
from .styles import add_textures, apply_looks, draw_boxes, mosaic, rows_where

__all__ = ["box_around", "coverage", "label_maps", "render", "render_with_labels"]

_CELL = 8
_KIND = {name: i + 1 for i, name in enumerate(KINDS)}
_COLOUR = {name: i + 1 for i, name in enumerate(COLOURS)}


@dataclass
class _Fields:
    """Where everything is: things in layer order, all of layer 0 first.

    Attributes:
        things: the n things.
        scene: which scene each belongs to.
        layers: the slice of each layer.
        distance: [n, h, w] in pixels, negative inside.
        boxes: [n, 3] centre x, y and radius in pixels.
        faces: creature's index to (light, dark) [h, w] in pixels.
    """

    things: list[Thing]
    scene: list[int]
    layers: list[slice]
    distance: Tensor
    boxes: Tensor
    faces: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


def _fields(scenes: Sequence[Scene], height: int, width: int, faces: bool = True) -> _Fields:
    if min(height, width) < 16:
        raise InputError(f"the picture is {height}x{width}; draw at least 16x16 pixels")
    things: list[Thing] = []
    owner: list[int] = []
    layers: list[slice] = []
    for layer in range(max((len(scene.things) for scene in scenes), default=0)):
        first = len(things)
        for i, scene in enumerate(scenes):
            if layer < len(scene.things):
                things.append(scene.things[layer])
                owner.append(i)
        layers.append(slice(first, len(things)))
    boxes = torch.tensor([placed(thing, height, width) for thing in things]).view(-1, 3)
    fields = _Fields(things, owner, layers, torch.empty(len(things), height, width), boxes)
    by_kind: dict[str, list[int]] = {}
    for i, thing in enumerate(things):
        by_kind.setdefault(thing.kind, []).append(i)
    cx, cy, radius = boxes[:, :, None].unbind(1)
    across = ((torch.arange(width) + 0.5) - cx) / (radius * RANGE)
    down = ((torch.arange(height) + 0.5) - cy) / (radius * RANGE)
    side = 160 if min(height, width) <= 160 else 640
    for kind, rows in by_kind.items():
        grid = torch.empty(len(rows), height, width, 2)
        grid[..., 0] = across[rows][:, None, :]
        grid[..., 1] = down[rows][:, :, None]
        source = table(kind, side)
        if not faces:
            source = source[:1]
        found = F.grid_sample(
            source[None], grid.view(1, -1, width, 2), padding_mode="border", align_corners=True
        ).view(len(source), len(rows), height, width)
        found *= radius[rows][:, :, None]
        fields.distance[rows] = found[0]
        if len(found) > 1:
            for k, i in enumerate(rows):
                fields.faces[i] = (found[1, k], found[2, k])
    return fields


def _cover(distance: Tensor) -> Tensor:
    return torch.clamp(0.5 - distance, 0, 1)


def _marks(fields: _Fields, index: int, height: int, width: int) -> Tensor:
    """Where a pattern is dark, [h, w] in 0..1."""
    cx, cy, radius = fields.boxes[index].tolist()
    u = ((torch.arange(width) + 0.5) - cx) / radius
    v = (((torch.arange(height) + 0.5) - cy) / radius)[:, None]
    if fields.things[index].pattern == "striped":
        period = 0.62
        across = (u + v) * 0.7071 / period
        away = (torch.remainder(across, 1) - 0.5).abs() - 0.25
        return torch.clamp(0.5 - away * period * radius, 0, 1)
    period = 0.6
    x = torch.remainder(u / period + 0.5, 1) - 0.5
    y = torch.remainder(v / period + 0.5, 1) - 0.5
    away = torch.sqrt(x * x + y * y) * period - 0.18
    return torch.clamp(0.5 - away * radius, 0, 1)


def _paint(fields: _Fields, layer: slice, style: Sequence[str], height: int, width: int) -> Tensor:
    """What each thing of a layer is painted with, [n, 3, h, w]."""
    indices = range(layer.start, layer.stop)
    colour = torch.tensor([COLOURS[fields.things[i].colour] for i in indices])[:, :, None, None]
    boxes = fields.boxes[layer]
    v = ((torch.arange(height) + 0.5) - boxes[:, 1:2]) / boxes[:, 2:3]
    # A little light from above makes flat shapes look like paper cut-outs.
    paint = torch.clamp(colour * (1.0 - 0.14 * v[:, None, :, None]), 0, 1)
    paint = paint.expand(-1, -1, -1, width).contiguous()
    for k, i in enumerate(indices):
        if style[k] in ("outline", "neon"):
            continue
        if fields.things[i].pattern != "plain":
            paint[k] *= 1 - 0.4 * _marks(fields, i, height, width)
        if i in fields.faces:
            light, dark = fields.faces[i]
            paint[k] += 0.62 * _cover(light) * (1 - paint[k])
            ink = torch.tensor([0.10, 0.08, 0.12])[:, None, None]
            paint[k] += _cover(dark) * (ink - paint[k])
    return paint


def _lines(fields: _Fields, index: int, width_px: float, height: int, width: int) -> Tensor:
    """Contour, face and a hint of the pattern, [h, w] in 0..1."""
    distance = fields.distance[index]
    inside = _cover(distance)
    lines = inside - _cover(distance + width_px)
    if fields.things[index].pattern != "plain":
        lines = torch.maximum(lines, 0.45 * inside * _marks(fields, index, height, width))
    if index in fields.faces:
        lines = torch.maximum(lines, _cover(fields.faces[index][1]))
    return lines


def _before(picture: Tensor, fields: _Fields, scenes: Sequence[Scene]) -> None:
    """Shadows, borders and glows, which lie under all things of a scene; in place."""
    height, width = picture.shape[-2:]
    short = min(height, width)
    neon = rows_where(scenes, "style", "neon")
    if neon:
        picture[neon] = picture[neon] * 0.2
    for i, (thing, row) in enumerate(zip(fields.things, fields.scene, strict=True)):
        style = scenes[row].style
        if style == "neon":
            glow = torch.clamp(1 - fields.distance[i].abs() / (0.09 * short), 0, 1) ** 2
            colour = torch.tensor(COLOURS[thing.colour])[:, None, None]
            picture[row] += 0.75 * glow * (colour - picture[row])
        elif style == "soft":
            glow = torch.clamp(1 - fields.distance[i] / (0.1 * short), 0, 1) ** 2
            colour = torch.tensor(COLOURS[thing.colour])[:, None, None]
            picture[row] += 0.5 * glow * (colour - picture[row])
        elif style == "sticker":
            step = max(1, round(0.03 * short))
            shadow = torch.roll(fields.distance[i], (step, step), (0, 1)) - 0.02 * short
            picture[row] *= 1 - 0.42 * torch.clamp(0.5 - shadow / (0.05 * short), 0, 1)
    for i, row in enumerate(fields.scene):
        if scenes[row].style == "sticker":
            border = _cover(fields.distance[i] - 0.032 * short)
            picture[row] += border * (1 - picture[row])


def render(scenes: Sequence[Scene], height: int = 64, width: int = 64) -> Tensor:
    """Pictures [b, 3, height, width] float32 in 0..1, from 16x16 up.

    Sizes and jitter follow the shorter side, places follow each side, so a scene looks right at
    any size and aspect ratio. Raises InputError on a smaller canvas.
    """
    return _draw(scenes, _fields(scenes, height, width), height, width)


def _draw(scenes: Sequence[Scene], fields: _Fields, height: int, width: int) -> Tensor:
    short = min(height, width)
    ys = (torch.arange(height) + 0.5)[:, None] / height
    top = torch.tensor([BACKGROUNDS[scene.top] for scene in scenes]).view(-1, 3, 1, 1)
    bottom = torch.tensor([BACKGROUNDS[scene.bottom] for scene in scenes]).view(-1, 3, 1, 1)
    picture = (top + (bottom - top) * ys).expand(-1, -1, -1, width).contiguous()
    add_textures(picture, scenes)
    _before(picture, fields, scenes)
    for layer in fields.layers:
        rows = fields.scene[layer]
        styles = [scenes[row].style for row in rows]
        paint = _paint(fields, layer, styles, height, width)
        alpha = _cover(fields.distance[layer])
        for k, style in enumerate(styles):
            i = layer.start + k
            if style == "outline":
                alpha[k] = _lines(fields, i, max(1.3, 0.026 * short), height, width)
            elif style == "neon":
                alpha[k] = _lines(fields, i, max(1.2, 0.022 * short), height, width)
                paint[k] = 0.35 + 0.65 * paint[k]
            elif style == "soft":
                soft = torch.clamp(0.5 - fields.distance[i] / (0.09 * short), 0, 1)
                alpha[k] = soft * soft * (3 - 2 * soft)
        picture[rows] = torch.lerp(picture[rows], paint, alpha[:, None])
    pixel = rows_where(scenes, "style", "pixel")
    if pixel:
        mosaic(picture, pixel)
    apply_looks(picture, scenes)
    draw_boxes(picture, scenes)
    return picture.clamp_(0, 1)


def coverage(scene: Scene, height: int = 64, width: int = 64) -> Tensor:
    """Each thing's silhouette [n, h, w] in 0..1; later things hide earlier ones."""
    fields = _fields([scene], height, width, faces=False)
    cover = _cover(fields.distance)
    free = torch.ones(height, width)
    for i in reversed(range(len(cover))):
        cover[i], free = cover[i] * free, free * (1 - cover[i])
    return cover


def label_maps(scenes: Sequence[Scene], height: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
    """What covers more than a quarter of each 8x8 cell: (kind, colour) [b, h/8, w/8] int64.

    1 + its index in `KINDS` and in `COLOURS`; 0 where there is no such thing.
    """
    return _labels(scenes, _fields(scenes, height, width, faces=False), height, width)


def _labels(
    scenes: Sequence[Scene], fields: _Fields, height: int, width: int
) -> tuple[Tensor, Tensor]:
    shape = (len(scenes), height // _CELL, width // _CELL)
    best = torch.full(shape, 0.25)
    which = torch.full(shape, -1)
    free = torch.ones(len(scenes), height, width)
    for layer in reversed(fields.layers):
        rows = fields.scene[layer]
        cover = _cover(fields.distance[layer])
        visible = cover * free[rows]
        free[rows] -= visible
        share = F.avg_pool2d(visible[:, None], _CELL)[:, 0]
        take = share > best[rows]
        index = torch.arange(layer.start, layer.stop)[:, None, None]
        which[rows] = torch.where(take, index, which[rows])
        best[rows] = torch.where(take, share, best[rows])
    kind = torch.tensor([*(_KIND[thing.kind] for thing in fields.things), 0])
    colour = torch.tensor([*(_COLOUR[thing.colour] for thing in fields.things), 0])
    return kind[which], colour[which]


def render_with_labels(
    scenes: Sequence[Scene], height: int = 64, width: int = 64
) -> tuple[Tensor, Tensor, Tensor]:
    """`render` and `label_maps` together, for little more than `render` alone."""
    fields = _fields(scenes, height, width)
    return _draw(scenes, fields, height, width), *_labels(scenes, fields, height, width)
