"""Keys and values as memory holds them: in a line beyond two timesteps, in 8 bits, and what a run keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import draw, make_flux
from torch import Tensor

from kontext_core import Conditioning, Flux, InputError, Reference, sample, stitch
from kontext_core.accelerate import PRESETS, Acceleration, Region, Reuse, as_acceleration
from kontext_core.models.kept import KeptContext
from kontext_core.models.stored import Pair, Stored, plain, some, to_8_bits
from kontext_core.sampling import make_noise
from kontext_core.schedule import make_timesteps

TARGET, TEXT = 150, 70


def pair(seed: int, tokens: int = 5) -> Pair:
    return draw(seed, 1, 4, tokens, 24), draw(seed + 1, 1, 4, tokens, 24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_8_bits_are_half_a_step_from_the_numbers(dtype: torch.dtype) -> None:
    x = (draw(1, 2, 3, 40, 128) * torch.logspace(-3, 3, 40)[:, None]).to(dtype)
    x[0, 0, 0] = 0
    rows = to_8_bits(x)
    back = plain(rows)
    assert back.dtype == dtype
    assert not back[0, 0, 0].any()
    # Half of a 127th of each row's largest, and the rounding of the dtype itself.
    most = x.float().abs().amax(-1, keepdim=True) * (0.5 / 127 + torch.finfo(dtype).eps)
    assert ((back.float() - x.float()).abs() <= most).all()
    # Measured: 0.0065 of the root mean square, of normal numbers; 0.0094 in the worst row.
    square = x.float().square().mean(-1).clamp_min(torch.finfo(torch.float32).tiny)
    assert ((back.float() - x.float()).square().mean(-1) / square).sqrt().max() < 0.012
    taken = sum(each.nbytes for each in (rows.values, rows.scales))
    assert taken / (2 * x.numel()) == pytest.approx(0.516, abs=0.001)
    picked = some(rows, torch.tensor([2, 7]))
    assert plain(picked).equal(back[:, :, [2, 7]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_line_through_two_timesteps(dtype: torch.dtype) -> None:
    """The plain twin is the line itself, in float64."""
    (keys, values), (later, _) = pair(1), pair(3)
    keys, values, later = (each.to(dtype) for each in (keys, values, later))
    held, going_on = Stored(), Stored(order=1)
    for stored in (held, going_on):
        stored.put(0.9, (keys, values))
        assert all(
            one.equal(other) for one, other in zip(stored.at(0.3), (keys, values), strict=True)
        )
        stored.put(0.7, (later, values))
        assert stored.at(0.7)[0].equal(later)
    assert held.at(0.4)[0].equal(later)
    line = later.double() + (later.double() - keys.double()) * 1.5
    found = going_on.at(0.4)
    assert found[0].dtype == dtype
    # Measured: 0.8 of the dtype's steps at the largest number.
    assert (found[0].double() - line).abs().max() <= 1.5 * torch.finfo(dtype).eps * line.abs().max()
    assert torch.allclose(found[1], values)


def test_points_that_do_not_belong_together() -> None:
    """A timestep that comes twice counts once, other tokens begin anew, a narrower choice goes on."""
    one, two, other = pair(1), pair(3), pair(5, tokens=3)
    stored = Stored(order=1)
    stored.put(0.9, one)
    stored.put(0.9, two)
    assert stored.at(0.5)[0].equal(two[0])
    stored.put(0.7, one)
    whole = stored.at(0.5)[0]
    stored.narrow(torch.tensor([0, 4]))
    assert stored.at(0.5)[0].equal(whole[:, :, [0, 4]])
    stored.put(0.6, other)
    assert stored.at(0.5)[0].equal(other[0])
    # What is kept is a copy.
    other[0].zero_()
    assert stored.at(0.5)[0].any()


def velocity(model: Flux, kept: KeptContext | None, t: float = 0.7) -> Tensor:
    count = 2 * TARGET
    with torch.no_grad():
        return model(
            draw(1, 1, count, 64), draw(2, 1, count, 3).mul(9).round(), draw(3, 1, TEXT, 40),
            torch.zeros(1, TEXT, 3), torch.tensor([t]), draw(5, 1, 24), torch.tensor([2.5]),
            target_tokens=TARGET, kept=kept,
        )  # fmt: skip


def test_8_bits_beside_the_same_steps_own() -> None:
    """What rounding costs by itself: the same step's keys and values, kept in 8 bits."""
    model, kept = make_flux(), KeptContext(bits=8)
    whole = velocity(model, None)
    assert velocity(model, kept).equal(whole)
    kept.reuse = True
    error = (velocity(model, kept) - whole).square().mean() / whole.square().mean()
    # Measured: 0.00030, of outputs of order one; without rounding 2e-6 at most.
    assert 1e-5 < error.sqrt() < 0.001


def test_a_line_is_nearer_than_the_last_step() -> None:
    """Of steps so near that random weights change smoothly between them."""
    model = make_flux()
    wanted = velocity(model, None, 0.7)
    errors = []
    for order in (0, 1):
        kept = KeptContext(order)
        for t in (0.7004, 0.7002):
            kept.now = t
            velocity(model, kept, t)
        kept.reuse, kept.now = True, 0.7
        errors.append(float((velocity(model, kept, 0.7) - wanted).abs().max()))
    # Measured: 0.0186 and 0.0027.
    assert errors[1] < errors[0] / 4


def run(model: Flux, accelerate: Any) -> Tensor:
    context = stitch((1, 16, 6, 8), [Reference(draw(7, 1, 16, 6, 8))])
    words = Conditioning(draw(50, 1, 4, 40), draw(51, 1, 24))
    times = make_timesteps(8, context.target_tokens)
    noise = make_noise(1, (1, 16, 6, 8))
    return sample(model, context, words, times, noise=noise, accelerate=accelerate)


def test_runs_in_8_bits(small_flux: Flux) -> None:
    full = run(small_flux, None)
    errors = {}
    for bits in (16, 8):
        settings = Acceleration(Reuse(0.3, 3, 1), region=Region(0.5), bits=bits)
        made = run(small_flux, settings)
        assert run(small_flux, settings).equal(made)
        errors[bits] = float((made - full).square().mean().sqrt())
    assert errors[8] != errors[16]
    # Measured: 0.998.
    assert errors[8] < 1.1 * errors[16]
    assert run(small_flux, None).equal(full)


def test_names_with_8_bits(small_flux: Flux) -> None:
    fast = PRESETS["fast"]
    assert fast is not None
    assert as_acceleration("fast+8bit") == Acceleration(
        fast.context, fast.steps, fast.region, bits=8
    )
    assert as_acceleration("off+8bit") is None
    for wrong in ("fast+4bit", "+8bit", "fast+8bit+8bit"):
        with pytest.raises(InputError, match="accelerate"):
            as_acceleration(wrong)
    with pytest.raises(InputError, match="bits is 4"):
        Acceleration(bits=4)
    with pytest.raises(InputError, match="order"):
        Reuse(order=2)
