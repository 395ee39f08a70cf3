"""CPU decoders for the types with a non-linear scale, IQ4_NL and IQ4_XS."""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .decode_cpu import Array, CpuDecoder, Scales, field, shifts, tensor_of
from .decode_plain import IQ4_VALUES


@functools.cache
def _iq4_tables() -> tuple[Tensor, Tensor]:
    """Two bytes as a number to the two values of their low halves, and of their high halves."""
    values = np.array(IQ4_VALUES, np.int8)
    pairs = np.arange(65536, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    return tensor_of(values[pairs & 15], torch.int16), tensor_of(values[pairs >> 4], torch.int16)


class Iq4Table:
    """Nibbles to the non-linear values, two bytes at a time.

    16 packed bytes are eight numbers of 16 bits; a table gives the two values of their low halves,
    another those of the high ones.
    """

    def __init__(self, groups: int) -> None:
        self.tables = _iq4_tables()
        self.packed = np.empty((groups, 8), np.uint16)
        self.index = np.empty((groups, 8), np.int32)
        self.index_tensor = torch.from_numpy(self.index.reshape(-1))
        self.halves = np.empty((2, groups, 8), np.int16)
        self.half_tensors = [tensor_of(half, torch.int16) for half in self.halves]
        self.ordered = np.empty((groups, 2), "V16")
        self.low, self.high = self.ordered[:, 0], self.ordered[:, 1]
        self.low_groups, self.high_groups = (h.view("V16")[:, 0] for h in self.halves)
        self.numbers = tensor_of(self.ordered, torch.int8)

    def run(self, out: Tensor) -> None:
        """Decode `packed` to float32 [groups * 32]."""
        np.copyto(self.index, self.packed)
        for table, half in zip(self.tables, self.half_tensors, strict=True):
            torch.index_select(table, 0, self.index_tensor, out=half)
        np.copyto(self.low, self.low_groups)
        np.copyto(self.high, self.high_groups)
        out.copy_(self.numbers)


class IQ4_NL(CpuDecoder):
    """Scale; 16 bytes of nibbles."""

    def __init__(self, blocks: int) -> None:
        self.scales = Scales(blocks)
        self.table = Iq4Table(blocks)
        self.packed = self.table.packed.view("V16")[:, 0]

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        return field(packed, 0, np.uint16), field(packed, 2, "V16")

    def run(self, out: Tensor, *sources: Array) -> None:
        half, codes = sources
        np.copyto(self.packed, codes)
        self.table.run(out.view(-1))
        out.mul_(self.scales.read(half)[0])


class IQ4_XS(CpuDecoder):
    """One float16; 8 six-bit scales; 8 times 16 bytes of nibbles on the non-linear scale."""

    out_shape = (256,)
    EIGHTHS: ClassVar[Array] = shifts(*range(0, 32, 4), dtype=np.uint32)
    TWOS: ClassVar[Array] = shifts(*range(0, 16, 2), dtype=np.uint32)

    def __init__(self, blocks: int) -> None:
        self.scales = Scales(blocks)
        self.factor_low = np.empty(blocks, np.uint32)
        self.factor_high = np.empty(blocks, np.uint32)
        self.low_planes = np.empty((8, blocks), np.uint32)
        self.high_planes = np.empty((8, blocks), np.uint32)
        self.factors = np.empty((blocks, 8), np.uint8)
        self.factor_tensor = torch.from_numpy(self.factors)
        self.values = torch.empty(blocks, 8)
        self.table = Iq4Table(blocks * 8)
        self.packed = self.table.packed.reshape(-1).view("V128")

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        return (
            field(packed, 0, np.uint16),
            field(packed, 2, np.uint16),
            field(packed, 4, np.uint32),
            field(packed, 8, "V128"),
        )

    def run(self, out: Tensor, *sources: Array) -> None:
        half, high, low, codes = sources
        np.copyto(self.packed, codes)
        self.table.run(out.view(-1))
        np.copyto(self.factor_low, low)
        np.copyto(self.factor_high, high)
        np.right_shift(self.factor_low, self.EIGHTHS, out=self.low_planes)
        np.bitwise_and(self.low_planes, np.uint32(15), out=self.low_planes)
        np.right_shift(self.factor_high, self.TWOS, out=self.high_planes)
        np.bitwise_and(self.high_planes, np.uint32(3), out=self.high_planes)
        np.left_shift(self.high_planes, np.uint32(4), out=self.high_planes)
        np.bitwise_or(self.low_planes, self.high_planes, out=self.low_planes)
        np.copyto(self.factors, self.low_planes.T, casting="unsafe")
        self.values.copy_(self.factor_tensor)
        self.values.sub_(32)
        self.values.mul_(self.scales.read(half)[0])
        out.view(-1, 32).mul_(self.values.view(-1, 1))


NON_LINEAR_DECODERS: dict[str, type[CpuDecoder]] = {"IQ4_NL": IQ4_NL, "IQ4_XS": IQ4_XS}
