"""Timesteps against numbers and formulas written down independently."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from kontext_core import InputError, make_timesteps
from kontext_core.schedule import comfy_simple, flux_schedule, given_timesteps, mu_for, time_shift


def test_mu_is_a_line_through_two_points_and_goes_on() -> None:
    assert mu_for(256) == 0.5
    assert mu_for(4096) == pytest.approx(1.15, abs=1e-12)
    assert mu_for(2176) == pytest.approx(0.825, abs=1e-12)
    assert mu_for(16) < 0.5 and mu_for(8192) > 1.15


@pytest.mark.parametrize("schedule", ["kontext", "simple"])
def test_four_steps_at_a_megapixel(schedule: str) -> None:
    times = make_timesteps(4, 4096, schedule=schedule)
    # The published list is rounded to five places.
    assert times.tolist() == pytest.approx([1, 0.90453, 0.75951, 0.51284, 0], abs=6e-6)


@pytest.mark.parametrize("steps", [1, 4, 20, 28])
@pytest.mark.parametrize("tokens", [24, 256, 1024, 4096, 8192])
def test_published_float32_formula_to_the_bit(steps: int, tokens: int) -> None:
    slope = (1.15 - 0.5) / (4096 - 256)
    mu = 0.5 + slope * (tokens - 256)
    t = torch.linspace(1, 0, steps + 1)
    published = math.exp(mu) / (math.exp(mu) + (1 / t - 1) ** 1.0)
    assert flux_schedule(steps, tokens).equal(published)


@pytest.mark.parametrize("steps", [1, 3, 4, 7, 20, 28, 30])
def test_simple_picks_from_a_table_of_10000(steps: int) -> None:
    grid = torch.arange(1, 10_001) / 10_000
    table = (math.exp(1.15) / (math.exp(1.15) + (1 / grid - 1))).tolist()
    picks = [table[9_999 - int(i * (10_000 / steps))] for i in range(steps)]
    assert comfy_simple(steps).tolist() == [*picks, 0.0]


def test_simple_equals_kontext_at_4096_tokens_where_steps_divide() -> None:
    """20 divides 10000; 28 does not, and the table's truncation shows."""
    assert comfy_simple(20).equal(flux_schedule(20, 4096))
    off = (comfy_simple(28) - flux_schedule(28, 4096)).abs().max()
    # Measured: 2.3e-4.
    assert 1e-4 < off < 3e-4


@pytest.mark.parametrize("schedule", ["kontext", "simple"])
@pytest.mark.parametrize("steps", [1, 2, 28, 1000])
def test_falls_from_one_to_zero(steps: int, schedule: str) -> None:
    times = make_timesteps(steps, 24, schedule=schedule)
    assert times.shape == (steps + 1,) and times.dtype == torch.float32
    assert times[0] == 1 and times[-1] == 0
    assert (times.diff() < 0).all()


@pytest.mark.parametrize(("steps", "denoise", "total"), [(10, 0.5, 20), (4, 0.3, 13), (3, 0.8, 3)])
def test_denoise_runs_the_end_of_a_longer_schedule(steps: int, denoise: float, total: int) -> None:
    times = make_timesteps(steps, 1024, denoise=denoise)
    assert times.equal(flux_schedule(total, 1024)[-(steps + 1) :])
    assert make_timesteps(steps, 1024, schedule="simple", denoise=denoise).equal(
        comfy_simple(total)[-(steps + 1) :]
    )


def test_shift_overrides_mu() -> None:
    t = torch.linspace(1, 0, 5)
    assert make_timesteps(4, 24, shift=2.0).equal(time_shift(2.0, t))
    # A shift of 0 leaves the uniform steps. Measured: 0.
    assert (make_timesteps(4, 24, shift=0.0) - t).abs().max() < 1e-6


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, True, "4"])
def test_unusable_steps(steps: object) -> None:
    with pytest.raises(InputError, match="steps is .* whole number from 1 to 1000"):
        make_timesteps(steps, 24)


@pytest.mark.parametrize("denoise", [0, -0.1, 1.01, float("nan")])
def test_unusable_denoise(denoise: float) -> None:
    with pytest.raises(InputError, match="denoise is"):
        make_timesteps(4, 24, denoise=denoise)


def test_unknown_schedule() -> None:
    with pytest.raises(InputError, match="unknown schedule 'karras'"):
        make_timesteps(4, 24, schedule="karras")


FAL = [1, 0.6509, 0.4374, 0.2932, 0.1893, 0.1108, 0.0495, 0.00031]


@pytest.mark.parametrize("values", [FAL, tuple(FAL), [*FAL, 0], torch.tensor(FAL)])
def test_a_list_from_a_card(values: Any) -> None:
    made = given_timesteps(values)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, torch.tensor([*FAL, 0.0]), rtol=0, atol=0)


@pytest.mark.parametrize(
    "values", [[], [0], [1, 1, 0], [0.3, 0.6], [1.2, 0], [1, -0.1], [1, float("nan")], "1,0.5", 1.0]
)
def test_lists_that_are_no_timesteps(values: Any) -> None:
    with pytest.raises(InputError, match="sigmas are"):
        given_timesteps(values)
