"""Raw and model space, patches, previews."""

from __future__ import annotations

import pytest
import torch
from small_models import draw

from kontext_core import LatentFormat, ShapeError
from kontext_core.latents import FLUX_LATENT, pack, pad_to_patch, token_grid, unpack


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 7), (5, 7), (1, 1), (2, 1)])
def test_pack_and_unpack(size: tuple[int, int]) -> None:
    latent = draw(1, 2, 16, *size)
    tokens = pack(latent)
    rows, columns = token_grid(*size)
    assert tokens.shape == (2, rows * columns, 64)
    assert unpack(tokens, *size).equal(latent)


def test_patch_order() -> None:
    """Channels first, then rows, then columns inside a patch; patches row by row."""
    latent = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    tokens = pack(latent)
    assert tokens[0, 0].tolist() == [0, 1, 4, 5, 16, 17, 20, 21]
    assert tokens[0, 1].tolist() == [2, 3, 6, 7, 18, 19, 22, 23]
    assert tokens[0, 2, :4].tolist() == [8, 9, 12, 13]


def test_padding_wraps_around() -> None:
    latent = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert pad_to_patch(latent)[0, 0].tolist() == [
        [0, 1, 2, 0],
        [3, 4, 5, 3],
        [6, 7, 8, 6],
        [0, 1, 2, 0],
    ]
    even = draw(1, 1, 16, 4, 6)
    assert pad_to_patch(even) is even


def test_published_scale_and_shift() -> None:
    raw = torch.tensor([0.1159, 1.1159])
    assert FLUX_LATENT.process_in(raw).tolist() == pytest.approx([0, 0.3611])
    drawn = draw(1, 1, 16, 4, 4) * 5
    # Measured: 9.5e-7.
    assert (FLUX_LATENT.process_out(FLUX_LATENT.process_in(drawn)) - drawn).abs().max() < 5e-6


def test_preview_is_linear_and_in_range() -> None:
    factors = tuple((0.1 * (c == 0), 0.2 * (c == 1), -5.0 * (c == 2)) for c in range(16))
    latent = torch.zeros(1, 16, 2, 3)
    latent[:, 0], latent[:, 1], latent[:, 2] = 1.0, -1.0, 1.0
    shown = LatentFormat(rgb_factors=factors, rgb_bias=(0.5, 0.5, 0.5)).preview(latent)
    assert shown is not None and shown.shape == (1, 2, 3, 3)
    assert shown[0, 1, 2].tolist() == pytest.approx([0.6, 0.3, 0.0])
    assert LatentFormat().preview(latent) is None


def test_the_published_preview() -> None:
    """Sums of the published figures, which give colours in -1..1: bias, and bias plus one row."""
    latent = torch.zeros(1, 16, 1, 2)
    latent[:, 15, :, 1] = 2.0
    shown = FLUX_LATENT.preview(latent)
    assert shown is not None
    assert shown[0, 0, 0].tolist() == pytest.approx([0.48355, 0.4641, 0.45745])
    assert shown[0, 0, 1].tolist() == pytest.approx([0.35735, 0.3659, 0.37965])


def test_check() -> None:
    FLUX_LATENT.check(torch.zeros(1, 16, 1, 1))
    bad = [torch.zeros(16, 4, 4), torch.zeros(1, 4, 4, 4), torch.zeros(1, 16, 0, 4)]
    for latent in bad:
        with pytest.raises(ShapeError, match=r"start has shape .* expected \[batch, 16"):
            FLUX_LATENT.check(latent, "start")
    with pytest.raises(ShapeError, match="floating-point"):
        FLUX_LATENT.check(torch.zeros(1, 16, 4, 4, dtype=torch.uint8))
