"""What a run costs, against what torch counts."""

from __future__ import annotations

import pytest
import torch
from small_models import make_flux
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kontext_core.cost import beyond_trained, estimate, plain_size, step_cost, tokens_of
from kontext_core.resolutions import KONTEXT_RESOLUTIONS


def counted(tokens: int) -> tuple[int, int]:
    """(multiplications that torch counts in one forward, the network's hidden size)."""
    flux = make_flux()
    p = flux.params
    text = 16
    # The fused kernels of the CPU and oneDNN's products are not counted.
    plain, pytorchs = sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain, pytorchs:
        flux(
            torch.zeros(1, tokens - text, p.in_channels),
            torch.zeros(1, tokens - text, 3),
            torch.zeros(1, text, p.context_in_dim),
            torch.zeros(1, text, 3),
            torch.ones(1),
            torch.zeros(1, p.vec_in_dim),
            torch.ones(1),
        )
    return counter.get_total_flops(), p.hidden_size


@pytest.mark.parametrize(("few", "many"), [(64, 256), (256, 1024)])
def test_relative_cost_is_what_torch_counts(few: int, many: int) -> None:
    small, hidden = counted(few)
    large, _ = counted(many)
    predicted = step_cost(many, hidden) / step_cost(few, hidden)
    assert large / small == pytest.approx(predicted, rel=0.15)


def test_a_plain_edit_costs_one() -> None:
    plain = plain_size(KONTEXT_RESOLUTIONS)
    assert plain == (1024, 1024)
    cost = estimate(plain, [tokens_of(*plain)], text=256, trained=plain)
    assert (cost.target, cost.references, cost.total) == (4096, (4096,), 8448)
    assert cost.relative == 1
    twice = estimate(plain, [4096, 4096], text=256, trained=plain)
    assert twice.relative is not None
    assert 1.4 < twice.relative < 2.5
    assert estimate(plain, text=256, trained=None).relative is None


def test_far_above_the_trained_size() -> None:
    assert beyond_trained((1248, 832), (1024, 1024)) is None
    assert beyond_trained((2048, 2048), (1024, 1024)) == 4
    assert beyond_trained((2048, 2048), None) is None
    assert tokens_of(100, 17) == 7 * 2
