"""What the benchmark measures: how many cases, of what, answered in which ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from kontext_core.errors import InputError
from kontext_core.pipeline import Pipeline

from ..world.tasks import TASKS
from .held_out import (
    JUDGED,
    WORDING_SETS,
    Case,
    Score,
    answers,
    assess,
    held_out_cases,
)
from .probes import blanked, exchanged_pictures, exchanged_words, scrambled

STEPS = (1, 2, 4, 8, 16, 28)
GUIDANCES = (1.0, 2.0, 2.5, 3.0, 4.0, 5.0)

# The set whose answers the pages show. Blind sentences are never shown: whoever has read them
# can't write training sentences any more without them in mind.
SHOWN = "held_out"
# The set for everything that is not about words.
PROBED = "grammar"

# Where training goes less often: beside the nine places, in pictures (height, width) that aren't
# square.
ELSEWHERE: dict[str, dict[str, object]] = {
    "off the grid": {"off_grid": True},
    "96 x 64": {"size": (64, 96)},
    "64 x 96": {"size": (96, 64)},
}

# A case by its task and its number among the task's cases.
CaseKey = tuple[str, int]


@dataclass(frozen=True)
class Settings:
    """How much to measure.

    Attributes:
        cases: per task and set of wordings.
        probes: of these, how many per task for steps, guidance, blank references and so on.
        chains, turns: of the drift loop.
        rebuilt: pictures of every kind for the autoencoder's table.
        timed: single pictures per number of references for the latency.
        shown: cases of each task kept with their pictures.
        seed: of scenes, words and noise.
        steps, guidance: of everything that does not vary them.
    """

    cases: int = 40
    probes: int = 8
    chains: int = 16
    turns: int = 10
    rebuilt: int = 48
    timed: int = 5
    shown: int = 12
    seed: int = 0
    steps: int = 28
    guidance: float = 2.5
    step_counts: tuple[int, ...] = STEPS
    guidances: tuple[float, ...] = GUIDANCES

    def check(self) -> Settings:
        """Itself, or InputError for a count that can't be one."""
        for name in ("cases", "probes", "chains", "turns", "rebuilt", "timed", "shown"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed is {self.seed}; expected a whole number from 0 to 2^64 - 1")
        return self


# Only to see that everything runs; the intervals are as wide as can be.
QUICK = Settings(
    cases=1, probes=1, chains=2, turns=5, rebuilt=4, timed=2, shown=1,
    step_counts=(1, 28), guidances=(1.0, 2.5),
)  # fmt: skip


class BenchProgress:
    """Told what is going on; the one here keeps silent.

    `total` is set once the amount of work is known, then `stage` names what comes next and `done`
    counts work of the same unit.
    """

    total = 0

    def begin(self, total: int) -> None:
        """So much work there will be."""
        self.total = total

    def stage(self, name: str) -> None:
        """What is worked on from now."""

    def done(self, amount: int) -> None:
        """So much more is done."""


@dataclass(eq=False)
class Trial:
    """Cases to answer in one way; `scores` and `seconds` per case once they are."""

    name: str
    cases: dict[CaseKey, Case]
    steps: int
    guidance: float
    scores: dict[CaseKey, Score] = field(default_factory=dict)
    pictures: dict[CaseKey, Tensor] = field(default_factory=dict)
    seconds: dict[CaseKey, float] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pictures, which all have one."""
        return tuple(next(iter(self.cases.values())).target.shape)

    @property
    def work(self) -> int:
        return len(self.cases) * (self.steps + JUDGED)


def run_trials(
    pipeline: Pipeline, trials: Sequence[Trial], keep: Mapping[str, int], progress: BenchProgress
) -> None:
    """Answer and judge all cases; trials of equal steps, guidance and size share their batches.

    Args:
        keep: by name of a trial, of how many cases of every task to keep the pictures.
    """
    alike: dict[tuple, list[Trial]] = {}
    for trial in trials:
        alike.setdefault((trial.steps, trial.guidance, trial.shape), []).append(trial)
    for (steps, guidance, _), some in alike.items():
        cases = [case for trial in some for case in trial.cases.values()]
        times: list[float] = []
        progress.stage(f"{steps} steps, guidance {guidance:g}")
        made = answers(
            pipeline, cases, steps=steps, guidance=guidance, tick=progress.done, times=times
        )
        progress.stage("judging")
        results = zip(assess(cases, made, progress.done), times, made, strict=True)
        for trial in some:
            for key in trial.cases:
                trial.scores[key], trial.seconds[key], picture = next(results)
                if key[1] < keep.get(trial.name, 0):
                    trial.pictures[key] = picture


def plan(settings: Settings, size: tuple[int, int]) -> dict[str, Trial]:
    """All trials by name: "set blind", "exchanged words blind", "blank", "steps 4", ..."""
    trials: dict[str, Trial] = {}

    def add(name: str, cases: dict[CaseKey, Case], **changes: float) -> None:
        options = {"steps": settings.steps, "guidance": settings.guidance, **changes}
        if cases:
            trials[name] = Trial(name, cases, **options)  # type: ignore[arg-type]

    for wordings in WORDING_SETS:
        cases = {
            (task, i): case
            for task in TASKS
            for i, case in enumerate(
                held_out_cases(
                    task, settings.cases, seed=settings.seed, wordings=wordings, size=size
                )
            )
        }
        add(f"set {wordings}", cases)
        add(f"exchanged words {wordings}", _changed(cases, exchanged_words))
        add(f"exchanged pictures {wordings}", _changed(cases, exchanged_pictures))
    for name, options in ELSEWHERE.items():
        add(name, {
            (task, i): case
            for task in TASKS
            for i, case in enumerate(held_out_cases(
                task, settings.probes, seed=settings.seed, wordings=PROBED,
                **{"size": size, **options},  # type: ignore[arg-type]
            ))
        })  # fmt: skip
    asked = trials[f"set {PROBED}"].cases
    few = {key: case for key, case in asked.items() if key[1] < settings.probes}
    more = {key: case for key, case in asked.items() if key[1] < 2 * settings.probes}
    add("blank", _changed(more, blanked))
    add("scrambled", _changed(asked, scrambled))
    for steps in settings.step_counts:
        if steps != settings.steps:
            add(f"steps {steps}", few, steps=steps)
    for guidance in settings.guidances:
        if guidance != settings.guidance:
            add(f"guidance {guidance:g}", few, guidance=guidance)
    return trials


def _changed(
    cases: dict[CaseKey, Case], change: Callable[[Case], Case | None]
) -> dict[CaseKey, Case]:
    changed = ((key, change(case)) for key, case in cases.items())
    return {key: case for key, case in changed if case is not None}


def scaled(settings: Settings, cases: int) -> Settings:
    """The settings for another number of cases; the probes keep their share of them."""
    if cases < 1:
        raise InputError(f"cases is {cases}; expected 1 or more")
    share = cases / settings.cases
    return replace(
        settings,
        cases=cases,
        probes=max(1, round(settings.probes * share)),
        chains=max(1, round(settings.chains * share)),
        shown=min(cases, max(settings.shown, 1)),
    )
