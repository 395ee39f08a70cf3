"""Answers the questions of a folder with `edit`, one picture a question; goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from kontext_core.pipeline import Pipeline
from kontext_core.writing import save_image

from ..evaluation.cases import read_cases
from ..evaluation.kept import keep_settings
from ..evaluation.runner import AnswerJob, AnswerSettings, Spread, one_by_one, our_arm
from .folder import read_anchor


def answer_questions(
    folder: str | Path,
    answers: str | Path,
    pipeline: Pipeline | None,
    settings: AnswerSettings,
    *,
    name: str = "tiny",
    cases: int | None = None,
    tick: Callable[[int], object] = lambda count: None,
    spread: Spread = one_by_one,
) -> Path:
    """Save KEY.png for every question that has none yet.

    The answer is painted at the trained size nearest to the wanted shape. Names go to the model as
    `edit` takes them.

    Args:
        pipeline: None where `spread` answers elsewhere.
        name: of the model, for the settings that are kept beside the answers.
        cases: only the first so many.
        tick: told how many more are answered.
        spread: as in `run_cases`.

    Raises:
        InputError: no benchmark in `folder`, or answers of other settings; what `edit` raises.
    """
    filed = read_anchor(folder)[:cases]
    questions = {case.key: case for case in read_cases("kontextbench", folder)}
    told = {"model": name, **asdict(settings)}
    place = keep_settings(answers, told)
    arm = our_arm(pipeline, settings)
    jobs = [
        AnswerJob(arm, questions[one.key], one.row["seed"])
        for one in filed
        if not (place / f"{one.key}.png").is_file()
    ]
    tick(len(filed) - len(jobs))
    for job, picture, _ in spread(jobs, lambda job: job.case):
        texts = {name: str(value) for name, value in told.items()}
        save_image(picture, place / f"{job.case.key}.png", texts)
        tick(1)
    return place
