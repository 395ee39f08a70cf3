"""Numbers to packed weights: `quantize_blocks`, for the types that GGUF files are written in.

K-quants (encode_search.py, encode_pack.py) and the older four- and five-bit types (encode_plain.py) are
this project's own; Q8_0 and what else gguf-py can write go through it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, InputError, ShapeError
from .encode_pack import PACKERS
from .encode_plain import PLAIN_ENCODERS
from .encode_search import AFFINE, SYMMETRIC, search_affine, search_symmetric
from .types import BLOCK_TYPES, row_bytes

NUMBERS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
THROUGH_GGUF = ("Q8_0", "TQ1_0", "TQ2_0", "MXFP4")
# Everything `quantize_blocks` can write.
ENCODED = (*NUMBERS, *PACKERS, *PLAIN_ENCODERS, *THROUGH_GGUF)

# Weights worked on at once: 1 MiB an array on a CPU, of which about four are in use. Measured on one
# thread, Q4_K: 2**16 weights 10 Mw/s, 2**17 17, 2**18 20, 2**19 21 (the small arrays cost calls).
CHUNK_WEIGHTS = {"cpu": 1 << 18}
CHUNK_WEIGHTS_ELSEWHERE = 1 << 24


def quantize_blocks(weight: Tensor, kind: str) -> Tensor:
    """Pack rows of weights. Every block is packed on its own, with torch's number of threads.

    Args:
        weight: [rows, columns] of a floating dtype, finite, any device.
        kind: one of `ENCODED`.

    Returns:
        uint8 [rows, row_bytes] on the same device, as the rows lie in a GGUF file.

    Raises:
        CheckpointError: a type that can't be written, or columns that don't fill whole blocks.
        ShapeError: not a matrix of floating-point numbers.
        InputError: NaN or infinity among the weights.
    """
    if kind not in ENCODED:
        raise CheckpointError(f"weights can't be written as {kind!r}; choose {', '.join(ENCODED)}")
    if weight.ndim != 2 or not weight.is_floating_point():
        raise ShapeError(
            f"weights to pack are {weight.dtype} {tuple(weight.shape)}; expected floating-point "
            "[rows, columns]"
        )
    width = row_bytes(kind, weight.shape[1])
    if kind in NUMBERS:
        _check_finite(weight)
        return weight.to(NUMBERS[kind]).contiguous().view(torch.uint8)
    if weight.numel() == 0:
        return torch.empty(len(weight), width, dtype=torch.uint8, device=weight.device)
    if kind in THROUGH_GGUF:
        return _through_gguf(weight, kind)
    block = BLOCK_TYPES[kind]
    blocks = weight.reshape(-1, block.block_size)
    packed = torch.empty(len(blocks), block.type_size, dtype=torch.uint8, device=weight.device)
    chunk = CHUNK_WEIGHTS.get(weight.device.type, CHUNK_WEIGHTS_ELSEWHERE)
    step = max(1, chunk // block.block_size)
    for start in range(0, len(blocks), step):
        packed[start : start + step] = _encode(blocks[start : start + step], kind)
    return packed.view(len(weight), width)


def _encode(blocks: Tensor, kind: str) -> Tensor:
    """[n, block_size] -> uint8 [n, type_size]."""
    _check_finite(blocks)
    if kind in PLAIN_ENCODERS:
        return PLAIN_ENCODERS[kind](blocks.T.contiguous().float())
    affine = AFFINE.get(kind)
    size = affine.sub_block if affine else SYMMETRIC[kind].sub_block
    x = blocks.reshape(len(blocks), -1, size).permute(2, 1, 0).contiguous().float()
    lines = search_affine(x, affine) if affine else search_symmetric(x, SYMMETRIC[kind])
    return PACKERS[kind](lines)


def _check_finite(weights: Tensor) -> None:
    if weights.numel():
        low, high = torch.aminmax(weights)
        if not torch.isfinite(high - low):
            raise InputError(
                "there is NaN or infinity among the weights; they can't be packed. Use an "
                "undamaged file"
            )


def _through_gguf(weight: Tensor, kind: str) -> Tensor:
    from gguf import GGMLQuantizationType, quants

    def groups() -> Iterator[np.ndarray]:
        # A few rows at a time: gguf-py makes several float32 copies.
        for rows in weight.split(max(1, (1 << 20) // weight.shape[1])):
            _check_finite(rows)
            yield quants.quantize(rows.float().cpu().numpy(), GGMLQuantizationType[kind])

    return torch.from_numpy(np.concatenate(list(groups()))).to(weight.device)
