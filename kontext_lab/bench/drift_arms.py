"""Ways to go on from turn to turn, and how far each of them drifts.

naive    the picture is decoded, kept with 8 bits, and encoded again: what a chain of nodes does
latents  the last latent is the next reference
aligned  latents, and the low frequencies of each channel get mean and deviation of a running average of
         the turns before (the idea of VAE-LFA, arXiv 2605.08250; its coefficients are not published)
details  latents, and in the first 30 % of the steps the velocity's high frequencies lean towards the one
         that leads back to the picture before (FreqEdit, arXiv 2512.01755: its weights, Haar in place of
         its db4 wavelets, which do not fit on 8x8 cells, and without its two further corrections)
kept     latents, and what a turn leaves alone keeps its pixels and latents: `kontext_core.session.keep`
masked   the same, told by a mask of what the edit is about
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kontext_core.framing import Framing
from kontext_core.guidance import Conditioning
from kontext_core.pipeline import Pipeline
from kontext_core.sampling import SamplerState, make_noise, sample_steps
from kontext_core.schedule import make_timesteps
from kontext_core.session.turns import kept_of
from kontext_core.stitcher import Reference, stitch

from .held_out import Advance

ARMS = ("naive", "latents", "aligned", "details", "kept", "masked")
# Of the running average: how much of it stays.
DECAY = 0.7
# Cells a side of what counts as one low frequency: two levels of Haar.
BLOCK = 4
# FreqEdit's: share of the steps, base and gamma of the weights.
EARLY, BASE, GAMMA = 0.3, 1.2, 1.5


@dataclass(frozen=True, eq=False)
class Codec:
    """An autoencoder: pictures [n, 3, h, w] in 0..1 to RAW latents and back, not clamped."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


def own_codec(pipeline: Pipeline) -> Codec:
    """The pipeline's own."""
    autoencoder = pipeline.autoencoder
    return Codec(
        lambda pictures: autoencoder.encode(pictures * 2 - 1),
        lambda latents: autoencoder.decode(latents).float() / 2 + 0.5,
    )


@dataclass(frozen=True, eq=False)
class Asked:
    """One turn of every chain: words, seeds of the noise, and where each may change, [n, h, w]."""

    prompts: Sequence[str]
    seeds: Sequence[int]
    masks: Tensor


@torch.no_grad()
def run_arm(
    pipeline: Pipeline,
    codec: Codec,
    arm: str,
    first: Tensor,
    turns: Sequence[Asked],
    *,
    steps: int = 28,
    guidance: float = 2.5,
    tick: Advance = lambda count: None,
) -> list[Tensor]:
    """The pictures [n, 3, h, w] in 8-bit steps after every turn, from the first ones of that shape."""
    latent_format = pipeline.model.latent_format
    pictures, latents = eight_bit(first), codec.encode(first)
    average = low(latents)
    seen = []
    for asked in turns:
        before = codec.encode(pictures) if arm == "naive" else latents
        after = _paint(pipeline, before, asked, steps, guidance, arm == "details", tick)
        if arm == "aligned":
            after = _aligned(after, average)
            average = DECAY * average + (1 - DECAY) * low(after)
        painted = eight_bit(codec.decode(after))
        if arm in ("kept", "masked"):
            size = (first.shape[-1], first.shape[-2])
            framing = Framing(size, (0, 0, *size), size, size)
            for i, mask in enumerate(asked.masks):
                picture, latent = kept_of(
                    pictures[i : i + 1].movedim(1, -1), before[i : i + 1],
                    (painted[i : i + 1].movedim(1, -1), after[i : i + 1]), framing,
                    mask if arm == "masked" else None, "unchanged", latent_format,
                )  # fmt: skip
                painted[i], after[i] = eight_bit(picture[0].movedim(-1, 0)), latent[0]
        pictures, latents = painted, after
        seen.append(pictures.clone())
    return seen


def eight_bit(pictures: Tensor) -> Tensor:
    """As a PNG gives them back."""
    return (pictures.clamp(0, 1) * 255).round() / 255


def low(latents: Tensor) -> Tensor:
    """The low frequencies of latents [n, c, h, w]: means of blocks."""
    return F.avg_pool2d(latents, BLOCK)


def _spread(means: Tensor) -> Tensor:
    return F.interpolate(means, scale_factor=BLOCK, mode="nearest")


def _aligned(latents: Tensor, average: Tensor) -> Tensor:
    means = low(latents)
    centre, wanted = means.mean((-2, -1), keepdim=True), average.mean((-2, -1), keepdim=True)
    scale = average.std((-2, -1), keepdim=True) / means.std((-2, -1), keepdim=True).clamp(min=1e-4)
    return latents + _spread((means - centre) * scale + wanted - means)


def _leaning(v: Tensor, x: Tensor, t: float, before: Tensor) -> Tensor:
    """A velocity whose details lean towards the one that leads from x at t back to `before`."""
    back = (x - before) / t
    distance = (v - back).square().sum(1, keepdim=True).sqrt()
    least, most = distance.amin((-2, -1), keepdim=True), distance.amax((-2, -1), keepdim=True)
    share = (distance - least) / (most - least).clamp(min=1e-6)
    weight = (BASE * (torch.exp(GAMMA * (1 - share)) - 1)).clamp(0, 1)
    smooth = _spread(low(v))
    return smooth + (1 - weight) * (v - smooth) + weight * (back - _spread(low(back)))


def _paint(
    pipeline: Pipeline,
    before: Tensor,
    asked: Asked,
    steps: int,
    guidance: float,
    lean: bool,
    tick: Advance,
) -> Tensor:
    """One turn of every chain: RAW latents to RAW latents [n, c, h, w]."""
    flux, texts = pipeline.model, pipeline.text_encoder
    latent_format = flux.latent_format
    groups: dict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(asked.prompts):
        # Padding differs from no padding, so only texts of one length share a batch.
        groups[texts.tokenize([prompt]).shape[1]].append(i)
    out = torch.empty_like(before)
    for rows in groups.values():
        own = before[rows]
        context = stitch(tuple(own.shape), [Reference(own)], latent_format=latent_format)
        words = Conditioning(*texts.encode([asked.prompts[i] for i in rows]), guidance)
        noise = torch.cat([make_noise(asked.seeds[i], (1, *own.shape[1:])) for i in rows])
        timesteps = make_timesteps(steps, context.target_tokens)
        state = None
        for step in range(round(EARLY * steps) if lean else 0):
            t, following = float(timesteps[step]), float(timesteps[step + 1])
            x = noise if state is None else state.x
            done = sample_steps(
                flux, context, words, timesteps, noise=noise, state=state, stop_at=step + 1
            )
            v = (done.x - x) / (following - t)
            v = _leaning(v, x, t, latent_format.process_in(own))
            state = SamplerState(x + (following - t) * v, step + 1, steps)
        done = sample_steps(flux, context, words, timesteps, noise=noise, state=state)
        out[rows] = latent_format.process_out(done.x)
        tick(len(rows) * steps)
    return out
