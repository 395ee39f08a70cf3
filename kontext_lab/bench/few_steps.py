"""What LoRAs for few steps are worth: the same cases with and without them, in one, two and four steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kontext_core.checks import check_whole
from kontext_core.errors import InputError
from kontext_core.lora import load_lora
from kontext_core.lora.apply import loras_for_now
from kontext_core.pipeline import Pipeline

from ..world.tasks import TASKS
from .held_out import JUDGED, Advance, Case, answers, assess, held_out_cases, summary
from .tables import Table, label, success

STEPS = (1, 2, 4)
# What the model is measured by without any of them.
FULL = 28
PLAIN = "without"


def few_step_cases(count: int, seed: int = 0, wordings: str = "held_out") -> list[Case]:
    """`count` cases of every task."""
    count = check_whole(count, "cases", 1, 1000)
    return [
        case for task in TASKS for case in held_out_cases(task, count, seed=seed, wordings=wordings)
    ]


def named(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Each file by the shortest name that tells it from the others: its own, or its folder's.

    Raises:
        InputError: two of one name and folder.
    """
    files = [Path(path) for path in paths]
    for name in (lambda f: f.stem, lambda f: f.parent.name, lambda f: f"{f.parent.name}/{f.stem}"):
        found = {name(file): file for file in files}
        if len(found) == len(files) and PLAIN not in found and "" not in found:
            return found
    raise InputError(
        f"some of {', '.join(map(str, files))} have the same name and folder; give each LoRA once"
    )


def evaluations(cases: int, loras: int) -> int:
    """How much there is to do, see `held_out.Advance`."""
    return cases * ((loras + 1) * sum(n + JUDGED for n in STEPS) + FULL + JUDGED)


def study(
    pipeline: Pipeline,
    cases: Sequence[Case],
    loras: Mapping[str, Path],
    *,
    steps: Sequence[int] | None = None,
    guidance: float = 2.5,
    tick: Advance = lambda count: None,
) -> dict[str, Any]:
    """Every case by every LoRA, and without one, in every number of steps, from the same noise.

    Returns:
        rows: by name of the LoRA ("without" for none) and number of steps `held_out.summary` of "all"
        and of each category; without one in 28 steps too.

    Raises:
        CheckpointError, ModelNotFoundError, InputError: as `load_lora` and `set_loras`.
    """
    steps = STEPS if steps is None else steps
    loaded = {name: load_lora(path) for name, path in loras.items()}
    rows: dict[str, dict[str, Any]] = {}
    for name in (PLAIN, *loaded):
        parts = [] if name == PLAIN else [(loaded[name], 1.0)]
        counts = (*steps, FULL) if name == PLAIN else tuple(steps)
        with loras_for_now(pipeline.model, parts):
            rows[name] = {
                str(count): _by_category(pipeline, cases, count, guidance, tick) for count in counts
            }
    return {
        "cases": len(cases), "guidance": guidance, "steps": list(steps),
        "loras": {name: str(path) for name, path in loras.items()}, "rows": rows,
    }  # fmt: skip


def _by_category(
    pipeline: Pipeline, cases: Sequence[Case], steps: int, guidance: float, tick: Advance
) -> dict[str, Any]:
    made = answers(pipeline, cases, steps=steps, guidance=guidance, tick=tick)
    scores = assess(cases, made, tick)
    some = {"all": scores}
    for case, score in zip(cases, scores, strict=True):
        some.setdefault(case.category, []).append(score)
    return {name: summary(each) for name, each in some.items()}


def table(results: Mapping[str, Any]) -> Table:
    """A row for every category, a column for every number of steps and LoRA."""
    rows = results["rows"]
    columns = [(name, str(count)) for count in results["steps"] for name in rows]
    columns.append((PLAIN, str(FULL)))
    names = list(rows[PLAIN][str(FULL)])
    cells = [[label(one), *(success(rows[a][n][one]) for a, n in columns)] for one in names]
    for what, digits in (("psnr", 1), ("ssim", 3)):
        figures = [f"{rows[a][n]['all'][what]:.{digits}f}" for a, n in columns]
        cells.append([f"{what.upper()}, all", *figures])
    header = ["category"]
    header += [f"{n} step{'' if n == '1' else 's'}, {a}" for a, n in columns]
    return Table(
        "LoRAs for few steps: share judged right, with its 95 % interval",
        header,
        cells,
        f"{results['cases']} held-out cases, guidance {results['guidance']:g}, the same noise in "
        "every column.",
        frozenset({0}),
    )
