"""The fused decoders of GPUs give the plain ones' bits, by Triton's interpreter where there is no GPU."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from kontext_core.quant.decode import checked, fused_decoder
from kontext_core.quant.decode_plain import PLAIN_DECODERS

CPU = torch.device("cpu")
SCRIPT = """
import torch
from kontext_core.quant import decode_triton
from kontext_core.quant.decode_plain import PLAIN_DECODERS
from kontext_core.quant.types import BLOCK_TYPES

generator = torch.Generator().manual_seed(0)
wrong = []
for kind in decode_triton.KERNELS:
    block = BLOCK_TYPES[kind]
    for count in (1, 77):
        # Every byte: codes of all values, and scales that are infinite or not numbers among them.
        packed = torch.randint(
            0, 256, (count, block.type_size), dtype=torch.uint8, generator=generator
        )
        plain = PLAIN_DECODERS[kind](packed)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            out = torch.full((count, block.block_size), 7.0, dtype=dtype)
            decode_triton.decode(packed, kind, out)
            expected = plain.to(dtype)
            same = (out == expected) | (out.isnan() & expected.isnan())
            if not same.all():
                wrong.append((kind, count, dtype))
print("wrong:", wrong)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed; `pip install triton` on Linux runs its interpreter here",
)
def test_bits_are_the_plain_decoders() -> None:
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.strip().endswith("wrong: []"), found.stdout


def test_cpus_and_other_types_have_none() -> None:
    assert fused_decoder("Q4_K", torch.float32, CPU) is None
    assert fused_decoder("IQ1_S", torch.float32, torch.device("cuda")) is None
    assert fused_decoder("Q4_K", torch.float64, torch.device("cuda")) is None


def _right(packed: Tensor, kind: str, out: Tensor) -> None:
    out.copy_(PLAIN_DECODERS[kind](packed))


def _off(packed: Tensor, kind: str, out: Tensor) -> None:
    out.copy_(PLAIN_DECODERS[kind](packed)).view(-1)[5] += 0.5


def _no_compiler(packed: Tensor, kind: str, out: Tensor) -> None:
    raise RuntimeError("Failed to find C compiler")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "Q6_K"])
def test_a_decoder_is_taken_once_it_agrees(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert checked(_right, kind, torch.float16, CPU) is _right
        assert not caplog.records
        assert checked(_off, kind, torch.float32, CPU) is None
        assert checked(_no_compiler, kind, torch.float32, CPU) is None
    first, second = (record.getMessage() for record in caplog.records)
    assert "without Triton on cpu, slower (other numbers)" in first
    assert "Failed to find C compiler" in second
