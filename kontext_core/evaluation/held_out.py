"""Scores of a model folder on held-out scenes of the world, pictures only.

Cases have wordings and (shape, colour) pairs that training never made. Everything goes through
the code that users run: autoencoder, stitcher, sampler, schedule.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..guidance import Conditioning
from ..pipeline import Pipeline
from ..sampling import make_noise, sample
from ..schedule import make_timesteps
from ..stitcher import Reference, stitch
from ..training.world.render import render
from ..training.world.tasks import TASKS, Sample, make_sample
from .metrics import mse, psnr

__all__ = ["Cases", "autoencoder_scores", "generate", "held_out_cases", "scores"]


@dataclass(frozen=True)
class Cases:
    """Samples of one task, drawn: target and references [n, 3, h, w] in 0..1."""

    task: str
    samples: list[Sample]
    target: Tensor
    references: list[Tensor]


def held_out_cases(
    task: str,
    count: int,
    *,
    seed: int = 2024,
    held_out: bool = True,
    size: tuple[int, int] = (64, 64),
) -> Cases:
    """`count` cases of a task; the same ones for the same seed. `size` is (height, width)."""
    rng = random.Random(f"{seed}/{task}/{held_out}")
    samples = [make_sample(rng, task=task, held_out=held_out) for _ in range(count)]
    references = [
        render([sample.references[i] for sample in samples], *size)
        for i in range(len(samples[0].references))
    ]
    return Cases(task, samples, render([sample.target for sample in samples], *size), references)


@torch.no_grad()
def generate(
    pipeline: Pipeline,
    prompts: Sequence[str],
    references: Sequence[Tensor],
    size: tuple[int, int],
    *,
    steps: int = 16,
    guidance: float = 2.5,
    cfg: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Pictures [n, 3, h, w] in 0..1, one per prompt, as one batch.

    Args:
        references: one batch [n, 3, h, w] in 0..1 per numbered image.
        size: (height, width) of the results.
        steps, guidance, cfg, seed: as in `pipeline.edit`.
    """
    flux = pipeline.model
    latents = [Reference(pipeline.autoencoder.encode(r * 2 - 1)) for r in references]
    shape = (len(prompts), 16, size[0] // 8, size[1] // 8)
    context = stitch(shape, latents, latent_format=flux.latent_format)
    wanted = Conditioning(*pipeline.text_encoder.encode(list(prompts)), guidance)
    unwanted = None
    if cfg != 1:
        unwanted = Conditioning(*pipeline.text_encoder.encode([""] * len(prompts)), guidance)
    latent = sample(
        flux, context, wanted, make_timesteps(steps, context.target_tokens),
        noise=make_noise(seed, shape), negative=unwanted, cfg=cfg,
    )  # fmt: skip
    return (pipeline.autoencoder.decode(latent) / 2 + 0.5).clamp(0, 1)


def exchange_numbers(prompt: str) -> str:
    """'image 1' becomes 'image 2' and the other way round."""
    return prompt.translate(str.maketrans("12", "21"))


def scores(pipeline: Pipeline, cases: Cases, **options: float) -> dict[str, float]:
    """What one task's pictures show.

    Returns:
        psnr: result against the right answer, dB. copy: the best reference against it. gain: the
        difference. judged: share of cases whose error is under a quarter of the reference's, i.e.
        at least 6 dB nearer the right answer than doing nothing. For order-critical cases,
        scrambled: psnr with the words shuffled. For two references, exchanged_words and
        exchanged_pictures: share whose result then is nearer the swapped answer than the old one.
    """
    size = (cases.target.shape[2], cases.target.shape[3])
    prompts = [sample.prompt for sample in cases.samples]
    out = generate(pipeline, prompts, cases.references, size, **options)  # type: ignore[arg-type]
    found = {"psnr": psnr(out, cases.target)}
    if cases.references:
        error = torch.stack([mse(r, cases.target) for r in cases.references]).amin(0)
        found["copy"] = -10 * torch.log10(error.clamp(min=1e-10))
        found["gain"] = found["psnr"] - found["copy"]
        found["judged"] = (mse(out, cases.target) < error / 4).float()
    rng = random.Random(1)
    ordered = [i for i, sample in enumerate(cases.samples) if sample.ordered]
    if ordered:
        shuffled = [" ".join(rng.sample(p.split(), len(p.split()))) for p in prompts]
        wrong = generate(pipeline, shuffled, cases.references, size, **options)  # type: ignore[arg-type]
        found["ordered"] = found["psnr"][ordered]
        found["scrambled"] = psnr(wrong, cases.target)[ordered]
    swappable = [i for i, sample in enumerate(cases.samples) if sample.swapped is not None]
    if swappable:
        swapped = render([s.swapped for s in cases.samples if s.swapped is not None], *size)
        right = cases.target[swappable]
        for name, words, pictures in (
            ("exchanged_words", [exchange_numbers(p) for p in prompts], cases.references),
            ("exchanged_pictures", prompts, cases.references[::-1]),
        ):
            other = generate(pipeline, words, pictures, size, **options)[swappable]  # type: ignore[arg-type]
            found[name] = (mse(other, swapped) < mse(other, right)).float()
    return {name: float(value.mean()) for name, value in found.items()}


@torch.no_grad()
def autoencoder_scores(pipeline: Pipeline, count: int = 96) -> dict[str, float]:
    """PSNR (mean and lowest tenth) and latent spread on held-out pictures."""
    values: dict[str, list[Tensor]] = defaultdict(list)
    for task in TASKS:
        x = held_out_cases(task, max(1, count // len(TASKS)), seed=77).target
        raw = pipeline.autoencoder.encode(x * 2 - 1)
        back = (pipeline.autoencoder.decode(raw) / 2 + 0.5).clamp(0, 1)
        values["psnr"].append(psnr(back, x))
        values["z"].append(pipeline.model.latent_format.process_in(raw).flatten())
    decibels = torch.cat(values["psnr"])
    return {
        "psnr": float(decibels.mean()),
        "psnr_p10": float(decibels.quantile(0.1)),
        "latent_std": float(torch.cat(values["z"]).std()),
    }
