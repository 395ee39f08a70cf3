"""Scorers by name: what one answer is worth, as a few figures. Weights come from paths that users give.

pixels            image 1 and the answer: PSNR, SSIM, share of pixels changed; with a mask inside and outside it
target            PSNR and SSIM to the right answer
lpips=DIR         perceptual distance to image 1 (and to the right answer), see `lpips`
clip=DIR          CLIP similarity: words and answer, image 1 and answer, see `similarity`
dino=DIR          DINO similarity of image 1 and answer
auraface=FILE     identity: cosine of faces, see `faces`
viescore=URL      VIEScore by a vision-language model, see `kontext_lab.evaluation.judging`
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kontext_core.comparing import compare, paired
from kontext_core.errors import InputError, UnscoredError
from kontext_core.images import resize
from kontext_core.metrics import psnr, ssim

from .answer import Answer, Scorer


@dataclass(frozen=True)
class JudgeOptions:
    """How a vision-language model is asked.

    Attributes:
        model: its name at the endpoint.
        timeout: seconds for one answer.
        tries: how often a question is asked before its answer counts as unscored.
        cache: folder of answers that were given; None keeps none.
    """

    model: str = ""
    timeout: float = 120.0
    tries: int = 3
    cache: Path | None = None


@dataclass(frozen=True)
class NamedScorer:
    """A scorer under the name that its figures are filed by."""

    name: str
    score: Scorer


def make_scorer(spec: str, judge: JudgeOptions | None = None) -> NamedScorer:
    """A scorer from "name" or "name=path or address".

    Raises:
        InputError: an unknown name, a path that is missing or can't be used, or a package that has to
            be installed; says which.
    """
    name, _, given = spec.partition("=")
    if name == "pixels":
        return NamedScorer(name, pixels)
    if name == "target":
        return NamedScorer(name, target)
    if name not in ("lpips", "clip", "dino", "auraface", "viescore"):
        raise InputError(
            f"unknown scorer {name!r}; use pixels, target, lpips=DIR, clip=DIR, dino=DIR, auraface=FILE or "
            "viescore=URL"
        )
    if not given:
        raise InputError(
            f"the scorer {name} needs {'an address' if name == 'viescore' else 'its weights'}: "
            f"{name}={'http://127.0.0.1:8000/v1' if name == 'viescore' else 'PATH'}; "
            "docs/evaluation.md says where they come from"
        )
    if name == "lpips":
        from .lpips import lpips_scorer

        return NamedScorer(name, lpips_scorer(given))
    if name in ("clip", "dino"):
        from .similarity import clip_scorer, dino_scorer

        return NamedScorer(name, (clip_scorer if name == "clip" else dino_scorer)(given))
    if name == "auraface":
        from .faces import face_scorer

        return NamedScorer(name, face_scorer(given))
    from kontext_lab.evaluation.endpoint import Endpoint
    from kontext_lab.evaluation.judging import viescore

    options = judge or JudgeOptions()
    endpoint = Endpoint(given, options.model, options.timeout, options.tries, options.cache)

    def score(answer: Answer) -> dict[str, float]:
        return viescore(endpoint, answer.case.instruction, answer.images, answer.result)

    return NamedScorer(name, score)


def pixels(answer: Answer) -> dict[str, float]:
    """Image 1 and the answer, at the size of image 1: `psnr` (dB), `ssim`, `changed` (share of pixels), and
    with a mask psnr and ssim `_inside` and `_outside` it."""
    try:
        before, after = paired(answer.images[0], answer.result)
        found = compare(before, after, answer.mask)[0]
    except InputError as error:
        raise UnscoredError(str(error)) from error
    figures = {"psnr": found.whole.psnr, "changed": found.whole.changed}
    if found.whole.ssim is not None:
        figures["ssim"] = found.whole.ssim
    for side, part in (("inside", found.inside), ("outside", found.outside)):
        if part is not None:
            figures[f"psnr_{side}"] = part.psnr
            if part.ssim is not None:
                figures[f"ssim_{side}"] = part.ssim
    return figures


def target(answer: Answer) -> dict[str, float]:
    """The right answer and the given one, at the size of the right one: `psnr` (dB) and `ssim`."""
    if answer.target is None:
        raise UnscoredError("the benchmark has no right answer to this case")
    right = answer.target
    height, width = right.shape[1:3]
    made = resize(answer.result, width, height).movedim(-1, 1)
    right = right.movedim(-1, 1)
    return {"psnr": float(psnr(made, right)), "ssim": float(ssim(made, right))}
