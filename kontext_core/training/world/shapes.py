"""Signed distances of everything that can be drawn, looked up from tables made once.

Distances are in units of the thing's radius, negative inside; x runs right and y down. A table
covers -`RANGE`..`RANGE` on both axes, so that drawing any kind costs the same few operations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["RANGE", "capsule", "ellipse", "polygon", "polyline", "rounded_box", "table"]

RANGE = 2.0

Point = tuple[float, float]


def _segment(x: Tensor, y: Tensor, start: Point, end: Point) -> Tensor:
    """Squared distance to a straight piece."""
    (ax, ay), (bx, by) = start, end
    ex, ey = bx - ax, by - ay
    wx, wy = x - ax, y - ay
    along = torch.clamp((wx * ex + wy * ey) / max(ex * ex + ey * ey, 1e-12), 0, 1)
    return (wx - ex * along) ** 2 + (wy - ey * along) ** 2


def polyline(x: Tensor, y: Tensor, points: Sequence[Point], half: float) -> Tensor:
    """A line through the points, `half` wide to each side, with round ends."""
    squared = _segment(x, y, points[0], points[1])
    for start, end in zip(points[1:], points[2:], strict=False):
        squared = torch.minimum(squared, _segment(x, y, start, end))
    return squared.sqrt() - half


def capsule(x: Tensor, y: Tensor, start: Point, end: Point, half: float) -> Tensor:
    """One straight piece with round ends."""
    return polyline(x, y, (start, end), half)


def polygon(x: Tensor, y: Tensor, points: Sequence[Point], rounding: float = 0.0) -> Tensor:
    """A closed polygon grown by `rounding`."""
    inside = torch.zeros_like(x, dtype=torch.bool)
    squared = torch.full_like(x, math.inf)
    for start, end in zip(points, (*points[1:], points[0]), strict=True):
        squared = torch.minimum(squared, _segment(x, y, start, end))
        (ax, ay), (bx, by) = start, end
        if ay != by:
            crosses = (y < ay) != (y < by)
            inside ^= crosses & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return torch.where(inside, -squared.sqrt(), squared.sqrt()) - rounding


def ellipse(x: Tensor, y: Tensor, centre: Point, rx: float, ry: float) -> Tensor:
    """An upright ellipse; the distance is exact on its rim and close nearby."""
    px, py = (x - centre[0]) / rx, (y - centre[1]) / ry
    level = torch.sqrt(px * px + py * py)
    slope = torch.sqrt((px / rx) ** 2 + (py / ry) ** 2).clamp(min=1e-6)
    return torch.where(level < 0.2, (level - 1) * min(rx, ry), level * (level - 1) / slope)


def rounded_box(
    x: Tensor, y: Tensor, centre: Point, half_width: float, half_height: float, rounding: float
) -> Tensor:
    """A box with round corners; the half sizes include the rounding."""
    px = (x - centre[0]).abs() - half_width + rounding
    py = (y - centre[1]).abs() - half_height + rounding
    outside = torch.sqrt(px.clamp(min=0) ** 2 + py.clamp(min=0) ** 2)
    return outside + torch.maximum(px, py).clamp(max=0) - rounding


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
    # Two round lobes over a right-angled point.
    lobe, side = 0.44, 0.92
    corner = side * math.sqrt(2) / 2
    square = polygon(
        x, y, ((0, corner - 0.52 + 0.36), (corner, -0.16), (0, -corner - 0.16), (-corner, -0.16))
    )
    offset = corner / 2
    lobes = [
        torch.sqrt((x - sign * offset) ** 2 + (y + 0.16 + offset) ** 2) - side / 2
        for sign in (-1, 1)
    ]
    del lobe
    return torch.minimum(square, torch.minimum(*lobes))


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


@functools.lru_cache(maxsize=128)
def table(kind: str, side: int) -> Tensor:
    """Distances [c, side, side] of a kind, corners on the corners of the range.

    One channel for shapes and glyphs; creatures add their light parts and their dark parts.
    """
    from .creatures import creature

    axis = torch.linspace(-RANGE, RANGE, side, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if kind in _SHAPES:
        channels = (_SHAPES[kind](x, y),)
    elif kind in _STROKES:
        channels = (_glyph(kind, x, y),)
    else:
        channels = creature(kind, x, y)
    return torch.stack(channels).float().contiguous()
