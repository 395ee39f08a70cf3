"""The Flux autoencoder: pictures in -1..1 to 16-channel latents at an eighth of the size, and back.

Architecture and state-dict names are the published ones (black-forest-labs/flux,
src/flux/modules/autoencoder.py). Latents are RAW means: scale and shift belong to `LatentFormat`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import AutoEncoderParams
from ..errors import ShapeError

__all__ = ["AutoEncoder", "Decoder", "Encoder", "Level", "ResnetBlock"]


def group_norm(channels: int, p: AutoEncoderParams, **factory: Any) -> nn.GroupNorm:
    """GroupNorm as in every place of this autoencoder."""
    return nn.GroupNorm(p.norm_groups, channels, eps=1e-6, affine=True, **factory)


class AttnBlock(nn.Module):
    """Single-head attention over all cells, with 1x1 convolutions as projections."""

    def __init__(self, channels: int, p: AutoEncoderParams, **factory: Any) -> None:
        super().__init__()
        self.norm = group_norm(channels, p, **factory)
        self.q = nn.Conv2d(channels, channels, 1, **factory)
        self.k = nn.Conv2d(channels, channels, 1, **factory)
        self.v = nn.Conv2d(channels, channels, 1, **factory)
        self.proj_out = nn.Conv2d(channels, channels, 1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        normed = self.norm(x)
        q, k, v = (
            rearrange(layer(normed), "b c h w -> b 1 (h w) c").contiguous()
            for layer in (self.q, self.k, self.v)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(rearrange(out, "b 1 (h w) c -> b c h w", h=h, w=w))


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, inside: int, outside: int, p: AutoEncoderParams, **factory: Any) -> None:
        super().__init__()
        self.norm1 = group_norm(inside, p, **factory)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1, **factory)
        self.norm2 = group_norm(outside, p, **factory)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, **factory)
        if inside != outside:
            self.nin_shortcut = nn.Conv2d(inside, outside, 1, **factory)
        self.changes_width = inside != outside

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if self.changes_width else x) + h


class Downsample(nn.Module):
    """Halves both sides; the extra row and column go below and to the right."""

    def __init__(self, channels: int, **factory: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles both sides by repetition, then smooths."""

    def __init__(self, channels: int, **factory: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """The lowest resolution: block, attention, block."""

    def __init__(self, channels: int, p: AutoEncoderParams, **factory: Any) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, p, **factory)
        self.attn_1 = AttnBlock(channels, p, **factory)
        self.block_2 = ResnetBlock(channels, channels, p, **factory)

    def forward(self, h: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(h)))


class Level(nn.Module):
    """Blocks at one resolution, then the step to the next one, if there is any."""

    def __init__(
        self,
        blocks: list[ResnetBlock],
        *,
        down: Downsample | None = None,
        up: Upsample | None = None,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        # Published names: an encoder's level has `downsample`, a decoder's `upsample`.
        if down is not None:
            self.downsample = down
        if up is not None:
            self.upsample = up
        self.layers: list[nn.Module] = [*blocks, *(step for step in (down, up) if step is not None)]

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(h)
        return h


class Encoder(nn.Module):
    """Picture [b, 3, H, W] to moments [b, 2 * z_channels, H/8, W/8]."""

    def __init__(self, p: AutoEncoderParams, **factory: Any) -> None:
        super().__init__()
        widths = [p.ch * m for m in p.ch_mult]
        self.conv_in = nn.Conv2d(p.in_channels, p.ch, 3, padding=1, **factory)
        self.down = nn.ModuleList()
        width = p.ch
        for level, out in enumerate(widths):
            blocks = []
            for _ in range(p.num_res_blocks):
                blocks.append(ResnetBlock(width, out, p, **factory))
                width = out
            last = level == len(widths) - 1
            self.down.append(Level(blocks, down=None if last else Downsample(width, **factory)))
        self.mid = Middle(width, p, **factory)
        self.norm_out = group_norm(width, p, **factory)
        self.conv_out = nn.Conv2d(width, 2 * p.z_channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latent [b, z_channels, h, w] to picture [b, 3, 8h, 8w]."""

    def __init__(self, p: AutoEncoderParams, **factory: Any) -> None:
        super().__init__()
        widths = [p.ch * m for m in p.ch_mult]
        width = widths[-1]
        self.conv_in = nn.Conv2d(p.z_channels, width, 3, padding=1, **factory)
        self.mid = Middle(width, p, **factory)
        levels: list[Level] = []
        for level in reversed(range(len(widths))):
            blocks = []
            for _ in range(p.num_res_blocks + 1):
                blocks.append(ResnetBlock(width, widths[level], p, **factory))
                width = widths[level]
            levels.append(Level(blocks, up=Upsample(width, **factory) if level > 0 else None))
        # Published keys count levels from the finest, so the list is stored back to front.
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = group_norm(width, p, **factory)
        self.conv_out = nn.Conv2d(width, p.out_ch, 3, padding=1, **factory)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class AutoEncoder(nn.Module):
    """Encoder and decoder. Inference takes the posterior's mean, never a sample.

    Args:
        params: sizes; the default is the published autoencoder.
        device, dtype: for the parameters.
    """

    def __init__(
        self,
        params: AutoEncoderParams | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.params = params or AutoEncoderParams()
        self.encoder = Encoder(self.params, device=device, dtype=dtype)
        self.decoder = Decoder(self.params, device=device, dtype=dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.encoder.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.encoder.conv_in.weight.device

    def encode(self, x: Tensor) -> Tensor:
        """Raw latent mean.

        Args:
            x: [b, 3, H, W] in -1..1; H and W multiples of 8.

        Returns:
            [b, z_channels, H/8, W/8] in the weights' dtype, unscaled.

        Raises:
            ShapeError: not three channels, or a side that 8 does not divide.
        """
        p = self.params
        if x.ndim != 4 or x.shape[1] != p.in_channels:
            raise ShapeError(
                f"picture tensor has shape {tuple(x.shape)}; expected "
                f"[batch, {p.in_channels}, height, width] in -1..1"
            )
        if x.shape[2] % p.downscale or x.shape[3] % p.downscale or 0 in x.shape:
            raise ShapeError(
                f"picture is {x.shape[3]}x{x.shape[2]} px; both sides must be multiples of "
                f"{p.downscale}. Crop or resize it first (images.fit does)"
            )
        moments = self.encoder(x.to(self.device, self.dtype))
        return moments.chunk(2, dim=1)[0]

    def decode(self, raw: Tensor) -> Tensor:
        """Picture [b, 3, 8h, 8w], about -1..1 and not clamped, from a raw latent.

        Raises:
            ShapeError: not [b, z_channels, h, w].
        """
        if raw.ndim != 4 or raw.shape[1] != self.params.z_channels or 0 in raw.shape:
            raise ShapeError(
                f"latent has shape {tuple(raw.shape)}; expected "
                f"[batch, {self.params.z_channels}, height, width]"
            )
        return self.decoder(raw.to(self.device, self.dtype))
