"""The characters: a head with ears or an antenna, eyes and a mouth, as signed distances."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .distances import capsule, ellipse, polygon, polyline, rounded_box

# Silhouette, light parts, dark parts.
Parts = tuple[Tensor, Tensor, Tensor]


def _union(*parts: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, parts)


def _both(draw: Callable[[float], Tensor]) -> Tensor:
    """The same part on the left (-1) and on the right (1)."""
    return torch.minimum(draw(-1.0), draw(1.0))


def _cat(x: Tensor, y: Tensor) -> Parts:
    head = ellipse(x, y, (0, 0.27), 0.92, 0.56)
    ears = _both(
        lambda s: polygon(x, y, ((s * 0.68, -0.74), (s * 0.84, 0.2), (s * 0.12, -0.24)), 0.04)
    )
    inner = _both(
        lambda s: polygon(x, y, ((s * 0.63, -0.5), (s * 0.69, -0.08), (s * 0.38, -0.22)), 0.03)
    )
    muzzle = ellipse(x, y, (0, 0.56), 0.38, 0.19)
    eyes = _both(lambda s: ellipse(x, y, (s * 0.4, 0.14), 0.13, 0.18))
    nose = polygon(x, y, ((-0.1, 0.4), (0.1, 0.4), (0, 0.5)), 0.03)
    mouth = _both(lambda s: polyline(x, y, ((0, 0.5), (s * 0.1, 0.63), (s * 0.26, 0.6)), 0.045))
    return _union(head, ears), _union(inner, muzzle), _union(eyes, nose, mouth)


def _bunny(x: Tensor, y: Tensor) -> Parts:
    head = ellipse(x, y, (0, 0.4), 0.66, 0.56)
    ears = _both(lambda s: capsule(x, y, (s * 0.26, 0.1), (s * 0.36, -0.7), 0.2))
    inner = _both(lambda s: capsule(x, y, (s * 0.29, -0.14), (s * 0.355, -0.66), 0.08))
    eyes = _both(lambda s: ellipse(x, y, (s * 0.3, 0.3), 0.13, 0.16))
    nose = ellipse(x, y, (0, 0.48), 0.1, 0.07)
    mouth = polyline(x, y, ((0, 0.5), (0, 0.62)), 0.04)
    teeth = rounded_box(x, y, (0, 0.74), 0.14, 0.12, 0.03)
    return _union(head, ears), _union(inner, teeth), _union(eyes, nose, mouth)


def _bear(x: Tensor, y: Tensor) -> Parts:
    head = ellipse(x, y, (0, 0.2), 0.78, 0.72)
    ears = _both(lambda s: ellipse(x, y, (s * 0.6, -0.47), 0.27, 0.27))
    inner = _both(lambda s: ellipse(x, y, (s * 0.6, -0.47), 0.13, 0.13))
    muzzle = ellipse(x, y, (0, 0.48), 0.38, 0.3)
    eyes = _both(lambda s: ellipse(x, y, (s * 0.35, 0.02), 0.135, 0.15))
    nose = ellipse(x, y, (0, 0.36), 0.17, 0.11)
    mouth = polyline(x, y, ((-0.17, 0.6), (-0.07, 0.66), (0.07, 0.66), (0.17, 0.6)), 0.045)
    return _union(head, ears), _union(inner, muzzle), _union(eyes, nose, mouth)


def _robot(x: Tensor, y: Tensor) -> Parts:
    head = rounded_box(x, y, (0, 0.2), 0.7, 0.58, 0.12)
    bolts = _both(lambda s: rounded_box(x, y, (s * 0.8, 0.18), 0.16, 0.2, 0.04))
    antenna = _union(
        capsule(x, y, (0, -0.3), (0, -0.75), 0.07), ellipse(x, y, (0, -0.8), 0.17, 0.17)
    )
    rims = _both(lambda s: rounded_box(x, y, (s * 0.3, 0.04), 0.2, 0.19, 0.04))
    pupils = _both(lambda s: rounded_box(x, y, (s * 0.3, 0.04), 0.11, 0.11, 0.02))
    mouth = rounded_box(x, y, (0, 0.5), 0.34, 0.1, 0.03)
    return _union(head, bolts, antenna), rims, _union(pupils, mouth)


_CREATURES: dict[str, Callable[[Tensor, Tensor], Parts]] = {
    "cat": _cat,
    "bunny": _bunny,
    "bear": _bear,
    "robot": _robot,
}


def creature(kind: str, x: Tensor, y: Tensor) -> Parts:
    """Distances of the silhouette, of what is light on it and of what is dark on it."""
    return _CREATURES[kind](x, y)
