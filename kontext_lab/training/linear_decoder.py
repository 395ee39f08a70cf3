"""A decoder that starts as the linear inverse of the latents, so that training only has to improve.

A decoder of the published shape can't invert patches linearly: between its steps up it repeats
every cell and then treats all places alike, so a cell of 8x8 pixels that looks like its neighbours
comes out flat. Only the zeros around the picture tell places apart. A decoder learns to use them,
but slowly; here it starts with them:

- at an eighth of the size each block counts two more cells of the way from every edge;
- after a step up, the difference to the next cell on the right or below tells the right and lower
  of the repeated cells, as 0 or 1;
- in the first block of a level these switch hidden channels on: silu(u + GATE) - GATE is u, and
  silu(u - GATE) is nothing. So a cell takes the content of its own quarter of the cell above.

Content passes an activation as a pair, silu(u) - silu(-u) = u. One large constant per norm group
keeps the norm from depending on the picture; the affine parts of the norms are measured.
Far from every edge, where places can't be known, a cell takes the content of the upper left.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from kontext_core.config import AutoEncoderParams
from kontext_core.errors import InputError
from kontext_core.latents import FLUX_LATENT, LatentFormat
from kontext_core.models.autoencoder import Decoder
from kontext_core.models.autoencoder_layers import ResnetBlock

from .linear_parts import ChannelLayout, Fixed, Maps, bias_of, blocks_of, clear, levels_of
from .patch_pca import PatchPCA

CONSTANT = 128.0
GATE = 10.0
# Of channels that nothing uses yet: so small that they hardly move a norm.
FREE = 0.1
# A number that is 0 or at least 1 becomes 0 or 1 between these; two activations make the step.
LOW, HIGH, STEEP = 0.25, 0.75, 30.0
STEP = 1 / ((HIGH - LOW) * STEEP)


class Writer:
    """Writes one decoder while sample latents run through it, so that norms can be measured."""

    def __init__(self, decoder: Decoder, params: AutoEncoderParams, sample: Tensor) -> None:
        self.decoder, self.groups, self.x = decoder, params.norm_groups, sample
        self.fixed = Fixed()
        self.counted = 0  # cells from an edge that are told apart

    def norm(self, norm: nn.GroupNorm, x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        """Let the norm give `gain * x + offset` for pictures like the samples; its output."""
        spread = rearrange(x, "b (g c) h w -> b g (c h w)", g=self.groups)
        mean = spread.mean((0, 2)).repeat_interleave(x.shape[1] // self.groups)
        std = spread.var(2).mean(0).sqrt().repeat_interleave(x.shape[1] // self.groups)
        norm.weight.copy_(gain * std)
        norm.bias.copy_(offset + gain * mean)
        return norm(x)

    def fix(
        self, layer: nn.Conv2d | nn.GroupNorm, rows: Tensor, columns: Tensor | None = None
    ) -> None:
        """Hold these outputs' entries, and what multiplies these inputs."""
        # torch declares a convolution's weight as a tensor; it is a parameter.
        weight = cast(nn.Parameter, layer.weight)
        mask = rows.view(-1, *[1] * (weight.ndim - 1))
        if columns is not None:
            mask = mask | columns[None, :, None, None]
        self.fixed.add(weight, mask)
        self.fixed.add(bias_of(layer), rows)

    def plain_norm(
        self, norm: nn.GroupNorm, x: Tensor, layout: ChannelLayout, *silent: Tensor
    ) -> Tensor:
        """Let everything through as it is, but the constants and the `silent` channels."""
        quiet = layout.mask(*silent)
        gain = (~quiet).float()
        out = self.norm(norm, x, gain, torch.zeros_like(gain))
        self.fix(norm, quiet)
        return out

    def stepped(self, channels: Tensor, gain: Tensor, offset: Tensor, more: float = 0) -> None:
        """In the plans of a norm: steps of numbers that lie in two pairs each, [n, 4]."""
        gain[channels] = torch.tensor([STEEP, 0, STEEP, 0])
        offset[channels] = torch.tensor([more - LOW, 0, more - HIGH, 0]) * STEEP

    def counting_block(self, block: ResnetBlock, counts: Tensor) -> None:
        """Let four counts [4, 4] grow by two: cells up to the left, right, top, bottom edge."""
        layout = ChannelLayout(self.x.shape[1], self.groups)
        hidden = layout.pairs[:8].view(4, 4)
        gain, offset = (~layout.constant).float(), torch.zeros(len(layout.constant))
        self.stepped(counts, gain, offset, 1.0 - self.counted)
        h = F.silu(self.norm(block.norm1, self.x, gain, offset))
        self.fix(block.norm1, layout.mask(counts))
        # A tap beside the centre, towards the edge that is counted from.
        taps = ((1, 0), (1, 2), (0, 1), (2, 1))
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
        block.conv1.weight.mul_(FREE)
        block.conv1.weight[:, counts.flatten()] = 0
        block.conv1.weight[layout.mask(hidden)] = 0
        bias_of(block.conv1)[hidden] = 0
        bias_of(block.conv1)[layout.constant] = CONSTANT
        clear(block.conv2)
        for count, unit, (y, x) in zip(counts, hidden, taps, strict=True):
            for source, sign in ((0, STEP), (2, -STEP)):
                block.conv1.weight[unit, count[source], y, x] = signs * sign
                block.conv2.weight[count, unit[source], 1, 1] = signs * sign
                block.conv2.weight[count, unit[source], y, x] = signs * sign
        self.fix(block.conv1, layout.mask(hidden), layout.mask(counts))
        gain, offset = (~layout.constant).float(), torch.zeros(len(layout.constant))
        self.stepped(hidden, gain, offset)
        self.norm(block.norm2, block.conv1(h), gain, offset)
        self.fix(block.norm2, layout.mask(hidden))
        self.fix(block.conv2, layout.mask(counts), layout.mask(hidden))
        self.x = block(self.x)
        self.counted += 2

    def quiet_block(self, block: ResnetBlock, switches: Tensor) -> None:
        """Let it add nothing yet."""
        layout = ChannelLayout(self.x.shape[1], self.groups)
        self.plain_norm(block.norm1, self.x, layout)
        clear(block.conv2)
        self.fix(block.conv2, layout.mask(switches))
        self.x = block(self.x)

    def step_up(self, conv: nn.Conv2d, kept: int, sources: Tensor, counted: bool) -> Tensor:
        """Double the sides; channels [2, 2 or 4] that tell the right and lower cells, in pairs.

        Two pairs of each where `counted`, as a step takes two activations to see.
        """
        layout = ChannelLayout(self.x.shape[1], self.groups)
        told = layout.pairs[kept : kept + (4 if counted else 2)].view(2, -1)
        content = layout.pairs[:kept].flatten()
        structure = layout.mask(told)
        conv.weight.mul_(FREE)
        conv.weight[layout.mask(told, content)] = 0
        bias_of(conv)[layout.mask(told, content)] = 0
        conv.weight[:, layout.constant] = 0
        bias_of(conv)[layout.constant] = CONSTANT
        conv.weight[content, content, 1, 1] = 1
        fixed_columns = layout.constant.clone()
        fixed_columns[sources.flatten()] |= counted
        for axis, pairs in enumerate(told):
            if counted:
                # From the left edge minus from the right one: grows by 1 or 2 per cell. Less than
                # zero in the last cell, so that the zeros beyond are a step up too.
                here = [(sources[2 * axis, 0], 1.0), (sources[2 * axis + 1, 0], -1.0)]
                here.append((layout.constant.nonzero()[0, 0], -(self.counted + 1) / CONSTANT))
            else:
                here = [(sources[axis], 1.0)]
            after = (1, 2) if axis == 0 else (2, 1)
            for source, weight in here:
                sign = weight * torch.tensor([1.0, -1.0]).repeat(len(pairs) // 2)
                conv.weight[pairs, source, 1, 1] = -sign
                conv.weight[pairs, source, after[0], after[1]] = sign
        self.fix(conv, structure, fixed_columns)
        self.x = conv(F.interpolate(self.x, scale_factor=2.0, mode="nearest"))
        return told

    def choosing_block(
        self, block: ResnetBlock, maps: Maps, kept: int, told: Tensor, counted: bool, last: bool
    ) -> tuple[Maps, Tensor]:
        """Give every cell the content of its own quarter; the new maps and the two switches."""
        inside = ChannelLayout(self.x.shape[1], self.groups)
        outside = ChannelLayout(block.conv1.out_channels, self.groups)
        room = (len(outside.single) - 3) // 3
        finer = maps.split(min(room, len(outside.pairs) - 2 if not last else 3))
        upper, right, lower, both = maps.step
        steps = (right - upper, lower - upper, both - right - lower + upper)
        upper_0, right_0, lower_0, both_0 = maps.offset
        starts = (right_0 - upper_0, lower_0 - upper_0, both_0 - right_0 - lower_0 + upper_0)
        values = len(upper)
        plus, minus = inside.pairs[:kept].unbind(1)

        gain, offset = (~inside.constant).float(), torch.zeros(len(inside.constant))
        if counted:
            self.stepped(told, gain, offset)
            seen = [((channels[0], STEP), (channels[2], -STEP)) for channels in told]
        else:
            gain[told] = GATE
            seen = [[(channel, 1 / GATE) for channel in channels] for channels in told]
        h = F.silu(self.norm(block.norm1, self.x, gain, offset))
        self.fix(block.norm1, inside.mask(told))

        clear(block.conv1)
        clear(block.conv2)
        bias_of(block.conv1)[outside.constant] = CONSTANT
        switches = outside.single[:3]
        target = torch.arange(values)
        signs = ((outside.pairs[:values, 0], 1.0), (outside.pairs[:values, 1], -1.0))
        for kind, (step, start) in enumerate(zip(steps, starts, strict=True)):
            units = outside.single[3 + kind * values :][:values]
            spread = (maps.samples @ step.T + start).std(0).clamp(min=1e-3)
            block.conv1.weight[units[:, None], plus, 1, 1] = step / spread[:, None]
            block.conv1.weight[units[:, None], minus, 1, 1] = -step / spread[:, None]
            bias_of(block.conv1)[units] = start / spread
            every = torch.cat([switches[kind : kind + 1], units])
            for axis in ((0,), (1,), (0, 1))[kind]:
                for channel, factor in seen[axis]:
                    block.conv1.weight[every, channel, 1, 1] = 2 * GATE * factor
            bias_of(block.conv1)[every] -= (1, 1, 3)[kind] * GATE
            for rows, sign in signs:
                block.conv2.weight[rows, units, 1, 1] = sign * spread[target]
                block.conv2.weight[rows, switches[kind], 1, 1] -= sign * spread
        on = outside.pairs[values] if not last else torch.empty(0, dtype=torch.long)
        for channel, switch in zip(on, switches[:2] if not last else (), strict=True):
            block.conv2.weight[channel, switch, 1, 1] = 1 / GATE
        self.fix(block.conv1, outside.mask(switches), inside.mask(told))
        hidden = block.conv1(h)
        self.plain_norm(block.norm2, hidden, outside)
        self.fix(block.norm2, outside.mask(switches))
        self.fix(block.conv2, outside.mask(on), outside.mask(switches))

        short = block.nin_shortcut
        made = outside.mask(outside.pairs[: values + (not last)])
        short.weight.mul_(FREE)
        short.weight[made] = 0
        bias_of(short)[made] = 0
        short.weight[:, inside.mask(told)] = 0
        bias_of(short)[outside.constant] = CONSTANT
        for rows, sign in signs:
            short.weight[rows[:, None], plus, 0, 0] = sign * upper / 2
            short.weight[rows[:, None], minus, 0, 0] = -sign * upper / 2
            bias_of(short)[rows] = sign * upper_0
        self.fix(short, outside.mask(on), inside.mask(told))
        self.x = block(self.x)
        return finer, on


@torch.no_grad()
def write_linear_decoder(
    decoder: Decoder,
    pca: PatchPCA,
    params: AutoEncoderParams,
    sample: Tensor,
    latent_format: LatentFormat = FLUX_LATENT,
) -> Fixed:
    """Let `decoder` start as about `pca.decode(latent_format.process_in(raw))`.

    Args:
        sample: [n, z, h, w] model-space latents of pictures as they will come.

    Returns:
        What training has to `restore` after every step.

    Raises:
        InputError: not four levels of growing width with 4 * 4 channels at least.
    """
    widths = [params.ch * m for m in params.ch_mult]
    size = widths[0] // params.norm_groups
    if len(widths) != 4 or sorted(set(widths)) != widths or widths[0] < 16 or size < 4:
        raise InputError(
            f"a decoder of widths {widths} with {params.norm_groups} norm groups can't start "
            "linear: use four levels, each wider than the one before, the first of at least 16 "
            "channels and each norm group of at least 4"
        )
    writer = Writer(decoder, params, sample)
    levels = levels_of(decoder.up)
    coarse = ChannelLayout(widths[3], params.norm_groups)
    latents = params.z_channels
    counts = coarse.pairs[latents : latents + 8].view(4, 4)
    structure = coarse.mask(counts)
    plus, minus = coarse.pairs[:latents].unbind(1)
    decoder.conv_in.weight.mul_(FREE)
    for rows, sign in ((plus, 1.0), (minus, -1.0), (structure, 0.0)):
        decoder.conv_in.weight[rows] = 0
        bias_of(decoder.conv_in)[rows] = (
            -sign * latent_format.shift_factor * latent_format.scale_factor
        )
        if sign:
            decoder.conv_in.weight[rows, torch.arange(latents), 1, 1] = (
                sign * latent_format.scale_factor
            )
    bias_of(decoder.conv_in)[coarse.constant] = CONSTANT
    writer.fix(decoder.conv_in, structure)
    writer.x = decoder.conv_in(latent_format.process_out(sample))

    writer.counting_block(decoder.mid.block_1, counts)
    attention = decoder.mid.attn_1
    writer.plain_norm(attention.norm, writer.x, coarse, counts)
    clear(attention.proj_out)
    writer.fix(attention.proj_out, structure)
    for block in (decoder.mid.block_2, *blocks_of(levels[3])):
        writer.counting_block(block, counts)

    cells = rearrange(sample, "b c h w -> (b h w) c")
    maps = Maps((pca.components / pca.scale[:, None]).T, pca.mean, cells)
    sources, kept = counts, latents
    for level in (2, 1, 0):
        counted, last = level == 2, level == 0
        told = writer.step_up(levels[level + 1].upsample.conv, kept, sources, counted)
        first, *others = blocks_of(levels[level])
        maps, sources = writer.choosing_block(first, maps, kept, told, counted, last)
        kept = maps.back.shape[1]
        for block in others:
            writer.quiet_block(block, sources)
    fine = ChannelLayout(widths[0], params.norm_groups)
    writer.plain_norm(decoder.norm_out, writer.x, fine)
    clear(decoder.conv_out)
    for colour, (plus, minus) in enumerate(fine.pairs[:3]):
        decoder.conv_out.weight[colour, plus, 1, 1] = 1
        decoder.conv_out.weight[colour, minus, 1, 1] = -1
    return writer.fixed
