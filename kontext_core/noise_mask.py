"""Masks in sampling: which cells of the latent may change, and from which step on.

Two ways to read grey. "soft" mixes: at every step a cell of value m takes m of what the model says and
1 - m of the picture's own latent. "differential" waits: a cell of value m is free from the step on
whose noise level has fallen to m of where the run began (Levin and Fried, Differential Diffusion,
arXiv 2306.00950), so that m says how much may change. On black and white both are the same.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .errors import ShapeError
from .finite import check_finite

MASK_MODES = ("soft", "differential")


def mask_on_latent(mask: Tensor | None, noise: Tensor) -> Tensor | None:
    """[b or 1, 1, H, W] at any resolution as [b, 1, h, w] at the latent's, as ComfyUI resizes it
    (bilinear).

    Raises:
        ShapeError: it is no mask, or of another batch. KontextError: NaN or infinite values.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise ShapeError(
            f"noise mask is a {type(mask).__name__}; expected a tensor [b, 1, h, w], as load_mask "
            "gives"
        )
    if mask.ndim < 2:
        raise ShapeError(f"noise mask has shape {tuple(mask.shape)}; expected [b, 1, h, w]")
    check_finite(mask, "noise mask", "paint it anew: 1 is painted, 0 is kept")
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).to(noise)
    mask = F.interpolate(mask, size=noise.shape[-2:], mode="bilinear")
    if len(noise) % len(mask):
        raise ShapeError(
            f"{len(mask)} noise masks for a batch of {len(noise)}; give 1 or {len(noise)}"
        )
    return mask.repeat(len(noise) // len(mask), 1, 1, 1)


def mask_now(mask: Tensor, mode: str, t: float, first: float, last: float) -> Tensor:
    """A mask as it holds at one noise level, of the same shape.

    Args:
        mode: one of MASK_MODES.
        t: the noise level now, `last`..`first`, those of the whole run.
    """
    if mode == "soft":
        return mask
    return ((mask >= (t - last) / (first - last)) & (mask > 0)).to(mask.dtype)
