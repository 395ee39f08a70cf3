"""What training computes is what inference computes, and its gradients are those of plain weights."""

from __future__ import annotations

import pytest
import torch
from packed_flux import pack
from small_models import draw, make_flux
from torch import Tensor, nn

from kontext_core import Flux
from kontext_core.finetune.objective import forgetful
from kontext_core.quant.encode import quantize_blocks
from kontext_core.quant.linear import QuantLinear, ScaledLinear, plain_weight

PACKED = ("Q8_0", "fp8")


@pytest.mark.parametrize("kind", [*PACKED, "fp8, one scale", "bfloat16", "Q4_K"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_of_a_packed_layer_is_that_of_its_numbers(kind: str, dtype: torch.dtype) -> None:
    linear = nn.Linear(256, 40).requires_grad_(False)
    with torch.no_grad():
        linear.weight.copy_(draw(1, 40, 256) / 16)
        linear.bias.copy_(draw(2, 40))
    if kind == "Q4_K":
        layer = QuantLinear(quantize_blocks(linear.weight, kind), kind, 256, linear.bias)
    elif kind == "bfloat16":
        layer = ScaledLinear(linear.weight.bfloat16(), linear.bias)
    elif kind in PACKED:
        layer = pack(linear, kind)
    else:
        layer = ScaledLinear(
            linear.weight.mul(100).to(torch.float8_e4m3fn), linear.bias, torch.tensor(0.01)
        )
    weight = plain_weight(layer)
    x = draw(3, 2, 5, 256).to(dtype).requires_grad_(True)
    other = x.detach().clone().requires_grad_(True)
    out = layer(x)
    with torch.no_grad():
        # Measured: 0.031 in bfloat16, one step of its rounding at outputs of 4.8: products by chunks.
        torch.testing.assert_close(
            layer(x), out, rtol=0, atol=5e-6 if dtype == torch.float32 else 0.04
        )
    plain = nn.functional.linear(other.float(), weight, linear.bias)
    pull = draw(4, 2, 5, 40)
    (out.float() * pull).sum().backward()
    (plain * pull).sum().backward()
    assert x.grad is not None and other.grad is not None
    # Measured: 0.008 in bfloat16, of gradients of up to 1.4.
    atol = 2e-6 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(x.grad.float(), other.grad.float(), rtol=0, atol=atol)


def test_a_packed_layer_keeps_no_decoded_weight_for_its_gradient() -> None:
    layer = pack(nn.Linear(256, 256), "Q8_0")
    kept: list[Tensor] = []
    x = draw(1, 3, 256).requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    assert not kept


def packed_flux(kind: str) -> Flux:
    flux = make_flux()
    for name, module in list(flux.named_modules()):
        if isinstance(module, nn.Linear) and "blocks" in name:
            parent, _, leaf = name.rpartition(".")
            setattr(flux.get_submodule(parent), leaf, pack(module, kind))
    return flux


def arguments() -> tuple[Tensor, ...]:
    return (
        draw(1, 2, 10, 64), draw(2, 1, 10, 3), draw(3, 2, 4, 40), torch.zeros(1, 4, 3),
        torch.tensor([0.3, 0.8]), draw(4, 2, 24), torch.tensor([1.0, 1.0]),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["plain", *PACKED])
def test_forward_in_training_is_that_of_inference(kind: str) -> None:
    flux = make_flux() if kind == "plain" else packed_flux(kind)
    img, *rest = arguments()
    bias = torch.zeros(1, 10)
    with torch.no_grad():
        expected = flux(img, *rest, attn_bias=bias, target_tokens=6)
    img.requires_grad_(True)
    for call in (None, forgetful):
        out = flux(img, *rest, attn_bias=bias, target_tokens=6, call=call)
        # Measured: 1.4e-6 next to outputs of up to 3.8.
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-5)


def test_forgetting_gives_the_same_gradients() -> None:
    flux = packed_flux("Q8_0")
    grads = []
    for call in (None, forgetful):
        img, *rest = arguments()
        img.requires_grad_(True)
        flux(img, *rest, target_tokens=6, call=call).square().sum().backward()
        assert img.grad is not None
        grads.append(img.grad)
    assert grads[0].abs().max() > 0.1
    # Measured: 0, the same operations in the same order.
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=1e-6)
