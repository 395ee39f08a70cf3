"""The best of several starts: each is stopped early, looked at and scored, and only the best go on.

The early filter of ICEdit (arXiv 2504.20690): what a start will become shows after a few steps. A scorer is any
function of a `Candidate`; more is better.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..checks import check_whole
from ..comparing import compare, paired
from ..errors import InputError, UnscoredError

log = logging.getLogger(__name__)

MOST = 64


@dataclass(frozen=True, eq=False)
class Candidate:
    """One start, looked at early.

    Attributes:
        picture: what it would become, [1, h, w, 3] in 0..1.
        seed: of its noise.
        prompt: the instruction.
        images: the pictures that were given, [1, h, w, 3] in 0..1 each; latents are left out.
        mask: [1, h, w], 1 where something may change; None where there is none.
    """

    picture: Tensor
    seed: int
    prompt: str = ""
    images: Sequence[Tensor] = ()
    mask: Tensor | None = None


# More is better; raises UnscoredError where it can't tell.
CandidateScorer = Callable[[Candidate], float]


@dataclass(frozen=True)
class Scored:
    """What a candidate got: `score`, or None and why."""

    seed: int
    score: float | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class BestOf:
    """How many starts, and who chooses.

    Attributes:
        count: starts, from the run's seed on, 1..64.
        scorer: a name of `CRITERIA`, or a function of a candidate.
        look: steps after which each is looked at.
        told: called with what all of them got, once, in the order of their seeds.
    """

    count: int
    scorer: str | CandidateScorer = "outside the mask"
    look: int = 6
    told: Callable[[list[Scored]], object] | None = None

    def criterion(self) -> CandidateScorer:
        """The scorer as a function.

        Raises:
            InputError: a name that is none of `CRITERIA`, or a number out of range.
        """
        check_whole(self.count, "count of starts", 1, MOST)
        check_whole(self.look, "look", 1, 10_000, "steps after which to look at a start")
        if callable(self.scorer):
            return self.scorer
        if self.scorer not in CRITERIA:
            raise InputError(
                f"unknown scorer {self.scorer!r}; use {', '.join(CRITERIA)}, or a function of a Candidate"
            )
        return CRITERIA[self.scorer]


def outside_mask(candidate: Candidate) -> float:
    """PSNR (dB) of image 1 and the candidate outside the mask: how much it leaves alone.

    Raises:
        UnscoredError: no mask, no picture, or another shape.
    """
    if candidate.mask is None:
        raise UnscoredError("there is no mask, so nothing is outside it")
    found = compare(*_first(candidate), candidate.mask)[0].outside
    if found is None:
        raise UnscoredError("the mask covers everything, so nothing is outside it")
    return found.psnr


def like_first(candidate: Candidate) -> float:
    """PSNR (dB) of image 1 and the candidate: how little it changes in all.

    Raises:
        UnscoredError: no picture, or another shape.
    """
    return compare(*_first(candidate))[0].whole.psnr


def detail(candidate: Candidate) -> float:
    """Mean difference of neighbouring pixels, 0..1: how much there is to see."""
    x = candidate.picture
    across, down = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(), (x[:, 1:] - x[:, :-1]).abs().mean()
    return float(across + down) / 2


CRITERIA: dict[str, CandidateScorer] = {
    "outside the mask": outside_mask,
    "like image 1": like_first,
    "detail": detail,
}


def _first(candidate: Candidate) -> tuple[Tensor, Tensor]:
    if not candidate.images:
        raise UnscoredError("no picture was given to compare with")
    try:
        return paired(candidate.images[0], candidate.picture)
    except InputError as error:
        raise UnscoredError(str(error)) from error


def choose(
    candidates: Sequence[Candidate], scorer: CandidateScorer, keep: int = 1
) -> tuple[list[int], list[Scored]]:
    """Places of the best `keep`, best first, and what all got; of equals the earlier.

    What can't be scored comes after all others.

    Raises:
        UnscoredError: none could be scored; says why.
        InputError: keep is not 1..as many as there are.
    """
    check_whole(keep, "keep", 1, len(candidates))
    found: list[Scored] = []
    for candidate in candidates:
        try:
            score = float(scorer(candidate))
            problem = "" if score == score else "the score is NaN"
        except UnscoredError as error:
            score, problem = 0.0, str(error)
        found.append(Scored(candidate.seed, None if problem else score, problem))
        if problem:
            log.warning("the start of seed %d was not scored: %s", candidate.seed, problem)
    if all(one.score is None for one in found):
        raise UnscoredError(f"none of {len(found)} starts could be scored: {found[0].reason}")
    order = sorted(
        range(len(found)),
        key=lambda i: (found[i].score is None, -(found[i].score or 0.0), i),
    )
    return order[:keep], found
