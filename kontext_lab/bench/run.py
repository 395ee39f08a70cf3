"""The whole evaluation of a model of the drawn world, from one seed to one dictionary of results.

Everything but "timing" depends on model and settings alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from kontext_core.pipeline import Pipeline, edit

from ..world.tasks import CATEGORIES, TASKS
from .drift import drift, local_chains
from .held_out import JUDGED, WORDING_SETS, Case, Score, held_out_cases, summary
from .plan import (
    ELSEWHERE,
    PROBED,
    SHOWN,
    BenchProgress,
    CaseKey,
    Settings,
    Trial,
    plan,
    run_trials,
)
from .reconstruction import PASSED, SCENES, reconstruction
from .sheet import Shown

# Of the results; raised when a reader of older ones would misunderstand them.
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Bench:
    """`results` as they are written to JSON; per task the cases to show, in their order; per turn
    the pictures of the drift loop [chains, 3, h, w], and its cases."""

    results: dict
    shown: dict[str, list[Shown]]
    loop: list[Tensor]
    chains: list[list[Case]]


def bench(
    pipeline: Pipeline,
    settings: Settings,
    name: str = "tiny",
    progress: BenchProgress | None = None,
) -> Bench:
    """Measure everything.

    Args:
        name: of the model, for the results.
        progress: told how far it is.

    Raises:
        InputError: settings out of range, or a model of another form than the embedded one.
        KontextError: the model gives NaN.
    """
    settings = settings.check()
    progress = progress or BenchProgress()
    began = time.perf_counter()
    size = (64, 64)
    chains = local_chains(settings.chains, settings.turns, seed=settings.seed, size=size)
    trials = plan(settings, size)
    work = sum(trial.work for trial in trials.values())
    work += 2 * settings.chains * settings.turns * (settings.steps + JUDGED)
    work += len(SCENES) * settings.rebuilt * PASSED
    work += 3 * (settings.timed + 1) * settings.steps
    progress.begin(work)

    run_trials(pipeline, list(trials.values()), {f"set {SHOWN}": settings.shown}, progress)
    progress.stage("autoencoder")
    rebuilt = reconstruction(
        pipeline, settings.rebuilt, seed=settings.seed, size=size,
        tick=progress.done,
    )  # fmt: skip
    progress.stage("drift")
    turns, loop = drift(
        pipeline, chains, steps=settings.steps, guidance=settings.guidance,
        tick=progress.done,
    )  # fmt: skip
    progress.stage("latency")
    times = latency(pipeline, settings, size, progress)
    results = {
        "format": FORMAT,
        "benchmark": "tiny",
        "model": name,
        "size": list(size),
        "settings": asdict(settings),
        "categories": {task: TASKS[task].category for task in TASKS},
        "sets": {w: _set_results(trials, w) for w in WORDING_SETS},
        "verdicts": {w: _verdicts(trials[f"set {w}"]) for w in WORDING_SETS},
        "probes": {
            probe: _compared(trials[probe], trials[f"set {PROBED}"])
            for probe in ("blank", "scrambled")
            if probe in trials
        },
        "steps": {str(n): _grouped(_by_steps(trials, settings, n)) for n in settings.step_counts},
        "guidance": {
            f"{g:g}": _grouped(_by_guidance(trials, settings, g)) for g in settings.guidances
        },  # fmt: skip
        "elsewhere": {
            name: _grouped(chosen)
            for name, chosen in {
                "on the grid": _few(trials, settings),
                **{name: trials[name].scores for name in ELSEWHERE},
            }.items()
        },
        "autoencoder": rebuilt,
        "drift": turns,
    }
    results["timing"] = {
        "device": str(pipeline.model.device),
        "threads": torch.get_num_threads(),
        "batched": _batched(trials),
        "latency": times,
        "seconds": round(time.perf_counter() - began, 1),
    }
    asked = trials[f"set {SHOWN}"]
    shown: dict[str, list[Shown]] = {}
    for (task, i), picture in asked.pictures.items():
        shown.setdefault(task, []).append(
            Shown(asked.cases[task, i], picture, asked.scores[task, i])
        )
    return Bench(results, shown, loop, chains)


def _set_results(trials: dict[str, Trial], wordings: str) -> dict:
    found = _grouped(trials[f"set {wordings}"].scores, by_task=True)
    found["exchanged"] = {
        what: _grouped(trials[name].scores, by_task=True)["tasks"]
        for what in ("words", "pictures")
        if (name := f"exchanged {what} {wordings}") in trials
    }
    return found


def _verdicts(trial: Trial) -> dict[str, str]:
    """Per task one digit a case in their order, 1 is right; so that a single case can be checked."""
    found: dict[str, str] = dict.fromkeys(TASKS, "")
    for (task, _), score in trial.scores.items():
        found[task] += "1" if score.verdict.right else "0"
    return found


def _grouped(scores: dict[CaseKey, Score], *, by_task: bool = False) -> dict:
    """One row for all of them, for every category and, if wanted, for every task."""

    def rows(names: Sequence[str], of: Callable[[str], str]) -> dict[str, dict]:
        chosen = {n: [o for (task, _), o in scores.items() if of(task) == n] for n in names}
        return {name: summary(some) for name, some in chosen.items() if some}

    found = {
        "all": summary(list(scores.values())),
        "categories": rows(CATEGORIES, lambda task: TASKS[task].category),
    }
    if by_task:
        found["tasks"] = rows(list(TASKS), lambda task: task)
    return found


def _compared(trial: Trial, asked: Trial) -> dict:
    """A probe's rows, with "asked": the success of the same cases as they were."""
    found = _grouped(trial.scores)
    plain = _grouped({key: asked.scores[key] for key in trial.scores})
    found["all"]["asked"] = plain["all"]["success"]
    for name, row in found["categories"].items():
        row["asked"] = plain["categories"][name]["success"]
    return found


def _by_steps(trials: dict[str, Trial], settings: Settings, steps: int) -> dict[CaseKey, Score]:
    if steps != settings.steps:
        return trials[f"steps {steps}"].scores
    return _few(trials, settings)


def _by_guidance(
    trials: dict[str, Trial], settings: Settings, value: float
) -> dict[CaseKey, Score]:
    if value != settings.guidance:
        return trials[f"guidance {value:g}"].scores
    return _few(trials, settings)


def _few(trials: dict[str, Trial], settings: Settings) -> dict[CaseKey, Score]:
    every = trials[f"set {PROBED}"].scores
    return {key: score for key, score in every.items() if key[1] < settings.probes}


def _batched(trials: dict[str, Trial]) -> dict[str, float]:
    """Seconds per picture, answered in batches, by task."""
    times: dict[str, list[float]] = {}
    for wordings in WORDING_SETS:
        for (task, _), seconds in trials[f"set {wordings}"].seconds.items():
            times.setdefault(task, []).append(seconds)
    return {task: round(statistics.mean(values), 5) for task, values in times.items()}


def latency(
    pipeline: Pipeline, settings: Settings, size: tuple[int, int], progress: BenchProgress
) -> dict[str, float]:
    """Median seconds of one picture, words to pixels, with 0, 1 and 2 references."""
    found = {}
    for count, task in enumerate(("text_to_image", "recolour", "compose")):
        case = held_out_cases(task, 1, seed=settings.seed, wordings=PROBED, size=size)[0]
        images = [picture.movedim(0, -1)[None].contiguous() for picture in case.references]
        taken = []
        for _ in range(settings.timed + 1):
            began = time.perf_counter()
            edit(
                pipeline, case.sample.prompt, images, seed=case.seed, steps=settings.steps,
                guidance=settings.guidance, width=size[1], height=size[0],
                callback=lambda *_: progress.done(1),
            )  # fmt: skip
            taken.append(time.perf_counter() - began)
        found[str(count)] = round(statistics.median(taken[1:]), 4)  # the first one warms up
    return found
