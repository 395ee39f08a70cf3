"""The block formats of GGUF files: how many weights share a block and how many bytes it takes.

The figures are ggml's (ggml-common.h), as gguf-py lists them in `GGML_QUANT_SIZES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from ..errors import CheckpointError


@dataclass(frozen=True)
class BlockType:
    """One ggml type.

    Attributes:
        name: ggml's name, as in `Q4_K`.
        block_size: weights in a block; 1 for plain number types.
        type_size: bytes of a block.
        ggml_id: number of the type in a GGUF header.
    """

    name: str
    block_size: int
    type_size: int
    ggml_id: int


BLOCK_TYPES = MappingProxyType(
    {
        name: BlockType(name, block_size, type_size, ggml_id)
        for name, block_size, type_size, ggml_id in (
            ("F32", 1, 4, 0),
            ("F16", 1, 2, 1),
            ("Q4_0", 32, 18, 2),
            ("Q4_1", 32, 20, 3),
            ("Q5_0", 32, 22, 6),
            ("Q5_1", 32, 24, 7),
            ("Q8_0", 32, 34, 8),
            ("Q8_1", 32, 40, 9),
            ("Q2_K", 256, 84, 10),
            ("Q3_K", 256, 110, 11),
            ("Q4_K", 256, 144, 12),
            ("Q5_K", 256, 176, 13),
            ("Q6_K", 256, 210, 14),
            ("Q8_K", 256, 292, 15),
            ("IQ2_XXS", 256, 66, 16),
            ("IQ2_XS", 256, 74, 17),
            ("IQ3_XXS", 256, 98, 18),
            ("IQ1_S", 256, 50, 19),
            ("IQ4_NL", 32, 18, 20),
            ("IQ3_S", 256, 110, 21),
            ("IQ2_S", 256, 82, 22),
            ("IQ4_XS", 256, 136, 23),
            ("I8", 1, 1, 24),
            ("I16", 1, 2, 25),
            ("I32", 1, 4, 26),
            ("I64", 1, 8, 27),
            ("F64", 1, 8, 28),
            ("IQ1_M", 256, 56, 29),
            ("BF16", 1, 2, 30),
            ("TQ1_0", 256, 54, 34),
            ("TQ2_0", 256, 66, 35),
            ("MXFP4", 32, 17, 39),
            ("NVFP4", 64, 36, 40),
            ("Q1_0", 128, 18, 41),
        )
    }
)


def is_packed(kind: str) -> bool:
    """Whether `kind` is a ggml type whose weights share blocks, so that torch has no dtype for it."""
    block = BLOCK_TYPES.get(kind)
    return block is not None and block.block_size > 1


def row_bytes(kind: str, columns: int) -> int:
    """Bytes of a row of `columns` weights.

    Raises:
        CheckpointError: a type that ggml doesn't have, or columns that don't fill whole blocks.
    """
    block = BLOCK_TYPES.get(kind)
    if block is None:
        raise CheckpointError(f"there is no ggml type {kind!r}; known are {', '.join(BLOCK_TYPES)}")
    if columns % block.block_size:
        raise CheckpointError(
            f"a row of {columns} weights can't be {kind}: expected a multiple of {block.block_size}"
        )
    return columns // block.block_size * block.type_size
