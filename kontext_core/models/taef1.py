"""TAEF1, the tiny autoencoder of FLUX.1's latents: quick pictures of a run in progress.

Architecture and state-dict names are the published ones of madebyollin/taesd (MIT): a plain
sequence, parameters named by position. It works on MODEL-SPACE latents, unlike `AutoEncoder`, and
on pictures in 0..1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ShapeError

WIDTH = 64


class SoftClamp(nn.Module):
    """Keeps latents in -3..3 without a corner."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class TinyBlock(nn.Module):
    """Three 3x3 convolutions with a shortcut; every width here is the same, so it has no weights."""

    def __init__(self, width: int, **factory: Any) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Conv2d(width, width, 3, padding=1, **factory), nn.ReLU()]
        self.conv = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class TinyDecoder(nn.Sequential):
    """Model-space latent [b, channels, h, w] to picture [b, 3, 8h, 8w], about 0..1, not clamped.

    Args:
        channels: of the latent.
        device, dtype: for the parameters.
    """

    def __init__(self, channels: int = 16, **factory: Any) -> None:
        layers: list[nn.Module] = [
            SoftClamp(),
            nn.Conv2d(channels, WIDTH, 3, padding=1, **factory),
            nn.ReLU(),
        ]
        for _ in range(3):
            layers += [TinyBlock(WIDTH, **factory) for _ in range(3)]
            layers += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False, **factory),
            ]
        layers += [TinyBlock(WIDTH, **factory), nn.Conv2d(WIDTH, 3, 3, padding=1, **factory)]
        super().__init__(*layers)
        self.channels = channels

    def forward(self, input: Tensor) -> Tensor:
        """Raises ShapeError: not [b, channels, h, w]."""
        if input.ndim != 4 or input.shape[1] != self.channels or 0 in input.shape:
            raise ShapeError(
                f"latent has shape {tuple(input.shape)}; expected [batch, {self.channels}, "
                "height, width] in the model's space"
            )
        return super().forward(input)


class TinyEncoder(nn.Sequential):
    """Picture [b, 3, H, W] in 0..1 to model-space latent [b, channels, H/8, W/8].

    Args:
        channels: of the latent.
        device, dtype: for the parameters.
    """

    def __init__(self, channels: int = 16, **factory: Any) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(3, WIDTH, 3, padding=1, **factory),
            TinyBlock(WIDTH, **factory),
        ]
        for _ in range(3):
            layers.append(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, stride=2, bias=False, **factory))
            layers += [TinyBlock(WIDTH, **factory) for _ in range(3)]
        layers.append(nn.Conv2d(WIDTH, channels, 3, padding=1, **factory))
        super().__init__(*layers)

    def forward(self, input: Tensor) -> Tensor:
        """Raises ShapeError: not [b, 3, H, W], or a side that 8 does not divide."""
        shape = tuple(input.shape)
        if len(shape) != 4 or shape[1] != 3 or 0 in shape or shape[2] % 8 or shape[3] % 8:
            raise ShapeError(
                f"picture tensor has shape {shape}; expected [batch, 3, height, width] in 0..1 "
                "with sides that are multiples of 8"
            )
        return super().forward(input)
