"""What saving work costs in quality, beside the floors: another kernel, another seed, fewer steps.

Every run is compared with the full run of the same kernels and dtype, from the same noise. Its cost is
that of the same decisions at FLUX.1's size, where a skipped step is one block of 57 and references are
half of the tokens; "fewer steps" is the plain run with as many steps as cost the same there.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kontext_core.accelerate import (
    PRESETS,
    Acceleration,
    Pruning,
    Region,
    Reuse,
    StepReuse,
    as_acceleration,
)
from kontext_core.accelerated import WorkReport
from kontext_core.checks import check_whole
from kontext_core.config import FluxParams
from kontext_core.cost import part_cost
from kontext_core.metrics import psnr
from kontext_core.pipeline import Pipeline

from .held_out import (
    JUDGED,
    Advance,
    Case,
    answers,
    assess,
    held_out_cases,
    summary,
    untouched_area,
)
from .saving import SIDE, TEXT, saved
from .tables import Table

LOCAL = ("recolour", "replace", "add", "remove", "move", "resize")
GLOBAL = ("background", "look", "style")
STEPS = 28
# The grid of a 64x64 picture has 4x4 tokens: a token around the changing ones would be most of it.
SMALL = Region(grow=0)

_FAST = as_acceleration("fast") or Acceleration()
ARMS: Mapping[str, Acceleration] = {
    **{name: preset for name, preset in PRESETS.items() if preset is not None},
    "fast, 8 bit": replace(_FAST, bits=8),
    "fast, all of the picture": replace(_FAST, region=None),
    "context": Acceleration(Reuse(0.15, 4, 1)),
    "context, hold": Acceleration(Reuse(0.15, 4, 1, 0)),
    "context, 8 bit": Acceleration(Reuse(0.15, 4, 1), bits=8),
    "steps 0.05": Acceleration(steps=StepReuse(0.05, limit=1)),
    "steps 0.1": Acceleration(steps=StepReuse(0.1)),
    "steps 0.2, hold": Acceleration(steps=StepReuse(0.2, order=0)),
    "steps 0.2, order 1": Acceleration(steps=StepReuse(0.2)),
    "steps 0.2, order 2": Acceleration(steps=StepReuse(0.2, order=2)),
    "steps 0.2, hermite 2": Acceleration(steps=StepReuse(0.2, order=2, basis="hermite")),
    "region": Acceleration(region=SMALL),
    "region, context": Acceleration(Reuse(0.0, 6, 1), region=SMALL),
    "region, context, steps": Acceleration(
        Reuse(0.0, 6, 1), StepReuse(0.3, 0.1, 2, 2, order=2), SMALL
    ),
    "pruned to half": Acceleration(pruning=Pruning(0.5)),
    "pruned to an eighth": Acceleration(pruning=Pruning(0.125)),
    "pruned, context": Acceleration(Reuse(0.0, 8, 1), pruning=Pruning(0.25)),
}  # fmt: skip


@dataclass(frozen=True)
class ArmRun:
    """Answers to some cases, one at a time: regions of a batch would be those of all its pictures.

    Attributes:
        pictures: [n, 3, h, w].
        reports: what each computed.
        seconds: CPU time of all.
    """

    pictures: Tensor
    reports: list[WorkReport]
    seconds: float


def accelerate_cases(count: int, seed: int = 0) -> list[Case]:
    """`count` cases of each task."""
    count = check_whole(count, "cases", 1, 1000)
    return [
        case
        for task in (*LOCAL, *GLOBAL)
        for case in held_out_cases(task, count, seed=seed, wordings="grammar")
    ]


def study(
    pipeline: Pipeline,
    cases: Sequence[Case],
    arms: Mapping[str, Acceleration] | None = None,
    *,
    steps: int = STEPS,
    tick: Advance = lambda count: None,
) -> dict[str, Any]:
    """Every case by every arm and floor.

    Returns:
        `rows`, for every run: psnr, dB of the whole picture to the full run, and inside, of what a
        local edit is to change; success of local and global edits with its interval; `cost`, share
        of the full run's work at FLUX.1's size, `work`, at this network's; seconds of CPU time over
        the full run's; and mean counts of model calls. Beside it `like_for_like`, for every arm the
        same of the plain run with as many steps as cost the same. `flux`: what presets save at
        FLUX.1's size by how much changes.
    """
    arms = ARMS if arms is None else arms
    local = torch.tensor([case.sample.task in LOCAL for case in cases])
    shown = torch.stack([case.references[0] for case in cases])
    edited = 1 - untouched_area(shown, torch.stack([case.target for case in cases]))
    full = _run(pipeline, cases, steps, tick)

    def row(run: ArmRun, settings: Acceleration | None = None) -> dict[str, Any]:
        whole = psnr(run.pictures, full.pictures)
        inside = psnr(run.pictures, full.pictures, edited)
        scores = assess(cases, run.pictures, tick)
        reports = [asdict(report) for report in run.reports]
        calls = ("full", "reused", "regional", "skipped")
        shares = [each["region"] for each in reports if each["region"] is not None]
        made: dict[str, Any] = {
            "cost": _cost(run, settings, steps),
            "work": _mean([report.work for report in run.reports]),
            "seconds": round(run.seconds / full.seconds, 3),
            **{call: _mean([each[call] for each in reports]) for call in calls},
            "region": _mean(shares) if shares else None,
        }
        for kind, some in (("local", local), ("global", ~local)):
            if not bool(some.any()):
                continue
            judged = summary([one for one, here in zip(scores, some, strict=True) if here])
            made[kind] = {
                "psnr": round(float(whole[some].mean()), 2),
                "inside": round(float(inside[some].mean()), 2) if kind == "local" else None,
                **{name: judged[name] for name in ("n", "right", "success", "low", "high")},
            }
        return made

    plain: dict[int, dict[str, Any]] = {steps: row(full)}

    def fewer(count: int) -> dict[str, Any]:
        if count not in plain:
            plain[count] = row(_run(pipeline, cases, count, tick))
        return plain[count]

    rows, alike = {"full": plain[steps]}, {}
    seeded = [replace(case, seed=case.seed ^ 1) for case in cases]
    rows["another seed"] = row(_run(pipeline, seeded, steps, tick))
    rows["another kernel"] = row(_kernel(pipeline, cases, steps, tick))
    rows["bfloat16"] = row(_half(pipeline, cases, steps, tick))
    for name, settings in arms.items():
        rows[name] = row(_run(pipeline, cases, steps, tick, settings), settings)
        count = max(1, round(steps * rows[name]["cost"]))
        alike[name] = {"steps": count, **fewer(count)}
    return {
        "cases": len(cases),
        "steps": steps,
        "rows": rows,
        "like_for_like": alike,
        "flux": _flux(arms, steps),
    }


def evaluations(cases: int, steps: int) -> int:
    """What `study` of all arms tells `tick` at most."""
    return cases * (4 + 2 * len(ARMS)) * (steps + JUDGED)


def _run(
    pipeline: Pipeline,
    cases: Sequence[Case],
    steps: int,
    tick: Advance,
    settings: Acceleration | None = None,
) -> ArmRun:
    reports: list[WorkReport] = []
    began = time.process_time()
    pictures = answers(
        pipeline, cases, steps=steps, batch=1, tick=tick, accelerate=settings,
        report=reports.append,
    )  # fmt: skip
    return ArmRun(pictures, reports, time.process_time() - began)


def _kernel(pipeline: Pipeline, cases: Sequence[Case], steps: int, tick: Advance) -> ArmRun:
    """The same numbers by another kernel of the attention."""
    model = pipeline.model
    before = model.attention
    model.attention = "chunked"
    try:
        return _run(pipeline, cases, steps, tick)
    finally:
        model.attention = before


def _half(pipeline: Pipeline, cases: Sequence[Case], steps: int, tick: Advance) -> ArmRun:
    """The same in 16 bits."""
    # Rounded weights don't come back.
    rounded = copy.deepcopy(pipeline.model).to(torch.bfloat16)
    return _run(replace(pipeline, model=rounded), cases, steps, tick)


def _cost(run: ArmRun, settings: Acceleration | None, steps: int) -> float:
    """Share of a full run's work at FLUX.1's size."""
    if settings is not None and settings.steps is None and settings.region is None:
        return round(saved(settings, steps=steps).work, 4)
    return _mean([at_flux_size(report) for report in run.reports])


def at_flux_size(report: WorkReport, references: int = 1) -> float:
    """What a run's decisions cost for FLUX.1 at 1024x1024, of a full run's work."""
    params, count = FluxParams(), SIDE**2
    seen = TEXT + count * (1 + references)

    def part(computed: float) -> float:
        return part_cost(round(computed), seen, params.hidden_size)

    every = part(seen)
    own = part(TEXT + count)
    region = part(TEXT + (report.region or 0) * count)
    blocks = params.depth + params.depth_single_blocks
    calls = report.full + report.reused + report.regional + report.skipped
    spent = report.full * every + report.reused * own + report.regional * region
    # Nobody counted which kind a skipped step was; its one block hardly matters.
    return (spent + report.skipped * every / blocks) / (calls * every)


def _flux(arms: Mapping[str, Acceleration], steps: int) -> dict[str, Any]:
    return {
        name: {
            f"{references} references, {share:g} changes": round(
                1 / saved(settings, references=references, changing=share, steps=steps).work, 2
            )
            for references in (1, 2, 4)
            for share in (0.25, 1.0)
        }
        for name, settings in arms.items()
    }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def table(results: Mapping[str, Any]) -> Table:
    """Quality against cost, one row for each run, the control beside it."""
    lines = []
    for name, row in results["rows"].items():
        control = results["like_for_like"].get(name)
        cells = [name, f"{row['full']:.0f}+{row['reused']:.0f}+{row['regional']:.0f}"]
        cells += [f"{row['skipped']:.0f}", f"{1 / row['cost']:.2f}x"]
        for kind in ("local", "global"):
            cells += _quality(row.get(kind), control and control.get(kind))
        lines.append(cells)
    header = ["run", "full+reused+regional", "skipped", "saves"]
    header += ["local, dB", "inside, dB", "right", "global, dB", "right"]
    note = "In brackets: the plain run with as many steps as cost the same."
    return Table("What saving work costs", header, lines, note)


def _quality(row: Mapping[str, Any] | None, control: Mapping[str, Any] | None) -> list[str]:
    """Cells of one kind of edits."""
    if row is None:
        return []

    def beside(name: str, scale: float = 1, unit: str = "", digits: int = 1) -> str:
        other = "" if control is None else f" ({scale * control[name]:.{digits}f})"
        return f"{scale * row[name]:.{digits}f}{unit}{other}"

    inside = [beside("inside")] if row["inside"] is not None else []
    return [beside("psnr"), *inside, beside("success", 100, " %", 0)]
