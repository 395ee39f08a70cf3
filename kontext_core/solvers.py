"""Solvers of the flow: one step from x at t to x at t_next. Pure functions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Velocity = Callable[[Tensor, float, int], Tensor]
# (velocity, x, t, t_next, step) to x at t_next and the estimate x0 of the finished latent.
Solver = Callable[[Velocity, Tensor, float, float, int], tuple[Tensor, Tensor]]


def euler(
    velocity: Velocity, x: Tensor, t: float, t_next: float, step: int
) -> tuple[Tensor, Tensor]:
    """First order: one model call a step."""
    v = velocity(x, t, step)
    return x + (t_next - t) * v, x - t * v


def heun(
    velocity: Velocity, x: Tensor, t: float, t_next: float, step: int
) -> tuple[Tensor, Tensor]:
    """Second order: averages the velocity at both ends; two calls a step, one for the last."""
    v = velocity(x, t, step)
    x0 = x - t * v
    if t_next > 0:
        v = (v + velocity(x + (t_next - t) * v, t_next, step)) / 2
    return x + (t_next - t) * v, x0


SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun}
