"""Arithmetic of training: the plain attention equals the fused one, and blocks can be told to use it."""

import torch
from small_models import make_flux

from kontext_core.models.attention import attention
from kontext_core.models.rope import rope_table
from kontext_lab.training.muon import orthogonalized
from kontext_lab.training.precision import multiplies_bfloat16, plain_attention, train_with


def tokens(count=9, heads=2, size=16):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, heads, count, size, generator=generator)
    ids = torch.randint(0, 5, (1, count, 3), generator=generator).float()
    return q, k, v, rope_table(ids, (4, 6, 6), 10_000)


def test_plain_attention_is_attention():
    q, k, v, table = tokens()
    for bias in (None, torch.linspace(-2, 1, 9)[None]):
        right = attention(q, k, v, table, bias)
        # Measured 3e-7.
        assert torch.allclose(plain_attention(q, k, v, table, bias), right, atol=2e-6)


def test_blocks_use_what_they_are_given():
    flux = make_flux()
    calls = []

    def counted(*given):
        calls.append(given)
        return plain_attention(*given)

    train_with(flux, counted)
    generator = torch.Generator().manual_seed(1)
    p = flux.params
    img, txt = (
        torch.randn(1, 4, p.in_channels, generator=generator),
        torch.randn(1, 3, p.context_in_dim, generator=generator),
    )
    flux(
        img, torch.zeros(1, 4, 3), txt, torch.zeros(1, 3, 3), torch.tensor([0.5]),
        torch.randn(1, p.vec_in_dim, generator=generator), torch.tensor([2.5]),
    )  # fmt: skip
    assert len(calls) == p.depth + p.depth_single_blocks


def test_other_devices_are_not_measured():
    assert multiplies_bfloat16("cuda")


def test_newton_schulz_in_half_precision():
    matrix = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    full, half = orthogonalized(matrix), orthogonalized(matrix, dtype=torch.bfloat16)
    assert half.dtype == torch.float32
    # Measured 0.012 of the factor's norm.
    assert float((full - half).norm() / full.norm()) < 0.05
