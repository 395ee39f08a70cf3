"""What a vision-language model is asked: VIEScore's two scores, and which of two answers is better.

VIEScore (Ku et al. 2023, arXiv 2312.14867): semantic consistency and perceptual quality, 0..10 each, the least
of their parts; overall is the square root of their product. The words of the questions are our own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kontext_core.checks import is_number
from kontext_core.scoring.best import Candidate, CandidateScorer

from .endpoint import Endpoint

_SHOWN = "You see {count} images. {first} The last one is what an image editor made of them when it was told:"
_CONSISTENCY = """{shown}

"{instruction}"

Rate two things from 0 (not at all) to 10 (perfectly):
1. followed: how completely and exactly the edited image does what the instruction asks for;
2. kept: how well everything that the instruction does not ask to change is as it was.

Answer with nothing but a JSON object: {{"followed": number, "kept": number, "reason": "one sentence"}}"""
_QUALITY = """You see one image that an editor made. Judge it alone, whatever it shows. Rate two things from 0 \
(very bad) to 10 (perfect):
1. natural: how natural its composition, light, shadows and proportions are;
2. clean: how free it is of artifacts such as distortion, blur, seams, garbled text or broken faces and hands.

Answer with nothing but a JSON object: {{"natural": number, "clean": number, "reason": "one sentence"}}"""
_PAIR = """{shown}

"{instruction}"

The last two images are the answers of two editors, A first, then B. Which follows the instruction better, while it
keeps what it should and looks right? If neither is clearly better, it is a tie.

Answer with nothing but a JSON object: {{"better": "A" or "B" or "tie", "reason": "one sentence"}}"""


def _introduced(count: int, answers: int) -> str:
    first = (
        "The first one is the original."
        if count == 1
        else f"The first {count} are references, image 1 to image {count} in this order."
    )
    if answers == 1:
        return _SHOWN.format(count=count + 1, first=first)
    return f"You see {count + 2} images. {first} They were given to two image editors, with the instruction:"


def _numbers(*names: str) -> Any:
    def read(found: dict[str, Any]) -> list[float]:
        values = [found.get(name) for name in names]
        for name, value in zip(names, values, strict=True):
            if not is_number(value) or not 0 <= float(value) <= 10:  # type: ignore[arg-type]
                raise ValueError(f"{name} is {value!r}, expected 0 to 10")
        return [float(value) for value in values]  # type: ignore[arg-type]

    return read


def viescore(
    endpoint: Endpoint, instruction: str, images: Sequence[Tensor], result: Tensor
) -> dict[str, float]:
    """Scores `consistency`, `quality` and `overall`, 0..10, of what was made of pictures [1, h, w, 3].

    Raises:
        UnscoredError: a question got no usable answer.
    """
    words = _CONSISTENCY.format(shown=_introduced(len(images), 1), instruction=instruction)
    consistency = min(endpoint.ask(words, [*images, result], _numbers("followed", "kept")))
    quality = min(endpoint.ask(_QUALITY.format(), [result], _numbers("natural", "clean")))
    return {
        "consistency": consistency,
        "quality": quality,
        "overall": math.sqrt(consistency * quality),
    }


def judged_by(endpoint: Endpoint) -> CandidateScorer:
    """VIEScore's overall, by a vision-language model behind an endpoint."""

    def score(candidate: Candidate) -> float:
        found = viescore(endpoint, candidate.prompt, candidate.images, candidate.picture)
        return found["overall"]

    return score


def _which(found: dict[str, Any]) -> str:
    value = str(found.get("better", "")).strip().upper()
    if value not in ("A", "B", "TIE"):
        raise ValueError(f"better is {found.get('better')!r}, expected A, B or tie")
    return value


def better(
    endpoint: Endpoint, instruction: str, images: Sequence[Tensor], first: Tensor, second: Tensor
) -> int:
    """1 where `first` is better, -1 where `second` is, 0 for a tie: asked in both orders, since judges like
    the one they see first; only what both say counts.

    Raises:
        UnscoredError: one of the two questions got no usable answer.
    """
    words = _PAIR.format(shown=_introduced(len(images), 2), instruction=instruction)
    value = {"A": 1, "B": -1, "TIE": 0}
    one = value[endpoint.ask(words, [*images, first, second], _which)]
    other = -value[endpoint.ask(words, [*images, second, first], _which)]
    return one if one == other else 0
