"""What a run costs, against what torch counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import make_flux
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from kontext_core.config import FluxParams
from kontext_core.cost import (
    beyond_trained,
    estimate,
    plain_size,
    step_cost,
    tokens_of,
    working_memory,
)
from kontext_core.models.flux import Flux
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


def held(tokens: int, dtype: torch.dtype, hidden: int) -> int:
    """Bytes that one forward of so many tokens holds at once, beside its weights."""
    text = 80
    flux = Flux(
        FluxParams(
            hidden_size=hidden, num_heads=hidden // 128, depth=1, depth_single_blocks=2,
            context_in_dim=64, vec_in_dim=64,
        )
    ).to(dtype).eval()  # fmt: skip
    image, ids = torch.randn(1, tokens - text, 64, dtype=dtype), torch.zeros(1, tokens - text, 3)
    words, pooled = torch.randn(1, text, 64, dtype=dtype), torch.randn(1, 64, dtype=dtype)
    given = image, ids, words, torch.zeros(1, text, 3), torch.ones(1), pooled, torch.ones(1)
    activities = [ProfilerActivity.CPU]
    with torch.no_grad():
        # What is made once and kept.
        flux(*given)
    with torch.no_grad(), profile(activities=activities, profile_memory=True) as profiler:
        flux(*given)
    # What the profiler's types leave out: the allocator's own events.
    raw: Any = profiler.profiler
    now = most = 0
    events = raw.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_what_a_forward_holds(dtype: torch.dtype) -> None:
    """Measured 17.68 and 17.94 numbers for each token and hidden unit; 17.7 is said."""
    tokens, hidden = 1552, 1024
    expected = working_memory(tokens, hidden) * dtype.itemsize / 4
    assert held(tokens, dtype, hidden) == pytest.approx(expected, rel=0.03)


def test_memory_of_a_plain_edit_of_flux() -> None:
    cost = estimate((1024, 1024), [4096], text=256, trained=(1024, 1024))
    assert cost.memory == working_memory(8448) == int(17.7 * 8448 * 3072 * 2)
    # 12 d L and L^2 both grow: more than twice the tokens' share.
    assert cost.alone == pytest.approx(step_cost(8448) / step_cost(4352))
    assert 2 < cost.alone < 3
    assert estimate((1024, 1024), text=256, trained=None).alone == 1
