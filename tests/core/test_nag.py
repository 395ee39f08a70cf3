"""Normalized attention guidance: its formula, both ways to compute it, and what it does to a run."""

from __future__ import annotations

import pytest
import torch
from small_models import draw, make_flux
from torch import Tensor

from kontext_core import (
    Conditioning,
    Flux,
    InputError,
    Reference,
    make_noise,
    make_timesteps,
    stitch,
)
from kontext_core import sample as run
from kontext_core.guidance import Nag
from kontext_core.models import nag as kernels
from kontext_core.models.nag import NagTexts, guided_attention

WORDS = Conditioning(draw(50, 1, 4, 40), draw(51, 1, 24))
AWAY = Conditioning(draw(52, 1, 7, 40), draw(53, 1, 24))
REFERENCES = (Reference(draw(1, 1, 16, 4, 4)), Reference(draw(2, 1, 16, 4, 6), strength=0.5))


def sample(model: Flux, references: int = 0, batch: int = 1, **settings: object) -> Tensor:
    shape = (batch, 16, 4, 6)
    context = stitch(shape, REFERENCES[:references])
    times = make_timesteps(3, context.target_tokens)
    settings = {"noise": make_noise(3, shape), **settings}
    return run(model, context, WORDS, times, **settings)  # type: ignore[arg-type]


def golden(positive: Tensor, negative: Tensor, scale: float, tau: float, alpha: float) -> Tensor:
    """The published formula, token by token."""
    out = torch.empty_like(positive)
    for b in range(len(positive)):
        for n in range(positive.shape[1]):
            z, other = positive[b, n], negative[b, n]
            g = scale * z - (scale - 1) * other
            ratio = g.abs().sum() / z.abs().sum()
            g = g * min(ratio, torch.tensor(tau)) / ratio
            out[b, n] = alpha * g + (1 - alpha) * z
    return out


@pytest.mark.parametrize("nag", [Nag(), Nag(11, 1.5, 0.5), Nag(3, 1.0, 1.0), Nag(1)])
def test_the_formula(nag: Nag) -> None:
    positive, negative = draw(1, 2, 5, 24), draw(2, 2, 5, 24)
    wanted = golden(positive, negative, nag.scale, nag.tau, nag.alpha)
    # Measured: 4.8e-7.
    torch.testing.assert_close(nag.mixed(positive, negative), wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_both_ways_agree(
    last: bool, biased: bool, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole softmaxes, and parts put together; of all tokens, and of a last block's few."""
    texts, n = NagTexts(Nag(), 3, 5), 40
    m = 12 if last else n
    q, k, v = draw(1, batch, 2, m, 16), draw(2, batch, 2, n, 16), draw(3, batch, 2, n, 16)
    bias = None
    if biased:
        bias = draw(4, 1, n)
        texts_at = slice(m, m + 8) if last else slice(0, 8)
        bias[:, texts_at] = 0
    with torch.no_grad():
        fast = guided_attention(q, k, v, bias, texts)
        used: list[object] = []
        original = kernels._twice
        monkeypatch.setattr(kernels, "_partial_of", lambda q, bias: None)
        monkeypatch.setattr(
            kernels, "_twice", lambda *given: (used.append(given), original(*given))[1]
        )
        plain = guided_attention(q, k, v, bias, texts)
    assert used
    assert fast.shape == plain.shape == (batch, m, 32)
    # Measured: 8.3e-7.
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=0)


def test_the_texts_don_t_see_each_other() -> None:
    """Every text's own rows are those of a run with it alone."""
    texts = NagTexts(Nag(), 3, 5)
    q, k, v = (draw(seed, 1, 2, 40, 16) for seed in (1, 2, 3))
    with torch.no_grad():
        both = guided_attention(q, k, v, None, texts)
        for rows, keep in ((slice(3, 8), slice(3, None)), (slice(0, 3), None)):
            some = torch.cat([x[:, :, :3] for x in (k,)] + [k[:, :, 8:]], 2)
            values = torch.cat([v[:, :, :3], v[:, :, 8:]], 2)
            if keep is not None:
                some, values = k[:, :, keep], v[:, :, keep]
            alone = torch.nn.functional.scaled_dot_product_attention(q[:, :, rows], some, values)
            # Measured: 3e-7.
            assert (both[:, rows] - alone.transpose(1, 2).flatten(2)).abs().max() < 5e-6


@pytest.mark.parametrize("references", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_off_is_off_and_on_is_not(small_flux: Flux, references: int, batch: int) -> None:
    plain = sample(small_flux, references, batch)
    for off in (None, 1, Nag(1)):
        assert sample(small_flux, references, batch, negative=AWAY, nag=off).equal(plain)
    steered = sample(small_flux, references, batch, negative=AWAY, nag=5.0)
    # Measured: 1.3 to 1.9, on values up to 12.
    assert (steered - plain).abs().max() > 0.1
    # Away from what is asked for is nowhere, and with alpha 0 nothing is mixed in.
    for idle in ({"negative": WORDS, "nag": 5}, {"negative": AWAY, "nag": Nag(5, 2.5, 0)}):
        # Measured: 2.9e-6, on values up to 12.
        assert (sample(small_flux, references, batch, **idle) - plain).abs().max() < 3e-5


def test_with_reuse_and_guidance_beside(small_flux: Flux) -> None:
    from kontext_core.accelerate import Reuse

    steered = {"negative": AWAY, "nag": 5}
    full = sample(small_flux, 2, **steered)
    # A schedule of full steps only changes nothing. Measured: 0.
    assert (sample(small_flux, 2, accelerate=Reuse(1.0), **steered) - full).abs().max() < 1e-4
    reused = sample(small_flux, 2, accelerate=Reuse(0, 8, 0), **steered)
    assert bool(torch.isfinite(reused).all())
    both = sample(small_flux, 2, cfg=2.0, **steered)
    # Measured: 8.2.
    assert (both - full).abs().max() > 0.1


def test_in_the_blocks_own_dtype() -> None:
    model = make_flux().to(torch.bfloat16)
    out = sample(model, 1, negative=AWAY, nag=5)
    assert out.dtype == torch.float32
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize(
    ("nag", "negative", "says"),
    [(0.5, AWAY, "nag"), (5, None, "no negative text"), ("much", AWAY, "nag"), (float("nan"), AWAY, "nag")],
)  # fmt: skip
def test_what_makes_no_sense_is_said(
    small_flux: Flux, nag: object, negative: object, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        sample(small_flux, nag=nag, negative=negative)
    for wrong in ({"scale": 0}, {"tau": 0.5}, {"alpha": 1.5}):
        with pytest.raises(InputError, match=f"nag {next(iter(wrong))}"):
            Nag(**wrong)
