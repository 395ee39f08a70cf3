"""The loss of a step: rectified flow on the target's tokens, references beside it as in inference.

z_t = (1 - t) x + t eps and v = eps - x (arXiv 2506.15742, section 3). Timesteps are logit-normal with
the resolution's mu as their mean (the same section; Esser et al. 2024, arXiv 2403.03206): a time shift by
mu adds mu to the logit. Shapes: b batch, c channels, h and w latent cells, n tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..latents import pack
from ..models.block_run import BlockCall
from ..models.flux import Flux
from ..schedule import mu_for
from ..stitcher import Reference, stitch
from .encoded import Encoded, Words
from .settings import TrainSettings

# Calls a block so that only its inputs are kept for the gradients.
forgetful: BlockCall = partial(checkpoint, use_reentrant=False)


@dataclass(frozen=True, eq=False)
class Drawn:
    """One example of a step with what chance has decided of it.

    Attributes:
        target, references: RAW latents [1, c, h, w].
        words: the instruction's features, or the empty one's.
        t: timestep, 0..1.
        eps: noise like the target.
    """

    target: Tensor
    references: tuple[Tensor, ...]
    words: Words
    t: float
    eps: Tensor

    @property
    def form(self) -> tuple[Any, ...]:
        """What examples share that can be computed together."""
        shapes = (tuple(r.shape) for r in self.references)
        return tuple(self.target.shape), *shapes, tuple(self.words.txt.shape)


def draw(
    examples: Iterable[Encoded], empty: Words, settings: TrainSettings, generator: torch.Generator
) -> list[Drawn]:
    """Timesteps, noise and dropout for a step's examples, from its generator alone."""
    drawn = []
    for example in examples:
        chance = torch.rand(2, generator=generator).tolist()
        target, references, words = example.load()
        tokens = pack(target).shape[1]
        mean = mu_for(tokens) if settings.shift is None else settings.shift
        logit = mean + settings.spread * torch.randn(1, generator=generator)
        eps = torch.randn(target.shape, generator=generator)
        if chance[0] < settings.caption_dropout:
            words = empty
        if chance[1] < settings.reference_dropout:
            references = ()
        drawn.append(Drawn(target, references, words, float(torch.sigmoid(logit)), eps))
    return drawn


def grouped(drawn: Sequence[Drawn]) -> list[list[Drawn]]:
    """Those that can be computed together, in the order in which their first one came."""
    groups: dict[tuple[Any, ...], list[Drawn]] = {}
    for one in drawn:
        groups.setdefault(one.form, []).append(one)
    return list(groups.values())


def flow_losses(
    network: Flux, group: Sequence[Drawn], settings: TrainSettings, call: BlockCall | None = None
) -> Tensor:
    """[b] mean squared errors of the velocity of examples of one form.

    Args:
        call: how blocks are called, see `Flux.forward`.
    """
    device, dtype, space = network.device, network.dtype, network.latent_format
    target = torch.cat([one.target for one in group]).float()
    eps = torch.cat([one.eps for one in group])
    references = [
        Reference(torch.cat(parts))
        for parts in zip(*(one.references for one in group), strict=True)
    ]
    context = stitch(
        target.shape, references, method=settings.method, latent_format=space
    ).to(device, dtype)  # fmt: skip
    x, noise = pack(space.process_in(target)).to(device), pack(eps).to(device)
    t = torch.tensor([one.t for one in group], device=device)
    noisy = (1 - t)[:, None, None] * x + t[:, None, None] * noise
    step = context.at(0.0)
    img = torch.cat([noisy.to(dtype), step.tokens], dim=1)
    txt = torch.cat([one.words.txt for one in group]).to(device, dtype)
    y = torch.cat([one.words.vec for one in group]).to(device, dtype)
    guidance = None
    if settings.guidance is not None:
        guidance = torch.full((len(group),), settings.guidance, device=device, dtype=dtype)
    still = None
    if step.still:
        still = network.as_needed(network.embed(torch.zeros_like(t), y, guidance, dtype))
    velocity = network(
        img, step.img_ids, txt, torch.zeros(1, txt.shape[1], 3, device=device), t, y, guidance,
        attn_bias=step.bias, target_tokens=x.shape[1], still=still, call=call,
    )  # fmt: skip
    return (velocity.float() - (noise - x)).square().flatten(1).mean(1)
