"""Runs in parts: what a part gives is enough to go on, and the parts are the whole."""

from __future__ import annotations

import pytest
import torch
from small_models import draw, make_flux
from torch import Tensor

from kontext_core import (
    Cancelled,
    Conditioning,
    Context,
    Flux,
    InputError,
    Reference,
    SamplerState,
    ShapeError,
    make_noise,
    make_timesteps,
    sample,
    sample_steps,
    stitch,
)

SHAPE = (1, 16, 6, 8)
WORDS = Conditioning(draw(50, 1, 4, 40), draw(51, 1, 24))
OTHER = Conditioning(draw(52, 1, 4, 40), draw(53, 1, 24))
TIMES = make_timesteps(6, 12)


def context() -> Context:
    """Two references, each there for a part of the run only."""
    first = Reference(draw(1, 1, 16, 4, 4), end=0.5)
    second = Reference(draw(2, 1, 16, 4, 6), start=0.34, strength=0.7)
    return stitch(SHAPE, [first, second])


SETTINGS: list[dict] = [
    {},
    {"solver": "heun"},
    {"negative": OTHER, "cfg": 2.0},
    {"noise_mask": (draw(3, 1, 1, 6, 8) > 0).float(), "latent": draw(4, *SHAPE)},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "heun", "cfg", "mask"])
@pytest.mark.parametrize("at", [0, 1, 3, 6])
def test_parts_equal_the_whole(at: int, settings: dict, small_flux: Flux) -> None:
    given = {"noise": make_noise(3, SHAPE), **settings}
    whole = sample(small_flux, context(), WORDS, TIMES, **given)
    state = sample_steps(small_flux, context(), WORDS, TIMES, stop_at=at, **given)
    assert (state.step, state.steps) == (at, 6) and state.x.dtype == torch.float32
    assert sample(small_flux, context(), WORDS, TIMES, state=state, **given).equal(whole)


def test_shares_of_references_are_those_of_the_whole_run(small_flux: Flux) -> None:
    """A slice of the timesteps counts them anew; a state does not. This is the difference."""
    noise = make_noise(3, SHAPE)
    whole = sample(small_flux, context(), WORDS, TIMES, noise=noise)
    state = sample_steps(small_flux, context(), WORDS, TIMES, noise=noise, stop_at=3)
    raw = context().latent_format.process_out(state.x)
    sliced = sample(small_flux, context(), WORDS, TIMES[3:], noise=noise, latent=raw)
    # Measured: 6.6.
    assert (sliced - whole).abs().max() > 1


def test_a_stopped_run_goes_on(small_flux: Flux) -> None:
    noise = make_noise(3, SHAPE)
    whole = sample(small_flux, context(), WORDS, TIMES, noise=noise, solver="heun")
    calls: list[None] = []

    def stop() -> bool:
        # In the middle of step 3, between Heun's two calls.
        calls.append(None)
        return len(calls) == 6

    with pytest.raises(Cancelled) as caught:
        sample(small_flux, context(), WORDS, TIMES, noise=noise, solver="heun", should_stop=stop)
    state = caught.value.state
    assert state is not None and (state.step, state.steps) == (2, 6)
    rest = sample(small_flux, context(), WORDS, TIMES, noise=noise, solver="heun", state=state)
    assert rest.equal(whole)


def test_the_callback_shows_what_continues(small_flux: Flux) -> None:
    noise = make_noise(3, SHAPE)
    seen: list[tuple[int, int, Tensor, Tensor]] = []
    whole = sample(
        small_flux, context(), WORDS, TIMES, noise=noise,
        callback=lambda *shown: seen.append(shown),
    )  # fmt: skip
    assert [shown[:2] for shown in seen] == [(step, 6) for step in range(1, 7)]
    step, steps, x0, x = seen[1]
    rest = sample(
        small_flux, context(), WORDS, TIMES, noise=noise, state=SamplerState(x, step, steps)
    )
    assert rest.equal(whole)
    # x is x0 with that step's noise: x = x_before + (t_next - t) * (x_before - x0) / t.
    before, t, following = seen[0][3], float(TIMES[1]), float(TIMES[2])
    # Measured: 9.5e-7 on values up to 4.
    assert (before + (following - t) * (before - x0) / t - x).abs().max() < 1e-5
    assert seen[-1][3].equal(seen[-1][2]) or (seen[-1][3] - seen[-1][2]).abs().max() < 1e-5


def test_a_callback_of_three_arguments_stays_good(small_flux: Flux) -> None:
    seen: list[tuple[int, int]] = []

    def watch(step: int, steps: int, x0: Tensor) -> None:
        seen.append((step, steps))

    sample(small_flux, stitch(SHAPE), WORDS, TIMES, noise=make_noise(3, SHAPE), callback=watch)
    assert seen == [(step, 6) for step in range(1, 7)]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"stop_at": 7}, InputError, "stop_at is 7"),
        ({"stop_at": "3"}, InputError, "stop_at is '3'"),
        ({"state": SamplerState(draw(1, *SHAPE), 4, 6), "stop_at": 3}, InputError, "stop_at is 3"),
        ({"state": SamplerState(draw(1, *SHAPE), 2, 4)}, InputError, "a run of 4 steps"),
        ({"state": SamplerState(draw(1, *SHAPE), 7, 6)}, InputError, "step of the state is 7"),
        ({"state": SamplerState(draw(1, 1, 16, 4, 4), 2, 6)}, ShapeError, "shape"),
        ({"state": SamplerState(draw(1, *SHAPE) / 0, 2, 6)}, InputError, "state contains NaN"),
        ({"state": draw(1, *SHAPE)}, InputError, "state is a Tensor; expected a SamplerState"),
    ],
)
def test_unusable_states(
    changes: dict, kind: type[Exception], message: str, small_flux: Flux
) -> None:
    with pytest.raises(kind, match=message):
        sample_steps(small_flux, stitch(SHAPE), WORDS, TIMES, noise=make_noise(3, SHAPE), **changes)


def test_a_context_of_another_scale_is_refused() -> None:
    """12.4 off on values up to 15 where it went unnoticed."""
    model = make_flux()
    model.latent_format = type(model.latent_format)(scale_factor=0.3, shift_factor=0.5)
    noise = make_noise(3, SHAPE)
    with pytest.raises(InputError, match="give stitch latent_format=model.latent_format"):
        sample(model, context(), WORDS, TIMES, noise=noise)
    fitting = stitch(SHAPE, latent_format=model.latent_format)
    assert sample(model, fitting, WORDS, TIMES, noise=noise).isfinite().all()
