"""The older four- and five-bit types: one float16 step, and for two of them a float16 start, for 32 weights.

Layouts are those of ggml-common.h; the step and start are found as K-quants' are (encode_fit.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from .encode_fit import Rounded, fit_lines, fit_steps, half, inverse

LINES = {
    15: ((-0.3, 0.0), (-0.3, -0.25), (-0.3, 0.25), (0.6, -0.5), (-0.3, 0.125), (-0.3, -0.125)),
    31: ((-0.15, 0.0), (-0.15, -0.25), (-0.15, 0.25), (0.6, -0.5), (-0.15, 0.125), (-0.15, -0.125)),
}
STEPS = {
    8: ((False, 0.96), (False, 1.0), (False, 0.92), (True, 0.98)),
    16: ((False, 0.98), (False, 1.0), (True, 1.0), (False, 0.96), (True, 1.06)),
}


def _stepped(x: Tensor, n: int) -> Tensor:
    """Q4_0 and Q5_0: x ~ d (q - n), q in 0..2 n - 1."""
    rounded = Rounded(x, -n, n - 1)
    d = half(fit_steps(rounded, STEPS[n]))
    rounded.round(inverse(d))
    return torch.cat([_bytes_of_half(d), _levels(rounded.levels + n, five=n == 16)], 1)


def _lined(x: Tensor, top: int) -> Tensor:
    """Q4_1 and Q5_1: x ~ d q + m, q in 0..top."""
    rounded = Rounded(x, 0, top)
    a, b = fit_lines(rounded, LINES[top], below_zero=False)
    d, m = half(a), half(b)
    scale = inverse(d)
    rounded.round(scale, -m * scale)
    levels = _levels(rounded.levels, five=top == 31)
    return torch.cat([_bytes_of_half(d), _bytes_of_half(m), levels], 1)


def _bytes_of_half(values: Tensor) -> Tensor:
    return values.half()[:, None].view(torch.uint8)


def _levels(q: Tensor, *, five: bool) -> Tensor:
    """[32, blocks] -> fifth bits in four bytes where there are some, then 16 bytes of two nibbles."""
    parts = []
    if five:
        top = (q / 16).floor_()
        q = q - 16 * top
        eights = top.view(4, 8, -1)
        parts.append(sum((2.0**i * eights[:, i] for i in range(8)), torch.zeros_like(top[:4])))
    parts.append(q[:16] + 16 * q[16:])
    return torch.cat(parts).to(torch.uint8).T.contiguous()


# float32 [32, blocks] -> uint8 [blocks, type_size]
PLAIN_ENCODERS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "Q4_0": lambda x: _stepped(x, 8),
        "Q4_1": lambda x: _lined(x, 15),
        "Q5_0": lambda x: _stepped(x, 16),
        "Q5_1": lambda x: _lined(x, 31),
    }
)
