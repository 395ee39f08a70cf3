"""Straight lines through weights rounded to few levels: what every block encoder begins with.

A sub-block of 16 or 32 weights is approximated by `x ~ a q + b` with small whole numbers q, the levels;
symmetric types have no b. The method is this project's own and minimises the plain squared error: lay
the grid of levels over the range of the weights in a few ways (a bit longer or shorter, moved by a part
of a step), round to it, solve for the best line through the rounding, and keep the best of them. The
ways were chosen greedily out of a hundred or so on normal, Laplace and Student-t weights; moving the
grid matters more than stretching it.

Tensors are float32 [position in the sub-block, ...], so that sums over a sub-block run along the slow
dimension, at full vector width.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Rounded:
    """Levels of sub-blocks [positions, ...] and their sums, in buffers that are used again.

    Args:
        x: float32 weights.
        low: least level, `high` the greatest.
    """

    def __init__(self, x: Tensor, low: int, high: int) -> None:
        self.x, self.low, self.high = x, low, high
        self.levels, self._scratch = torch.empty_like(x), torch.empty_like(x)

    def round(self, scale: Tensor, offset: Tensor | None = None) -> None:
        """Levels nearest to x * scale + offset; both [...]."""
        if offset is None:
            torch.mul(self.x, scale, out=self.levels)
        else:
            torch.addcmul(offset, self.x, scale, out=self.levels)
        self.levels.round_().clamp_(self.low, self.high)

    def sums(self) -> tuple[Tensor, Tensor]:
        """Sums over each sub-block of q q and q x."""
        square = torch.mul(self.levels, self.levels, out=self._scratch).sum(0)
        return square, torch.mul(self.levels, self.x, out=self._scratch).sum(0)

    def sum(self) -> Tensor:
        """Sum over each sub-block of q."""
        return self.levels.sum(0)


def fit_lines(
    rounded: Rounded, placements: tuple[tuple[float, float], ...], *, below_zero: bool
) -> tuple[Tensor, Tensor]:
    """Slope a >= 0 and start b of the best line through each sub-block; levels are 0..high.

    Args:
        placements: (steps the grid is longer than the range, steps it is moved down) to try.
        below_zero: whether b must be <= 0, as the offsets of K-quants are.
    """
    x, top, count = rounded.x, rounded.high, rounded.x.shape[0]
    total, low = x.sum(0), x.amin(0)
    if below_zero:
        low = low.clamp_max_(0)
    per_extent = inverse(torch.maximum(x.amax(0), low) - low)
    # A flat line to begin with: all there is to say about a constant.
    a, b = torch.zeros_like(low), total / count
    if below_zero:
        b = b.clamp_max_(0)
    gain = b * total
    for longer, down in placements:
        scale = per_extent * (top * top / (top + longer))
        centred = 0.5 * top * longer / (top + longer)
        rounded.round(scale, (centred - down) - low * scale)
        q1, (qq, qx) = rounded.sum(), rounded.sums()
        spread = torch.addcmul(count * qq, q1, q1, value=-1)
        slope = torch.addcmul(count * qx, q1, total, value=-1) / spread
        start = (total - slope * q1) / count
        # Not a line (all levels alike) or one that starts above zero: a line through zero.
        usable = (spread > 0) & (start <= 0) if below_zero else spread > 0
        slope = torch.where(usable, slope, (qx / qq.clamp_min(1)).clamp_min_(0))
        start = torch.where(usable, start, 0.0)
        # At a least-squares solution the squared error is sum(x x) minus this.
        better_by = slope * qx + start * total
        better = better_by > gain
        a = torch.where(better, slope, a)
        b = torch.where(better, start, b)
        gain = torch.where(better, better_by, gain)
    return a, b


def fit_steps(rounded: Rounded, placements: tuple[tuple[bool, float], ...]) -> Tensor:
    """Step a (of either sign) of the best line through zero; levels are -n..n - 1.

    Args:
        placements: (whether to turn the grid's longer arm to the side where that needs the larger
            step, factor on the step that just covers the range) to try.
    """
    x, n = rounded.x, -rounded.low
    high, low = x.amax(0).clamp_min_(0), x.amin(0).neg_().clamp_min_(0)
    # The grid has one level more on one side, and a negative step turns it round.
    plain = torch.maximum(high / (n - 1), low / n)
    turned = torch.maximum(high / n, low / (n - 1))
    swap = turned < plain
    smaller = inverse(torch.where(swap, -turned, plain))
    larger = inverse(torch.where(swap, plain, -turned))
    a = gain = torch.zeros_like(high)
    for use_larger, factor in placements:
        rounded.round((larger if use_larger else smaller) / factor)
        qq, qx = rounded.sums()
        slope = qx / qq.clamp_min(1)
        better_by = slope * qx
        better = better_by > gain
        a = torch.where(better, slope, a)
        gain = torch.where(better, better_by, gain)
    return a


def inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where that is not finite (x is zero or too small to invert)."""
    result = x.reciprocal()
    return torch.where(result.isfinite(), result, 0.0)


def half(x: Tensor, *, cover: bool = False) -> Tensor:
    """Nearest float16 as float32, kept finite.

    Args:
        cover: take the next float16 up where subnormals are too coarse to be near: a scale of scales
            that is rounded down by more than a little would clip the largest of them.
    """
    magnitude = x.abs().clamp_max_(65504.0)
    rounded = magnitude.half().float()
    if cover:
        rounded = torch.where(rounded < 0.995 * magnitude, rounded + 2.0**-24, rounded)
    return rounded.copysign_(x)
