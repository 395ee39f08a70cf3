"""Held-out cases of the drawn world: questions, a model's answers, and what they are worth.

Cases show (kind, colour) pairs that training never drew. Everything goes through the code that
users run: autoencoder, stitcher, sampler, schedule. A case's answer is the one that
`pipeline.edit` gives for its words, references and noise seed, whatever it is batched with.
"""

from __future__ import annotations

import json
import random
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kontext_core.accelerate import Accelerate
from kontext_core.accelerated import WorkReport
from kontext_core.errors import InputError
from kontext_core.guidance import Conditioning
from kontext_core.metrics import psnr, ssim, wilson
from kontext_core.pipeline import Pipeline
from kontext_core.sampling import make_noise, sample
from kontext_core.schedule import make_timesteps
from kontext_core.stitcher import Reference, stitch

from ..judge.verdict import Verdict, judge_all
from ..world.render import render
from ..world.sample import Sample
from ..world.tasks import TASKS, make_sample
from ..world.wording import WORDINGS

# grammar: sentences as in training; held_out: sentences of the same authors that training never
# used; blind: sentences by somebody who had not seen either.
WORDING_SETS = ("grammar", "held_out", "blind")

# Categories whose answers keep everything outside the edit as it was.
EDITS = ("local", "text", "box")

# Told how much was done, in model evaluations of one picture; judging costs about so many.
Advance = Callable[[int], None]
JUDGED = 8
# Makes a reference of the raw latent [b, c, h, w] of some pictures.
Refer = Callable[[Tensor], Reference]


@dataclass(frozen=True, eq=False)
class Case:
    """One question with its pictures, drawn.

    Attributes:
        sample: words, scenes and the right answer.
        references: what the model is shown, [3, h, w] in 0..1 each.
        target: the right answer, [3, h, w].
        seed: of the noise that the answer starts from.
    """

    sample: Sample
    references: tuple[Tensor, ...]
    target: Tensor
    seed: int

    @property
    def category(self) -> str:
        """The task's category."""
        return TASKS[self.sample.task].category


@dataclass(frozen=True)
class Score:
    """What one answer is worth; `untouched` (dB) is None where nothing is to be left alone, `nearer`
    where the references in other roles would have no answer: whether the answer is nearer to the
    right one than to that."""

    verdict: Verdict
    psnr: float
    ssim: float
    untouched: float | None
    nearer: bool | None = None


@cache
def _sentences(wordings: str) -> Mapping[str, Sequence[str]] | None:
    if wordings == "grammar":
        return {key: train for key, (train, _) in WORDINGS.items()}
    if wordings == "blind":
        return json.loads(Path(__file__).with_name("wordings.json").read_text(encoding="utf-8"))
    if wordings == "held_out":
        return None
    raise InputError(f"unknown wordings {wordings!r}; use one of {', '.join(WORDING_SETS)}")


def held_out_cases(
    task: str,
    count: int,
    *,
    seed: int = 0,
    wordings: str = "held_out",
    size: tuple[int, int] = (64, 64),
    off_grid: bool = False,
) -> list[Case]:
    """`count` cases of a task; the first of them are the same for any larger count.

    Args:
        seed: of scenes, words and noise.
        wordings: which sentences, one of `WORDING_SETS`.
        size: (height, width) of all pictures.
        off_grid: things, and the boxes around them, stand beside the nine places.

    Raises:
        InputError: an unknown task or set of wordings.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}; use one of {', '.join(TASKS)}")
    sentences = _sentences(wordings)
    rng = random.Random(f"{seed}/{wordings}/{task}")
    samples = [
        make_sample(rng, task=task, held_out=True, wordings=sentences, off_grid=off_grid)
        for _ in range(count)
    ]
    seeds = [zlib.crc32(f"{seed}/{wordings}/{task}/{i}".encode()) for i in range(count)]
    return draw(samples, seeds, size)


def draw(samples: Sequence[Sample], seeds: Sequence[int], size: tuple[int, int]) -> list[Case]:
    """Cases from samples: their scenes rendered at (height, width)."""
    scenes = [scene for one in samples for scene in (one.target, *one.references)]
    pictures = iter(render(scenes, *size)) if scenes else iter(())
    cases = []
    for one, number in zip(samples, seeds, strict=True):
        target = next(pictures)
        cases.append(Case(one, tuple(next(pictures) for _ in one.references), target, number))
    return cases


@torch.no_grad()
def answers(
    pipeline: Pipeline,
    cases: Sequence[Case],
    *,
    steps: int = 28,
    guidance: float = 2.5,
    cfg: float = 1.0,
    batch: int = 32,
    tick: Advance = lambda count: None,
    times: list[float] | None = None,
    refer: Refer = Reference,
    accelerate: Accelerate = None,
    report: Callable[[WorkReport], None] | None = None,
) -> Tensor:
    """The model's pictures [n, 3, h, w] in 0..1, on the CPU, in the order of the cases.

    Args:
        cases: all of one size, with any number of references.
        steps, guidance, cfg: as in `pipeline.edit`.
        batch: at most so many at a time.
        tick: see `Advance`.
        times: takes the seconds that each picture took, as its share of its batch.
        refer: makes references of encoded pictures.
        accelerate, report: see `sampling.sample`; once for every batch.
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    texts = pipeline.text_encoder
    for i, case in enumerate(cases):
        # Padding differs from no padding, so only texts of one length share a batch.
        length = texts.tokenize([case.sample.prompt]).shape[1]
        groups[len(case.references), length].append(i)
    out: list[Tensor] = [torch.empty(0)] * len(cases)
    taken = [0.0] * len(cases)
    for rows in groups.values():
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            began = time.perf_counter()
            pictures = _answer(
                pipeline, [cases[i] for i in part], steps, guidance, cfg, tick, refer,
                accelerate, report,
            )  # fmt: skip
            for i, picture in zip(part, pictures, strict=True):
                out[i] = picture
                taken[i] = (time.perf_counter() - began) / len(part)
    if times is not None:
        times.extend(taken)
    return torch.stack(out)


def _answer(
    pipeline: Pipeline,
    cases: Sequence[Case],
    steps: int,
    guidance: float,
    cfg: float,
    tick: Advance,
    refer: Refer,
    accelerate: Accelerate,
    report: Callable[[WorkReport], None] | None,
) -> Tensor:
    flux, autoencoder = pipeline.model, pipeline.autoencoder
    height, width = cases[0].target.shape[-2:]
    scale = flux.latent_format.downscale
    shape = (1, flux.latent_format.channels, height // scale, width // scale)
    references = []
    for pictures in zip(*(case.references for case in cases), strict=True):
        stack = torch.stack(pictures).to(flux.device, flux.dtype)
        references.append(refer(autoencoder.encode(stack * 2 - 1)))
    context = stitch((len(cases), *shape[1:]), references, latent_format=flux.latent_format)
    words = Conditioning(
        *pipeline.text_encoder.encode([case.sample.prompt for case in cases]), guidance
    )
    unwanted = None
    if cfg != 1:
        unwanted = Conditioning(*pipeline.text_encoder.encode([""] * len(cases)), guidance)
    latent = sample(
        flux,
        context,
        words,
        make_timesteps(steps, context.target_tokens),
        noise=torch.cat([make_noise(case.seed, shape) for case in cases]),
        negative=unwanted,
        cfg=cfg,
        accelerate=accelerate,
        report=report,
        callback=lambda *_: tick(len(cases)),
    )
    return (autoencoder.decode(latent).float() / 2 + 0.5).clamp(0, 1).cpu()


def untouched_area(before: Tensor, after: Tensor, margin: int = 3) -> Tensor:
    """[b, 1, h, w]: 1 where two pictures [b, 3, h, w] agree, and do so `margin` pixels around."""
    change = ((before - after).abs().amax(1, keepdim=True) > 1 / 255).float()
    return 1 - F.max_pool2d(change, 2 * margin + 1, 1, margin)


def assess(
    cases: Sequence[Case], pictures: Tensor, tick: Advance = lambda count: None
) -> list[Score]:
    """What the answers [n, 3, h, w] are worth, in the order of the cases."""
    scores = []
    for start in range(0, len(cases), 8):
        some = cases[start : start + 8]
        made = pictures[start : start + 8]
        target = torch.stack([case.target for case in some])
        verdicts = judge_all(
            [case.sample for case in some], made, [case.references for case in some]
        )
        decibels, similar = psnr(made, target).tolist(), ssim(made, target).tolist()
        for i, case in enumerate(some):
            scores.append(
                Score(
                    verdicts[i],
                    decibels[i],
                    similar[i],
                    _untouched(case, made[i]),
                    _nearer(case, made[i], decibels[i]),
                )
            )
        tick(len(some) * JUDGED)
    return scores


def _untouched(case: Case, picture: Tensor) -> float | None:
    if case.category not in EDITS:
        return None
    before, right = case.references[0][None], case.target[None]
    area = untouched_area(before, right)
    if not bool(area.any()):
        return None
    return float(psnr(picture[None], before, area))


def _nearer(case: Case, picture: Tensor, decibels: float) -> bool | None:
    other = case.sample.swapped
    if other is None:
        return None
    return decibels > float(psnr(picture[None], render([other], *picture.shape[-2:])))


def summary(scores: Sequence[Score]) -> dict[str, object]:
    """Success and pictures of some answers, as one row of a table.

    Returns:
        n, right; success with its 95 % interval low, high; psnr (dB) and ssim to the right
        answer, means; untouched: mean dB where something is to be left alone, else None;
        failed: how often each attribute was wrong.
    """
    count, right = len(scores), sum(one.verdict.right for one in scores)
    low, high = wilson(right, count)
    left = [one.untouched for one in scores if one.untouched is not None]
    nearer = [float(one.nearer) for one in scores if one.nearer is not None]
    failed = Counter(name for one in scores for name in one.verdict.failed)
    return {
        "n": count,
        "right": right,
        "success": round(right / count, 4) if count else None,
        "low": round(low, 4),
        "high": round(high, 4),
        "psnr": _mean([one.psnr for one in scores]),
        "ssim": _mean([one.ssim for one in scores]),
        "untouched": _mean(left),
        "nearer": _mean(nearer),
        "failed": dict(sorted(failed.items(), key=lambda item: (-item[1], item[0]))),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
