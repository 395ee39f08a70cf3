"""Runs several starts to an early look and finishes the best of them, for `edit`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..checks import check_whole
from ..errors import InputError
from ..latents import LatentFormat
from ..sampling import Callback, OldCallback, SamplerState, make_noise
from .best import MOST, BestOf, Candidate, choose

# `sample_steps` with all but noise, state, stop_at and callback.
RunPart = Callable[..., SamplerState]


def as_best_of(
    value: int | BestOf, batch: int, prompts: int, steps: int, mask: Tensor | None, state: Any
) -> BestOf | None:
    """What `edit` was given, checked; None for a single start.

    Raises:
        InputError: out of range, or beside what it can't be combined with.
    """
    if isinstance(value, BestOf):
        asked = value
    else:
        asked = BestOf(check_whole(value, "best_of", 1, MOST))
        if asked.count > 1 and mask is None:
            raise InputError(
                f"best_of is {value}, but there is no noise_mask outside of which to compare; give a "
                "scorer: best_of=BestOf(8, scorer=...)"
            )
    asked.criterion()
    if asked.count == 1:
        return None
    if prompts > 1:
        raise InputError(f"best_of takes one instruction, {prompts} were given; edit once for each")
    if state is not None:
        raise InputError("best_of starts anew, but a state to go on from was given; leave one out")
    if asked.count < batch:
        raise InputError(f"batch is {batch}, but best_of has only {asked.count} starts; give more")
    return replace(asked, look=min(asked.look, steps))


def finish_best(
    part: RunPart,
    look: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    latent_format: LatentFormat,
    asked: BestOf,
    keep: int,
    shown: Candidate,
    callback: Callback | OldCallback | None,
) -> Tensor:
    """Raw latents [keep, c, h, w] of the best starts, best first.

    Args:
        look: a raw latent [1, c, h, w] as the picture that `edit` would give.
        shape: (1, c, h, w) of one start.
        shown: a candidate with what all of them share; its seed is the first one's.
        callback: told of the steps that finish the best, as in `sample`; early looks are not told.
    """
    scorer = asked.criterion()
    states: list[SamplerState] = []
    candidates: list[Candidate] = []
    for number in range(asked.count):
        # Seeds go round as those of a batch of nodes would.
        seed = (shown.seed + number) % 2**64
        estimate: list[Tensor] = []
        state = part(
            noise=make_noise(seed, shape), stop_at=asked.look,
            callback=lambda step, steps, x0, x, kept=estimate: kept.append(x0),
        )  # fmt: skip
        picture = look(latent_format.process_out(estimate[-1]))
        states.append(state)
        candidates.append(replace(shown, picture=picture, seed=seed))
    best, scored = choose(candidates, scorer, keep)
    if asked.told is not None:
        asked.told(scored)
    done = [
        part(noise=make_noise(candidates[i].seed, shape), state=states[i], callback=callback)
        for i in best
    ]
    return torch.cat([latent_format.process_out(state.x) for state in done])
