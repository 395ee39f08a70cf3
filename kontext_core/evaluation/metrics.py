"""Picture metrics. Pictures are float tensors in 0..1, [b, c, h, w]; every result is [b]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError

__all__ = ["mse", "psnr", "ssim"]


def mse(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error, over the pixels where `mask` [b, 1, h, w] is 1 if one is given.

    Raises:
        ShapeError: the two differ in shape or are not [b, c, h, w].
    """
    _check(a, b)
    error = (a - b).square()
    if mask is None:
        return error.flatten(1).mean(1)
    weight = mask.to(error).expand_as(error).flatten(1)
    return (error.flatten(1) * weight).sum(1) / weight.sum(1).clamp(min=1)


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB for a peak of 1, at most 100 (equal pictures)."""
    return -10 * torch.log10(mse(a, b, mask).clamp(min=1e-10))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity with an 11x11 Gaussian window, sigma 1.5 (Wang et al. 2004).

    Raises:
        ShapeError: shapes differ, or a side is shorter than the window.
    """
    _check(a, b)
    if min(a.shape[-2:]) < 11:
        raise ShapeError(f"pictures are {tuple(a.shape[-2:])}; SSIM needs at least 11x11 pixels")
    at = torch.arange(11, dtype=a.dtype, device=a.device) - 5
    line = torch.exp(-(at**2) / (2 * 1.5**2))
    window = torch.outer(line, line)
    channels = a.shape[1]
    kernel = (window / window.sum()).expand(channels, 1, 11, 11)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, groups=channels)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    value = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    return value.flatten(1).mean(1)


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise ShapeError(
            f"pictures have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected two equal "
            "[batch, channels, height, width]"
        )
