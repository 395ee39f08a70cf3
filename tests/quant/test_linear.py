"""Packed layers multiply by exactly the numbers their blocks stand for."""

from __future__ import annotations

import pytest
import torch
from small_models import draw
from torch import nn

from kontext_core.errors import InputError, ShapeError
from kontext_core.quant.decode import dequantize
from kontext_core.quant.linear import (
    QuantEmbedding,
    QuantLinear,
    ScaledEmbedding,
    ScaledLinear,
    plain_weight,
)
from kontext_core.quant.types import row_bytes


def blocks(kind: str, rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Random codes with finite scales: the top bits of every byte that could be in one are clear."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, row_bytes(kind, columns))
    return torch.randint(0, 64, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0", "Q6_K"])
@pytest.mark.parametrize("shape", [(5, 512), (2, 3, 512), (512,)])
def test_quant_linear_is_a_linear_of_its_numbers(kind: str, shape: tuple[int, ...]) -> None:
    weight = blocks(kind, 40, 512)
    layer = QuantLinear(weight, kind, 512, bias=draw(1, 40))
    x = draw(2, *shape)
    expected = nn.functional.linear(x, dequantize(weight, kind), draw(1, 40))
    # Measured 0: the same matrix product, or 1e-6 of the largest where it runs in row chunks.
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=2e-6 * float(expected.abs().max()))
    assert torch.equal(plain_weight(layer), dequantize(weight, kind))


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
@pytest.mark.parametrize("scale", [None, (), (40,), (40, 1)])
def test_scaled_linear(stored: torch.dtype, scale: tuple[int, ...] | None) -> None:
    weight = draw(0, 40, 64).to(stored)
    factor = None if scale is None else draw(3, *scale).abs() + 0.5
    layer = ScaledLinear(weight, draw(1, 40), factor)
    full = weight.float() if factor is None else weight.float() * factor.reshape(-1, 1)
    x = draw(2, 5, 64)
    # Measured 4e-6 absolute on outputs of order 20: the scale may be applied after the product.
    torch.testing.assert_close(
        layer(x), nn.functional.linear(x, full, draw(1, 40)), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(plain_weight(layer), full)


def test_casting_a_network_leaves_stored_numbers_alone() -> None:
    layer = nn.Sequential(
        ScaledLinear(draw(0, 8, 4).to(torch.float8_e4m3fn), draw(1, 8), torch.tensor(0.1)),
        QuantLinear(blocks("Q8_0", 6, 32), "Q8_0", 32, draw(1, 6)),
    ).to(torch.bfloat16)
    assert layer[0].weight.dtype == torch.float8_e4m3fn
    assert torch.equal(layer[0].scale, torch.full((1, 1), 0.1))
    assert layer[0].bias.dtype == torch.bfloat16
    assert layer[1].weight.dtype == torch.uint8


def test_embeddings_decode_only_what_is_asked() -> None:
    ids = torch.tensor([[3, 0], [9, 3]])
    table = blocks("Q6_K", 10, 256)
    quant = QuantEmbedding(table, "Q6_K", 256)
    assert torch.equal(quant(ids), dequantize(table, "Q6_K")[ids])
    assert quant.to(torch.bfloat16).weight.dtype == torch.uint8
    stored = draw(0, 10, 16).to(torch.float8_e4m3fn)
    for scale in (None, torch.tensor(0.5), draw(2, 10).abs()):
        full = stored.float() if scale is None else stored.float() * scale.reshape(-1, 1)
        assert torch.equal(ScaledEmbedding(stored, scale)(ids), full[ids])
    assert ScaledEmbedding(stored, dtype=torch.bfloat16)(ids).dtype == torch.bfloat16


def test_plain_weight_of_a_linear() -> None:
    layer = nn.Linear(4, 3).bfloat16()
    assert torch.equal(plain_weight(layer), layer.weight.float())
    with pytest.raises(InputError, match="LayerNorm"):
        plain_weight(nn.LayerNorm(4))


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ShapeError, match="34 bytes for 32 columns"):
        QuantLinear(blocks("Q8_0", 4, 64), "Q8_0", 32)
    with pytest.raises(ShapeError, match="one for each row"):
        ScaledLinear(draw(0, 4, 3), scale=draw(1, 3))
    with pytest.raises(ShapeError, match="one for each row"):
        ScaledEmbedding(draw(0, 4, 3), scale=draw(1, 3))
