"""Which tokens of the target an edit changes. Shapes: b batch, n tokens, rows x columns of the target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .accelerate import Region
from .latents import pack
from .stitcher import Context


def original_of(context: Context) -> tuple[int, Tensor] | None:
    """The reference that the target is a changed version of: the first that has its size, whole.

    Returns:
        Its number from 0 and its tokens [b, n, c] in model space; None where there is none.
    """
    target, *references = context.layout
    start = 0
    for index, placed in enumerate(references):
        tokens = context.tokens[:, start : start + placed.tokens]
        start += placed.tokens
        same = (placed.rows, placed.columns) == (target.rows, target.columns)
        if same and placed.tokens == target.tokens:
            return index, tokens
    return None


def changed(estimate: Tensor, original: Tensor, grid: tuple[int, int], region: Region) -> Tensor:
    """The tokens that change: those whose cosine to the original's is below `region.similarity`,
    without single ones, grown by `region.grow`.

    Args:
        estimate: [b, n, c] tokens of the finished picture.
        original: [b or 1, n, c].
        grid: (rows, columns), n in all.

    Returns:
        [n] bool, of any picture of the batch.
    """
    unlike = F.cosine_similarity(estimate.float(), original.float(), dim=-1) < region.similarity
    grids = unlike.unflatten(1, grid)
    neighbours = F.conv2d(
        grids[:, None].float(), torch.ones(1, 1, 3, 3, device=grids.device), padding=1
    )
    return grown((grids & (neighbours[:, 0] > 1.5)).any(0), region.grow).flatten()


def mask_on_tokens(mask: Tensor, region: Region) -> Tensor:
    """The tokens that a noise mask [b, 1, h, w] on the latent lets change at all, [n] bool, grown."""
    tokens = pack(mask.expand(-1, 1, -1, -1)).amax(-1) > 0
    rows, columns = (mask.shape[-2] + 1) // 2, (mask.shape[-1] + 1) // 2
    return grown(tokens.any(0).unflatten(0, (rows, columns)), region.grow).flatten()


def grown(grid: Tensor, by: int) -> Tensor:
    """A bool grid [rows, columns] with so many tokens more around what is true."""
    if by == 0:
        return grid
    return F.max_pool2d(grid[None, None].float(), 2 * by + 1, 1, by)[0, 0] > 0
