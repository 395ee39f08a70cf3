"""Picture metrics ([b, c, h, w] in 0..1 to [b]), and the interval of a share of right answers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError, ShapeError

# Weights of the scales of MS-SSIM (Wang et al. 2003, table 1), finest first.
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


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
    return ssim_map(a, b).flatten(1).mean(1)


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """What `ssim` is the mean of: [b, c, h - 10, w - 10], of the windows around each inner pixel.

    Raises:
        ShapeError: as `ssim`.
    """
    similar, structure = _ssim_parts(a, b)
    return similar * structure


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity (Wang et al. 2003), with as many scales as fit.

    A scale halves the picture; five need 176 pixels a side, 64 pixels have room for three. The
    published weights of the scales used are scaled to sum to 1. `1 - ms_ssim` serves as a
    distance that asks for structure more than for exact values; it is worked out, not learned.

    Raises:
        ShapeError: as `ssim`.
    """
    sides = min(a.shape[-2:])
    count = sum(sides // 2**level >= 11 for level in range(len(_SCALES)))
    weights = _SCALES[: max(1, count)]
    result = torch.ones(len(a), dtype=a.dtype, device=a.device)
    for level, weight in enumerate(weights):
        similar, structure = _ssim_parts(a, b)
        last = level == len(weights) - 1
        value = (similar * structure if last else structure).flatten(1).mean(1)
        # A negative mean (inverted structure) has no real power.
        result = result * value.clamp(min=0) ** (weight / sum(weights))
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return result


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), honest at 0 and 1 and for few cases; (0, 1) of none.

    Raises:
        InputError: not 0 <= right <= count.
    """
    if not 0 <= right <= count:
        raise InputError(f"{right} right of {count}; expected a count of cases and a part of it")
    if not count:
        return 0.0, 1.0
    z = 1.959964
    share = right / count
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    low, high = ((middle + sign * spread) / (1 + z * z / count) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def _ssim_parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of SSIM at every pixel: of the means, and of contrast and structure."""
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
    return (
        (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1),
        (2 * covariance + c2) / (var_a + var_b + c2),
    )


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise ShapeError(
            f"pictures have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected two equal "
            "[batch, channels, height, width]"
        )
