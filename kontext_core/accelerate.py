"""How a run saves work: which of its steps compute the references anew.

The other steps take the references' keys and values from the last full one (`models/kept.py`), which
leaves text and target to compute. It is an approximation: what a reference says depends on timestep and
target a little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .checks import check_choice, check_number, check_whole
from .errors import InputError


@dataclass(frozen=True)
class Reuse:
    """Which steps are full.

    Attributes:
        first: share of the run, 0..1, whose steps are full; the first one always is.
        every: after those, every so many-th step is full, 1..1000; 1 is all of them.
        last: so many steps at the end are full, 0..1000.
    """

    first: float = 0.15
    every: int = 4
    last: int = 1

    def __post_init__(self) -> None:
        check_number(self.first, "first", 0, 1, "a share of the run")
        check_whole(self.every, "every", 1, 1000)
        check_whole(self.last, "last", 0, 1000)

    def full(self, step: int, steps: int) -> bool:
        """Whether a step, from 0, of so many computes the references."""
        warm = max(1, math.ceil(self.first * steps))
        return step < warm or step >= steps - self.last or (step - warm + 1) % self.every == 0


PRESETS: dict[str, Reuse | None] = {
    "off": None,
    "safe": Reuse(0.25, 2, 2),
    "balanced": Reuse(0.15, 4, 1),
    "fast": Reuse(0.0, 8, 1),
}


def as_reuse(accelerate: str | Reuse | None) -> Reuse | None:
    """A preset's name, a schedule or None (off) as a schedule or None.

    Raises:
        InputError: something else.
    """
    if accelerate is None or isinstance(accelerate, Reuse):
        return accelerate
    if not isinstance(accelerate, str):
        raise InputError(
            f"accelerate is a {type(accelerate).__name__}; expected one of "
            f"{', '.join(PRESETS)}, or a Reuse"
        )
    check_choice(accelerate, "accelerate", tuple(PRESETS))
    return PRESETS[accelerate]
