"""The autoencoder beside diffusers' AutoencoderKL."""

from __future__ import annotations

import pytest
from oracle import diffusers_autoencoder
from small_models import draw, make_autoencoder

# Measured on outputs of order one: encode 1.7e-6, decode 1.2e-5.
TOLERANCE = 1e-4
SIZES = [(64, 64), (40, 72)]


@pytest.mark.parametrize("changes", [{}, {"num_res_blocks": 2, "ch_mult": (1, 2, 3, 3)}])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_encode_and_decode(changes: dict, height: int, width: int) -> None:
    ours = make_autoencoder(3, **changes)
    theirs = diffusers_autoencoder(ours)
    picture = draw(1, 2, 3, height, width).clamp(-1, 1)
    mean = theirs.encode(picture).latent_dist.mode()
    raw = ours.encode(picture)
    assert raw.shape == (2, 16, height // 8, width // 8)
    assert 0.2 < mean.std() < 5
    assert (raw - mean).abs().max() < TOLERANCE

    latent = draw(2, 2, 16, height // 8, width // 8)
    decoded = theirs.decode(latent).sample
    assert 0.2 < decoded.std() < 5
    assert (ours.decode(latent) - decoded).abs().max() < TOLERANCE
