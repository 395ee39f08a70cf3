"""Keys and values as memory holds them between steps: in the model's dtype or in 8 bits, at one timestep
or at two, between and beyond which they are taken to change in a line.

References are modulated by the timestep, so what they say drifts smoothly over a run.
Shapes: b batch, h heads, n tokens, d head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Pair: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Rows8:
    """Keys or values in 8 bits, each head of each token by a scale of its own: takes (d + 4) / 2d of 16
    bits, 0.52 at FLUX's d of 128.

    Attributes:
        values: [b, h, n, d] int8, -127..127.
        scales: [b, h, n, 1] float32: value times scale is the number.
        dtype: of the numbers.
    """

    values: Tensor
    scales: Tensor
    dtype: torch.dtype


Held: TypeAlias = "Tensor | Rows8"


def to_8_bits(x: Tensor) -> Rows8:
    """[b, h, n, d] rounded to the nearest of 255 steps of its row's largest magnitude."""
    scales = x.abs().amax(-1, keepdim=True).float() / 127
    # A row of zeros stays one.
    values = (x / scales.clamp_min(torch.finfo(torch.float32).tiny)).round_().to(torch.int8)
    return Rows8(values, scales, x.dtype)


def plain(held: Held) -> Tensor:
    """The numbers [b, h, n, d] in the dtype that they had."""
    if isinstance(held, Tensor):
        return held
    return (held.values * held.scales).to(held.dtype)


def some(held: Held, rows: Tensor) -> Held:
    """Those of some of the tokens, by their numbers [m]."""
    if isinstance(held, Tensor):
        return held.index_select(2, rows)
    values, scales = (each.index_select(2, rows) for each in (held.values, held.scales))
    return Rows8(values, scales, held.dtype)


class Stored:
    """Keys and values of some tokens of one block.

    Args:
        order: 0 keeps those of the last step that computed them; 1 also of the one before, and goes on
            from both in a line.
        bits: 16 keeps the dtype they have, 8 rounds them.
    """

    def __init__(self, order: int = 0, bits: int = 16) -> None:
        self.order, self.bits = order, bits
        # Oldest first.
        self._points: list[tuple[float, tuple[Held, Held]]] = []

    def put(self, t: float, pair: Pair) -> None:
        """Those of timestep t [b, h, n, d], copied out of longer ones."""
        held: tuple[Held, Held] = (
            (to_8_bits(pair[0]), to_8_bits(pair[1]))
            if self.bits == 8
            else (pair[0].clone(), pair[1].clone())
        )
        # Other tokens, as after another choice of them, tell nothing of these; a solver may come to a
        # timestep twice.
        points = [
            (at, each) for at, each in self._points if at != t and _shape(each) == _shape(held)
        ]
        self._points = [*points, (t, held)][-1 - self.order :]

    def at(self, t: float) -> Pair:
        """What they are at timestep t, as far as it is known; there has to be a point."""
        (last, (keys, values)), *others = reversed(self._points)
        if not others or t == last:
            return plain(keys), plain(values)
        before, (older_keys, older_values) = others[0]
        way = (t - before) / (last - before)
        return (
            torch.lerp(plain(older_keys), plain(keys), way),
            torch.lerp(plain(older_values), plain(values), way),
        )

    def narrow(self, rows: Tensor) -> None:
        """From now on only these of the tokens [m]; older points that had others go."""
        have = _shape(self._points[-1][1])
        self._points = [
            (at, (some(keys, rows), some(values, rows)))
            for at, (keys, values) in self._points
            if _shape((keys, values)) == have
        ]


def _shape(held: tuple[Held, Held]) -> torch.Size:
    keys = held[0]
    return keys.shape if isinstance(keys, Tensor) else keys.values.shape
