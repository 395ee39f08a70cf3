"""Scales, offsets and levels of K-quant blocks, found by least squares for many blocks at once.

A K-quant block holds 256 weights in sub-blocks of 16 or 32. Each sub-block is a straight line
`x ~ a q + b` over small whole numbers q (the levels); `a` and `b` are themselves whole numbers times
one float16 scale a block. All arithmetic is float32 on tensors [position, sub-block, block], so that
sums over a sub-block run along the slow dimension, at full vector width.

The method is this project's own, and minimises the plain squared error:

1. Lay the grid of levels over the range of a sub-block in a few ways (a bit longer or shorter, moved
   by a part of a step), round to it, solve for the best line through the rounding, keep the best of
   them. The ways were chosen greedily out of 126 (98 for the even types) on normal, Laplace and
   Student-t weights; moving the grid matters more than stretching it.
2. Take the block's float16 scales from the largest lines, and try a few whole-number neighbours of
   every sub-block with freshly rounded levels.
3. Refit the float16 scales to the whole numbers found, and round the levels a last time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "AFFINE",
    "SYMMETRIC",
    "Affine",
    "Lines",
    "Symmetric",
    "search_affine",
    "search_symmetric",
]


@dataclass(frozen=True)
class Affine:
    """A type with scale and offset a sub-block (Q2_K, Q4_K, Q5_K): `x ~ d s q - dmin m`.

    Attributes:
        sub_block: weights in a sub-block.
        top: q is 0..top.
        scale_top: s and m are 0..scale_top.
        placements: (steps the grid is longer than the range, steps it is moved down) to try.
        neighbours: (change of s, change of m after refitting it to s) to try.
    """

    sub_block: int
    top: int
    scale_top: int
    placements: tuple[tuple[float, float], ...]
    neighbours: tuple[tuple[int, int], ...] = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


@dataclass(frozen=True)
class Symmetric:
    """A type with only a scale a sub-block (Q3_K, Q6_K): `x ~ d s q`.

    Attributes:
        sub_block: weights in a sub-block.
        half: q is -half..half - 1.
        scale_half: s is -scale_half..scale_half - 1.
        placements: (whether the longer arm of the grid is on the side where that needs the larger
            step, factor on the step that just covers the range) to try.
        neighbours: changes of s to try.
    """

    sub_block: int
    half: int
    scale_half: int
    placements: tuple[tuple[bool, float], ...]
    neighbours: tuple[int, ...] = (-1, 1)


AFFINE = {
    "Q2_K": Affine(16, 3, 15, ((-0.6, 0.0), (-0.45, -0.25), (-0.45, 0.125), (-0.45, -0.125))),
    "Q4_K": Affine(32, 15, 63, ((-0.3, 0.0), (-0.3, -0.25), (-0.3, 0.25), (0.6, -0.5))),
    "Q5_K": Affine(32, 31, 63, ((-0.15, 0.0), (-0.15, -0.25), (-0.15, 0.25), (0.6, -0.5))),
}
SYMMETRIC = {
    "Q3_K": Symmetric(
        16, 4, 32, ((False, 0.9), (False, 0.95), (False, 0.85), (False, 1.0), (True, 0.95))
    ),
    "Q6_K": Symmetric(16, 32, 128, ((False, 1.0), (True, 1.0), (True, 1.03), (True, 1.06))),
}


@dataclass(frozen=True)
class Lines:
    """What was found, float32 whole numbers but for the two block scales.

    Attributes:
        d: [blocks] scale of the scales, exactly a float16.
        dmin: [blocks] scale of the offsets, exactly a float16; zeros for symmetric types.
        scales: [sub-blocks, blocks].
        mins: [sub-blocks, blocks]; zeros for symmetric types.
        levels: [positions, sub-blocks, blocks].
    """

    d: Tensor
    dmin: Tensor
    scales: Tensor
    mins: Tensor
    levels: Tensor


def search_affine(x: Tensor, kind: Affine) -> Lines:
    """Lines of blocks of an affine type.

    Args:
        x: float32 [sub_block, sub-blocks, blocks], finite.
    """
    count, top, scale_top = x.shape[0], kind.top, kind.scale_top
    q, scratch = torch.empty_like(x), torch.empty_like(x)
    total = x.sum(0)

    def round_to(inverse: Tensor, offset: Tensor) -> None:
        torch.addcmul(offset, x, inverse, out=q)
        q.round_().clamp_(0, top)

    def sums() -> tuple[Tensor, Tensor, Tensor]:
        """Sums over each sub-block of q, q q and q x."""
        square = torch.mul(q, q, out=scratch).sum(0)
        return q.sum(0), square, torch.mul(q, x, out=scratch).sum(0)

    low = x.amin(0).clamp_max_(0)  # an offset can't be above zero
    extent = torch.maximum(x.amax(0), low) - low
    per_extent = _inverse(extent)
    # A flat line to begin with: all there is to say about a constant below zero.
    a, b = torch.zeros_like(low), (total / count).clamp_max_(0)
    gain = b * total
    for longer, down in kind.placements:
        inverse = per_extent * (top * top / (top + longer))
        centred = 0.5 * top * longer / (top + longer)
        round_to(inverse, (centred - down) - low * inverse)
        q1, qq, qx = sums()
        spread = torch.addcmul(count * qq, q1, q1, value=-1)
        slope = torch.addcmul(count * qx, q1, total, value=-1) / spread
        start = (total - slope * q1) / count
        # Not a line (all levels alike) or one that starts above zero: a line through zero.
        usable = (spread > 0) & (start <= 0)
        slope = torch.where(usable, slope, (qx / qq.clamp_min(1)).clamp_min_(0))
        start = torch.where(usable, start, 0.0)
        # At a least-squares solution the squared error is sum(x x) minus this.
        better_by = slope * qx + start * total
        better = better_by > gain
        a = torch.where(better, slope, a)
        b = torch.where(better, start, b)
        gain = torch.where(better, better_by, gain)

    d, dmin = _half(a.amax(0) / scale_top), _half(-b.amin(0) / scale_top)
    per_d, per_dmin = _inverse(d), _inverse(dmin)

    def relevel(scales: Tensor, mins: Tensor) -> None:
        inverse = _inverse(d * scales)
        round_to(inverse, dmin * mins * inverse)

    def gain_of(scales: Tensor, mins: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the squared error is below sum(x x), and the sums of the levels."""
        relevel(scales, mins)
        q1, qq, qx = sums()
        slope, offset = d * scales, dmin * mins
        return slope * (2 * qx - slope * qq + 2 * offset * q1) - offset * (
            2 * total + count * offset
        ), q1

    scales = first = (a * per_d).round_().clamp_(0, scale_top)
    mins = (-b * per_dmin).round_().clamp_(0, scale_top)
    gain, q1 = gain_of(scales, mins)
    per_scale, shift = q1 * (d * per_dmin / count), total * (per_dmin / count)
    for more, lower in kind.neighbours:
        other = (first + more).clamp_(0, scale_top)
        offset = (other * per_scale - shift).round_().add_(lower).clamp_(0, scale_top)
        better_by, _ = gain_of(other, offset)
        better = better_by > gain
        scales = torch.where(better, other, scales)
        mins = torch.where(better, offset, mins)
        gain = torch.where(better, better_by, gain)

    relevel(scales, mins)
    d, dmin = _refit_two(d, dmin, scales, mins, sums(), total, count)
    relevel(scales, mins)
    return Lines(d, dmin, scales, mins, q)


def _refit_two(
    d: Tensor,
    dmin: Tensor,
    scales: Tensor,
    mins: Tensor,
    sums: tuple[Tensor, Tensor, Tensor],
    total: Tensor,
    count: int,
) -> tuple[Tensor, Tensor]:
    """Best float16 pair for given whole numbers: normal equations of `x ~ d (s q) - dmin m`."""
    q1, qq, qx = sums
    ss, sm, mm = (
        (scales * scales * qq).sum(0),
        (scales * mins * q1).sum(0),
        count * (mins * mins).sum(0),
    )
    sx, mx = (scales * qx).sum(0), -(mins * total).sum(0)
    determinant = ss * mm - sm * sm
    usable = determinant > 1e-6 * ss * mm
    new = _half(torch.where(usable, (sx * mm + sm * mx) / determinant, sx / ss.clamp_min(1)))
    new_min = _half(torch.where(usable, (ss * mx + sm * sx) / determinant, 0.0))

    def loss(u: Tensor, v: Tensor) -> Tensor:
        return u * (u * ss - 2 * v * sm - 2 * sx) + v * (v * mm - 2 * mx)

    better = (loss(new, new_min) < loss(d, dmin)) & (new > 0) & (new_min >= 0)
    return torch.where(better, new, d), torch.where(better, new_min, dmin)


def search_symmetric(x: Tensor, kind: Symmetric) -> Lines:
    """Lines of blocks of a symmetric type; arguments as `search_affine`."""
    half, scale_half = kind.half, kind.scale_half
    q, scratch = torch.empty_like(x), torch.empty_like(x)

    def sums(inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Round to the levels; sums over each sub-block of q q and q x."""
        torch.mul(x, inverse, out=q)
        q.round_().clamp_(-half, half - 1)
        square = torch.mul(q, q, out=scratch).sum(0)
        return square, torch.mul(q, x, out=scratch).sum(0)

    high, low = x.amax(0).clamp_min_(0), x.amin(0).neg_().clamp_min_(0)
    # The grid has one level more on one side, and a negative step turns it round.
    plain = torch.maximum(high / (half - 1), low / half)
    turned = torch.maximum(high / half, low / (half - 1))
    swap = turned < plain
    smaller = _inverse(torch.where(swap, -turned, plain))
    larger = _inverse(torch.where(swap, plain, -turned))
    a = gain = torch.zeros_like(high)
    for use_larger, factor in kind.placements:
        qq, qx = sums((larger if use_larger else smaller) / factor)
        slope = qx / qq.clamp_min(1)
        better_by = slope * qx
        better = better_by > gain
        a = torch.where(better, slope, a)
        gain = torch.where(better, better_by, gain)

    # The largest scale takes the end of the range that reaches one further.
    high, low = a.amax(0), a.amin(0)
    d = -_half(torch.where(high > -low, high, low) / scale_half)

    def gain_of(scales: Tensor) -> Tensor:
        slope = d * scales
        qq, qx = sums(_inverse(slope))
        return slope * (2 * qx - slope * qq)

    scales = first = (a * _inverse(d)).round_().clamp_(-scale_half, scale_half - 1)
    gain = gain_of(scales)
    for more in kind.neighbours:
        other = (first + more).clamp_(-scale_half, scale_half - 1)
        better_by = gain_of(other)
        better = better_by > gain
        scales = torch.where(better, other, scales)
        gain = torch.where(better, better_by, gain)

    qq, qx = sums(_inverse(d * scales))
    ss, sx = (scales * scales * qq).sum(0), (scales * qx).sum(0)
    new = _half(sx / ss.clamp_min(1))
    d = torch.where(new * (new * ss - 2 * sx) < d * (d * ss - 2 * sx), new, d)
    sums(_inverse(d * scales))
    nothing = torch.zeros_like(d)
    return Lines(d, nothing, scales, nothing.expand_as(scales), q)


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where that is not finite (x is zero or too small to invert)."""
    inverse = x.reciprocal()
    return torch.where(inverse.isfinite(), inverse, 0.0)


def _half(x: Tensor) -> Tensor:
    """Nearest float16, kept finite; away from zero where subnormals are too coarse to be near.

    A block scale that is rounded down by more than a little would clip the largest sub-block.
    """
    magnitude = x.abs().clamp_max_(65504.0)
    rounded = magnitude.half().float()
    rounded = torch.where(rounded < 0.995 * magnitude, rounded + 2.0**-24, rounded)
    return rounded.copysign_(x)
