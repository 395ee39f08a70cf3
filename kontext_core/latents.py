"""Latent conventions: raw latents outside, model space inside, 2x2 patches as tokens.

Every public function takes and gives RAW latents, the autoencoder's mean, as ComfyUI's LATENT
sockets carry them; only the transformer sees model space. Shapes: b batch, h and w latent cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .errors import ShapeError


@dataclass(frozen=True)
class LatentFormat:
    """How an autoencoder's latents relate to the model's space, and to a rough colour picture.

    `rgb_factors` (channels x 3) and `rgb_bias` (3) give a linear preview in 0..1 from a
    model-space latent; None where no preview was fitted.
    """

    scale_factor: float = 0.3611
    shift_factor: float = 0.1159
    channels: int = 16
    downscale: int = 8
    rgb_factors: tuple[tuple[float, float, float], ...] | None = None
    rgb_bias: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.rgb_factors is not None:
            object.__setattr__(self, "rgb_factors", tuple(tuple(row) for row in self.rgb_factors))
        object.__setattr__(self, "rgb_bias", tuple(self.rgb_bias))

    @property
    def space(self) -> tuple[float, float, int, int]:
        """What two formats must share for their latents to mean the same; previews don't count."""
        return self.scale_factor, self.shift_factor, self.channels, self.downscale

    def named(self) -> str:
        """Its numbers, for a message."""
        return (
            f"scale {self.scale_factor:g}, shift {self.shift_factor:g}, {self.channels} channels, "
            f"{self.downscale} px a cell"
        )

    def process_in(self, raw: Tensor) -> Tensor:
        """Raw latent to model space."""
        return (raw - self.shift_factor) * self.scale_factor

    def process_out(self, latent: Tensor) -> Tensor:
        """Model space to raw latent."""
        return latent / self.scale_factor + self.shift_factor

    def preview(self, latent: Tensor) -> Tensor | None:
        """Rough picture of a model-space latent [b, c, h, w]: [b, h, w, 3] in 0..1, or None."""
        if self.rgb_factors is None:
            return None
        factors = torch.tensor(self.rgb_factors, dtype=torch.float32, device=latent.device)
        bias = torch.tensor(self.rgb_bias, dtype=torch.float32, device=latent.device)
        rgb = torch.einsum("bchw,cr->bhwr", latent.float(), factors) + bias
        return rgb.clamp(0, 1)

    def check(self, latent: Tensor, name: str = "latent") -> None:
        """Refuse anything but a [b, channels, h, w] float tensor.

        Raises:
            ShapeError: with the shape found and what to do.
        """
        if latent.ndim != 4 or latent.shape[1] != self.channels or 0 in latent.shape:
            raise ShapeError(
                f"{name} has shape {tuple(latent.shape)}; expected [batch, {self.channels}, "
                "height, width]. Make it with a Flux autoencoder or an empty 16-channel latent"
            )
        if not latent.is_floating_point():
            raise ShapeError(f"{name} has dtype {latent.dtype}; expected a floating-point tensor")


# The figures published for FLUX.1's latents, to colours in -1..1. They belong to those weights: a
# model with an autoencoder of its own brings its own in its config.
_FLUX_RGB = (
    (-0.0346, 0.0244, 0.0681),
    (0.0034, 0.021, 0.0687),
    (0.0275, -0.0668, -0.0433),
    (-0.0174, 0.016, 0.0617),
    (0.0859, 0.0721, 0.0329),
    (0.0004, 0.0383, 0.0115),
    (0.0405, 0.0861, 0.0915),
    (-0.0236, -0.0185, -0.0259),
    (-0.0245, 0.025, 0.118),
    (0.1008, 0.0755, -0.0421),
    (-0.0515, 0.0201, 0.0011),
    (0.0428, -0.0012, -0.0036),
    (0.0817, 0.0765, 0.0749),
    (-0.1264, -0.0522, -0.1103),
    (-0.028, -0.0881, -0.0499),
    (-0.1262, -0.0982, -0.0778),
)
_FLUX_RGB_BIAS = (-0.0329, -0.0718, -0.0851)
FLUX_LATENT = LatentFormat(
    rgb_factors=tuple((r / 2, g / 2, b / 2) for r, g, b in _FLUX_RGB),
    rgb_bias=tuple(value / 2 + 0.5 for value in _FLUX_RGB_BIAS),  # type: ignore[arg-type]
)


def token_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of 2x2 patches that cover a latent of this size, odd sizes rounded up."""
    return (height + 1) // 2, (width + 1) // 2


def pad_to_patch(latent: Tensor) -> Tensor:
    """Extend odd sides by one cell, wrapping around as ComfyUI does (comfy/ldm/common_dit.py)."""
    pad_h, pad_w = latent.shape[-2] % 2, latent.shape[-1] % 2
    if not (pad_h or pad_w):
        return latent
    return F.pad(latent, (0, pad_w, 0, pad_h), mode="circular")


def pack(latent: Tensor) -> Tensor:
    """[b, c, h, w] to tokens [b, ceil(h/2) * ceil(w/2), 4c] (BFL sampling.py)."""
    return rearrange(pad_to_patch(latent), "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens back to a latent [b, c, height, width]; what padding added is cut off."""
    rows, columns = token_grid(height, width)
    latent = rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, w=columns, p=2, q=2)
    return latent[..., :height, :width]
