"""The autoencoder in tiles, exactly: layer by layer, with the numbers of the whole picture.

A tile of a 3x3 convolution needs one more row and column of its input around it, group norms need
the mean and variance of the whole map, and the attention in the middle needs all cells as keys. So
every layer walks over the tiles of its own output, reads what it needs from the map before it, and
gathers the statistics for the norm behind it as it writes. The work is that of the whole picture
plus the borders (under 2 % for tiles of 512 pixels); one picture at a time, inference only.

Whole maps are kept in `storage`; the device of the weights holds one tile at a time, and of the
attention the keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder_layers import AttnBlock, Downsample, Level, Middle, ResnetBlock, Upsample, attend

Span = tuple[int, int, int, int]  # top, bottom, left, right
Step = Callable[[Tensor], Tensor]
Tick = Callable[[], None]


def encode_exact(
    encoder: Any,
    picture: Tensor,
    cells: int,
    *,
    inside: int = 8,
    storage: torch.device | str = "cpu",
    tick: Tick | None = None,
) -> Tensor:
    """Moments [1, 2z, H/8, W/8] of one picture, in storage.

    Args:
        encoder: of an AutoEncoder.
        picture: [1, 3, H, W] in the weights' dtype, about -1..1.
        cells: side of a tile in latent cells, 1 or more.
        inside: pixels of the picture per latent cell.
        storage: where whole maps are kept.
        tick: called before every tile; may raise to stop.
    """
    tiles = Tiles(encoder, cells, picture.shape[2] // inside, storage, tick)
    x = tiles.convolve(tiles.start(picture), encoder.conv_in)
    for level in encoder.down:
        x = tiles.level(x, level)
    x = tiles.middle(x, encoder.mid)
    return tiles.convolve(x, encoder.conv_out, norm=encoder.norm_out).data


def decode_exact(
    decoder: Any,
    latent: Tensor,
    cells: int,
    *,
    inside: int = 1,
    storage: torch.device | str = "cpu",
    tick: Tick | None = None,
) -> Tensor:
    """Picture [1, 3, 8h, 8w] of one raw latent [1, z, h, w], in storage. Otherwise as above."""
    tiles = Tiles(decoder, cells, latent.shape[2] // inside, storage, tick)
    x = tiles.middle(tiles.convolve(tiles.start(latent), decoder.conv_in), decoder.mid)
    for level in reversed(decoder.up):
        x = tiles.level(x, level)
    return tiles.convolve(x, decoder.conv_out, norm=decoder.norm_out).data


class Moments:
    """Mean and variance of a map's groups, put together from its tiles (Chan, Golub, LeVeque)."""

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.count = 0
        self.mean = torch.zeros(groups, dtype=torch.float64)
        self.squares = torch.zeros(groups, dtype=torch.float64)

    def add(self, part: Tensor) -> None:
        """Take in a tile [1, c, h, w]."""
        channels, cells = part.shape[1], part.shape[2] * part.shape[3]
        # The norm's own kernel finds both in one stable pass, ten times faster than var_mean.
        _, mean, rstd = torch.native_group_norm(
            part.float().contiguous(), None, None, 1, channels, cells, self.groups, TINY
        )
        new_mean = mean[0].double().cpu()
        variance = (rstd[0].double().cpu().square().reciprocal() - TINY).clamp(min=0)
        added = cells * channels // self.groups
        total = self.count + added
        gap = new_mean - self.mean
        self.squares += variance * added + gap.square() * (self.count * added / total)
        self.mean += gap * (added / total)
        self.count = total

    def normalise(self, part: Tensor, norm: nn.GroupNorm) -> Tensor:
        """`norm` of a tile, with the mean and variance of the whole map."""
        each = part.shape[1] // self.groups
        mean, variance = (
            value.repeat_interleave(each).to(part.device, torch.float32)
            for value in (self.mean, self.squares / self.count)
        )
        # Batch norm takes numbers per channel, and rounds once, as the group norm does.
        return F.batch_norm(
            part, mean, variance, norm.weight.float(), norm.bias.float(), False, 0.0, norm.eps
        )


# So far below every norm's own epsilon of 1e-6 that it changes nothing; keeps 1 / deviation finite.
TINY = 1e-12


@dataclass(frozen=True)
class Map:
    """A whole map [1, c, h, w] in storage, and its moments."""

    data: Tensor
    moments: Moments


class Tiles:
    """Walks a network's layers over tiles of `cells` latent cells a side.

    Args:
        network: the Encoder or Decoder.
        cells, storage, tick: as `encode_exact`.
        rows: latent rows of the picture: what the size of every map is measured by.
    """

    def __init__(
        self,
        network: Any,
        cells: int,
        rows: int,
        storage: torch.device | str,
        tick: Tick | None = None,
    ) -> None:
        self.cells, self.rows, self.storage = cells, rows, torch.device(storage)
        self.groups: int = network.norm_out.num_groups
        self.device: torch.device = network.conv_in.weight.device
        self.tick = tick

    def start(self, data: Tensor) -> Map:
        """The input as a map; its moments are never asked for."""
        return Map(data.to(self.storage), Moments(self.groups))

    def spans(self, height: int, width: int) -> Iterator[Span]:
        """The tiles of a map, row by row."""
        side = self.cells * height // self.rows
        for top in range(0, height, side):
            for left in range(0, width, side):
                if self.tick is not None:
                    self.tick()
                yield top, min(top + side, height), left, min(left + side, width)

    def read(self, data: Tensor, span: Span) -> Tensor:
        """A piece of a map, on the device."""
        top, bottom, left, right = span
        return data[..., top:bottom, left:right].to(self.device)

    def convolve(
        self,
        x: Map,
        conv: nn.Conv2d,
        *,
        norm: nn.GroupNorm | None = None,
        shortcut: tuple[Tensor, Step] | None = None,
        step: nn.Module | None = None,
    ) -> Map:
        """One 3x3 convolution over all tiles, and what belongs around it.

        Args:
            norm: applied before it, with SiLU.
            shortcut: (map, function): added after it. The sum takes that map's place when the
                number of channels is the same.
            step: the Downsample or Upsample that `conv` belongs to.
        """
        height, width = x.data.shape[-2:]
        up, down = isinstance(step, Upsample), isinstance(step, Downsample)
        out_size = (height * 2, width * 2) if up else (height // 2, width // 2) if down else (
            height, width
        )  # fmt: skip
        channels = conv.out_channels
        if shortcut is not None and shortcut[0].shape[1] == channels:
            out = shortcut[0]
        else:
            out = x.data.new_empty((1, channels, *out_size))
        normed = channels % self.groups == 0
        apply: Step = conv
        if isinstance(step, Upsample):
            apply = partial(step.enlarge, kernel=step.kernel())
        moments = Moments(self.groups)
        for span in self.spans(*out_size):
            part = self._one(x, apply, span, norm, step)
            if shortcut is not None:
                part += shortcut[1](self.read(shortcut[0], span))
            if normed:
                moments.add(part)
            top, bottom, left, right = span
            out[..., top:bottom, left:right] = part
        return Map(out, moments)

    def _one(
        self,
        x: Map,
        apply: Step,
        span: Span,
        norm: nn.GroupNorm | None,
        step: nn.Module | None,
    ) -> Tensor:
        """One tile of the output; the border that is read along is cut off again."""
        height, width = x.data.shape[-2:]
        top, bottom, left, right = span
        if isinstance(step, Downsample):
            # Twice the size and one row and column more; beyond the edge the layer adds zeros.
            part = self.read(
                x.data,
                (2 * top, min(2 * bottom + 1, height), 2 * left, min(2 * right + 1, width)),
            )
            edge = (0, int(2 * right == width), 0, int(2 * bottom == height))
            return apply(F.pad(part, edge))
        scale = 2 if isinstance(step, Upsample) else 1
        source = (
            max(top // scale - 1, 0),
            min(bottom // scale + 1, height),
            max(left // scale - 1, 0),
            min(right // scale + 1, width),
        )
        part = self.read(x.data, source)
        if norm is not None:
            part = F.silu(x.moments.normalise(part, norm), inplace=True)
        part = apply(part)
        above, before = top - source[0] * scale, left - source[2] * scale
        return part[..., above : above + bottom - top, before : before + right - left]

    def level(self, x: Map, level: Level) -> Map:
        """Blocks, then the step to the next resolution, if there is one."""
        for layer in level.layers:
            if isinstance(layer, ResnetBlock):
                x = self.resnet(x, layer)
            elif isinstance(layer, (Downsample, Upsample)):
                x = self.convolve(x, layer.conv, step=layer)
            else:
                raise TypeError(f"no tiled form of {type(layer).__name__}")
        return x

    def resnet(self, x: Map, block: ResnetBlock) -> Map:
        """A ResnetBlock. Takes the place of `x` when it has as many channels."""
        h = self.convolve(x, block.conv1, norm=block.norm1)
        shortcut: Step = block.nin_shortcut if block.changes_width else _same
        return self.convolve(h, block.conv2, norm=block.norm2, shortcut=(x.data, shortcut))

    def middle(self, x: Map, middle: Middle) -> Map:
        """Block, attention, block."""
        x = self.attention(self.resnet(x, middle.block_1), middle.attn_1)
        return self.resnet(x, middle.block_2)

    def attention(self, x: Map, block: AttnBlock) -> Map:
        """An AttnBlock, in place of `x`. Keys may come in any order, so they come by tile."""
        height, width = x.data.shape[-2:]
        keys, values = [], []
        for span in self.spans(height, width):
            part = x.moments.normalise(self.read(x.data, span), block.norm)
            keys.append(_cells(block.k(part)))
            values.append(_cells(block.v(part)))
        k, v = torch.cat(keys, dim=2), torch.cat(values, dim=2)
        del keys, values
        moments = Moments(self.groups)
        for span in self.spans(height, width):
            part = self.read(x.data, span)
            q = _cells(block.q(x.moments.normalise(part, block.norm)))
            out = attend(q, k, v)[:, 0].transpose(1, 2).reshape(part.shape)
            part = part + block.proj_out(out)
            moments.add(part)
            top, bottom, left, right = span
            x.data[..., top:bottom, left:right] = part
        return Map(x.data, moments)


def _cells(x: Tensor) -> Tensor:
    """[1, c, h, w] to [1, 1, h * w, c]."""
    return x.flatten(2).transpose(1, 2)[:, None].contiguous()


def _same(x: Tensor) -> Tensor:
    return x
