"""Packed weights to numbers: `dequantize`, for every block format that gguf-py knows."""

from __future__ import annotations

import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, ShapeError
from .decode_cpu import SMALL_BLOCK_DECODERS, CpuDecoder
from .decode_cpu_iq4 import NON_LINEAR_DECODERS
from .decode_cpu_k import LARGE_BLOCK_DECODERS
from .decode_plain import PLAIN_DECODERS
from .types import BLOCK_TYPES, BlockType

log = logging.getLogger(__name__)

# Number types that need no decoding, only a view.
NUMBERS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
CPU_DECODERS = {**SMALL_BLOCK_DECODERS, **LARGE_BLOCK_DECODERS, **NON_LINEAR_DECODERS}
# Weights decoded at once. On the CPU: 2 MB of float32 stay in a core's share of the last cache, and
# the calls of a chunk (about 30) cost little beside them; smaller chunks were measured slower.
CPU_CHUNK = 1 << 19
NUMPY_SIZES = {torch.float32: np.float32, torch.bfloat16: np.int16, torch.float16: np.int16}
# Elsewhere: the plain decoders hold about ten bytes of temporaries for each.
CHUNK = 1 << 23
# Decoders kept by each thread, about 1 MB each; a model needs one or two for each type it mixes.
KEPT_DECODERS = 16
Fused = Callable[[Tensor, str, Tensor], None]
_own = threading.local()
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
        out = uninitialised(shape, dtype, blocks.device)
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
    if blocks.device.type == "cpu" and kind in CPU_DECODERS:
        _decode_on_cpu(packed, kind, numbers)
        return out
    fused = fused_decoder(kind, out.dtype, blocks.device)
    if fused is not None and packed.data_ptr() % 2 == 0:
        fused(packed.contiguous(), kind, numbers)
        return out
    decode = PLAIN_DECODERS.get(kind) or _through_gguf(kind)
    step = max(1, CHUNK // block.block_size)
    for start in range(0, len(packed), step):
        numbers[start : start + step] = decode(packed[start : start + step])
    return out


@functools.cache
def fused_decoder(kind: str, dtype: torch.dtype, device: torch.device) -> Fused | None:
    """Triton's decoder of a type for a GPU, once it gave the plain decoder's bits there; None where
    there is none, which is said once in the log if Triton is installed."""
    if device.type != "cuda" or dtype not in NUMPY_SIZES or kind not in PLAIN_DECODERS:
        return None
    try:
        from .decode_triton import KERNELS, decode
    except ImportError:
        # PyTorch brings Triton along on Linux only.
        return None
    return checked(decode, kind, dtype, device) if kind in KERNELS else None


def checked(fused: Fused, kind: str, dtype: torch.dtype, device: torch.device) -> Fused | None:
    """The decoder, if it runs and agrees with the plain one on some blocks."""
    block = BLOCK_TYPES[kind]
    # Small bytes: scales of any bits could be NaN, which equals nothing.
    codes = torch.arange(37 * block.type_size, dtype=torch.int32).mul_(7).remainder_(113)
    packed = codes.to(torch.uint8).view(37, block.type_size).to(device)
    out = torch.empty(37, block.block_size, dtype=dtype, device=device)
    try:
        fused(packed, kind, out)
        fault = "" if torch.equal(out, PLAIN_DECODERS[kind](packed).to(dtype)) else "other numbers"
    except Exception as error:  # noqa: BLE001 - Triton's compiler raises whatever it likes
        fault = f"{type(error).__name__}: {error}"
    if fault:
        log.warning("%s is decoded without Triton on %s, slower (%s)", kind, device, fault[:300])
        return None
    return fused


def uninitialised(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised memory. numpy asks the system for huge pages, torch does not: with ordinary ones
    their first use takes longer than the decoding."""
    if device.type != "cpu" or dtype not in NUMPY_SIZES:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, NUMPY_SIZES[dtype])).view(dtype)


def _result_shape(blocks: Tensor, block: BlockType) -> tuple[int, ...]:
    if blocks.dtype != torch.uint8 or blocks.ndim == 0 or blocks.shape[-1] % block.type_size:
        raise ShapeError(
            f"{block.name} rows are {blocks.dtype} {tuple(blocks.shape)}; expected uint8 with whole "
            f"blocks of {block.type_size} bytes in the last dimension"
        )
    return (*blocks.shape[:-1], blocks.shape[-1] // block.type_size * block.block_size)


def _decode_on_cpu(packed: Tensor, kind: str, numbers: Tensor) -> None:
    """Decode [n, type_size] into [n, block_size] chunk by chunk, in buffers of this thread."""
    count, block_size = numbers.shape
    if count == 0:
        return
    step = CPU_CHUNK // block_size
    sources = CPU_DECODERS[kind].sources(packed.detach().numpy())
    shape = CPU_DECODERS[kind].out_shape
    for start in range(0, count, step):
        end = min(start + step, count)
        decoder, scratch = _own_decoder(kind, end - start)
        chunk = numbers[start:end]
        target = chunk if chunk.dtype == torch.float32 else scratch[: chunk.numel()]
        decoder.run(target.view(-1, *shape), *[source[start:end] for source in sources])
        if target is not chunk:
            chunk.copy_(target.view_as(chunk))


def _own_decoder(kind: str, blocks: int) -> tuple[CpuDecoder, Tensor]:
    """This thread's decoder for chunks of so many blocks, and float32 space for one chunk."""
    if not hasattr(_own, "decoders"):
        _own.decoders = OrderedDict()
        _own.scratch = None
    decoders: OrderedDict[tuple[str, int], CpuDecoder] = _own.decoders
    # Buffers made in inference mode could not be written to outside it.
    with torch.inference_mode(False):
        if _own.scratch is None:
            _own.scratch = torch.empty(CPU_CHUNK)
        found = decoders.get((kind, blocks))
        if found is None:
            found = decoders[kind, blocks] = CPU_DECODERS[kind](blocks)
            if len(decoders) > KEPT_DECODERS:
                decoders.popitem(last=False)
    decoders.move_to_end((kind, blocks))
    return found, _own.scratch


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
