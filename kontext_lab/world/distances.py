"""Signed distances of simple figures, which everything else is put together from.

Distances are negative inside; x runs right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

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
