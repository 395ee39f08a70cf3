"""How much of a reference arrives at which strength: our bias on attention beside scaling its latent.

A block of FLUX normalises its input without a scale of its own, so a latent of half the size looks
to it much like the whole one, only farther from what training showed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kontext_core.checks import check_whole
from kontext_core.errors import InputError
from kontext_core.pipeline import Pipeline
from kontext_core.stitcher import Reference

from .held_out import Advance, Case, Refer, answers, assess, held_out_cases, summary, untouched_area
from .sheet import strip
from .tables import Table

# Ours acts by its logarithm, so the small ones tell most.
STRENGTHS = (0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5)
# Edits of one picture of which a part is to stay.
TASKS = ("recolour", "replace", "add", "remove", "move", "resize")
STEPS = 8
# Cases of which pictures are shown.
SHOWN = 4


def biased(strength: float) -> Refer:
    """Ours: a bias on every attention to the reference's tokens."""
    return partial(Reference, strength=strength)


def scaled(strength: float) -> Refer:
    """What a node that multiplies a latent makes of it."""
    return lambda latent: Reference(latent * strength)


ARMS: Mapping[str, Any] = {"attention": biased, "latent": scaled}


def strength_cases(count: int, seed: int = 0) -> list[Case]:
    """`count` cases of each task."""
    count = check_whole(count, "cases", 1, 1000)
    return [
        case
        for task in TASKS
        for case in held_out_cases(task, count, seed=seed, wordings="grammar")
    ]


def dose_response(
    pipeline: Pipeline,
    cases: Sequence[Case],
    strengths: Sequence[float] = STRENGTHS,
    *,
    steps: int = STEPS,
    tick: Advance = lambda count: None,
) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """Every case at every strength in both ways, from the same noise.

    Returns:
        The figures: per way and strength success, untouched (dB, of what the edit leaves alone, to
        the reference) and arrived: 1 - e / e0, with e the squared error there and e0 that of the
        answers without any reference. And per way and strength the pictures [n, 3, h, w].

    Raises:
        InputError: cases in which there is nothing to be left alone.
    """
    shown = torch.stack([case.references[0] for case in cases])
    kept = untouched_area(shown, torch.stack([case.target for case in cases]))
    if not bool(kept.any()):
        raise InputError("nothing is left alone in these cases; take others, or more of them")

    def error(pictures: Tensor) -> float:
        return float(((pictures - shown).square() * kept).sum() / kept.sum() / 3)

    # Strength 0 is that of the core: the same as without a reference, to the bit.
    without = answers(pipeline, cases, steps=steps, tick=tick, refer=biased(0.0))
    absent = error(without)
    rows: dict[str, Any] = {}
    pictures: dict[str, list[Tensor]] = {}
    for arm, refer in ARMS.items():
        rows[arm] = {}
        pictures[arm] = []
        for strength in strengths:
            made = answers(pipeline, cases, steps=steps, tick=tick, refer=refer(strength))
            row = summary(assess(cases, made, tick))
            rows[arm][f"{strength:g}"] = {
                "arrived": round(1 - error(made) / absent, 4),
                "untouched": row["untouched"],
                "success": row["success"],
                "low": row["low"],
                "high": row["high"],
            }
            pictures[arm].append(made)
    tasks = list(dict.fromkeys(case.sample.task for case in cases))
    return {"cases": len(cases), "tasks": tasks, "steps": steps, "arms": rows}, pictures


def table(results: Mapping[str, Any]) -> Table:
    """Both ways side by side, one row for each strength."""
    arms = results["arms"]
    rows = []
    for strength in arms["attention"]:
        cells = [strength]
        for arm in ARMS:
            row = arms[arm][strength]
            untouched = "-" if row["untouched"] is None else f"{row['untouched']:.1f}"
            cells += [f"{row['arrived']:.2f}", untouched, f"{100 * row['success']:.0f} %"]
        rows.append(cells)
    columns = ["strength"]
    for arm in ARMS:
        columns += [f"{arm}: arrived", "untouched, dB", "right"]
    return Table("How much of a reference arrives", columns, rows)


def sheet(cases: Sequence[Case], pictures: Mapping[str, Sequence[Tensor]]) -> Image.Image:
    """Some cases, two rows each: the reference, then the answers by strength; ours above."""
    step = max(1, len(cases) // SHOWN)
    rows = [
        strip([cases[number].references[0], *(one[number] for one in pictures[arm])])
        for number in list(range(0, len(cases), step))[:SHOWN]
        for arm in ARMS
    ]
    width, height = rows[0].size
    made = Image.new("RGB", (width, height * len(rows)), "white")
    for number, row in enumerate(rows):
        made.paste(row, (0, number * height))
    return made
