"""Block decoders written for reading: plain torch, any device, a temporary per step.

They serve GPUs, and the fast CPU decoders are held against them. Every function takes whole blocks,
uint8 [n, type_size], and returns float32 [n, block_size]; layouts are those of ggml-common.h, and the
order of the operations is the one that gives ggml's (and gguf-py's) float32 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

# The 16 values of ggml's non-linear four-bit types (kvalues_iq4nl).
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 at byte `at` of every block, as float32 [n, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _shifted(data: Tensor, group: int, shifts: tuple[int, ...], mask: int) -> Tensor:
    """[n, g * group] bytes to [n, g, len(shifts), group]: each group once per shift, masked."""
    by = torch.tensor(shifts, dtype=torch.uint8, device=data.device)
    return (data.reshape(len(data), -1, 1, group) >> by[:, None]) & mask


def _nibbles(data: Tensor, group: int) -> Tensor:
    """[n, m] bytes to [n, 2 m] values 0..15: of each group the low halves, then the high ones."""
    return _shifted(data, group, (0, 4), 15).reshape(len(data), -1)


def _bits(data: Tensor) -> Tensor:
    """[n, 4] bytes to [n, 32] bits, lowest first."""
    by = torch.arange(8, dtype=torch.uint8, device=data.device)
    return ((data[:, :, None] >> by) & 1).reshape(len(data), 32)


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:], 16).to(torch.int8) - 8).float()


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:], 16).float() + _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    q = _nibbles(blocks[:, 6:], 16) | (_bits(blocks[:, 2:6]) << 4)
    return _half(blocks, 0) * (q.to(torch.int8) - 16).float()


def _q5_1(blocks: Tensor) -> Tensor:
    q = _nibbles(blocks[:, 8:], 16) | (_bits(blocks[:, 4:8]) << 4)
    return _half(blocks, 0) * q.float() + _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].view(torch.int8).float() * _half(blocks, 0)


def _q2_k(blocks: Tensor) -> Tensor:
    n = len(blocks)
    packed = blocks[:, :16]
    scale = (_half(blocks, 80) * (packed & 15).float())[:, :, None]
    minimum = (_half(blocks, 82) * (packed >> 4).float())[:, :, None]
    q = _shifted(blocks[:, 16:80], 32, (0, 2, 4, 6), 3).reshape(n, 16, 16)
    return (scale * q.float() - minimum).reshape(n, 256)


def _q3_k(blocks: Tensor) -> Tensor:
    n = len(blocks)
    packed = blocks[:, 96:108]
    low = _shifted(packed[:, :8], 8, (0, 4), 15).reshape(n, 16)
    high = _shifted(packed[:, 8:], 4, (0, 2, 4, 6), 3).reshape(n, 16)
    scale = _half(blocks, 108) * ((low | (high << 4)).to(torch.int8) - 32).float()
    q = _shifted(blocks[:, 32:96], 32, (0, 2, 4, 6), 3).reshape(n, 16, 16)
    top = _shifted(blocks[:, :32], 32, tuple(range(8)), 1).reshape(n, 16, 16)
    # The mask bit is set where nothing is to be subtracted.
    q = q.to(torch.int8) - ((top ^ 1) << 2).to(torch.int8)
    return (scale[:, :, None] * q.float()).reshape(n, 256)


def scales_and_mins(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The 12 bytes that Q4_K and Q5_K share: [n, 12] to two [n, 8] of 6-bit values."""
    scale, minimum, high = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    return (
        torch.cat([scale & 63, (high & 15) | ((scale >> 2) & 48)], dim=1),
        torch.cat([minimum & 63, (high >> 4) | ((minimum >> 2) & 48)], dim=1),
    )


def _q45_k(blocks: Tensor, q: Tensor) -> Tensor:
    scale, minimum = scales_and_mins(blocks[:, 4:16])
    scale = (_half(blocks, 0) * scale.float())[:, :, None]
    minimum = (_half(blocks, 2) * minimum.float())[:, :, None]
    return (scale * q.reshape(len(blocks), 8, 32).float() - minimum).reshape(len(blocks), 256)


def _q4_k(blocks: Tensor) -> Tensor:
    return _q45_k(blocks, _nibbles(blocks[:, 16:], 32))


def _q5_k(blocks: Tensor) -> Tensor:
    top = _shifted(blocks[:, 16:48], 32, tuple(range(8)), 1).reshape(len(blocks), 256)
    return _q45_k(blocks, _nibbles(blocks[:, 48:], 32) | (top << 4))


def _q6_k(blocks: Tensor) -> Tensor:
    n = len(blocks)
    scale = _half(blocks, 208) * blocks[:, 192:208].view(torch.int8).float()
    low = _nibbles(blocks[:, :128], 64)
    high = _shifted(blocks[:, 128:192], 32, (0, 2, 4, 6), 3).reshape(n, 256)
    q = (low | (high << 4)).to(torch.int8) - 32
    return (scale[:, :, None] * q.reshape(n, 16, 16).float()).reshape(n, 256)


def _iq4_values(data: Tensor) -> Tensor:
    """[n, m] bytes, groups of 16, to [n, 2 m] float32 values of the non-linear scale."""
    table = torch.tensor(IQ4_VALUES, dtype=torch.float32, device=data.device)
    return table[_nibbles(data, 16).int()]


def _iq4_nl(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _iq4_values(blocks[:, 2:])


def _iq4_xs(blocks: Tensor) -> Tensor:
    n = len(blocks)
    low = _shifted(blocks[:, 4:8], 1, (0, 4), 15).reshape(n, 8)
    high = _shifted(blocks[:, 2:4], 1, (0, 2, 4, 6), 3).reshape(n, 8)
    scale = _half(blocks, 0) * ((low | (high << 4)).to(torch.int8) - 32).float()
    return (scale[:, :, None] * _iq4_values(blocks[:, 8:]).reshape(n, 8, 32)).reshape(n, 256)


PLAIN_DECODERS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "Q4_0": _q4_0,
        "Q4_1": _q4_1,
        "Q5_0": _q5_0,
        "Q5_1": _q5_1,
        "Q8_0": _q8_0,
        "Q2_K": _q2_k,
        "Q3_K": _q3_k,
        "Q4_K": _q4_k,
        "Q5_K": _q5_k,
        "Q6_K": _q6_k,
        "IQ4_NL": _iq4_nl,
        "IQ4_XS": _iq4_xs,
    }
)
