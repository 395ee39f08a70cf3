"""Whether a GPU gives the CPU's numbers: the transformer, attention, packed layers, 8-bit products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kontext_core.guidance import Conditioning
from kontext_core.models.attention import attention
from kontext_core.models.flux import Flux
from kontext_core.models.rope import rope_table
from kontext_core.quant import eight_bit
from kontext_core.quant.decode import dequantize, fused_decoder
from kontext_core.quant.decode_plain import PLAIN_DECODERS
from kontext_core.quant.types import BLOCK_TYPES
from kontext_core.sampling import make_noise, sample
from kontext_core.schedule import make_timesteps

from .sizes import DRY, Stage


def parity(stage: Stage) -> Iterator[dict[str, Any]]:
    """Rows with the difference, its bound and whether it holds."""
    # TensorFloat-32 keeps ten bits of a product's inputs; what is held here is float32 itself.
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield from _network(stage)
        yield from _attention(stage)
        yield from _decoders(stage)
        yield from _products(stage)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def row(what: str, found: float, bound: float) -> dict[str, Any]:
    """One comparison."""
    return {"what": what, "value": found, "unit": "relative", "bound": bound, "ok": found <= bound}


def off(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of what is expected."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def _network(stage: Stage) -> Iterator[dict[str, Any]]:
    """A small network's run on both devices, from the same noise; in bfloat16 the GPU may be off from
    float32 by what the CPU is, and half of that again."""
    small = Stage(DRY, torch.device("cpu"))
    exact = _run(small.make(torch.float32), small)
    here = off(_run(small.make(torch.bfloat16), small), exact)
    there = _run(small.make(torch.float32).to(stage.device), small)
    yield row("small network, a run in float32", off(there, exact), 1e-4)
    there = _run(small.make(torch.bfloat16).to(stage.device), small)
    yield row("small network, a run in bfloat16", off(there, exact), 1.5 * here)


def _run(model: Flux, stage: Stage) -> Tensor:
    context = stage.context(1)
    sizes = stage.sizes
    conditioning = Conditioning(
        stage.draw(1, sizes.text, sizes.params.context_in_dim),
        stage.draw(1, sizes.params.vec_in_dim),
    )
    times = make_timesteps(4, context.target_tokens)
    return sample(model, context, conditioning, times, noise=make_noise(0, context.target_shape))


def _attention(stage: Stage) -> Iterator[dict[str, Any]]:
    """The attention in 16 bits, with and without a bias, against float32 on the CPU."""
    q, k, v = (stage.draw(1, 2, 300 + one, 128)[:, :, :300].cpu() for one in range(3))
    ids = torch.zeros(1, 300, 3)
    ids[..., 1] = torch.arange(300)
    bias = stage.draw(1, 300).cpu()
    for name, given in (("plain", None), ("with a bias", bias)):
        pe = rope_table(ids, (16, 56, 56), 10_000)
        expected = attention(q, k, v, pe, given)
        there = [each.to(stage.device, torch.bfloat16) for each in (q, k, v)]
        placed = None if given is None else given.to(stage.device, torch.bfloat16)
        found = attention(*there, pe.to(stage.device), placed)
        yield row(f"attention in bfloat16, {name}", off(found, expected), 1e-2)


def _decoders(stage: Stage) -> Iterator[dict[str, Any]]:
    """Every block type: bits of the decoded numbers against the plain decoder's on the CPU."""
    for kind in PLAIN_DECODERS:
        block = BLOCK_TYPES[kind]
        codes = torch.arange(64 * block.type_size, dtype=torch.int32).mul_(7).remainder_(113)
        packed = codes.to(torch.uint8).view(64, block.type_size)
        expected = PLAIN_DECODERS[kind](packed)
        for dtype in (torch.float32, torch.bfloat16):
            found = dequantize(packed.to(stage.device), kind, dtype=dtype).cpu()
            wrong = float((found != expected.to(dtype)).float().mean())
            fused = fused_decoder(kind, dtype, stage.device) is not None
            named = (
                f"{kind} to {str(dtype).removeprefix('torch.')}, {'fused' if fused else 'plain'}"
            )
            yield row(f"share of other numbers, {named}", wrong, 0.0)


def _products(stage: Stage) -> Iterator[dict[str, Any]]:
    """8-bit products against their plain twin on the same device."""
    x, weight = stage.draw(128, 512), stage.draw(256, 512)
    for products in eight_bit.PRODUCTS:
        if not eight_bit.available(products, stage.device):
            yield {"what": f"{products} products", "value": "not on this device"}
            continue
        x8, x_scale = eight_bit.quantize_rows(x, products)
        w8, scale = eight_bit.quantize_rows(weight, products)
        found = eight_bit.multiply(x8, x_scale, w8, scale, None, torch.float32)
        plain = eight_bit.multiply_plain(x8, x_scale, w8, scale, None, torch.float32)
        # float8 results come as bfloat16.
        yield row(f"{products} products", off(found, plain), 1e-6 if products == "int8" else 5e-3)
