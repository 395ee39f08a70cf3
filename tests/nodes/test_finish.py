"""Finish: sizes, and untouched pixels that really are untouched."""

from __future__ import annotations

from typing import Any

import pytest
import torch

LATENT = {"samples": torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(2))}


def test_without_an_original_it_decodes(pack: Any, vae: Any) -> None:
    assert torch.equal(
        pack.run("KontextFinish", samples=LATENT, vae=vae)[0], vae.decode(LATENT["samples"])
    )


def test_the_original_gives_the_size(pack: Any, vae: Any, image: Any) -> None:
    made = pack.run("KontextFinish", samples=LATENT, vae=vae, original=image(1, 100, 130))[0]
    assert made.shape == (1, 100, 130, 3)


@pytest.mark.parametrize("feather", [0, 7])
def test_pixels_outside_the_mask_are_the_originals_own(
    pack: Any, vae: Any, image: Any, feather: int
) -> None:
    original = image(1, 100, 130)
    mask = torch.zeros(1, 100, 130)
    mask[:, 20:70, 30:90] = 1
    inputs = {"samples": LATENT, "vae": vae, "original": original}
    made = pack.run("KontextFinish", **inputs, mask=mask, feather=feather)[0]
    result = pack.run("KontextFinish", **inputs)[0]
    outside = mask == 0
    assert torch.equal(made[outside], original[outside])
    # Deep inside it is the result; the blend's last bit: measured 6e-8.
    assert (made - result)[:, 40:50, 55:65].abs().max() < 1e-6
    edge = (made - original)[:, 20, 30:90].abs().mean()
    inner = (made - original)[:, 40:50, 55:65].abs().mean()
    assert edge < 0.3 * inner if feather else edge > 0.3 * inner


def test_a_mask_of_another_size_is_fitted(pack: Any, vae: Any, image: Any) -> None:
    original = image(1, 64, 64)
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    made = pack.run("KontextFinish", samples=LATENT, vae=vae, original=original, mask=mask)[0]
    assert torch.equal(made[:, :, :24], original[:, :, :24])
    assert not torch.equal(made[:, :, 40:], original[:, :, 40:])


def test_one_original_for_a_batch(pack: Any, vae: Any, image: Any) -> None:
    two = {"samples": LATENT["samples"].repeat(2, 1, 1, 1)}
    mask = torch.ones(1, 64, 64)
    made = pack.run("KontextFinish", samples=two, vae=vae, original=image(1), mask=mask)[0]
    assert made.shape == (2, 64, 64, 3)
    three = image(1, batch=3)
    with pytest.raises(pack.error("ShapeError"), match="batch of 3"):
        pack.run("KontextFinish", samples=two, vae=vae, original=three, mask=mask)
