"""float8 weights to wider numbers, fast on CPUs, where torch converts e4m3 element by element.

Both formats are a float16 with fewer bits. e5m2 is the upper byte of one. e4m3 has the same order of
bits but an exponent biased by 7 instead of 15: put in the right place it is a float16 that is 256 times
too small, subnormal numbers included, and float16 to float32 is a vector instruction.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

from ..errors import ShapeError

# Smaller chunks were measured slower: the calls cost more than the cache gains.
CHUNK = 1 << 18
MAGNITUDES = np.uint64(0x7F7F7F7F7F7F7F7F)
NOT_A_NUMBER = 0x7F
_own = threading.local()


class Buffers:
    """Space for one chunk, as the types the conversion goes through."""

    def __init__(self) -> None:
        self.bits = torch.empty(CHUNK, dtype=torch.int16)
        self.halves = self.bits.view(torch.float16)
        self.magnitudes = np.empty(CHUNK // 8, np.uint64)
        self.numbers = torch.empty(CHUNK)
        self.places = {7: torch.tensor(7, dtype=torch.int16), 8: torch.tensor(8, dtype=torch.int16)}
        self.no_exponent_sign = torch.tensor(~0x4000, dtype=torch.int16)


def widen(stored: Tensor, out: Tensor) -> Tensor:
    """Write float8 numbers to a tensor of float32, bfloat16 or float16, with the bits torch gives.

    Args:
        stored: any floating dtype and device; only e4m3fn and e5m2 on the CPU gain from this.
        out: contiguous, same shape and device.

    Raises:
        ShapeError: shapes that differ or an `out` that is not contiguous.
    """
    if stored.shape != out.shape or not out.is_contiguous():
        raise ShapeError(f"out is {tuple(out.shape)}; expected contiguous {tuple(stored.shape)}")
    if stored.device.type != "cpu" or stored.dtype not in (torch.float8_e4m3fn, torch.float8_e5m2):
        return out.copy_(stored)
    codes, numbers = stored.contiguous().view(-1), out.view(-1)
    for start in range(0, codes.numel(), CHUNK):
        _widen_chunk(codes[start : start + CHUNK], numbers[start : start + CHUNK])
    return out


def _widen_chunk(codes: Tensor, out: Tensor) -> None:
    buffers: Buffers | None = getattr(_own, "buffers", None)
    if buffers is None:
        # Buffers made in inference mode could not be written to outside it.
        with torch.inference_mode(False):
            buffers = _own.buffers = Buffers()
    n = codes.numel()
    bits, halves = buffers.bits[:n], buffers.halves[:n]
    # Sign extension leaves the sign in bits 7 to 15.
    bits.copy_(codes.view(torch.int8))
    if codes.dtype == torch.float8_e5m2:
        bits.bitwise_left_shift_(buffers.places[8])
        out.copy_(halves)
        return
    if _has_nan(codes, buffers.magnitudes):
        out.copy_(codes)
        return
    bits.bitwise_left_shift_(buffers.places[7])
    bits.bitwise_and_(buffers.no_exponent_sign)
    numbers = out if out.dtype == torch.float32 else buffers.numbers[:n]
    numbers.copy_(halves)
    numbers.mul_(256.0)
    if numbers is not out:
        out.copy_(numbers)


def _has_nan(codes: Tensor, magnitudes: np.ndarray) -> bool:
    """Whether an e4m3 code is 0x7F or 0xFF, the only ones that are not numbers."""
    octets = codes.view(torch.uint8).detach().numpy()
    whole = len(octets) // 8
    np.bitwise_and(octets[: whole * 8].view(np.uint64), MAGNITUDES, out=magnitudes[:whole])
    largest = int(magnitudes[:whole].view(np.uint8).max(initial=0))
    rest = int((octets[whole * 8 :] & np.uint8(NOT_A_NUMBER)).max(initial=0))
    return max(largest, rest) == NOT_A_NUMBER
