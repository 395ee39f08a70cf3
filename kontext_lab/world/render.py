"""Draws scenes: anti-aliased signed distances, a batch at a time, fast enough for training.

A thing only touches a window around itself. The distances of all windows of one size are looked
up at once; painting goes window by window. h and w are pixels, b scenes, n things.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kontext_core.errors import InputError

from .names import BACKGROUNDS, COLOURS, CREATURES, KINDS, SIZES, rgb_of
from .shapes import RANGE, faces, silhouettes
from .styles import add_textures, apply_looks, draw_boxes
from .thing import Scene, Thing, placed

_CELL = 8
_KIND = {name: i for i, name in enumerate(KINDS)}
_CREATURE = {name: i for i, name in enumerate(CREATURES)}
_COLOUR = {name: i for i, name in enumerate(COLOURS)}
_INK = torch.tensor([0.16, 0.13, 0.18])[:, None, None]

# Pixels from nothing to full cover: a little more than one, which saves the autoencoder 0.6 dB.
_SOFT = 1.4

# How far glows and shadows reach beyond a thing's radius, as a share of the shorter side.
_REACH = 0.1


@dataclass
class _Spot:
    """A thing on the canvas.

    Attributes:
        rows, columns: its window.
        y: pixel centres of its rows in radii below the thing's centre, [s, 1].
        distance: [s, s] to its rim in pixels, negative inside.
        face: the same of its light and its dark parts, [2, s, s], of creatures only.
    """

    thing: Thing
    rows: slice
    columns: slice
    y: Tensor
    distance: Tensor
    face: Tensor | None = None


def _spots(
    scenes: Sequence[Scene], height: int, width: int, *, with_faces: bool = True
) -> list[list[_Spot]]:
    """All things of each scene, in the order of painting."""
    short = min(height, width)
    if short < 16:
        raise InputError(f"the picture is {height}x{width}; draw at least 16x16 pixels")
    side = 160 if short <= 160 else 400
    out: list[list[_Spot]] = [[None] * len(scene.things) for scene in scenes]  # type: ignore[list-item]
    by_size: dict[str, list[tuple[int, int, Thing]]] = {}
    for i, scene in enumerate(scenes):
        for k, thing in enumerate(scene.things):
            by_size.setdefault(thing.size, []).append((i, k, thing))
    for size, found in by_size.items():
        # Creatures first, so that theirs is a slice.
        found.sort(key=lambda item: item[2].kind not in _CREATURE)
        creatures = sum(thing.kind in _CREATURE for _, _, thing in found)
        window = min(short, math.ceil(2 * short * (SIZES[size] + _REACH)) + 2)
        boxes, corners = [], []
        radius = 0.0  # the same for all of one size
        for _, _, thing in found:
            cx, cy, radius = placed(thing, height, width)
            left = min(max(round(cx - window / 2), 0), width - window)
            top = min(max(round(cy - window / 2), 0), height - window)
            boxes.append((left + 0.5 - cx, top + 0.5 - cy))
            corners.append((left, top))
        offset = torch.tensor(boxes) / radius
        steps = torch.arange(window) / radius
        x, y = offset[:, :1] + steps, offset[:, 1:] + steps
        kinds = torch.tensor([_KIND[thing.kind] for _, _, thing in found])
        distance = _look_up(silhouettes(side), side, kinds, x, y)[0] * radius
        face: Tensor | None = None
        if creatures and with_faces:
            kinds = torch.tensor([_CREATURE[thing.kind] for _, _, thing in found[:creatures]])
            face = _look_up(faces(side), side, kinds, x[:creatures], y[:creatures]) * radius
        parts = zip(found, corners, y[:, :, None].unbind(), distance, strict=True)
        for n, ((i, k, thing), (left, top), v, d) in enumerate(parts):
            spot = _Spot(thing, slice(top, top + window), slice(left, left + window), v, d)
            if face is not None and n < creatures:
                spot.face = face[:, n]
            out[i][k] = spot
    return out


def _look_up(atlas: Tensor, side: int, which: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Distances in radii [c, n, s, s] at x, y [n, s] from tables that stand under each other."""
    n, s = x.shape
    tall, wide = atlas.shape[-2:]
    # Grid coordinates of sample centres: -1 is the first one, 1 the last one.
    limit = RANGE * (1 - 1 / side)
    grid = torch.empty(n, s, s, 2)
    grid[..., 0] = (x.clamp(-limit, limit) / RANGE)[:, None, :]
    row = (y.clamp(-limit, limit) / RANGE + 1) / 2 * (side - 1) + which[:, None] * side
    grid[..., 1] = (row / (tall - 1) * 2 - 1)[:, :, None]
    found = F.grid_sample(atlas, grid.view(1, n * s, s, 2), align_corners=True)
    return found.view(-1, n, s, s)


@functools.lru_cache(maxsize=4096)
def _rgb(colour: str) -> Tensor:
    return torch.tensor(rgb_of(colour))[:, None, None]


def _cover(distance: Tensor) -> Tensor:
    return (0.5 - distance / _SOFT).clamp_(0, 1)


def _paint(spot: _Spot) -> Tensor:
    """What the thing is painted with, [3, s, s or 1]."""
    # A little light from above makes flat shapes look like paper cut-outs.
    paint = (_rgb(spot.thing.colour) * (1 - 0.14 * spot.y)).clamp_(0, 1)
    if spot.face is not None:
        light, dark = _cover(spot.face)
        paint = torch.lerp(paint, torch.ones(()), 0.62 * light)
        paint = torch.lerp(paint, _INK, dark)
    return paint


def _lines(spot: _Spot, thickness: float) -> Tensor:
    """Contour and face, [s, s] in 0..1."""
    lines = _cover(spot.distance) - _cover(spot.distance + thickness)
    if spot.face is not None:
        lines = torch.maximum(lines, _cover(spot.face[1]))
    return lines


def _glow(distance: Tensor, reach: float, strength: float) -> Tensor:
    return strength * (1 - distance / reach).clamp_(0, 1).square_()


def _shade(picture: Tensor, spots: list[_Spot], style: str, short: int) -> None:
    """Glows, shadows and borders, which lie under all things of a scene [3, h, w]; in place."""
    if style == "neon":
        picture *= 0.2
    for spot in spots:
        part = picture[:, spot.rows, spot.columns]
        if style == "neon":
            glow = _glow(spot.distance.abs(), 0.09 * short, 0.75)
            part.lerp_(_rgb(spot.thing.colour), glow)
        elif style == "sticker":
            step = max(1, round(0.03 * short))
            shadow = (0.9 - spot.distance[:-step, :-step] / (0.06 * short)).clamp_(0, 1)
            part[:, step:, step:] *= 1 - 0.38 * shadow
    if style == "sticker":
        for spot in spots:
            part = picture[:, spot.rows, spot.columns]
            part.lerp_(torch.ones(()), _cover(spot.distance - 0.032 * short))


def _draw(scenes: Sequence[Scene], spots: Sequence[list[_Spot]], height: int, width: int) -> Tensor:
    short = min(height, width)
    down = ((torch.arange(height) + 0.5) / height)[:, None]
    top = torch.tensor([BACKGROUNDS[scene.top] for scene in scenes]).view(-1, 3, 1, 1)
    bottom = torch.tensor([BACKGROUNDS[scene.bottom] for scene in scenes]).view(-1, 3, 1, 1)
    picture = (top + (bottom - top) * down).expand(-1, -1, -1, width).contiguous()
    add_textures(picture, scenes)
    for canvas, scene, things in zip(picture.unbind(), scenes, spots, strict=True):
        style = scene.style
        if style in ("neon", "sticker"):
            _shade(canvas, things, style, short)
        for spot in things:
            if style == "outline":
                paint = _rgb(spot.thing.colour)
                alpha = _lines(spot, max(1.3, 0.026 * short))
            elif style == "neon":
                paint = 0.35 + 0.65 * _rgb(spot.thing.colour)
                alpha = _lines(spot, max(1.2, 0.022 * short))
            else:
                paint, alpha = _paint(spot), _cover(spot.distance)
            canvas[:, spot.rows, spot.columns].lerp_(paint, alpha)
    apply_looks(picture, scenes)
    draw_boxes(picture, scenes)
    return picture.clamp_(0, 1)


def _labels(
    scenes: Sequence[Scene], spots: Sequence[list[_Spot]], height: int, width: int
) -> tuple[Tensor, Tensor]:
    most = max(1, *(len(things) for things in spots), 1)
    visible = torch.zeros(len(scenes), most, height, width)
    kinds = [[0] * most for _ in scenes]
    colours = [[0] * most for _ in scenes]
    for i, things in enumerate(spots):
        for k, spot in enumerate(things):
            cover = _cover(spot.distance)
            if k:
                visible[i, :k, spot.rows, spot.columns] *= 1 - cover
            visible[i, k, spot.rows, spot.columns] = cover
            kinds[i][k] = _KIND[spot.thing.kind] + 1
            colours[i][k] = _COLOUR.get(spot.thing.colour, -1) + 1
    share, which = F.avg_pool2d(visible, _CELL).max(1)
    kind, colour = (
        torch.tensor(codes).view(-1, most).gather(1, which.flatten(1)).view_as(which)
        for codes in (kinds, colours)
    )
    seen = share > 0.25
    return kind * seen, colour * seen


def render(scenes: Sequence[Scene], height: int = 64, width: int = 64) -> Tensor:
    """Pictures [b, 3, height, width] float32 in 0..1.

    Sizes, jitter and the places' distances from the edges follow the shorter side, so a scene
    looks right at any size and aspect ratio. Raises InputError below 16 pixels.
    """
    return _draw(scenes, _spots(scenes, height, width), height, width)


def label_maps(scenes: Sequence[Scene], height: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
    """What covers more than a quarter of each 8x8 cell: (kind, colour) [b, h/8, w/8] int64.

    1 + its index in `KINDS` and in `COLOURS`, of the thing that covers most; 0 where there is
    none, and for a colour without a name. Follows silhouettes and knows no styles.
    """
    return _labels(scenes, _spots(scenes, height, width, with_faces=False), height, width)


def render_with_labels(
    scenes: Sequence[Scene], height: int = 64, width: int = 64
) -> tuple[Tensor, Tensor, Tensor]:
    """`render` and `label_maps` for the price of little more than `render`."""
    spots = _spots(scenes, height, width)
    return _draw(scenes, spots, height, width), *_labels(scenes, spots, height, width)


def coverage(scene: Scene, height: int = 64, width: int = 64) -> Tensor:
    """Each thing's silhouette [n, h, w] in 0..1; later things hide earlier ones."""
    (spots,) = _spots([scene], height, width, with_faces=False)
    out = torch.zeros(len(spots), height, width)
    for n, spot in enumerate(spots):
        cover = _cover(spot.distance)
        out[:n, spot.rows, spot.columns] *= 1 - cover
        out[n, spot.rows, spot.columns] = cover
    return out
