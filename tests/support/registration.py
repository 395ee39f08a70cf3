"""How far a picture has moved, to a fraction of a pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
