"""Signed distances of everything that can be drawn, as tables that are made once.

Distances are in units of the thing's radius, negative inside; x runs right and y down. A table
covers -`RANGE`..`RANGE` on both axes, so that drawing any kind costs the same few operations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .creatures import creature
from .distances import Point, polygon, polyline, rounded_box
from .names import CREATURES, KINDS

RANGE = 2.0


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.sqrt(x * x + y * y) - 0.93


def _square(x: Tensor, y: Tensor) -> Tensor:
    return rounded_box(x, y, (0, 0), 0.76, 0.76, 0.02)


def _diamond(x: Tensor, y: Tensor) -> Tensor:
    return polygon(x, y, ((0, -1), (0.76, 0), (0, 1), (-0.76, 0)))


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return polygon(x, y, ((0, -0.94), (0.86, 0.7), (-0.86, 0.7)))


def _star(x: Tensor, y: Tensor) -> Tensor:
    points = []
    for i in range(10):
        radius = 0.98 if i % 2 == 0 else 0.46
        points.append(
            (radius * math.sin(math.pi * i / 5), 0.04 - radius * math.cos(math.pi * i / 5))
        )
    return polygon(x, y, points)


def _heart(x: Tensor, y: Tensor) -> Tensor:
    # A square standing on its corner, with half a disc on each upper side.
    half, lift = 0.74, 0.07
    square = polygon(x, y, ((0, half + lift), (half, lift), (0, lift - half), (-half, lift)))
    lobes = [
        torch.sqrt((x - sign * half / 2) ** 2 + (y - lift + half / 2) ** 2) - half / math.sqrt(2)
        for sign in (-1, 1)
    ]
    return _true_inside(torch.minimum(square, torch.minimum(*lobes)))


def _arc(
    centre: Point, rx: float, ry: float, first: float, last: float, pieces: int = 20
) -> list[Point]:
    """Points on an ellipse between two angles in degrees, clockwise from the right."""
    angles = [math.radians(first + (last - first) * i / pieces) for i in range(pieces + 1)]
    return [(centre[0] + rx * math.cos(a), centre[1] + ry * math.sin(a)) for a in angles]


# Half the width of a glyph's stroke, and the strokes as lists of points.
_STROKE = 0.185
_STROKES: dict[str, tuple[Sequence[Point], ...]] = {
    "A": (((-0.53, 0.68), (0, -0.68), (0.53, 0.68)), ((-0.34, 0.24), (0.34, 0.24))),
    "C": (_arc((0.06, 0), 0.54, 0.68, -48, -312),),
    "E": (
        ((0.42, -0.66), (-0.42, -0.66), (-0.42, 0.66), (0.42, 0.66)),
        ((-0.42, 0), (0.3, 0)),
    ),
    "H": (((-0.46, -0.68), (-0.46, 0.68)), ((0.46, -0.68), (0.46, 0.68)), ((-0.46, 0), (0.46, 0))),
    "O": (_arc((0, 0), 0.54, 0.68, 0, 360, 32),),
    "T": (((-0.54, -0.66), (0.54, -0.66)), ((0, -0.66), (0, 0.68))),
    "X": (((-0.48, -0.68), (0.48, 0.68)), ((0.48, -0.68), (-0.48, 0.68))),
    "Z": (((-0.45, -0.66), (0.45, -0.66), (-0.45, 0.66), (0.45, 0.66)),),
    "3": (
        (*_arc((-0.04, -0.36), 0.42, 0.32, -150, 90), *_arc((-0.06, 0.32), 0.48, 0.36, -90, 150)),
    ),
    "4": (((0.2, 0.7), (0.2, -0.68), (-0.5, 0.3), (0.54, 0.3)),),
    "5": (
        ((0.4, -0.66), (-0.32, -0.66), (-0.38, -0.1),
         *_arc((-0.02, 0.24), 0.47, 0.43, -130, 145)),
    ),
    "7": (((-0.46, -0.66), (0.46, -0.66), (-0.12, 0.68)),),
}  # fmt: skip


def _glyph(name: str, x: Tensor, y: Tensor) -> Tensor:
    parts = [polyline(x, y, points, _STROKE) for points in _STROKES[name]]
    return functools.reduce(torch.minimum, parts)


_SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "diamond": _diamond,
}


@contextmanager
def redrawn(kind: str, shape: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Inside, a shape of the tables is drawn as another one, for the judge too: a new thing to learn.

    Args:
        kind: of `names.SHAPES`.
        shape: signed distance of x and y in radii, as those of this module; within the kind's bounds.
    """
    kept = _SHAPES[kind]
    try:
        _SHAPES[kind] = shape
        _forget()
        yield
    finally:
        _SHAPES[kind] = kept
        _forget()


def _forget() -> None:
    for table in (_table, silhouettes, faces):
        table.cache_clear()


def _true_inside(distance: Tensor) -> Tensor:
    """Correct a union: where parts overlap, the smallest distance is not the one to the rim.

    Points deeper than two samples get the distance to the nearest place where a row or a column
    of the table [s, s] crosses the rim.
    """
    step = 2 * RANGE / (distance.shape[-1] - 1)
    crossings = []
    for along in (0, 1):
        field = distance if along else distance.T
        before, after = field[:, :-1], field[:, 1:]
        row, column = torch.nonzero((before < 0) != (after < 0), as_tuple=True)
        share = before[row, column] / (before[row, column] - after[row, column])
        point = torch.stack((column + share, row.to(share)), 1)
        crossings.append(point if along else point.flip(1))
    rim = torch.cat(crossings)
    row, column = torch.nonzero(distance < -2 * step, as_tuple=True)
    deep = torch.stack((column, row), 1).to(rim)
    nearest = torch.cat([torch.cdist(part, rim).amin(1) for part in deep.split(1024)])
    out = distance.clone()
    out[row, column] = -nearest * step
    return out


@functools.lru_cache(maxsize=2 * len(KINDS))
def _table(kind: str, side: int) -> Tensor:
    """Distances [c, side, side]; creatures have three channels, all else one."""
    axis = torch.linspace(-RANGE, RANGE, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if kind in _SHAPES:
        return _SHAPES[kind](x, y)[None]
    if kind in _STROKES:
        return _true_inside(_glyph(kind, x, y))[None]
    silhouette, light, dark = creature(kind, x, y)
    return torch.stack((_true_inside(silhouette), light, dark))


@functools.lru_cache(maxsize=2)
def silhouettes(side: int) -> Tensor:
    """Distances of all kinds under each other, [1, 1, kinds * side, side]."""
    return torch.cat([_table(kind, side)[:1] for kind in KINDS], 1)[None]


@functools.lru_cache(maxsize=2)
def faces(side: int) -> Tensor:
    """What is light and what is dark on a creature, under each other, [1, 2, creatures * side, side]."""
    return torch.cat([_table(kind, side)[1:] for kind in CREATURES], 1)[None]
