"""float8 to wider numbers: torch's own conversion, faster."""

from __future__ import annotations

import pytest
import torch

from kontext_core.errors import ShapeError
from kontext_core.quant.fp8 import CHUNK, widen

BYTES = torch.arange(256, dtype=torch.uint8)
FORMATS = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz]


@pytest.mark.parametrize("stored", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_nan", [True, False])
def test_every_code(stored: torch.dtype, dtype: torch.dtype, with_nan: bool) -> None:
    codes = BYTES if with_nan else BYTES[BYTES.view(stored).float().isfinite()]
    codes = codes.view(stored)
    expected = codes.to(dtype)
    actual = widen(codes, torch.empty(codes.shape, dtype=dtype))
    assert torch.equal(actual.isnan(), expected.isnan())
    # By bits, so that zeros keep their signs.
    integer = torch.int32 if dtype == torch.float32 else torch.int16
    keep = ~expected.isnan()
    assert torch.equal(actual.view(integer)[keep], expected.view(integer)[keep])


@pytest.mark.parametrize("stored", FORMATS[:2])
def test_several_chunks_and_a_nan_in_one(stored: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(3, CHUNK // 2 + 3, generator=generator).to(stored)
    assert torch.equal(widen(codes, torch.empty(codes.shape)), codes.float())
    codes[2, -1] = torch.nan
    actual = widen(codes, torch.empty(codes.shape))
    assert torch.equal(actual.nan_to_num(7.0), codes.float().nan_to_num(7.0))


def test_first_used_in_inference_mode_then_outside() -> None:
    codes = torch.ones(9).to(torch.float8_e4m3fn)
    with torch.inference_mode():
        widen(codes, torch.empty(9))
    assert torch.equal(widen(codes, torch.empty(9)), torch.ones(9))


def test_out_must_fit() -> None:
    with pytest.raises(ShapeError, match="contiguous"):
        widen(BYTES.view(torch.float8_e5m2), torch.empty(255))
