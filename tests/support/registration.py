"""Pictures whose places are known, and how far a result has moved."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def smooth(width: int, height: int) -> Tensor:
    """Waves of every direction, whose places are known to a fraction of a pixel."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    short = min(width, height)
    waves = [torch.sin(2 * math.pi * (a * x + b * y) / short) for a, b in ((2, 1), (-1, 2), (1, 1))]
    return (0.5 + 0.2 * torch.stack(waves, -1))[None]


def discs(width: int, height: int) -> Tensor:
    """Four on light grey: what the embedded autoencoder can draw."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    short = min(width, height)
    picture = torch.full((height, width, 3), 0.9)
    for across, down, colour in (
        (0.3, 0.35, (0.85, 0.15, 0.15)),
        (0.7, 0.6, (0.15, 0.3, 0.85)),
        (0.25, 0.75, (0.1, 0.6, 0.2)),
        (0.75, 0.2, (0.95, 0.75, 0.1)),
    ):
        inside = short * 0.14 - torch.hypot(x - across * width, y - down * height)
        cover = (inside * 64 / short + 0.5).clamp(0, 1)[..., None]
        picture = picture * (1 - cover) + cover * torch.tensor(colour)
    return picture[None]


def displacement(before: Tensor, after: Tensor) -> tuple[float, float]:
    """How far, in pixels, the middle has gone, and the corner that moved farthest: least squares over
    shift, zoom and shear along the picture's gradient (Lucas and Kanade, 1981)."""
    height, width = before.shape[1:3]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    grey, moved = before[0].mean(-1), after[0].mean(-1)
    down, across = torch.gradient(grey)
    terms = [across, down, across * x, across * y, down * x, down * y, torch.ones_like(x)]
    inner = (slice(4, -4), slice(4, -4))
    matrix = torch.stack([-term[inner].flatten() for term in terms], 1).double()
    found = torch.linalg.lstsq(matrix, (moved - grey)[inner].flatten()[:, None].double()).solution
    dx, dy, *zoom = found[:6, 0].tolist()
    corners = [(i, j) for i in (-1, 1) for j in (-1, 1)]
    return math.hypot(dx, dy), max(
        math.hypot(dx + zoom[0] * i + zoom[1] * j, dy + zoom[2] * i + zoom[3] * j)
        for i, j in corners
    )
