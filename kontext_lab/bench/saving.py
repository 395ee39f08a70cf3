"""What settings save at FLUX.1's size, counted without its weights: the decisions are the engine's own."""

from __future__ import annotations

import torch
from torch import Tensor

from kontext_core.accelerate import Acceleration
from kontext_core.accelerated import AcceleratedRun, Call, Original, TokenCounts, WorkReport
from kontext_core.config import FluxParams
from kontext_core.schedule import make_timesteps

# A 1024x1024 picture, and T5's 512 tokens.
SIDE, TEXT = 64, 512


def saved(
    settings: Acceleration | None, *, references: int = 1, changing: float = 1.0, steps: int = 28
) -> WorkReport:
    """A run's report for a target and references of 1024x1024.

    Steps that may be skipped count as like the last computed one, so that only the limits of `StepReuse`
    hold them back.

    Args:
        changing: share of the picture that changes.
    """
    count = SIDE**2
    mask = torch.arange(count) < round(changing * count)
    run = AcceleratedRun(settings, FluxParams(), Original((SIDE, SIDE), mask=mask))
    layout = TokenCounts(1, TEXT, count, (count,) * references, (True,) * references)
    times = make_timesteps(steps, count).tolist()
    for step in range(steps):
        call = run.side().call(times[step], step, steps, layout)
        rows = count if call.rows is None else len(call.rows)
        out = torch.zeros(1, rows, 1)
        _pretend(call, out, count * references)
        call.finish(torch.zeros(1, count, 1), out)
    return run.report


def _pretend(call: Call, out: Tensor, references: int) -> None:
    """What a transformer of one block would do with the call."""
    same = torch.ones_like(out)
    if call.watch is not None:
        if call.watch.first(out, same) is not None:
            return
        call.watch.last(same)
    if call.kept is None:
        return
    kept = call.kept
    kept.begin()
    target, there = torch.zeros(1, 1, out.shape[1], 1), torch.zeros(1, 1, references, 1)
    if kept.chosen is not None and not kept.ranking:
        there = there[:, :, : len(kept.chosen)]
    kept.keep((target, target), (there, there) if references else None)
    if kept.ranking:
        kept.score(torch.arange(references).float())
    kept.finish()
