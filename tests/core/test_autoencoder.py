"""The autoencoder's face: raw means, sizes, refusals. Numbers: tests/parity."""

from __future__ import annotations

import pytest
import torch
from small_models import draw

from kontext_core import AutoEncoder, ShapeError
from kontext_core.config import AutoEncoderParams


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 40)])
def test_sizes(height: int, width: int, small_autoencoder: AutoEncoder) -> None:
    raw = small_autoencoder.encode(draw(1, 2, 3, height, width))
    assert raw.shape == (2, 16, height // 8, width // 8)
    assert small_autoencoder.decode(raw).shape == (2, 3, height, width)
    assert AutoEncoderParams().downscale == small_autoencoder.params.downscale == 8


def test_encode_gives_the_mean_and_no_sample(small_autoencoder: AutoEncoder) -> None:
    picture = draw(1, 1, 3, 16, 16)
    mean = small_autoencoder.encoder(picture)[:, :16]
    assert small_autoencoder.encode(picture).equal(mean)
    assert small_autoencoder.encode(picture).equal(small_autoencoder.encode(picture))


def test_every_norm_has_the_published_epsilon(small_autoencoder: AutoEncoder) -> None:
    """torch's default of 1e-5 would show in flat pictures only."""
    norms = [m for m in small_autoencoder.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert len(norms) > 20 and {norm.eps for norm in norms} == {1e-6}


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (draw(1, 3, 16, 16), r"shape \(3, 16, 16\)"),
        (draw(1, 1, 4, 16, 16), r"expected \[batch, 3"),
        (draw(1, 1, 3, 16, 20), "20x16 px; both sides must be multiples of 8"),
        (torch.zeros(1, 3, 0, 16), "multiples of 8"),
    ],
)
def test_unusable_pictures(picture, message: str, small_autoencoder: AutoEncoder) -> None:
    with pytest.raises(ShapeError, match=message):
        small_autoencoder.encode(picture)


@pytest.mark.parametrize("shape", [(16, 4, 4), (1, 4, 4, 4), (1, 16, 0, 4)])
def test_unusable_latents(shape: tuple[int, ...], small_autoencoder: AutoEncoder) -> None:
    with pytest.raises(ShapeError, match=r"expected \[batch, 16"):
        small_autoencoder.decode(torch.zeros(shape))
