"""Independent overlapping tiles, blended once: for networks that must not see much at a time.

Every tile is a picture of its own to the network: norms and attention see one tile only. That is
right for a network trained on pictures of one tile's size, and an approximation for others; exact
tiles are models/tiled.py. Each tile runs once, so the work is that of the overlaps more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Latent cells that go through the network together: small tiles alone leave it waiting.
TOGETHER = 1024


def feathered(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    cells: int,
    shared: int,
    inside: int,
    outside: int,
    tick: Callable[[], None] | None = None,
) -> Tensor:
    """Run `network` over tiles of `x` and blend the results with linear ramps.

    Args:
        network: [n, c, h * inside, w * inside] to [n, d, h * outside, w * outside].
        x: [b, c, H * inside, W * inside].
        cells: side of a tile in latent cells; where the picture has less, all of it is taken.
        shared: latent cells, less than `cells`, that neighbouring tiles have in common at least.
        inside, outside: pixels of the input and of the output per latent cell.
        tick: called before every run of the network; may raise to stop.

    Returns:
        [b, d, H * outside, W * outside], float32 at least.
    """
    height, width = x.shape[2] // inside, x.shape[3] // inside
    tall, wide = min(cells, height), min(cells, width)
    rows, columns = starts(height, tall, shared), starts(width, wide, shared)
    places = [(b, top, left) for b in range(len(x)) for top in rows for left in columns]
    total, weights = None, None
    at_once = max(1, TOGETHER // (tall * wide))
    for first in range(0, len(places), at_once):
        if tick is not None:
            tick()
        some = places[first : first + at_once]
        parts = [
            x[b, :, i * inside : (i + tall) * inside, j * inside : (j + wide) * inside]
            for b, i, j in some
        ]
        made = network(torch.stack(parts)).float()
        if total is None or weights is None:
            total = made.new_zeros(len(x), made.shape[1], height * outside, width * outside)
            weights = made.new_zeros(len(x), 1, height * outside, width * outside)
        for (b, i, j), part in zip(some, made, strict=True):
            ramp = (
                _ramp(rows, i, tall, outside).to(made.device)[:, None]
                * _ramp(columns, j, wide, outside).to(made.device)[None]
            )
            down = slice(i * outside, (i + tall) * outside)
            along = slice(j * outside, (j + wide) * outside)
            total[b, :, down, along] += part * ramp
            weights[b, :, down, along] += ramp
    if total is None or weights is None:
        raise ValueError("an empty batch has no tiles")
    return total / weights


def starts(length: int, side: int, shared: int) -> list[int]:
    """Where tiles of `side` begin, evenly spread, neighbours sharing at least `shared`."""
    if length <= side:
        return [0]
    count = -(-(length - shared) // (side - shared))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def _ramp(starts: list[int], start: int, side: int, scale: int) -> Tensor:
    """Weights along one side of a tile: rising and falling linearly where neighbours are."""
    index = starts.index(start)
    ramp = torch.ones(side * scale)
    if index > 0:
        length = (starts[index - 1] + side - start) * scale
        ramp[:length] = _rise(length)
    if index < len(starts) - 1:
        length = (start + side - starts[index + 1]) * scale
        ramp[len(ramp) - length :] *= _rise(length).flip(0)
    return ramp


def _rise(length: int) -> Tensor:
    """0 to 1 in steps, neither of them reached."""
    return (torch.arange(length) + 0.5) / max(length, 1)
