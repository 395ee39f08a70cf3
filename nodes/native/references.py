"""What a forward inside ComfyUI sees beside its target: reference tokens, their places, their weight.

References come as ComfyUI's own Flux gets them, a list of latents with a method, and with our chain
where they carry a strength, a mask, a part of the run or a place of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...kontext_core import stitcher
from ...kontext_core.accelerate import step_at
from ...kontext_core.errors import ShapeError
from ...kontext_core.latents import pack
from ...kontext_core.region import original_of
from ...kontext_core.stitcher import METHODS, Reference

logger = logging.getLogger(__name__)

# Methods of other models, which were told of.
_told: set[str] = set()


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """Image tokens of one forward.

    Attributes:
        tokens: [b, n, 4c], the target's first.
        ids: [1, n, 3] float32 positions.
        bias: None, or [1, n] log strengths.
        target: number of the target's tokens.
        counts: tokens of each reference that is there.
        present: for every reference, whether it is.
        original: None, or [b, target, 4c] tokens of the reference that the target is a changed version
            of.
        grid: (rows, columns) of the target's tokens.
        still: references are modulated at timestep 0.
    """

    tokens: Tensor
    ids: Tensor
    bias: Tensor | None
    target: int
    counts: tuple[int, ...]
    present: tuple[bool, ...]
    original: Tensor | None
    grid: tuple[int, int]
    still: bool


def is_plain(reference: Reference) -> bool:
    """Whether latent and method say all there is about a reference."""
    part = reference.start > 0 or reference.end < 1
    more = reference.mask is not None or reference.position is not None
    return reference.strength == 1 and not part and not more


def progress_of(options: dict[str, Any], timestep: Tensor) -> float:
    """Share of the run, 0..1, that lies behind the running step: i / n at step i of n.

    Args:
        options: the host's transformer_options with `sample_sigmas`, the run's schedule,
            `sigmas` of this call, and `kontext_steps` of the whole run where that is only its
            beginning.
        timestep: [b] in 0..1, for a sampler that gives no schedule.
    """
    sigmas = options.get("sample_sigmas")
    now = options.get("sigmas")
    if sigmas is None or len(sigmas) < 2 or now is None:
        return float(1 - timestep.flatten()[0])
    step = step_at(float(now.flatten()[0]), sigmas.tolist())
    return step / options.get("kontext_steps", len(sigmas) - 1)


def arrange(
    x: Tensor,
    latents: Sequence[Tensor] | None,
    chain: Sequence[Reference] | None,
    method: str,
    options: dict[str, Any],
    timestep: Tensor,
) -> ImageTokens:
    """Tokens of a target and of the references that are there at this step, where the core's
    `stitcher.arrange` puts them.

    Args:
        x: [b, c, h, w] target, model space.
        latents: of the references, [b, c, h, w] each, model space; those of strength 0 are not
            among them.
        chain: None, or the same references and those of strength 0, in order, with all we know.
        method: one of METHODS. Others count as offset, as in ComfyUI's Flux.
        options: the host's transformer_options; `rope_options` scale and shift all positions.
        timestep: [b] in 0..1.

    Raises:
        ShapeError: a reference that is not a latent of this model; a chain for other latents.
        InputError: a mask that leaves nothing.
    """
    latents = list(latents or ())
    items = [Reference(latent) for latent in latents] if chain is None else list(chain)
    there = sum(reference.strength != 0 for reference in items)
    if there != len(latents):
        raise ShapeError(
            f"{len(latents)} reference latents came with what Kontext: Stitch says about {there}; "
            "a node between them and the sampler changed one and not the other. Take it away"
        )
    queue = iter(latents)
    for index, reference in enumerate(items):
        # Of one that is left out, the size counts: its place stays free.
        if reference.strength != 0:
            items[index] = replace(reference, latent=_checked(next(queue), x, index + 1))
    context = stitcher.arrange(
        tuple(x.shape), items, _known(method), rope=options.get("rope_options"), device=x.device
    )
    part = any(r.start > 0 or r.end < 1 for r in items)
    now = context.at(progress_of(options, timestep) if part else 0.0)
    original = original_of(context)
    return ImageTokens(
        tokens=torch.cat([pack(x), now.tokens.to(x)], 1),
        ids=now.img_ids,
        bias=now.bias,
        target=context.target_tokens,
        counts=now.counts,
        present=now.present,
        original=None if original is None else original[1],
        grid=(context.layout[0].rows, context.layout[0].columns),
        still=now.still,
    )


def _checked(latent: Tensor, x: Tensor, number: int) -> Tensor:
    if latent.ndim != 4 or latent.shape[1] != x.shape[1]:
        raise ShapeError(
            f"reference {number} has shape {tuple(latent.shape)}, the target {tuple(x.shape)}; the "
            "channels must agree. It was made with another kind of VAE, or this MODEL (an "
            "inpainting or control one) takes no references"
        )
    return latent


def _known(method: str) -> str:
    if method in METHODS:
        return method
    if method not in _told:
        _told.add(method)
        logger.warning(
            "references are to be placed by %r, which FLUX.1 Kontext does not know; they are "
            "placed by 'offset'. Known are %s",
            method, ", ".join(METHODS),
        )  # fmt: skip
    return "offset"
