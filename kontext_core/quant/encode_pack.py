"""Bytes of K-quant blocks out of their scales, offsets and levels; layouts are those of ggml-common.h.

Values are whole numbers held as float32, and fields are put together by adding multiples of them:
exact below 2**24, and far quicker than shifting bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from .encode_search import Lines


def _bytes(values: Tensor) -> Tensor:
    """Whole numbers 0..255, [..., blocks] -> uint8 [blocks, ...flattened]."""
    return values.to(torch.uint8).movedim(-1, 0).reshape(values.shape[-1], -1)


def _half(values: Tensor) -> Tensor:
    """float32 [blocks] that are exactly float16 -> uint8 [blocks, 2]."""
    return values.half()[:, None].view(torch.uint8)


def _scales_and_mins(lines: Lines) -> Tensor:
    """Eight six-bit scales and eight six-bit offsets in 12 bytes, as Q4_K and Q5_K have them.

    Bytes 0-3 and 4-7 hold the first four scales and offsets, and in their top bits the top bits of
    the last four, whose low halves share bytes 8-11.
    """
    (s0, s1), (m0, m1) = lines.scales.split(4), lines.mins.split(4)
    s_top, m_top = (s1 / 16).floor_(), (m1 / 16).floor_()
    last = s1 - 16 * s_top + 16 * (m1 - 16 * m_top)
    return _bytes(torch.cat([s0 + 64 * s_top, m0 + 64 * m_top, last]))


def _nibbles(q: Tensor) -> Tensor:
    """Levels 0..15 [32, 8, blocks]: sub-blocks 2i and 2i + 1 share 32 bytes, low half and high."""
    return _bytes((q[:, 0::2] + 16 * q[:, 1::2]).transpose(0, 1))


def _q4_k(lines: Lines) -> Tensor:
    return torch.cat(
        [_half(lines.d), _half(lines.dmin), _scales_and_mins(lines), _nibbles(lines.levels)], 1
    )


def _q5_k(lines: Lines) -> Tensor:
    top = (lines.levels / 16).floor_()
    # Byte i has the top bits of position i of all eight sub-blocks.
    bits = sum((2.0**i * top[:, i] for i in range(8)), start=torch.zeros_like(top[:, 0]))
    low = _nibbles(lines.levels - 16 * top)
    return torch.cat(
        [_half(lines.d), _half(lines.dmin), _scales_and_mins(lines), _bytes(bits), low], 1
    )


def _in_order(levels: Tensor) -> Tensor:
    """[16, 16, blocks] -> [half of the block, quarter of it, 32 positions, blocks]."""
    return levels.transpose(0, 1).reshape(2, 4, 32, -1)


def _quads(q: Tensor) -> Tensor:
    """Levels 0..3 [2, 4, 32, blocks]: the four quarters of a half share 32 bytes, two bits each."""
    return _bytes(q[:, 0] + 4 * q[:, 1] + 16 * q[:, 2] + 64 * q[:, 3])


def _q2_k(lines: Lines) -> Tensor:
    scales = _bytes(lines.scales + 16 * lines.mins)
    return torch.cat(
        [scales, _quads(_in_order(lines.levels)), _half(lines.d), _half(lines.dmin)], 1
    )


def _q3_k(lines: Lines) -> Tensor:
    q = _in_order(lines.levels + 4)
    top = (q / 4).floor_()
    # Byte i has the top bits of position i of the eight runs of 32.
    weights = torch.tensor([1.0, 2, 4, 8, 16, 32, 64, 128], device=q.device).view(2, 4, 1, 1)
    mask = _bytes((top * weights).sum((0, 1)))
    scales = lines.scales + 32
    s_top = (scales / 16).floor_()
    low = scales - 16 * s_top
    fours = s_top.view(4, 4, -1)
    high = fours[0] + 4 * fours[1] + 16 * fours[2] + 64 * fours[3]
    return torch.cat(
        [
            mask,
            _quads(q - 4 * top),
            _bytes(low[:8] + 16 * low[8:]),
            _bytes(high),
            _half(lines.d),
        ],
        1,
    )


def _q6_k(lines: Lines) -> Tensor:
    q = _in_order(lines.levels + 32)
    top = (q / 16).floor_()
    low = q - 16 * top
    scales = _bytes(torch.where(lines.scales < 0, lines.scales + 256, lines.scales))
    return torch.cat([_bytes(low[:, :2] + 16 * low[:, 2:]), _quads(top), scales, _half(lines.d)], 1)


PACKERS: Mapping[str, Callable[[Lines], Tensor]] = MappingProxyType(
    {"Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k}
)
