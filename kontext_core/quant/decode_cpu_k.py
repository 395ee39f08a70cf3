"""CPU decoders for ggml's K-quants: 256 weights a block, in groups of 32 codes.

Codes are unpacked in planes, [group, block, 4 words], so that a shift differs between rows and not
within them; the finished planes are then put into the order of the weights, 32 bytes at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .decode_cpu import Array, CpuDecoder, Scales, field, shifts, tensor_of, word

ONE, TWO, THREE, FOUR = (np.uint64(i) for i in range(1, 5))
LOW, TOP = word(0x0F), word(0x80)


def small(byte: int) -> np.uint32:
    """A 32-bit word with `byte` in each of its four bytes."""
    return np.uint32(byte * 0x01010101)


class Planes:
    """Codes of 8 groups of 32 as [8, blocks, 4] words, and in the order of the weights.

    Args:
        blocks: in a chunk.
        inner: how many of the eight groups run faster than the block, as [8 / inner, blocks, inner].
    """

    def __init__(self, blocks: int, dtype: torch.dtype, inner: int = 1) -> None:
        self.words = np.empty((8 // inner, blocks * inner * 4), np.uint64)
        self.ordered = np.empty((blocks * inner, 8 // inner), "V32")
        self.numbers = tensor_of(self.ordered, dtype).view(blocks, 256)

    def order(self, places: tuple[int, ...]) -> Tensor:
        """The codes [blocks, 256]; plane i goes to group `places[i]`."""
        for plane, place in zip(self.words, places, strict=True):
            np.copyto(self.ordered[:, place], plane.view("V32"))
        return self.numbers


class SixBitScales:
    """Scales and minima of Q4_K and Q5_K: two float16, then 12 bytes with 16 numbers of 6 bits."""

    def __init__(self, blocks: int, factors: tuple[float, ...] = ()) -> None:
        self.scales = Scales(blocks, 2, factors)
        self.packed = np.empty((3, blocks), np.uint32)
        self.part = np.empty((2, blocks), np.uint32)
        self.codes = np.empty((2, blocks, 2), np.uint32)
        self.code_tensor = tensor_of(self.codes, torch.uint8).view(2, blocks, 8)
        self.values = torch.empty(2, blocks, 8)

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        return tuple(field(packed, at, np.uint32) for at in (0, 4, 8, 12))

    def read(self, half: Array, *packed: Array) -> Tensor:
        """Scale and minimum of each 32 weights, float32 [2, blocks, 8]."""
        for target, source in zip(self.packed, packed, strict=True):
            np.copyto(target, source)
        direct, rest, codes = self.packed[:2], self.packed[2], self.codes
        np.bitwise_and(direct, small(0x3F), out=codes[:, :, 0])
        np.right_shift(direct, np.uint32(2), out=self.part)
        np.bitwise_and(self.part, small(0x30), out=self.part)
        np.bitwise_and(rest, small(0x0F), out=codes[0, :, 1])
        np.right_shift(rest, np.uint32(4), out=rest)
        np.bitwise_and(rest, small(0x0F), out=codes[1, :, 1])
        np.bitwise_or(codes[:, :, 1], self.part, out=codes[:, :, 1])
        self.values.copy_(self.code_tensor)
        return self.values.mul_(self.scales.read(half))


class Q4_K(CpuDecoder):
    """Scales and minima; 4 times 32 bytes of nibbles, the low halves first."""

    out_shape = (256,)

    def __init__(self, blocks: int) -> None:
        self.scales = SixBitScales(blocks)
        self.packed = np.empty(blocks, "V128")
        self.words = self.packed.view(np.uint64)
        self.part = np.empty_like(self.words)
        self.codes = np.empty((blocks * 4, 2), "V32")
        self.low, self.high = self.codes[:, 0], self.codes[:, 1]
        self.low_groups, self.high_groups = self.words.view("V32"), self.part.view("V32")
        self.code_words = self.codes.reshape(-1).view(np.uint64)
        self.numbers = tensor_of(self.codes, torch.uint8).view(blocks, 256)

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        return (*SixBitScales.sources(packed), field(packed, 16, "V128"))

    def run(self, out: Tensor, *sources: Array) -> None:
        *scales, codes = sources
        np.copyto(self.packed, codes)
        np.right_shift(self.words, FOUR, out=self.part)
        np.copyto(self.low, self.low_groups)
        np.copyto(self.high, self.high_groups)
        np.bitwise_and(self.code_words, LOW, out=self.code_words)
        out.copy_(self.numbers)
        _scale_and_shift(out.view(-1, 32), self.scales.read(*scales))


class Q5_K(CpuDecoder):
    """As Q4_K, with a fifth bit for each weight: bit i of 32 bytes belongs to the i-th 32 weights."""

    out_shape = (256,)

    def __init__(self, blocks: int) -> None:
        self.scales = SixBitScales(blocks, (1 / 8, 1.0))
        self.planes = Planes(blocks, torch.uint8)
        pairs = self.planes.words.reshape(4, 2, blocks * 4)
        self.even, self.odd = pairs[:, 0], pairs[:, 1]
        self.bits = np.empty(blocks, "V32")
        self.bit_words = self.bits.view(np.uint64)
        self.packed = np.empty((4, blocks), "V32")
        self.words = self.packed.view(np.uint64)
        self.part = np.empty_like(self.words)

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        groups = (field(packed, at, "V32") for at in range(16, 176, 32))
        return (*SixBitScales.sources(packed), *groups)

    def run(self, out: Tensor, *sources: Array) -> None:
        bits, *codes = sources[4:]
        np.copyto(self.bits, bits)
        for target, source in zip(self.packed, codes, strict=True):
            np.copyto(target, source)
        planes = self.planes.words
        np.left_shift(self.bit_words, FIFTH_BITS, out=planes)
        np.bitwise_and(planes, TOP, out=planes)
        np.left_shift(self.words, THREE, out=self.part)
        np.bitwise_and(self.part, MIDDLE, out=self.part)
        np.bitwise_or(self.even, self.part, out=self.even)
        np.right_shift(self.words, ONE, out=self.part)
        np.bitwise_and(self.part, MIDDLE, out=self.part)
        np.bitwise_or(self.odd, self.part, out=self.odd)
        out.copy_(self.planes.order(IN_ORDER))
        _scale_and_shift(out.view(-1, 32), self.scales.read(*sources[:4]))


IN_ORDER = tuple(range(8))
FIFTH_BITS, MIDDLE = shifts(7, 6, 5, 4, 3, 2, 1, 0), word(0x78)


class Q6_K(CpuDecoder):
    """Nibbles of 2 x 64 bytes; upper two bits in 2 x 32 bytes; 16 signed scales; one float16.

    Of a byte, the code takes the upper six bits, so with its top bit flipped it is a signed number,
    4 (code - 32).
    """

    out_shape = (256,)

    def __init__(self, blocks: int) -> None:
        self.scales = Scales(blocks, factors=(1 / 4,))
        self.factors = np.empty(blocks, "V16")
        self.factor_tensor = tensor_of(self.factors, torch.int8).view(blocks, 16)
        self.values = torch.empty(blocks, 16)
        self.planes = Planes(blocks, torch.int8, inner=2)
        self.low, self.high = self.planes.words[:2], self.planes.words[2:]
        self.packed = np.empty((2, blocks, 2), "V32")
        self.targets = [self.packed[i, :, j] for j in range(2) for i in range(2)]
        self.words = self.packed.reshape(2, -1).view(np.uint64)
        self.part = np.empty_like(self.words)
        self.top = np.empty(blocks, "V64")
        self.top_words = self.top.view(np.uint64)

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        return (
            *(field(packed, at, "V32") for at in (0, 32, 64, 96)),
            field(packed, 128, "V64"),
            field(packed, 192, "V16"),
            field(packed, 208, np.uint16),
        )

    def run(self, out: Tensor, *sources: Array) -> None:
        *codes, top, factors, half = sources
        for target, source in zip(self.targets, codes, strict=True):
            np.copyto(target, source)
        np.copyto(self.top, top)
        planes = self.planes.words
        np.bitwise_xor(self.top_words, FLIP_PAIRS, out=self.top_words)
        np.left_shift(self.top_words, PAIRS, out=planes)
        np.bitwise_and(planes, UPPER_TWO, out=planes)
        np.left_shift(self.words, TWO, out=self.part)
        np.bitwise_and(self.part, BELOW_TWO, out=self.part)
        np.bitwise_or(self.low, self.part, out=self.low)
        np.right_shift(self.words, TWO, out=self.part)
        np.bitwise_and(self.part, BELOW_TWO, out=self.part)
        np.bitwise_or(self.high, self.part, out=self.high)
        out.copy_(self.planes.order((0, 1, 2, 3)))
        np.copyto(self.factors, factors)
        self.values.copy_(self.factor_tensor)
        self.values.mul_(self.scales.read(half)[0])
        out.view(-1, 16).mul_(self.values.view(-1, 1))


PAIRS, FLIP_PAIRS = shifts(6, 4, 2, 0), word(0xAA)
UPPER_TWO, BELOW_TWO = word(0xC0), word(0x3C)


class Q3_K(CpuDecoder):
    """Third bits in 32 bytes; lower two bits in 2 x 32 bytes; 16 six-bit scales; one float16.

    The code takes the upper three bits of a byte; with the third bit flipped (it is stored so that
    it is set where nothing is to be subtracted) that is, as a signed number, 32 (code - 4).
    """

    out_shape = (256,)

    def __init__(self, blocks: int) -> None:
        self.scales = Scales(blocks, factors=(1 / 32,))
        self.factor_words = np.empty((3, blocks), np.uint32)
        self.factor_planes = np.empty((4, blocks), np.uint32)
        self.factor_part = np.empty((4, blocks), np.uint32)
        self.factors = np.empty((blocks, 4), np.uint32)
        self.factor_tensor = tensor_of(self.factors, torch.uint8).view(blocks, 16)
        self.values = torch.empty(blocks, 16)
        self.planes = Planes(blocks, torch.int8)
        self.top = np.empty(blocks, "V32")
        self.top_words = self.top.view(np.uint64)
        self.top_planes = np.empty_like(self.planes.words)
        self.packed = np.empty((2, blocks), "V32")
        self.words = self.packed.view(np.uint64)
        pairs = self.planes.words.reshape(2, 4, blocks * 4)
        self.lifted, self.lowered = [pairs[:, i] for i in range(3)], pairs[:, 3]

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        groups = (field(packed, at, "V32") for at in (0, 32, 64))
        factors = (field(packed, at, np.uint32) for at in (96, 100, 104))
        return (*groups, *factors, field(packed, 108, np.uint16))

    def run(self, out: Tensor, *sources: Array) -> None:
        planes, top = self.planes.words, self.top_planes
        np.copyto(self.top, sources[0])
        for target, source in zip(self.packed, sources[1:3], strict=True):
            np.copyto(target, source)
        np.bitwise_not(self.top_words, out=self.top_words)
        np.left_shift(self.top_words, FIFTH_BITS, out=top)
        np.bitwise_and(top, TOP, out=top)
        for target, bits in zip(self.lifted, (np.uint64(5), THREE, ONE), strict=True):
            np.left_shift(self.words, bits, out=target)
        np.right_shift(self.words, ONE, out=self.lowered)
        np.bitwise_and(planes, BELOW_TOP, out=planes)
        np.bitwise_or(planes, top, out=planes)
        out.copy_(self.planes.order(IN_ORDER))
        self._read_scales(*sources[3:])
        out.view(-1, 16).mul_(self.values.view(-1, 1))

    def _read_scales(self, *sources: Array) -> None:
        *packed, half = sources
        for target, source in zip(self.factor_words, packed, strict=True):
            np.copyto(target, source)
        low, planes, part = self.factor_words[:2], self.factor_planes, self.factor_part
        np.bitwise_and(low, small(0x0F), out=planes[:2])
        np.right_shift(low, np.uint32(4), out=part[:2])
        np.bitwise_and(part[:2], small(0x0F), out=planes[2:])
        np.right_shift(self.factor_words[2], QUARTERS, out=part)
        np.bitwise_and(part, small(0x03), out=part)
        np.left_shift(part, np.uint32(4), out=part)
        np.bitwise_or(planes, part, out=planes)
        np.copyto(self.factors, planes.T)
        self.values.copy_(self.factor_tensor)
        self.values.sub_(32)
        self.values.mul_(self.scales.read(half)[0])


BELOW_TOP = word(0x60)
QUARTERS = shifts(0, 2, 4, 6, dtype=np.uint32)


class Q2_K(CpuDecoder):
    """16 four-bit scales and minima; codes of two bits in 2 x 32 bytes; two float16."""

    out_shape = (256,)

    def __init__(self, blocks: int) -> None:
        self.scales = Scales(blocks, 2)
        self.factors = np.empty(blocks, "V16")
        self.factor_words = self.factors.view(np.uint64)
        self.factor_planes = np.empty((2, blocks * 2), np.uint64)
        self.factor_tensor = tensor_of(self.factor_planes, torch.uint8).view(2, blocks, 16)
        self.values = torch.empty(2, blocks, 16)
        self.planes = Planes(blocks, torch.uint8, inner=2)
        self.packed = np.empty(blocks, "V64")
        self.words = self.packed.view(np.uint64)

    @staticmethod
    def sources(packed: Array) -> tuple[Array, ...]:
        return field(packed, 0, "V16"), field(packed, 16, "V64"), field(packed, 80, np.uint32)

    def run(self, out: Tensor, *sources: Array) -> None:
        factors, codes, half = sources
        np.copyto(self.packed, codes)
        planes = self.planes.words
        np.right_shift(self.words, LOWER_PAIRS, out=planes)
        np.bitwise_and(planes, LOWER_TWO, out=planes)
        out.copy_(self.planes.order((0, 1, 2, 3)))
        np.copyto(self.factors, factors)
        np.right_shift(self.factor_words, HALVES, out=self.factor_planes)
        np.bitwise_and(self.factor_planes, LOW, out=self.factor_planes)
        self.values.copy_(self.factor_tensor)
        self.values.mul_(self.scales.read(half))
        _scale_and_shift(out.view(-1, 16), self.values)


LOWER_PAIRS, HALVES, LOWER_TWO = shifts(0, 2, 4, 6), shifts(0, 4), word(0x03)


def _scale_and_shift(out: Tensor, scales: Tensor) -> None:
    """out [n, m] times scales[0], less scales[1]; each of them holds n numbers."""
    scale, minimum = scales.view(2, -1, 1)
    out.mul_(scale)
    out.sub_(minimum)


LARGE_BLOCK_DECODERS: dict[str, type[CpuDecoder]] = {
    "Q2_K": Q2_K,
    "Q3_K": Q3_K,
    "Q4_K": Q4_K,
    "Q5_K": Q5_K,
    "Q6_K": Q6_K,
}
