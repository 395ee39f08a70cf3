"""How a run saves work: the settings. What acts on them, model call by model call, is `accelerated.py`.

Four means, each of which may be left out:

- context reuse: a step takes the references' keys and values from an earlier one (`Reuse`);
- step reuse: a step whose first block says that little has changed skips the others (`StepReuse`);
- region: only the part of the picture that the edit changes is computed (`Region`);
- pruning: references keep the tokens that are looked at (`Pruning`).

All are approximations: what a token says depends on timestep and target a little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from .checks import check_choice, check_number, check_whole
from .errors import InputError

BASES = ("taylor", "hermite")
BITS = (16, 8)
# Behind a preset's name.
EIGHT_BIT = "+8bit"


@dataclass(frozen=True)
class Reuse:
    """Which steps compute the references anew.

    Attributes:
        first: share of the run, 0..1, whose steps are full; the first one always is.
        every: after those, every so many-th step is full, 1..1000; 1 is all of them.
        last: so many steps at the end are full, 0..1000.
        order: 0, and the others take the keys and values of the last full step; or 1, and they go on
            from the last two in a line, which takes twice the memory.
    """

    first: float = 0.15
    every: int = 4
    last: int = 1
    order: int = 1

    def __post_init__(self) -> None:
        check_number(self.first, "first", 0, 1, "a share of the run")
        check_whole(self.every, "every", 1, 1000)
        check_whole(self.last, "last", 0, 1000)
        check_whole(self.order, "order", 0, 1)

    def full(self, step: int, steps: int, before: int | None = None) -> bool:
        """Whether a step, from 0, of so many computes the references; `before`: see `_computed`."""
        return _computed(self, step, steps, before)


@dataclass(frozen=True)
class StepReuse:
    """Which steps may be skipped: those of which the first block changes the target as it did in the
    last step that was computed (First-Block-Cache, chengzeyi/ParaAttention). What the other blocks
    would add is extrapolated from computed steps.

    Attributes:
        threshold: 0..1; a step is skipped where the first block's residual differs by less, mean
            absolute difference over mean absolute value. 0 skips none. FLUX.1's users take 0.08 to
            0.12.
        first: share of the run, 0..1, whose steps are computed; the first one always is.
        last: so many steps at the end are computed, 0..1000.
        limit: at most so many are skipped in a row, 1..1000.
        order: of the extrapolation, 0 (holds the last) to 2; less as long as fewer steps are
            computed.
        basis: "taylor" (TaylorSeer, arXiv 2503.06923) or "hermite" (HiCache, arXiv 2508.16984), which
            goes less far.
    """

    threshold: float = 0.08
    first: float = 0.15
    last: int = 1
    limit: int = 2
    order: int = 1
    basis: str = "taylor"

    def __post_init__(self) -> None:
        check_number(self.threshold, "threshold", 0, 1, "0 skips nothing")
        check_number(self.first, "first", 0, 1, "a share of the run")
        check_whole(self.last, "last", 0, 1000)
        check_whole(self.limit, "limit", 1, 1000)
        check_whole(self.order, "order", 0, 2)
        check_choice(self.basis, "basis", BASES)

    def may_skip(self, step: int, steps: int) -> bool:
        """Whether a step, from 0, of so many may be skipped."""
        return self.threshold > 0 and warm_steps(self.first, steps) <= step < steps - self.last


@dataclass(frozen=True)
class Region:
    """Which steps compute only text and the tokens of the target that change (RegionE, ICLR 2026).

    Which ones change is known from a noise mask, or else estimated: those of which the finished
    picture, as one step from here would give it, is unlike the same place of the first reference
    that has the target's size. The others go straight to that estimate, and are attended to by the
    keys and values that they had in the last whole step.

    Attributes:
        first: share of the run, 0..1, whose steps are whole; the first one always is.
        every: after those, every so many-th step is whole, and the estimate renewed, 1..1000.
        last: so many steps at the end are whole, 0..1000.
        similarity: -1..1; a token counts as unchanged from this cosine on. RegionE's for FLUX.1 is
            0.93.
        grow: tokens around a changed one that count as changed too, 0..64. Single ones are dropped
            before, where the region is estimated.
        most: 0..1; where more than this share changes, every step is whole.
    """

    first: float = 0.2
    every: int = 11
    last: int = 2
    similarity: float = 0.93
    grow: int = 1
    most: float = 0.75

    def __post_init__(self) -> None:
        check_number(self.first, "first", 0, 1, "a share of the run")
        check_whole(self.every, "every", 1, 1000)
        check_whole(self.last, "last", 0, 1000)
        check_number(self.similarity, "similarity", -1, 1, "a cosine")
        check_whole(self.grow, "grow", 0, 64)
        check_number(self.most, "most", 0, 1, "a share of the picture")

    def whole(self, step: int, steps: int, before: int | None = None) -> bool:
        """Whether a step, from 0, of so many computes every token of the target; `before`: see `_computed`."""
        return _computed(self, step, steps, before)


@dataclass(frozen=True)
class Pruning:
    """Which tokens of the references take part (ReCAST's idea): those that the target's tokens attend
    to most, ranked in every step that has all of them.

    Attributes:
        keep: share of the reference tokens that stay, above 0..1; 1 leaves out none.
        first: share of the run, 0..1, whose steps have all tokens; the first one always has.
        every: after those, every so many-th step has all of them and ranks anew, 1..1000.
        last: so many steps at the end have all of them, 0..1000.
    """

    keep: float = 0.25
    first: float = 0.1
    every: int = 8
    last: int = 0

    def __post_init__(self) -> None:
        if check_number(self.keep, "keep", 0, 1, "1 keeps all") == 0:
            raise InputError("keep is 0; expected above 0 (take the references away instead)")
        check_number(self.first, "first", 0, 1, "a share of the run")
        check_whole(self.every, "every", 1, 1000)
        check_whole(self.last, "last", 0, 1000)

    def all(self, step: int, steps: int, before: int | None = None) -> bool:
        """Whether a step, from 0, of so many has all tokens; `before`: see `_computed`."""
        return self.keep == 1 or _computed(self, step, steps, before)


def warm_steps(first: float, steps: int) -> int:
    """Steps at the beginning of so many that a share of the run makes, at least one."""
    return max(1, math.ceil(first * steps))


def _computed(part: Reuse | Region | Pruning, step: int, steps: int, before: int | None) -> bool:
    """Whether a step is one of those that compute all.

    Args:
        before: the step that last did so. `every` counts from there: where that one came late, because
            the step it was due in was skipped, so do the next. None: all came when they were due.
    """
    warm = warm_steps(part.first, steps)
    if step < warm or step >= steps - part.last:
        return True
    if before is None:
        return (step - warm + 1) % part.every == 0
    # A solver may come to a step twice.
    return step == before or step - before >= part.every


@dataclass(frozen=True)
class Acceleration:
    """All of a run's means to save work; None leaves one out.

    Attributes:
        bits: in which keys and values are kept: 16 is the dtype they are computed in, 8 takes half of
            that and rounds them.
    """

    context: Reuse | None = None
    steps: StepReuse | None = None
    region: Region | None = None
    pruning: Pruning | None = None
    bits: int = 16

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise InputError(f"bits is {self.bits!r}; expected one of {BITS}")
        for name, kind in PARTS.items():
            part = getattr(self, name)
            if part is not None and not isinstance(part, kind):
                raise InputError(
                    f"{name} is a {type(part).__name__}; expected a {kind.__name__}, or None"
                )


PARTS = {"context": Reuse, "steps": StepReuse, "region": Region, "pruning": Pruning}
Accelerate: TypeAlias = (
    "str | Acceleration | Reuse | StepReuse | Region | Pruning | Mapping[str, Any] | None"
)

PRESETS: dict[str, Acceleration | None] = {
    "off": None,
    # No step skipped after another, and none in the first quarter.
    "safe": Acceleration(Reuse(0.25, 4, 2), StepReuse(0.05, 0.25, 2, 1, order=2)),
    # Two of three steps skipped.
    "balanced": Acceleration(Reuse(0.1, 4, 1), StepReuse(0.12, 0.15, 1, 2, order=2)),
    # As many, and after a fifth of the run only what changes.
    "fast": Acceleration(Reuse(0.0, 6, 1), StepReuse(0.3, 0.1, 2, 2, order=2), Region()),
}


def as_acceleration(accelerate: Accelerate) -> Acceleration | None:
    """A preset's name, settings, one of their parts, or None (off), as settings or None. Behind a name
    "+8bit" keeps keys and values in 8 bits. What `recorded` gave is taken too.

    Raises:
        InputError: something else.
    """
    if accelerate is None or isinstance(accelerate, Acceleration):
        return accelerate
    if isinstance(accelerate, Reuse):
        return Acceleration(context=accelerate)
    if isinstance(accelerate, StepReuse):
        return Acceleration(steps=accelerate)
    if isinstance(accelerate, Region):
        return Acceleration(region=accelerate)
    if isinstance(accelerate, Pruning):
        return Acceleration(pruning=accelerate)
    if isinstance(accelerate, Mapping):
        return _from_record(accelerate)
    if not isinstance(accelerate, str):
        raise InputError(
            f"accelerate is a {type(accelerate).__name__}; expected one of "
            f"{', '.join(PRESETS)}, an Acceleration, or one of its parts"
        )
    name, eight = accelerate.removesuffix(EIGHT_BIT), accelerate.endswith(EIGHT_BIT)
    check_choice(name, "accelerate", tuple(PRESETS))
    settings = PRESETS[name]
    return replace(settings, bits=8) if settings is not None and eight else settings


def recorded(accelerate: Accelerate) -> str | dict[str, Any]:
    """Settings as text or plain values that JSON holds: a preset's name where they are one."""
    settings = as_acceleration(accelerate)
    for name, preset in PRESETS.items():
        if settings == preset:
            return name
        if preset is not None and settings == replace(preset, bits=8):
            return name + EIGHT_BIT
    made = {} if settings is None else asdict(settings)
    return {name: value for name, value in made.items() if value is not None}


def _from_record(values: Mapping[str, Any]) -> Acceleration:
    try:
        parts = {
            name: PARTS[name](**value) if name in PARTS and isinstance(value, Mapping) else value
            for name, value in values.items()
        }
        return Acceleration(**parts)
    except TypeError as error:
        raise InputError(f"accelerate is {dict(values)}; {error}") from None


def step_at(t: float, times: list[float]) -> int:
    """The step, from 0, that a call at timestep t belongs to, of a run with these falling timesteps,
    n + 1 for n steps; for a sampler that says where it is by its noise level only. A call between two
    of them belongs to the step that began before it."""
    # Samplers round what they were given.
    begun = sum(t <= each + 1e-5 * abs(each) for each in times[:-1])
    return max(begun - 1, 0)
