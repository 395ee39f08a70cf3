"""Answers the cases of a benchmark and scores the answers, one row a (case, seed); goes on where it was stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from kontext_core.errors import InputError, ShapeError, UnscoredError
from kontext_core.images import load_image
from kontext_core.pipeline import Pipeline, edit
from kontext_core.resolutions import nearest_resolution
from kontext_core.writing import save_image

from .answer import Answer
from .cases import EditCase
from .rows import EditRow, RowFile, row_file
from .scorers import NamedScorer

log = logging.getLogger(__name__)

ASKED = "asked"
PICTURES = "pictures"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")

# Makes an answer [1, h, w, 3] to a case from a seed.
MakeAnswer = Callable[[EditCase, int], Tensor]
# Told of every row once it is written.
Told = Callable[[EditRow], object]


@dataclass(frozen=True, eq=False)
class Arm:
    """One way to answer.

    Attributes:
        name: ASKED, or that of a control.
        make: makes answers; None where they lie in `answers`.
        answers: folder of KEY.png, or KEY-SEED.png where there are several seeds.
    """

    name: str
    make: MakeAnswer | None = None
    answers: Path | None = None


def our_arm(
    pipeline: Pipeline,
    *,
    name: str = ASKED,
    steps: int = 28,
    guidance: float = 2.5,
    method: str = "offset",
) -> Arm:
    """Answers by `edit`. Where a benchmark wants a size, the trained one of its shape is painted."""

    def make(case: EditCase, seed: int) -> Tensor:
        width, height = (
            nearest_resolution(*case.size, pipeline.model.resolutions)
            if case.size
            else (None, None)
        )
        return edit(
            pipeline, case.request or case.instruction, case.pictures(), names=case.names, seed=seed,
            steps=steps, guidance=guidance, method=method, width=width, height=height,
        )  # fmt: skip

    return Arm(name, make)


def run_cases(
    cases: Sequence[EditCase],
    arms: Sequence[Arm],
    scorers: Sequence[NamedScorer],
    out: str | Path,
    *,
    seeds: Sequence[int] = (0,),
    told: Told = lambda row: None,
) -> list[EditRow]:
    """Every case from every seed in every arm that has no row yet, and every scorer that a row lacks.

    A row is written once its picture is; killed at any moment, the same call goes on. What could not be
    scored is tried again.

    Returns:
        All rows of the folder, in their order.

    Raises:
        InputError: another run writes there, an answer is missing, or nothing can be written; what
            `edit` raises.
    """
    place = Path(out)
    with row_file(place) as file:
        for arm in arms:
            for case in cases:
                for seed in seeds:
                    done = _row(file, place, arm, case, seed)
                    row = _scored(done, place, case, scorers)
                    if row != file.rows.get(row.id):
                        file.add(row)
                    told(row)
        return list(file.rows.values())


def _row(file: RowFile, place: Path, arm: Arm, case: EditCase, seed: int) -> EditRow:
    """The row of an answer, made where there is none."""
    row = file.rows.get((case.key, seed, arm.name))
    if row is not None and (place / row.file).is_file():
        return row
    if arm.make is None:
        path = _given(arm, case, seed)
        name = f"{PICTURES}/{case.key}-{seed}.png"
        save_image(load_image(path)[:1], place / name)
        return EditRow(case.key, case.category, seed, arm.name, name, None)
    folder = PICTURES if arm.name == ASKED else f"{PICTURES}-{arm.name.replace(' ', '-')}"
    name = f"{folder}/{case.key}-{seed}.png"
    if case.after:
        last = file.rows[case.after, seed, arm.name]
        case = replace(case, images=(place / last.file, *case.images[1:]))
    began = time.perf_counter()
    made = arm.make(case, seed)
    seconds = round(time.perf_counter() - began, 3)
    save_image(made[:1], place / name)
    return EditRow(case.key, case.category, seed, arm.name, name, seconds)


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
