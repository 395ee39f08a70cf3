"""The last block computes the target's tokens only; the plain way computes them all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import draw, make_flux
from torch import Tensor, nn

from kontext_core import Flux
from kontext_core.models.layers import SingleStreamBlock
from kontext_core.models.products import is_plain
from kontext_core.quant.encode import quantize_blocks
from kontext_core.quant.linear import QuantLinear

TEXT, TARGET, ALL = 4, 6, 10
# Outputs of order one; float32 sums in another order. Measured: 7.2e-7.
SAME = 5e-6


def velocity(model: Flux, target: int | None, *, still: bool, bias: bool) -> Tensor:
    y, guidance = draw(5, 2, 24), torch.tensor([2.5, 2.5])
    times = torch.tensor([0.7, 0.7])
    rows = model.modulations(torch.zeros(1), y, guidance).at(0, 2) if still else None
    attn_bias = torch.linspace(-1, 1, ALL)[None] if bias else None
    return model(
        draw(1, 2, ALL, 64), draw(2, 1, ALL, 3).round(), draw(3, 2, TEXT, 40),
        torch.zeros(1, TEXT, 3), times, y, guidance,
        attn_bias=attn_bias, target_tokens=target, still=rows,
    )  # fmt: skip


def packed() -> Flux:
    """The last block's first layer in Q8_0."""
    model = make_flux()
    layer = model.single_blocks[-1].linear1
    blocks = quantize_blocks(layer.weight.detach(), "Q8_0")
    model.single_blocks[-1].linear1 = QuantLinear(blocks, "Q8_0", layer.in_features, layer.bias)
    return model


def hooked() -> Flux:
    model = make_flux()
    model.single_blocks[-1].linear1.register_forward_hook(lambda layer, given, out: out * 1.5)
    return model


@pytest.mark.parametrize("make", [make_flux, packed, hooked])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_the_target_alone_is_the_target_among_all(make: type[Flux], bias: bool) -> None:
    model = make()
    some = velocity(model, TARGET, still=False, bias=bias)
    whole = velocity(model, None, still=False, bias=bias)
    assert some.shape == (2, TARGET, 64) and whole.shape == (2, ALL, 64)
    assert (some - whole[:, :TARGET]).abs().max() < SAME
    assert is_plain(model.single_blocks[-1].linear1) == (make is make_flux)


@pytest.mark.parametrize("still", [False, True])
@torch.no_grad()
def test_it_equals_a_block_that_computes_every_token(
    still: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, plain = make_flux(), SingleStreamBlock.forward
    some = velocity(model, TARGET, still=still, bias=True)

    def every(
        self: SingleStreamBlock, *given: Tensor, keep: int | None = None, **more: Any
    ) -> Tensor:
        return plain(self, *given, **more)[:, :keep]

    monkeypatch.setattr(SingleStreamBlock, "forward", every)
    assert (some - velocity(model, TARGET, still=still, bias=True)).abs().max() < SAME


@torch.no_grad()
def test_the_other_tokens_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = make_flux(), []
    last = model.single_blocks[-1].linear2
    last.register_forward_pre_hook(lambda layer, given: seen.append(given[0].shape[1]))
    velocity(model, TARGET, still=False, bias=False)
    assert seen == [TARGET]


def test_gradients_are_those_of_all_tokens() -> None:
    one, other = make_flux(), make_flux()
    for model, target in ((one, TARGET), (other, None)):
        model.requires_grad_(True)
        velocity(model, target, still=False, bias=False)[:, :TARGET].square().sum().backward()
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None, name
        scale = b.grad.abs().max().clamp(min=1e-3)
        # Measured: 5.4e-7 of the largest.
        assert (a.grad - b.grad).abs().max() / scale < 2e-5, name


def test_a_model_without_single_blocks() -> None:
    model = make_flux()
    model.single_blocks = nn.ModuleList()
    with torch.no_grad():
        some = velocity(model, TARGET, still=False, bias=False)
        whole = velocity(model, None, still=False, bias=False)
    assert torch.equal(some, whole[:, :TARGET])
