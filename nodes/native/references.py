"""What a forward inside ComfyUI sees beside its target: reference tokens, their places, their weight.

References come as ComfyUI's own Flux gets them, a list of latents with a method, and with our chain
where they carry a strength, a mask, a part of the run or a place of their own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...kontext_core.errors import ShapeError
from ...kontext_core.latents import pack, token_grid
from ...kontext_core.stitcher import METHODS, Position, Reference, kept_tokens, place

__all__ = ["INDEX_AT_ZERO", "Scene", "arrange", "is_plain", "progress_of"]

logger = logging.getLogger(__name__)

# One behind the other, and modulated as finished pictures, whatever the step.
INDEX_AT_ZERO = "index_timestep_zero"
# How far a step's sigma may lie above its place in the schedule, by rounding.
SLACK = 1e-5
# Methods of other models, which were told of.
_told: set[str] = set()


@dataclass(frozen=True, eq=False)
class Scene:
    """Image tokens of one forward.

    Attributes:
        tokens: [b, n, 4c], the target's first.
        ids: [1, n, 3] float32 positions.
        bias: None, or [1, n] log strengths.
        target: number of the target's tokens.
        counts: tokens of each reference that is there.
        still: references are modulated at timestep 0.
    """

    tokens: Tensor
    ids: Tensor
    bias: Tensor | None
    target: int
    counts: tuple[int, ...]
    still: bool


def is_plain(reference: Reference) -> bool:
    """Whether latent and method say all there is about a reference."""
    part = reference.start > 0 or reference.end < 1
    more = reference.mask is not None or reference.position is not None
    return reference.strength == 1 and not part and not more


def progress_of(options: dict[str, Any], timestep: Tensor) -> float:
    """Share of the run, 0..1, that lies behind the running step: i / n at step i of n.

    Args:
        options: the host's transformer_options with `sample_sigmas`, the run's schedule, and
            `sigmas` of this call.
        timestep: [b] in 0..1, for a sampler that gives no schedule.
    """
    sigmas = options.get("sample_sigmas")
    now = options.get("sigmas")
    if sigmas is None or len(sigmas) < 2 or now is None:
        return float(1 - timestep.flatten()[0])
    current = float(now.flatten()[0]) * (1 - SLACK)
    begun = int((sigmas[:-1] >= current).sum())
    return max(begun - 1, 0) / (len(sigmas) - 1)


def arrange(
    x: Tensor,
    latents: Sequence[Tensor] | None,
    chain: Sequence[Reference] | None,
    method: str,
    options: dict[str, Any],
    timestep: Tensor,
) -> Scene:
    """Tokens and places of a target and its references.

    Args:
        x: [b, c, h, w] target, model space.
        latents: of the references, [b, c, h, w] each, model space; those of strength 0 are not
            among them.
        chain: None, or the same references and those of strength 0, in order, with all we know.
        method: "offset", "index", "uxo" or "index_timestep_zero". Others count as offset, as in
            ComfyUI's Flux.
        options: the host's transformer_options; `rope_options` scale and shift all positions.
        timestep: [b] in 0..1.

    Raises:
        ShapeError: a reference that is no latent of this model; a chain for other latents.
        InputError: a mask that leaves nothing.
    """
    rows, columns = token_grid(*x.shape[-2:])
    tokens, ids = [pack(x)], [_grid(rows, columns, (0.0, 0.0, 0.0), options, x.device)]
    biases = [torch.zeros(rows * columns)]
    counts = []
    latents = list(latents or ())
    items = [Reference(latent) for latent in latents] if chain is None else chain
    there = sum(reference.strength != 0 for reference in items)
    if there != len(latents):
        raise ShapeError(
            f"{len(latents)} reference latents came with what Kontext: Stitch says about {there}; "
            "a node between them and the sampler changed one and not the other. Take it away"
        )
    queue = iter(latents)
    sizes = [(r.latent.shape[-2], r.latent.shape[-1]) for r in items]
    positions = place(sizes, _known(method), (rows, columns), [r.position for r in items])
    part = any(r.start > 0 or r.end < 1 for r in items)
    now = progress_of(options, timestep) if part else 0.0
    for number, (reference, position) in enumerate(zip(items, positions, strict=True), 1):
        # Its place stays free.
        if reference.strength == 0:
            continue
        latent = next(queue)
        if not reference.start <= now < reference.end:
            continue
        if latent.ndim != 4 or latent.shape[1] != x.shape[1]:
            raise ShapeError(
                f"reference {number} has shape {tuple(latent.shape)}, the target "
                f"{tuple(x.shape)}; the channels must agree. It was made with another kind of "
                "VAE, or this MODEL (an inpainting or control one) takes no references"
            )
        rows_of, columns_of = token_grid(*latent.shape[-2:])
        packed = pack(latent)
        grid = _grid(rows_of, columns_of, position, options, x.device)
        kept = kept_tokens(reference.mask, rows_of, columns_of, number)
        if kept is not None:
            kept = kept.to(x.device)
            packed, grid = packed[:, kept], grid[kept]
        tokens.append(packed)
        ids.append(grid)
        biases.append(torch.full((len(grid),), math.log(reference.strength)))
        counts.append(len(grid))
    plain = all(reference.strength in (0, 1) for reference in items)
    return Scene(
        tokens=torch.cat(tokens, 1),
        ids=torch.cat(ids)[None],
        bias=None if plain else torch.cat(biases)[None].to(x.device),
        target=rows * columns,
        counts=tuple(counts),
        still=method == INDEX_AT_ZERO and bool(counts),
    )


def _known(method: str) -> str:
    if method == INDEX_AT_ZERO:
        return "index"
    if method in METHODS:
        return method
    if method not in _told:
        _told.add(method)
        logger.warning(
            "references are to be placed by %r, which FLUX.1 Kontext does not know; they are "
            "placed by 'offset'. Known are %s and %s",
            method, ", ".join(METHODS), INDEX_AT_ZERO,
        )  # fmt: skip
    return "offset"


def _grid(
    rows: int, columns: int, position: Position, options: dict[str, Any], device: Any
) -> Tensor:
    """[rows * columns, 3] float32 positions (t, h, w), scaled and shifted by `rope_options`."""
    asked = options.get("rope_options") or {}
    t, h, w = position
    grid = torch.zeros(rows, columns, 3, dtype=torch.float32, device=device)
    grid[..., 0] = t + asked.get("shift_t", 0.0)
    for axis, first, count, name in ((1, h, rows, "y"), (2, w, columns, "x")):
        first = first + asked.get(f"shift_{name}", 0.0)
        reach = (count - 1) * asked.get(f"scale_{name}", 1.0)
        steps = torch.linspace(first, first + reach, count, dtype=torch.float32, device=device)
        grid[..., axis] = steps[:, None] if axis == 1 else steps
    return grid.flatten(0, 1)
