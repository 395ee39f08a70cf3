"""Block decoders for NVIDIA and AMD GPUs: one Triton kernel a type instead of a dozen torch operations.

Each number works out which bytes of its block it is made of, in the order of operations of the plain
decoders (`decode_plain`), so that the bits are the same; fused multiply-adds, which would round once
less, are turned off. Needs Triton, which PyTorch brings along on Linux, and a C compiler.
"""

# Triton reads types and pointers off the calls; annotations would be taken for its own.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import contextlib
from types import MappingProxyType
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .types import BLOCK_TYPES

# Blocks a program decodes: about 2,048 numbers.
NUMBERS = 2048


@triton.jit
def _half(at):
    return tl.load(at.to(tl.pointer_type(tl.float16))).to(tl.float32)


@triton.jit
def _byte(at):
    return tl.load(at).to(tl.int32)


@triton.jit
def _signed(at):
    return tl.load(at.to(tl.pointer_type(tl.int8))).to(tl.float32)


@triton.jit
def _nibble(base, j, group: tl.constexpr):
    """Value j of bytes whose groups hold their low halves first, then their high ones."""
    at = base + j // (2 * group) * group + j % group
    return (_byte(at) >> (j // group % 2 * 4)) & 15


@triton.jit
def _fifth(base, j):
    """Bit j of 32 in four bytes, lowest first."""
    return (_byte(base + j // 8) >> (j % 8)) & 1


@triton.jit
def _quarter(base, j):
    """Value j of bytes whose groups of 32 hold four pairs of bits each, lowest first."""
    return (_byte(base + j // 128 * 32 + j % 32) >> (j // 32 % 4 * 2)) & 3


@triton.jit
def _eighth(base, j):
    """Bit j of 32 bytes that hold eight each, lowest first."""
    return (_byte(base + j % 32) >> (j // 32)) & 1


@triton.jit
def _q4_0(base, j):
    return _half(base) * (_nibble(base + 2, j, 16) - 8).to(tl.float32)


@triton.jit
def _q4_1(base, j):
    return _half(base) * _nibble(base + 4, j, 16).to(tl.float32) + _half(base + 2)


@triton.jit
def _q5_0(base, j):
    q = _nibble(base + 6, j, 16) | (_fifth(base + 2, j) << 4)
    return _half(base) * (q - 16).to(tl.float32)


@triton.jit
def _q5_1(base, j):
    q = _nibble(base + 8, j, 16) | (_fifth(base + 4, j) << 4)
    return _half(base) * q.to(tl.float32) + _half(base + 2)


@triton.jit
def _q8_0(base, j):
    return _signed(base + 2 + j) * _half(base)


@triton.jit
def _q2_k(base, j):
    packed = _byte(base + j // 16)
    scale = _half(base + 80) * (packed & 15).to(tl.float32)
    minimum = _half(base + 82) * (packed >> 4).to(tl.float32)
    return scale * _quarter(base + 16, j).to(tl.float32) - minimum


@triton.jit
def _q3_k(base, j):
    part = j // 16
    low = (_byte(base + 96 + part % 8) >> (part // 8 * 4)) & 15
    high = (_byte(base + 104 + part % 4) >> (part // 4 * 2)) & 3
    scale = _half(base + 108) * ((low | (high << 4)) - 32).to(tl.float32)
    # The mask bit is set where nothing is to be subtracted.
    q = _quarter(base + 32, j) - ((_eighth(base, j) ^ 1) << 2)
    return scale * q.to(tl.float32)


@triton.jit
def _q45_k(base, j, q):
    """The 6-bit scales and minima that Q4_K and Q5_K share, and what they make of q."""
    part = j // 32
    few = part % 4
    scale = _byte(base + 4 + few)
    minimum = _byte(base + 8 + few)
    high = _byte(base + 12 + few)
    first = part < 4
    scale = tl.where(first, scale & 63, (high & 15) | ((scale >> 2) & 48))
    minimum = tl.where(first, minimum & 63, (high >> 4) | ((minimum >> 2) & 48))
    minimum = _half(base + 2) * minimum.to(tl.float32)
    return _half(base) * scale.to(tl.float32) * q.to(tl.float32) - minimum


@triton.jit
def _q4_k(base, j):
    return _q45_k(base, j, _nibble(base + 16, j, 32))


@triton.jit
def _q5_k(base, j):
    return _q45_k(base, j, _nibble(base + 48, j, 32) | (_eighth(base + 16, j) << 4))


@triton.jit
def _q6_k(base, j):
    scale = _half(base + 208) * _signed(base + 192 + j // 16)
    q = _nibble(base, j, 64) | (_quarter(base + 128, j) << 4)
    return scale * (q - 32).to(tl.float32)


@triton.jit
def _to_bfloat16(value):
    """The bits of float32 numbers rounded to bfloat16, ties to even; Triton's own cast is not the same
    on every backend."""
    bits = value.to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # What is not a number stays none: adding could carry into infinity.
    return tl.where(value == value, rounded, 0x7FC0)


@triton.jit
def _run(
    packed, out, count,
    decode: tl.constexpr, size: tl.constexpr, numbers: tl.constexpr, blocks: tl.constexpr,
    bfloat16: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64) * blocks + tl.arange(0, blocks)[:, None]
    j = tl.arange(0, numbers)[None, :]
    # Blocks past the end are read as the last one and not written.
    value = decode(packed + tl.minimum(block, count - 1) * size, j)
    there = (block < count) & (j < numbers)
    if bfloat16:
        value = _to_bfloat16(value)
    tl.store(out + block * numbers + j, value.to(out.dtype.element_ty), mask=there)


KERNELS = MappingProxyType(
    {
        "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
        "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
    }
)  # fmt: skip


def decode(packed: Tensor, kind: str, out: Tensor) -> None:
    """Write the numbers of whole blocks.

    Args:
        packed: uint8 [n, type_size], contiguous, at an even address, on a GPU.
        kind: a key of `KERNELS`.
        out: [n, block_size], contiguous, float32, bfloat16 or float16, same device.
    """
    if not len(packed):
        return
    type_ = BLOCK_TYPES[kind]
    blocks = max(1, NUMBERS // type_.block_size)
    half = out.dtype == torch.bfloat16
    target = out.view(torch.int16) if half else out
    more: dict[str, Any] = {"enable_fp_fusion": False}
    gpu = packed.device.type == "cuda"
    with torch.cuda.device(packed.device) if gpu else contextlib.nullcontext():
        _run[(triton.cdiv(len(packed), blocks),)](
            packed, target, len(packed), KERNELS[kind], type_.type_size, type_.block_size, blocks,
            half, **more,
        )  # fmt: skip
