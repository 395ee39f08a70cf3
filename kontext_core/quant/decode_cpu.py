"""Block decoders for the CPU: what they share, and the formats of 32 weights a block.

The plain decoders spend most of their time allocating and in loops of 16 or 32 elements. Here:

- a decoder owns its buffers for a fixed number of blocks and decodes one chunk after the other;
- numpy moves groups of bytes as single elements ("V16" and so on), in or out of the blocks' strides;
- codes are unpacked eight at a time, as 64-bit words in contiguous arrays;
- torch turns them to float32 in one contiguous pass and applies scales and minima in place, while the
  chunk is still in the cache.

Codes often stay shifted up by some bits, which saves steps; the scale is divided by that power of two
first. Every product (11-bit scale, at most 7-bit factor, at most 8-bit code) fits into float32's 24
bits, so it is exact in any order, and the results have gguf-py's bits, signs of zeros included.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

Array = NDArray[Any]


def word(byte: int) -> np.uint64:
    """A 64-bit word with `byte` in each of its eight bytes."""
    return np.uint64(int.from_bytes(bytes([byte] * 8), "little"))


def shifts(*bits: int, dtype: DTypeLike = np.uint64) -> Array:
    """Shift amounts for rows of words, [n, 1]."""
    return np.array(bits, dtype)[:, None]


def field(packed: Array, at: int, dtype: DTypeLike) -> Array:
    """What lies at byte `at` of each block of contiguous [n, type_size] bytes, as [n] elements."""
    return np.ndarray((len(packed),), dtype, packed, at, (packed.shape[1],))


def tensor_of(buffer: Array, dtype: torch.dtype) -> Tensor:
    """The buffer's bytes as a tensor, in one dimension."""
    return torch.from_numpy(buffer.reshape(-1).view(np.uint8)).view(dtype)


class CpuDecoder:
    """Decodes chunks of a fixed number of blocks in buffers of its own; not for two threads at once.

    Attributes:
        out_shape: how `run` wants to see the float32 numbers of one block.
    """

    out_shape: ClassVar[tuple[int, ...]] = (32,)

    def __init__(self, blocks: int) -> None:
        raise NotImplementedError

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        """What `run` reads of uint8 [n, type_size]: views with the blocks in dimension 0."""
        raise NotImplementedError

    def run(self, out: Tensor, *sources: Array) -> None:
        """Write one chunk, float32 [blocks, *out_shape]."""
        raise NotImplementedError


LOW, HIGH, TOP = word(0x0F), word(0xF0), word(0x80)
ONE, THREE, FOUR = np.uint64(1), np.uint64(3), np.uint64(4)


class Scales:
    """The float16 numbers at the start of each block, as float32 [count, blocks, 1]."""

    def __init__(self, blocks: int, count: int = 1, factors: tuple[float, ...] = ()) -> None:
        self.half = np.empty(blocks, np.uint16 if count == 1 else np.uint32)
        self.half_tensor = tensor_of(self.half, torch.float16).view(blocks, count).T
        self.values = torch.empty(count, blocks, 1)
        self.factors = torch.tensor(factors)[:, None, None] if factors else None

    def read(self, source: Array) -> Tensor:
        np.copyto(self.half, source)
        self.values[:, :, 0].copy_(self.half_tensor)
        return self.values if self.factors is None else self.values.mul_(self.factors)


class Nibbles:
    """16 bytes a block to 32 codes in order: the low halves first, then the high ones."""

    def __init__(self, blocks: int) -> None:
        self.packed = np.empty((blocks, 2), np.uint64)
        self.part = np.empty((blocks, 2), np.uint64)
        self.codes = np.empty((blocks, 4), np.uint64)
        ordered = self.codes.view("V16")
        self.low, self.high = ordered[:, 0], ordered[:, 1]
        self.packed_groups = self.packed.view("V16")[:, 0]
        self.part_groups = self.part.view("V16")[:, 0]

    def order(self, low: Array, high: Array) -> None:
        """Put [blocks] groups of 16 codes each behind each other."""
        np.copyto(self.low, low)
        np.copyto(self.high, high)


class Q8_0(CpuDecoder):
    """Scale; 32 signed bytes. Moving them out of the blocks first was measured slower."""

    def __init__(self, blocks: int) -> None:
        self.scales = Scales(blocks)

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        return field(packed, 0, np.uint16), packed[:, 2:].view(np.int8)

    def run(self, out: Tensor, *sources: Array) -> None:
        half, codes = sources
        out.copy_(torch.from_numpy(codes))
        out.mul_(self.scales.read(half)[0])


class Q4_0(CpuDecoder):
    """Scale; 16 bytes of nibbles offset by 8.

    With its top bit flipped and moved to the upper half of a byte, a nibble is, as a signed number,
    16 (code - 8).
    """

    def __init__(self, blocks: int) -> None:
        self.scales = Scales(blocks, factors=(1 / 16,))
        self.nibbles = Nibbles(blocks)
        self.numbers = tensor_of(self.nibbles.codes, torch.int8).view(blocks, 32)

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        return field(packed, 0, np.uint16), field(packed, 2, "V16")

    def run(self, out: Tensor, *sources: Array) -> None:
        half, codes = sources
        n = self.nibbles
        np.copyto(n.packed_groups, codes)
        np.bitwise_xor(n.packed, FLIP_NIBBLES, out=n.packed)
        np.left_shift(n.packed, FOUR, out=n.part)
        n.order(n.part_groups, n.packed_groups)
        np.bitwise_and(n.codes, HIGH, out=n.codes)
        out.copy_(self.numbers)
        out.mul_(self.scales.read(half)[0])


FLIP_NIBBLES = word(0x88)


class Q4_1(CpuDecoder):
    """Scale, minimum; 16 bytes of nibbles."""

    def __init__(self, blocks: int) -> None:
        self.scales = Scales(blocks, 2)
        self.nibbles = Nibbles(blocks)
        self.numbers = tensor_of(self.nibbles.codes, torch.uint8).view(blocks, 32)

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        return field(packed, 0, np.uint32), field(packed, 4, "V16")

    def run(self, out: Tensor, *sources: Array) -> None:
        half, codes = sources
        n = self.nibbles
        np.copyto(n.packed_groups, codes)
        np.right_shift(n.packed, FOUR, out=n.part)
        n.order(n.packed_groups, n.part_groups)
        np.bitwise_and(n.codes, LOW, out=n.codes)
        scale, minimum = self.scales.read(half)
        out.copy_(self.numbers)
        out.mul_(scale)
        out.add_(minimum)


class FifthBits:
    """32 bits a block to 32 bytes that have them on top, by a table of 256 words."""

    def __init__(self, blocks: int, flip: bool) -> None:
        values = np.arange(256, dtype=np.uint8)[:, None] >> np.arange(8, dtype=np.uint8)
        spread = ((values & 1) ^ int(flip)).astype(np.uint8) << np.uint8(7)
        self.table = tensor_of(spread, torch.int64)
        self.packed = np.empty(blocks, np.uint32)
        self.bytes = tensor_of(self.packed, torch.uint8)
        self.index = torch.empty(blocks * 4, dtype=torch.int32)
        self.spread = np.empty((blocks, 4), np.uint64)
        self.spread_tensor = tensor_of(self.spread, torch.int64)

    def read(self, source: Array) -> Array:
        np.copyto(self.packed, source)
        self.index.copy_(self.bytes)
        torch.index_select(self.table, 0, self.index, out=self.spread_tensor)
        return self.spread


class FiveBits(CpuDecoder):
    """What Q5_0 and Q5_1 share: nibbles at bits 3 to 6 of a byte and the fifth bit above them."""

    flip: ClassVar[bool]
    code_type: ClassVar[torch.dtype]
    factors: ClassVar[tuple[float, ...]]

    def __init__(self, blocks: int) -> None:
        self.scales = Scales(blocks, len(self.factors), self.factors)
        self.nibbles = Nibbles(blocks)
        self.bits = FifthBits(blocks, self.flip)
        self.numbers = tensor_of(self.nibbles.codes, self.code_type).view(blocks, 32)

    def unpack(self, out: Tensor, bits: Array, codes: Array) -> None:
        n = self.nibbles
        np.copyto(n.packed_groups, codes)
        np.left_shift(n.packed, THREE, out=n.part)
        np.right_shift(n.packed, ONE, out=n.packed)
        n.order(n.part_groups, n.packed_groups)
        np.bitwise_and(n.codes, MIDDLE, out=n.codes)
        np.bitwise_or(n.codes, self.bits.read(bits), out=n.codes)
        out.copy_(self.numbers)


MIDDLE = word(0x78)


class Q5_0(FiveBits):
    """Scale; 32 fifth bits; 16 bytes of nibbles; codes are offset by 16."""

    flip, code_type, factors = True, torch.int8, (1 / 8,)

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        return field(packed, 0, np.uint16), field(packed, 2, np.uint32), field(packed, 6, "V16")

    def run(self, out: Tensor, *sources: Array) -> None:
        half, bits, codes = sources
        self.unpack(out, bits, codes)
        out.mul_(self.scales.read(half)[0])


class Q5_1(FiveBits):
    """Scale, minimum; 32 fifth bits; 16 bytes of nibbles."""

    flip, code_type, factors = False, torch.uint8, (1 / 8, 1.0)

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        return field(packed, 0, np.uint32), field(packed, 4, np.uint32), field(packed, 8, "V16")

    def run(self, out: Tensor, *sources: Array) -> None:
        half, bits, codes = sources
        self.unpack(out, bits, codes)
        scale, minimum = self.scales.read(half)
        out.mul_(scale)
        out.add_(minimum)


SMALL_BLOCK_DECODERS: dict[str, type[CpuDecoder]] = {
    "Q8_0": Q8_0,
    "Q4_0": Q4_0,
    "Q4_1": Q4_1,
    "Q5_0": Q5_0,
    "Q5_1": Q5_1,
}
