"""Step reuse: whether a step is like the last computed one, and what its blocks would give.

The first block runs in every step. What it adds to the target's tokens (its residual) tells whether the
step is like the last computed one (First-Block-Cache, chengzeyi/ParaAttention); what all other blocks add
is a smooth function of the timestep, extrapolated from computed steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .accelerate import StepReuse

# HiCache's contraction of the Hermite polynomials.
SIGMA = 0.5


def extrapolate(points: list[tuple[float, Tensor]], t: float, order: int, basis: str) -> Tensor:
    """A value at t from values at other timesteps.

    With x the way from the last point in units of the way between the last two, and d1, d2 the
    derivatives there by divided differences: value + d1 p1(x) + d2 p2(x) / 2. Taylor's p_n(x) is x^n
    (TaylorSeer, arXiv 2503.06923, whose d1 is less exact), which meets polynomials up to the order.
    Hermite's is s^n H_n(s x) with s = 0.5 (HiCache, arXiv 2508.16984) less its value at x = 0, so that
    the last point is met; up to order 2 that is Taylor's at x / 2.

    Args:
        points: (timestep, value) of one shape, at least one, of different timesteps, oldest first.
        order: 0..2; less where there are fewer points than order + 1.

    Returns:
        In float32.
    """
    order = min(order, len(points) - 1)
    now, value = points[-1]
    total = value.float()
    if order == 0:
        return total
    before, earlier = points[-2]
    unit = now - before
    x = (t - now) / unit * (1.0 if basis == "taylor" else 2 * SIGMA**2)
    slope = total - earlier.float()
    if order == 1:
        return total + slope * x
    first, oldest = points[-3]
    other = (earlier.float() - oldest.float()) * (unit / (before - first))
    bend = (slope - other) * (2 * unit / (now - first))
    return total + (slope + bend / 2) * x + bend * (x**2 / 2)


class Forecast:
    """What one text's side of a run knows of its computed steps."""

    def __init__(self, settings: StepReuse) -> None:
        self.settings = settings
        self.residual: Tensor | None = None
        self.points: list[tuple[float, Tensor]] = []
        self.rows: Tensor | None = None
        self.skipped = 0

    def forget(self) -> None:
        """A new run begins."""
        self.residual, self.points, self.rows, self.skipped = None, [], None, 0

    def watch(self, t: float, rows: Tensor | None, may_skip: bool) -> ForecastWatch:
        """Who looks at the forward at timestep t that computes these of the target's tokens, or all."""
        if rows is not self.rows:
            self._narrow(rows)
        ready = self.residual is not None and self.skipped < self.settings.limit
        return ForecastWatch(self, t, rows, may_skip and ready)

    def _narrow(self, rows: Tensor | None) -> None:
        """From all tokens to some of them; what is known of some is no use for others."""
        if rows is None or self.rows is not None or self.residual is None:
            # All of them again: nothing is known until a step has been computed.
            self.forget()
        else:
            self.residual = self.residual[:, rows]
            self.points = [(t, value[:, rows]) for t, value in self.points]
        self.rows = rows


class ForecastWatch:
    """`block_run.Watch` of one forward. What it saw counts from `finish` on.

    Attributes:
        skipped: whether the first block was enough.
    """

    def __init__(self, forecast: Forecast, t: float, rows: Tensor | None, may_skip: bool) -> None:
        self.forecast, self.t, self.rows, self.may_skip = forecast, t, rows, may_skip
        self.skipped = False
        self.seen: list[Tensor] = []

    def first(self, before: Tensor, after: Tensor) -> Tensor | None:
        residual = after - before
        known, settings = self.forecast.residual, self.forecast.settings
        if self.may_skip and known is not None and known.shape == residual.shape:
            self.skipped = distance(residual, known) < settings.threshold
        if self.skipped:
            points = self.forecast.points
            rest = extrapolate(points, self.t, settings.order, settings.basis)
            return (after.float() + rest).to(after.dtype)
        self.seen = [residual, after]
        return None

    def last(self, x: Tensor) -> None:
        self.seen.append(x)

    def finish(self) -> None:
        """The forward has come to its end."""
        known = self.forecast
        if self.skipped:
            known.skipped += 1
            return
        if len(self.seen) != 3:
            # A network without a block to look at.
            return
        residual, after, x = self.seen
        if known.points and math.isclose(known.points[-1][0], self.t, rel_tol=1e-9):
            # Heun's solver comes to a timestep twice.
            known.points.pop()
        known.points = [*known.points, (self.t, x - after)][-known.settings.order - 1 :]
        known.residual, known.rows, known.skipped = residual, self.rows, 0
        self.seen = []


def distance(residual: Tensor, known: Tensor) -> float:
    """Mean absolute difference of [b, n, c] over the mean absolute value of `known`; of a batch the
    largest."""
    difference = (residual - known).float().abs().mean((1, 2))
    length = known.float().abs().mean((1, 2)).clamp_min(torch.finfo(torch.float32).tiny)
    return float((difference / length).max())
