"""Solvers on fields with a known answer, and the noise they start from."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import draw
from torch import Tensor

from kontext_core import InputError, make_noise
from kontext_core.solvers import SOLVERS, euler, heun

SHAPE = (1, 16, 6, 8)


# Solvers


def follow(solver, velocity, x: Tensor, times: list[float]) -> tuple[Tensor, list[Tensor]]:
    """The end of a path, and the estimates on the way."""
    estimates: list[Tensor] = []
    for step, (t, following) in enumerate(zip(times[:-1], times[1:], strict=True)):
        x, x0 = solver(velocity, x, t, following, step)
        estimates.append(x0)
    return x, estimates


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_straight_path_is_followed_exactly(solver: str) -> None:
    """v = noise - picture everywhere: any number of steps lands on the picture."""
    noise, picture = draw(1, 2, 3).double(), draw(2, 2, 3).double()
    for steps in (1, 3, 7):
        times = torch.linspace(1, 0, steps + 1).double().tolist()
        x, estimates = follow(SOLVERS[solver], lambda x, t, i: noise - picture, noise, times)
        # Measured: 0.
        assert (x - picture).abs().max() < 1e-14
        assert len(estimates) == steps
        assert all((x0 - picture).abs().max() < 1e-14 for x0 in estimates)


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2)])
def test_order_of_convergence(solver, order: int) -> None:
    """dx/dt = x from t = 1 to 0 shrinks x by e; halving the step divides the error by 2^order."""

    def error(steps: int) -> float:
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
        # The last step of heun is an Euler step, so it stops short of 0 here.
        times = [0.1 + 0.9 * t for t in times]
        x, _ = follow(solver, lambda x, t, i: x, torch.ones(1, dtype=torch.float64), times)
        return abs(float(x) - math.exp(-0.9))

    ratios = [error(n) / error(2 * n) for n in (20, 40)]
    # Measured: 2.02 and 2.01 for euler, 4.07 and 4.03 for heun.
    assert ratios == pytest.approx([2**order] * 2, rel=0.05)


# Noise


@pytest.mark.parametrize("seed", [0, 42, 123456789, 2**64 - 1])
def test_noise_is_the_global_seed_stream(seed: int) -> None:
    """What ComfyUI draws: torch.manual_seed, then one float32 randn for the whole batch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = torch.randn(2, 16, 4, 6)
    assert make_noise(seed, (2, 16, 4, 6)).equal(expected)


def test_noise_leaves_the_global_stream_alone() -> None:
    before = torch.random.get_rng_state()
    make_noise(1, SHAPE)
    assert torch.random.get_rng_state().equal(before)


def test_first_of_a_batch_is_the_single_one() -> None:
    assert make_noise(5, (3, 16, 4, 6))[:1].equal(make_noise(5, (1, 16, 4, 6)))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_unusable_seed(seed: int) -> None:
    with pytest.raises(InputError, match="seed is"):
        make_noise(seed, SHAPE)
