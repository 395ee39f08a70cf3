"""Decoding of packed weights has gguf-py's bits, for every type and every kind of block."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from torch import Tensor

from kontext_core.errors import CheckpointError, ShapeError
from kontext_core.quant.decode import dequantize
from kontext_core.quant.decode_plain import PLAIN_DECODERS
from kontext_core.quant.types import BLOCK_TYPES, is_packed, row_bytes

NATIVE = (
    "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()  # fmt: skip
)
FALLBACK = "IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ1_S IQ1_M TQ1_0 TQ2_0 MXFP4 NVFP4".split()


def oracle(blocks: Tensor, kind: str) -> Tensor:
    with np.errstate(all="ignore"):
        return torch.from_numpy(quants.dequantize(blocks.numpy(), GGMLQuantizationType[kind]))


def random_rows(kind: str, rows: int, columns: int, seed: int = 0) -> Tensor:
    """Random bytes: every code, scale and sign, also scales that are infinite or not numbers."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, row_bytes(kind, columns))
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    """Equal as bits, zeros' signs too; anything that is not a number counts as the same."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    integer = {4: torch.int32, 2: torch.int16}[actual.element_size()]
    same = (actual.view(integer) == expected.view(integer)) | (actual.isnan() & expected.isnan())
    assert bool(same.all()), f"{int((~same).sum())} of {same.numel()} differ"


def test_types_are_those_of_gguf() -> None:
    listed = {kind.name: (*sizes, int(kind)) for kind, sizes in GGML_QUANT_SIZES.items()}
    ours = {b.name: (b.block_size, b.type_size, b.ggml_id) for b in BLOCK_TYPES.values()}
    # An older gguf-py knows fewer types, never others.
    assert listed.items() <= ours.items()


@pytest.mark.parity
@pytest.mark.parametrize("kind", [*NATIVE, *FALLBACK])
def test_bits_equal_gguf(kind: str) -> None:
    # 173 rows of 768: more than one chunk, and a last one that is not full.
    blocks = random_rows(kind, 173, 768)
    assert_same_bits(dequantize(blocks, kind), oracle(blocks, kind))


@pytest.mark.parametrize("kind", NATIVE)
def test_the_plain_decoders_have_the_same_bits(kind: str) -> None:
    # 2113 rows of 256 (or 8 blocks of 32): a full chunk of the fast path and a partial one.
    blocks = random_rows(kind, 2113, 256, seed=3)
    plain = PLAIN_DECODERS[kind](blocks.view(-1, BLOCK_TYPES[kind].type_size))
    assert_same_bits(dequantize(blocks, kind), plain.view(2113, 256))


def test_decoding_in_inference_mode_and_then_outside() -> None:
    blocks = random_rows("Q4_K", 3, 256, seed=4)
    with torch.inference_mode():
        inside = dequantize(blocks, "Q4_K", dtype=torch.bfloat16)
    assert torch.equal(
        dequantize(blocks, "Q4_K", dtype=torch.bfloat16).nan_to_num(), inside.clone().nan_to_num()
    )


def test_threads_do_not_share_buffers() -> None:
    jobs = [(kind, random_rows(kind, 800, 768, seed)) for seed, kind in enumerate(NATIVE)] * 2
    expected = [dequantize(blocks, kind) for kind, blocks in jobs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            decoded = list(pool.map(lambda job: dequantize(job[1], job[0]), jobs))
            for actual, wanted in zip(decoded, expected, strict=True):
                assert_same_bits(actual, wanted)


@pytest.mark.parity
@pytest.mark.parametrize("kind", NATIVE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_are_the_float32_rounded(kind: str, dtype: torch.dtype) -> None:
    blocks = random_rows(kind, 7, 768)
    assert_same_bits(dequantize(blocks, kind, dtype=dtype), oracle(blocks, kind).to(dtype))


@pytest.mark.parity
@pytest.mark.parametrize("kind", NATIVE)
def test_leading_shape_and_out(kind: str) -> None:
    blocks = random_rows(kind, 6, 512).view(2, 3, -1)
    out = torch.full((2, 3, 512), torch.nan)
    assert dequantize(blocks, kind, out=out) is out
    assert_same_bits(out, oracle(blocks.view(6, -1), kind).view(2, 3, 512))


@pytest.mark.parametrize("kind", NATIVE)
def test_rows_of_a_larger_tensor_at_an_odd_byte(kind: str) -> None:
    blocks = random_rows(kind, 5, 512)
    shifted = torch.empty(blocks.numel() + 1, dtype=torch.uint8)[1:].view_as(blocks).copy_(blocks)
    assert_same_bits(dequantize(shifted, kind), dequantize(blocks, kind))
    every_other = blocks[::2]
    assert_same_bits(dequantize(every_other, kind), dequantize(blocks, kind)[::2])


@pytest.mark.parametrize("kind", NATIVE)
def test_no_rows(kind: str) -> None:
    assert dequantize(random_rows(kind, 0, 512), kind).shape == (0, 512)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)]
)
def test_plain_numbers_are_only_viewed(kind: str, dtype: torch.dtype) -> None:
    numbers = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(dequantize(numbers.view(torch.uint8), kind), numbers.float())


def test_bad_calls_say_what_was_expected() -> None:
    blocks = random_rows("Q4_K", 2, 512)
    with pytest.raises(ShapeError, match=r"whole blocks of 144 bytes"):
        dequantize(blocks[:, :-1], "Q4_K")
    with pytest.raises(ShapeError, match=r"uint8"):
        dequantize(blocks.float(), "Q4_K")
    with pytest.raises(ShapeError, match=r"\(2, 512\)"):
        dequantize(blocks, "Q4_K", out=torch.empty(2, 511))
    with pytest.raises(CheckpointError, match="no ggml type 'Q9'"):
        dequantize(blocks, "Q9")
    with pytest.raises(CheckpointError, match="no decoder for weights of type Q8_1"):
        dequantize(random_rows("Q8_1", 2, 512), "Q8_1")
    with pytest.raises(CheckpointError, match="multiple of 256"):
        row_bytes("Q4_K", 100)


def test_is_packed() -> None:
    assert is_packed("Q4_K") and is_packed("IQ4_NL")
    assert not is_packed("F16") and not is_packed("F8_E4M3")
