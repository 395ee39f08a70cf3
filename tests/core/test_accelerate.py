"""Keys and values of references kept over steps: the same numbers from the same step, and the schedule."""

from __future__ import annotations

import json

import pytest
import torch
from small_models import draw, make_flux
from torch import Tensor

from kontext_core import Cancelled, Conditioning, Flux, InputError, Reference, sample, stitch
from kontext_core.accelerate import (
    PRESETS,
    Acceleration,
    Pruning,
    Region,
    Reuse,
    StepReuse,
    as_acceleration,
    recorded,
)
from kontext_core.models.kept import KeptContext
from kontext_core.sampling import make_noise
from kontext_core.schedule import make_timesteps

TEXT, TARGET = 70, 150
WORDS = Conditioning(draw(50, 1, 4, 40), draw(51, 1, 24))
OTHER = Conditioning(draw(52, 1, 4, 40), draw(53, 1, 24))


def velocity(
    model: Flux, kept: KeptContext | None, references: int, batch: int = 1, t: float = 0.7,
    still: bool = False,
) -> Tensor:  # fmt: skip
    count = TARGET * (1 + references)
    y, guidance = draw(5, batch, 24), torch.full((batch,), 2.5)
    with torch.no_grad():
        rows = model.modulations(torch.zeros(1), y, guidance).at(0, batch) if still else None
        return model(
            draw(1, batch, count, 64), draw(2, 1, count, 3).mul(9).round(), draw(3, batch, TEXT, 40),
            torch.zeros(1, TEXT, 3), torch.full((batch,), t), y, guidance,
            attn_bias=torch.linspace(-1, 1, count)[None], target_tokens=TARGET, still=rows, kept=kept,
        )  # fmt: skip


@pytest.mark.parametrize("references", [1, 2])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("still", [False, True])
def test_the_same_steps_keys_and_values_give_the_same(
    references: int, batch: int, still: bool
) -> None:
    model, kept = make_flux(), KeptContext()
    plain = velocity(model, None, references, batch, still=still)
    assert velocity(model, kept, references, batch, still=still).equal(plain)
    kept.reuse = True
    seen: list[int] = []
    model.double_blocks[0].img_attn.qkv.register_forward_hook(
        lambda layer, given, out: seen.append(given[0].shape[1])
    )
    trimmed = velocity(model, kept, references, batch, still=still)
    # Measured: 2.1e-6, of outputs of order one.
    assert (trimmed - plain).abs().max() < 1e-5
    assert seen == [TARGET]
    # Another timestep's are other numbers: this is an approximation there.
    later = velocity(model, kept, references, batch, 0.3, still)
    assert (later - velocity(model, None, references, batch, 0.3, still)).abs().max() > 0.01


def test_nothing_kept_is_said() -> None:
    kept = KeptContext()
    kept.reuse = True
    with pytest.raises(InputError, match="of 0 blocks are kept, the model has 4"):
        velocity(make_flux(), kept, 1)


# Schedules


def test_which_steps_are_full() -> None:
    schedule = Reuse(0.25, 3, 2)
    assert [i for i in range(12) if schedule.full(i, 12)] == [0, 1, 2, 5, 8, 10, 11]
    assert all(Reuse(0, 1, 0).full(i, 5) for i in range(5))
    # One that came a step late is followed by the next three steps later.
    assert [i for i in range(6, 12) if schedule.full(i, 12, before=6)] == [6, 9, 10, 11]
    counts = {
        name: sum(preset.context.full(i, 28) for i in range(28))
        for name, preset in PRESETS.items()
        if preset is not None and preset.context is not None
    }
    assert counts == {"safe": 13, "balanced": 10, "fast": 6}


@pytest.mark.parametrize("values", [(-0.1, 2, 1), (0.1, 0, 1), (0.1, 2, -1)])
def test_schedules_out_of_range(values: tuple[float, int, int]) -> None:
    with pytest.raises(InputError):
        Reuse(*values)


# Runs

SHAPE = (2, 16, 6, 8)


def run(model: Flux, accelerate: str | Reuse | None, **changes: object) -> Tensor:
    context = stitch(
        SHAPE, [Reference(draw(7, 1, 16, 6, 8)), Reference(draw(8, 1, 16, 6, 8), end=0.5)]
    )
    times = make_timesteps(8, context.target_tokens)
    return sample(
        model, context, WORDS, times, noise=make_noise(1, SHAPE), accelerate=accelerate, **changes
    )  # type: ignore[arg-type]


def test_runs_leave_nothing_behind(small_flux: Flux) -> None:
    """Accelerated, another size of batch, stopped in the middle, then a plain run as before."""
    before = run(small_flux, None)
    fast = run(small_flux, "fast")
    assert run(small_flux, "fast").equal(fast)
    asked = iter([False] * 4 + [True])
    with pytest.raises(Cancelled):
        run(small_flux, "fast", should_stop=lambda: next(asked))
    assert run(small_flux, "fast").equal(fast)
    assert run(small_flux, "off").equal(before)
    assert not fast.equal(before)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_full_steps_only_are_the_plain_run(small_flux: Flux, solver: str) -> None:
    plain = run(small_flux, None, solver=solver)
    assert run(small_flux, Reuse(1.0), solver=solver).equal(plain)
    assert run(small_flux, Reuse(0, 1), solver=solver).equal(plain)


def test_steps_are_what_the_schedule_says(small_flux: Flux) -> None:
    """Both sides of true guidance keep their own; a reference that leaves makes a full step."""
    seen: list[int] = []
    hook = small_flux.double_blocks[0].img_attn.qkv.register_forward_hook(
        lambda layer, given, out: seen.append(given[0].shape[1])
    )
    run(small_flux, Reuse(0, 100, 1), negative=OTHER, cfg=2.0)
    hook.remove()
    target = 3 * 4
    counts = [3 * target] + [target] * 3 + [2 * target] + [target] * 2 + [2 * target]
    assert seen == [count for count in counts for _ in "pn"]


def test_unknown_names(small_flux: Flux) -> None:
    with pytest.raises(InputError, match="accelerate"):
        run(small_flux, "faster")
    with pytest.raises(InputError, match="accelerate is a int"):
        run(small_flux, 3)  # type: ignore[arg-type]


def test_settings_as_plain_values() -> None:
    every = Acceleration(Reuse(), StepReuse(), Region(), Pruning(), 8)
    for settings in (*PRESETS, "fast+8bit", every, Acceleration(bits=8), Region(0.5)):
        plain = json.loads(json.dumps(recorded(settings)))
        assert as_acceleration(plain) == as_acceleration(settings)
    assert recorded(PRESETS["fast"]) == "fast"
    assert recorded(None) == "off"
    for wrong in (
        {"speed": 1},
        {"context": {"speed": 1}},
        {"context": 1},
        {"region": {"first": 2}},
    ):
        with pytest.raises(InputError):
            as_acceleration(wrong)
