"""Answers the cases of a benchmark and scores the answers, one row a (case, seed); goes on where it was stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from kontext_core.errors import InputError, ShapeError, UnscoredError
from kontext_core.images import load_image
from kontext_core.pipeline import Pipeline, edit
from kontext_core.resolutions import nearest_resolution
from kontext_core.writing import save_image

from .answer import Answer
from .cases import EditCase
from .rows import EditRow, RowFile, RowKey, row_file
from .scorers import NamedScorer

log = logging.getLogger(__name__)

ASKED = "asked"
PICTURES = "pictures"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")

# Makes an answer [1, h, w, 3] to a case from a seed.
MakeAnswer = Callable[[EditCase, int], Tensor]
# Told of every row once it is written.
Told = Callable[[EditRow], object]


@dataclass(frozen=True)
class AnswerSettings:
    """What an answer of ours depends on beside case and seed: `edit`'s steps, guidance and method."""

    steps: int = 28
    guidance: float = 2.5
    method: str = "offset"


@dataclass(frozen=True, eq=False)
class Arm:
    """One way to answer.

    Attributes:
        name: ASKED, or that of a control.
        make: makes answers here; None where they lie in `answers`, or are made by `spread`.
        answers: folder of KEY.png, or KEY-SEED.png where there are several seeds.
        settings: for who answers elsewhere.
    """

    name: str
    make: MakeAnswer | None = None
    answers: Path | None = None
    settings: AnswerSettings = AnswerSettings()


@dataclass(frozen=True, eq=False)
class AnswerJob:
    """A row to be made."""

    arm: Arm
    case: EditCase
    seed: int

    @property
    def id(self) -> RowKey:
        """Of its row."""
        return self.case.key, self.seed, self.arm.name


# A job's case with the picture that it edits in place, or None while that is not made.
Ready = Callable[[AnswerJob], EditCase | None]
# Makes the answers of jobs in any order: (job, picture [1, h, w, 3], seconds) as each is done.
Spread = Callable[[Sequence[AnswerJob], Ready], Iterator[tuple[AnswerJob, Tensor, float]]]


def answer_case(pipeline: Pipeline, case: EditCase, seed: int, settings: AnswerSettings) -> Tensor:
    """An answer by `edit`, [1, h, w, 3]. Where a benchmark wants a size, the trained one of its shape is
    painted."""
    width, height = (
        nearest_resolution(*case.size, pipeline.model.resolutions) if case.size else (None, None)
    )
    # Without names a request may lack what the instruction says of the layout.
    words = (case.names and case.request) or case.instruction
    return edit(
        pipeline, words, case.pictures(), names=case.names, seed=seed,
        steps=settings.steps, guidance=settings.guidance, method=settings.method, width=width,
        height=height,
    )  # fmt: skip


def our_arm(pipeline: Pipeline | None, settings: AnswerSettings, name: str = ASKED) -> Arm:
    """Answers by `answer_case`, here; without a pipeline, elsewhere."""
    make = None if pipeline is None else partial(_answer_here, pipeline, settings)
    return Arm(name, make, settings=settings)


def _answer_here(pipeline: Pipeline, settings: AnswerSettings, case: EditCase, seed: int) -> Tensor:
    return answer_case(pipeline, case, seed, settings)


def one_by_one(
    jobs: Sequence[AnswerJob], ready: Ready
) -> Iterator[tuple[AnswerJob, Tensor, float]]:
    """Answers by `Arm.make`, in this process.

    Raises:
        InputError: an arm that makes none, or a turn whose picture nobody made; what `Arm.make` raises.
    """
    for job in jobs:
        case = ready(job)
        if case is None or job.arm.make is None:
            raise InputError(
                f"{job.case.key!r} can't be answered: expected an arm that makes answers, and the turn before"
            )
        began = time.perf_counter()
        made = job.arm.make(case, job.seed)
        yield job, made, round(time.perf_counter() - began, 3)


def run_cases(
    cases: Sequence[EditCase],
    arms: Sequence[Arm],
    scorers: Sequence[NamedScorer],
    out: str | Path,
    *,
    seeds: Sequence[int] = (0,),
    told: Told = lambda row: None,
    spread: Spread = one_by_one,
) -> list[EditRow]:
    """Every case from every seed in every arm that has no row yet, and every scorer that a row lacks.

    A row is written once its picture is; killed at any moment, the same call goes on. What could not be
    scored is tried again.

    Args:
        spread: how answers are made, see `.cluster` for several at a time. Rows are written and scored
            here.

    Returns:
        All rows of the folder, in the order in which they were first written.

    Raises:
        InputError: another run writes there, an answer is missing, or nothing can be written; what
            `edit` raises.
    """
    place = Path(out)
    jobs = [AnswerJob(arm, case, seed) for arm in arms for case in cases for seed in seeds]
    with row_file(place) as file:

        def finish(job: AnswerJob, row: EditRow) -> None:
            row = _scored(row, place, job.case, scorers)
            if row != file.rows.get(row.id):
                file.add(row)
            told(row)

        def ready(job: AnswerJob) -> EditCase | None:
            case = job.case
            if not case.after:
                return case
            last = file.rows.get((case.after, job.seed, job.arm.name))
            if last is None or not (place / last.file).is_file():
                return None
            return replace(case, images=(place / last.file, *case.images[1:]))

        missing = []
        for job in jobs:
            row = _found(file, place, job)
            if row is not None:
                finish(job, row)
            else:
                missing.append(job)
        for job, picture, seconds in spread(missing, ready):
            finish(job, _saved(job, place, picture, seconds))
        return list(file.rows.values())


def _found(file: RowFile, place: Path, job: AnswerJob) -> EditRow | None:
    """The row of an answer that is there already, here or in a folder of others' answers."""
    row = file.rows.get(job.id)
    if row is not None and (place / row.file).is_file():
        return row
    if job.arm.answers is None:
        return None
    path = _given(job.arm, job.case, job.seed)
    return _saved(job, place, load_image(path), None)


def _saved(job: AnswerJob, place: Path, picture: Tensor, seconds: float | None) -> EditRow:
    """The row of an answer, with its picture on the disk."""
    arm = job.arm.name
    folder = PICTURES if arm == ASKED else f"{PICTURES}-{arm.replace(' ', '-')}"
    name = f"{folder}/{job.case.key}-{job.seed}.png"
    save_image(picture[:1], place / name)
    return EditRow(job.case.key, job.case.category, job.seed, arm, name, seconds)


def _given(arm: Arm, case: EditCase, seed: int) -> Path:
    """The file of an answer that somebody else made."""
    for stem in (f"{case.key}-{seed}", case.key):
        for ending in ENDINGS:
            path = Path(arm.answers or ".") / f"{stem}{ending}"
            if path.is_file():
                return path
    raise InputError(
        f"{arm.answers} has no answer to {case.key!r}; expected {case.key}.png, or {case.key}-{seed}.png "
        "for this seed"
    )


def _scored(row: EditRow, place: Path, case: EditCase, scorers: Sequence[NamedScorer]) -> EditRow:
    missing = [scorer for scorer in scorers if scorer.name not in row.scores]
    if not missing:
        return row
    answer = Answer(
        case, case.pictures(), load_image(place / row.file)[:1], case.right(), case.area()
    )
    scores, unscored = dict(row.scores), dict(row.unscored)
    for scorer in missing:
        try:
            figures = scorer.score(answer)
        except (UnscoredError, ShapeError) as error:
            unscored[scorer.name] = str(error)
            log.warning("%s: %s gave no score: %s", case.key, scorer.name, error)
            continue
        scores[scorer.name] = {name: round(value, 6) for name, value in figures.items()}
        unscored.pop(scorer.name, None)
    return replace(row, scores=scores, unscored=unscored)


def figures(rows: Sequence[EditRow]) -> Iterator[tuple[str, str]]:
    """Every (scorer, figure) that some row has, in the order in which they first came."""
    seen = set()
    for row in rows:
        for scorer, found in row.scores.items():
            for name in found:
                if (scorer, name) not in seen:
                    seen.add((scorer, name))
                    yield scorer, name
