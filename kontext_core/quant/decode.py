"""Packed weights to numbers: `dequantize`, for every block format that gguf-py knows."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, ShapeError
from .decode_plain import PLAIN_DECODERS
from .types import BLOCK_TYPES, BlockType

__all__ = ["dequantize"]

log = logging.getLogger(__name__)

# Number types that need no decoding, only a view.
NUMBERS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
# Weights decoded at once: the plain decoders hold about ten bytes of temporaries for each.
CHUNK_WEIGHTS = {"cpu": 1 << 17}
CHUNK_WEIGHTS_ELSEWHERE = 1 << 24
_warned: set[str] = set()


def dequantize(
    blocks: Tensor,
    kind: str,
    *,
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """The numbers that packed rows stand for.

    Args:
        blocks: uint8 [..., row_bytes], any device; rows of whole blocks as they lie in a GGUF file.
        kind: ggml's name of the type, a key of `BLOCK_TYPES`.
        dtype: of the result where `out` is not given. float32 has the bits that gguf-py computes;
            other dtypes are those rounded.
        out: contiguous [..., columns] of a floating dtype, on the same device, to write to.

    Returns:
        [..., columns]; `out` if it was given.

    Raises:
        CheckpointError: no such type, or one that nobody can decode.
        ShapeError: rows that are not whole blocks, or an `out` that doesn't fit.
    """
    block = BLOCK_TYPES.get(kind)
    if block is None:
        raise CheckpointError(f"there is no ggml type {kind!r}; known are {', '.join(BLOCK_TYPES)}")
    shape = _result_shape(blocks, block)
    if out is None:
        out = torch.empty(shape, dtype=dtype, device=blocks.device)
    elif out.shape != shape or not out.is_contiguous() or out.device != blocks.device:
        raise ShapeError(
            f"out is {tuple(out.shape)} on {out.device}; expected contiguous {shape} on "
            f"{blocks.device}"
        )
    if kind in NUMBERS:
        # Rows read from a file may lie at any byte.
        aligned = blocks if blocks.data_ptr() % block.type_size == 0 else blocks.clone()
        return out.copy_(aligned.contiguous().view(NUMBERS[kind]))
    packed = blocks.reshape(-1, block.type_size)
    numbers = out.view(-1, block.block_size)
    decode = PLAIN_DECODERS.get(kind) or _through_gguf(kind)
    weights = CHUNK_WEIGHTS.get(blocks.device.type, CHUNK_WEIGHTS_ELSEWHERE)
    step = max(1, weights // block.block_size)
    for start in range(0, len(packed), step):
        numbers[start : start + step] = decode(packed[start : start + step])
    return out


def _result_shape(blocks: Tensor, block: BlockType) -> tuple[int, ...]:
    if blocks.dtype != torch.uint8 or blocks.ndim == 0 or blocks.shape[-1] % block.type_size:
        raise ShapeError(
            f"{block.name} rows are {blocks.dtype} {tuple(blocks.shape)}; expected uint8 with whole "
            f"blocks of {block.type_size} bytes in the last dimension"
        )
    return (*blocks.shape[:-1], blocks.shape[-1] // block.type_size * block.block_size)


def _through_gguf(kind: str) -> Callable[[Tensor], Tensor]:
    """A decoder that hands the blocks to gguf-py; right, but made of numpy temporaries."""
    from gguf import GGMLQuantizationType, quants

    if kind not in _warned:
        _warned.add(kind)
        log.warning(
            "%s weights are decoded through gguf-py, which is slow; a file of the Q-types "
            "(Q2_K to Q8_0), IQ4_NL or IQ4_XS runs several times as fast",
            kind,
        )

    def decode(blocks: Tensor) -> Tensor:
        try:
            # Scales of any bits are let through, as the native decoders do.
            with np.errstate(all="ignore"):
                numbers = quants.dequantize(blocks.cpu().numpy(), GGMLQuantizationType[kind])
        except (KeyError, NotImplementedError) as error:
            raise CheckpointError(
                f"no decoder for weights of type {kind}, in this program or in the installed "
                "gguf package; use a file of another type, such as Q4_K or Q8_0"
            ) from error
        return torch.from_numpy(numbers).to(blocks.device)

    return decode
