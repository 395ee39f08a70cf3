"""What the Flux autoencoder is made of: blocks, attention, steps between resolutions, levels.

Architecture and state-dict names are the published ones (black-forest-labs/flux,
src/flux/modules/autoencoder.py). Shapes: b batch, c channels, h and w cells of a map.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import AutoEncoderParams

# Scores at once in the middle's attention, where no fused kernel keeps them out of memory (few
# have one for heads of 512): 256 MB in float32. Pictures up to 724 px a side fit in one piece.
SCORES = 1 << 26


def tracked(x: Tensor, weight: Tensor) -> bool:
    """Whether gradients of a layer's result are wanted."""
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nobody else holds: in its place, unless gradients are wanted."""
    return F.silu(x, inplace=not x.requires_grad)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention [b, 1, n, c], so many queries at a time that scores stay under SCORES."""
    chunk = max(1, SCORES // (k.shape[0] * k.shape[2]))
    if q.shape[2] <= chunk:
        return F.scaled_dot_product_attention(q, k, v)
    return torch.cat(
        [F.scaled_dot_product_attention(part, k, v) for part in q.split(chunk, dim=2)], dim=2
    )


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
        out = attend(q, k, v)
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
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        return (self.nin_shortcut(x) if self.changes_width else x) + h


class Downsample(nn.Module):
    """Halves both sides; the extra row and column go below and to the right."""

    def __init__(self, channels: int, **factory: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles both sides by repetition, then smooths.

    Of the nine cells that a 3x3 kernel sees after a repetition, only four are different ones. So
    each of the four places in a doubled cell has a 2x2 kernel of its own, sums of the nine weights,
    and one 2x2 convolution with four times the channels does it all: 4/9 of the multiplications.
    """

    def __init__(self, channels: int, **factory: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        # Training keeps the plain form: its numbers are on record.
        if tracked(x, self.conv.weight):
            return self.plain(x)
        return self.enlarge(x, self.kernel())

    def plain(self, x: Tensor) -> Tensor:
        """The definition, [b, c, h, w] to [b, c, 2h, 2w]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def kernel(self) -> Tensor:
        """[4c, c, 2, 2], for `enlarge`: row and column in the doubled cell are outermost."""
        weight = self.conv.weight.float()
        first, middle, last = weight.unbind(2)
        rows = [torch.stack((first, middle + last), 2), torch.stack((first + middle, last), 2)]
        places = []
        for row in rows:
            first, middle, last = row.unbind(3)
            places.append(torch.stack((first, middle + last), 3))
            places.append(torch.stack((first + middle, last), 3))
        return torch.cat(places).to(self.conv.weight.dtype)

    def enlarge(self, x: Tensor, kernel: Tensor) -> Tensor:
        """The same as `plain`, to rounding."""
        b, c, h, w = x.shape
        bias = None if self.conv.bias is None else self.conv.bias.repeat(4)
        places = F.conv2d(x, kernel, bias, padding=1).view(b, 2, 2, -1, h + 1, w + 1)
        out = x.new_empty((b, places.shape[3], h, 2, w, 2))
        for row in (0, 1):
            for column in (0, 1):
                # Place 0 looks back by one cell, place 1 ahead, hence the shift.
                out[:, :, :, row, :, column] = places[
                    :, row, column, :, row : row + h, column : column + w
                ]
        return out.view(b, -1, 2 * h, 2 * w)


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
