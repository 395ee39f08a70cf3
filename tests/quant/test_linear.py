"""Packed layers multiply by exactly the numbers their blocks stand for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from small_models import draw
from torch import nn

from kontext_core.errors import InputError, ShapeError
from kontext_core.quant import linear
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


@pytest.mark.parametrize(
    "stored", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.int8]
)
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
    state = layer.state_dict()
    assert state["0.weight"].dtype == torch.float8_e4m3fn
    assert torch.equal(state["0.scale"], torch.full((1, 1), 0.1))
    assert state["0.bias"].dtype == torch.bfloat16
    assert state["1.weight"].dtype == torch.uint8


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


def packed_layers() -> list[tuple[QuantLinear | ScaledLinear, torch.Tensor]]:
    """Layers of 700 x 512 of every sort with a bias, each with the weight it stands for."""
    stored = draw(0, 700, 512).to(torch.float8_e4m3fn)
    per_row = draw(1, 700).abs() / 100
    table = blocks("Q4_K", 700, 512)
    layers = [
        QuantLinear(table, "Q4_K", 512, draw(2, 700)),
        ScaledLinear(stored, draw(2, 700)),
        ScaledLinear(stored, draw(2, 700), torch.tensor(0.01)),
        ScaledLinear(stored, None, per_row),
    ]
    return [(layer, plain_weight(layer)) for layer in layers]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_row_chunks_make_one_product(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(linear, "CHUNK", 0)
    monkeypatch.setattr(linear, "MIN_ROWS", 256)
    x = draw(5, 3, 512).to(dtype)
    for layer, weight in packed_layers():
        bias = layer.bias
        expected = nn.functional.linear(x.double(), weight.double())
        expected = expected if bias is None else expected + bias.double()
        # Of the largest output, measured 5e-7 (float32), 4e-3 (bfloat16), 5e-4 (float16).
        error = float((layer(x).double() - expected).abs().max() / expected.abs().max())
        assert error < {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
        assert layer(x).dtype == dtype


def test_gradients_reach_the_input() -> None:
    for layer, weight in packed_layers():
        x = draw(5, 3, 512).requires_grad_()
        layer(x).sum().backward()
        # Measured 9e-7 of the largest.
        expected = weight.sum(0).expand(3, -1)
        limit = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(x.grad, expected, rtol=0, atol=limit)


def test_models_in_two_threads_do_not_share_a_buffer() -> None:
    layers = [layer for layer, _ in packed_layers()]
    inputs = [draw(seed, 3, 512) for seed in range(4)]
    jobs = [(layer, x) for layer in layers for x in inputs] * 4
    expected = [layer(x) for layer, x in jobs]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda job: job[0](job[1]), jobs))
    # Measured 0; the matrix product may split its sums differently beside other threads.
    for actual, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-4)


def test_inference_mode_first_and_then_outside() -> None:
    def run() -> None:
        for layer, _ in packed_layers():
            x = draw(1, 2, 512)
            with torch.inference_mode():
                inside = layer(x)
            torch.testing.assert_close(layer(x), inside.clone(), rtol=1e-6, atol=1e-6)

    # A thread of its own starts without buffers.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()


def test_input_of_another_width_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected \[\.\.\., 512\]"):
        packed_layers()[0][0](draw(0, 3, 511))
