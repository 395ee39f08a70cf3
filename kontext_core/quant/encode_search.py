"""Scales, offsets and levels of K-quant blocks, for many blocks at once.

A K-quant block holds 256 weights in sub-blocks of 16 or 32. Each is a line `x ~ a q + b` whose `a` and
`b` are themselves whole numbers times one float16 scale a block. Tensors are float32 [position,
sub-block, block]. The steps:

1. The best line through every sub-block on its own (encode_fit.py).
2. The block's float16 scales from the largest lines; then a few whole-number neighbours of every
   sub-block, each with freshly rounded levels.
3. The float16 scales refitted to the whole numbers found, and the levels rounded a last time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .encode_fit import Rounded, fit_lines, fit_steps, half, inverse


@dataclass(frozen=True)
class Affine:
    """A type with scale and offset a sub-block (Q2_K, Q4_K, Q5_K): `x ~ d s q - dmin m`.

    Attributes:
        sub_block: weights in a sub-block.
        top: q is 0..top.
        scale_top: s and m are 0..scale_top.
        placements: as `encode_fit.fit_lines`.
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
        placements: as `encode_fit.fit_steps`.
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
    count, scale_top = x.shape[0], kind.scale_top
    rounded = Rounded(x, 0, kind.top)
    total = x.sum(0)
    a, b = fit_lines(rounded, kind.placements, below_zero=True)
    d = half(a.amax(0) / scale_top, cover=True)
    dmin = half(-b.amin(0) / scale_top, cover=True)
    per_d, per_dmin = inverse(d), inverse(dmin)

    def round_to(scales: Tensor, mins: Tensor) -> None:
        scale = inverse(d * scales)
        rounded.round(scale, dmin * mins * scale)

    def gain_of(scales: Tensor, mins: Tensor) -> Tensor:
        """By how much the squared error is below sum(x x)."""
        round_to(scales, mins)
        q1, (qq, qx) = rounded.sum(), rounded.sums()
        slope, offset = d * scales, dmin * mins
        return slope * (2 * qx - slope * qq + 2 * offset * q1) - offset * (
            2 * total + count * offset
        )

    scales = first = (a * per_d).round_().clamp_(0, scale_top)
    mins = (-b * per_dmin).round_().clamp_(0, scale_top)
    gain = gain_of(scales, mins)
    per_scale, shift = rounded.sum() * (d * per_dmin / count), total * (per_dmin / count)
    for more, lower in kind.neighbours:
        other = (first + more).clamp_(0, scale_top)
        offset = (other * per_scale - shift).round_().add_(lower).clamp_(0, scale_top)
        better_by = gain_of(other, offset)
        better = better_by > gain
        scales = torch.where(better, other, scales)
        mins = torch.where(better, offset, mins)
        gain = torch.where(better, better_by, gain)

    round_to(scales, mins)
    d, dmin = _refit_two(d, dmin, scales, mins, (rounded.sum(), *rounded.sums()), total, count)
    round_to(scales, mins)
    return Lines(d, dmin, scales, mins, rounded.levels)


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
    new = half(torch.where(usable, (sx * mm + sm * mx) / determinant, sx / ss.clamp_min(1)))
    new_min = half(torch.where(usable, (ss * mx + sm * sx) / determinant, 0.0))

    def loss(u: Tensor, v: Tensor) -> Tensor:
        return u * (u * ss - 2 * v * sm - 2 * sx) + v * (v * mm - 2 * mx)

    better = (loss(new, new_min) < loss(d, dmin)) & (new > 0) & (new_min >= 0)
    return torch.where(better, new, d), torch.where(better, new_min, dmin)


def search_symmetric(x: Tensor, kind: Symmetric) -> Lines:
    """Lines of blocks of a symmetric type; arguments as `search_affine`."""
    scale_half = kind.scale_half
    rounded = Rounded(x, -kind.half, kind.half - 1)
    a = fit_steps(rounded, kind.placements)
    # The largest scale takes the end of the range that reaches one further.
    high, low = a.amax(0), a.amin(0)
    d = -half(torch.where(high > -low, high, low) / scale_half, cover=True)

    def gain_of(scales: Tensor) -> Tensor:
        slope = d * scales
        rounded.round(inverse(slope))
        qq, qx = rounded.sums()
        return slope * (2 * qx - slope * qq)

    scales = first = (a * inverse(d)).round_().clamp_(-scale_half, scale_half - 1)
    gain = gain_of(scales)
    for more in kind.neighbours:
        other = (first + more).clamp_(-scale_half, scale_half - 1)
        better_by = gain_of(other)
        better = better_by > gain
        scales = torch.where(better, other, scales)
        gain = torch.where(better, better_by, gain)

    rounded.round(inverse(d * scales))
    qq, qx = rounded.sums()
    ss, sx = (scales * scales * qq).sum(0), (scales * qx).sum(0)
    new = half(sx / ss.clamp_min(1))
    d = torch.where(new * (new * ss - 2 * sx) < d * (d * ss - 2 * sx), new, d)
    rounded.round(inverse(d * scales))
    nothing = torch.zeros_like(d)
    return Lines(d, nothing, scales, nothing.expand_as(scales), rounded.levels)
