"""Timesteps of the sampler: from 1 (noise) down to 0 (picture), shifted by resolution.

Formulas: black-forest-labs/flux, src/flux/sampling.py (`time_shift`, `get_schedule`);
ComfyUI's "simple" scheduler for workflows that have to agree with KSampler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_choice, check_number, check_whole, is_number
from .errors import InputError

SCHEDULES = ("kontext", "simple")
MAX_STEPS = 1000


def mu_for(tokens: int) -> float:
    """Shift for a target of so many tokens: linear through (256, 0.5) and (4096, 1.15).

    Only the TARGET's tokens count, references don't; beyond the two points it is not clamped.
    """
    slope = (1.15 - 0.5) / (4096 - 256)
    return 0.5 + slope * (tokens - 256)


def time_shift(mu: float, t: Tensor) -> Tensor:
    """e^mu / (e^mu + 1/t - 1), which moves uniform timesteps towards noise; 0 stays 0.

    Evaluated in this order and in `t`'s dtype, so that float32 gives the published numbers to the
    bit: a network's answer is sensitive to the last one.
    """
    return math.exp(mu) / (math.exp(mu) + (1 / t - 1))


def flux_schedule(steps: int, tokens: int) -> Tensor:
    """[steps + 1] float32 timesteps from 1 to 0 for a target of so many tokens."""
    return time_shift(mu_for(tokens), torch.linspace(1, 0, steps + 1))


def comfy_simple(steps: int, shift: float = 1.15) -> Tensor:
    """[steps + 1] float32: every (10000/steps)-th entry of ComfyUI's table, from the noisy end."""
    table = time_shift(shift, torch.arange(1, 10_001) / 10_000)
    picks = [table[-(1 + int(i * len(table) / steps))] for i in range(steps)]
    return torch.stack([*picks, table.new_zeros(())])


def make_timesteps(
    steps: int,
    tokens: int,
    *,
    schedule: str = "kontext",
    denoise: float = 1.0,
    shift: float | None = None,
) -> Tensor:
    """Timesteps of a run.

    Args:
        steps: 1..1000 model steps that are really run.
        tokens: of the target (`Context.target_tokens`).
        schedule: "kontext" (mu from the target's tokens) or "simple" (as KSampler, shift 1.15).
        denoise: 0 < denoise <= 1. Below 1 the run starts from a picture: the schedule is made
            for int(steps / denoise) steps and its last `steps` are run, as in ComfyUI.
        shift: overrides mu of "kontext", or the 1.15 of "simple".

    Returns:
        [steps + 1] float32, falling, ending in 0.

    Raises:
        InputError: a value out of range.
    """
    steps = check_whole(steps, "steps", 1, MAX_STEPS)
    if check_number(denoise, "denoise", 0, 1, "1 is from noise") == 0:
        raise InputError(f"denoise is {denoise}; expected above 0 and at most 1 (1 = from noise)")
    check_choice(schedule, "schedule", SCHEDULES)
    total = max(steps, int(steps / denoise))
    if schedule == "simple":
        full = comfy_simple(total, 1.15 if shift is None else shift)
    else:
        mu = mu_for(tokens) if shift is None else shift
        full = time_shift(mu, torch.linspace(1, 0, total + 1))
    return full[-(steps + 1) :]


def given_timesteps(values: Sequence[float] | Tensor) -> Tensor:
    """Timesteps of a run from a list, such as the card of a LoRA for few steps gives.

    Args:
        values: falling, each above 0 and at most 1; the 0 at the end may be left out, as such lists
            do. The first one is 1 for a run from noise; less starts from a picture.

    Returns:
        [steps + 1] float32, ending in 0.

    Raises:
        InputError: something else.
    """
    listed = values.flatten().tolist() if isinstance(values, Tensor) else values
    if (
        isinstance(listed, str)
        or not isinstance(listed, Sequence)
        or not all(map(is_number, listed))
    ):
        raise InputError(
            f"sigmas are {values!r}; expected a list of numbers such as [1, 0.6, 0.3, 0]"
        )
    numbers = [float(value) for value in listed]
    if numbers[-1:] != [0.0]:
        numbers.append(0.0)
    falling = all(a > b for a, b in zip(numbers, numbers[1:], strict=False))
    if not 2 <= len(numbers) <= MAX_STEPS + 1 or not falling or not 0 < numbers[0] <= 1:
        raise InputError(
            f"sigmas are {list(listed)}; expected 1 to {MAX_STEPS} falling numbers, each above 0 and at "
            "most 1, with or without the 0 at the end"
        )
    return torch.tensor(numbers, dtype=torch.float32)
