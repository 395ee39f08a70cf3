"""Kontext: Edit's further inputs: each does what the chain of single nodes does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

PROMPT = "make the circle blue"


def edited(pack: Any, image: Any, **more: Any) -> Any:
    return pack.run("KontextEdit", prompt=PROMPT, image1=image, steps=2, seed=3, **more)


def half(height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, :, : width // 2] = 1
    return mask


def test_a_mask_keeps_pixels_and_the_sampler_obeys_it(pack: Any, image: Any) -> None:
    picture, mask = image(1, 64, 96), half(64, 96)
    made = edited(pack, picture, mask=mask)
    assert made[0].shape == picture.shape
    assert torch.equal(made[0][:, :, 48:], picture[:, :, 48:])
    assert not torch.equal(made[0][:, :, :48], picture[:, :, :48])
    loose = edited(pack, picture, mask=mask, paste_back=False)
    assert not torch.equal(loose[0][:, :, 48:], picture[:, :, 48:])
    # The latent's kept half is the picture's own in both, its other half was painted.
    kept = pack.run("KontextReference", image=picture, vae=pack.run("KontextLoadVAE")[0])[0]
    own = kept.items[0].latent
    columns = own.shape[-1] // 2 + 1
    # Measured: 4.8e-7, of latents of order one.
    assert (made[1]["samples"] - own)[..., columns:].abs().max() < 1e-4
    assert (made[1]["samples"] - own)[..., : columns - 2].abs().max() > 0.1


def test_an_all_black_mask_is_told_of(pack: Any, image: Any) -> None:
    picture = image(1, 64, 64)
    made = edited(pack, picture, mask=torch.zeros(1, 64, 64))
    assert torch.equal(made[0], picture)
    assert any("all black" in note for note in made.ui["kontext_notes"])


def test_strength_method_and_count_are_the_single_nodes(
    pack: Any, image: Any, model: Any, encode: Any, vae: Any
) -> None:
    one, two = image(1), image(2)
    made = edited(pack, one, image2=two, strength=0.5, method="index", count=2)
    chain = pack.run("KontextReference", image=one, vae=vae, strength=0.5)[0]
    chain = pack.run("KontextReference", references=chain, image=two, vae=vae, strength=0.5)[0]
    stitched = pack.run(
        "KontextStitch", conditioning=encode(PROMPT), references=chain, method="index"
    )
    latent = stitched[1]
    latent = {**latent, "samples": latent["samples"].repeat(2, 1, 1, 1)}
    samples = pack.run(
        "KontextSampler", model=model, positive=stitched[0], latent_image=latent, steps=2, seed=3
    )[0]
    assert torch.equal(made[1]["samples"], samples["samples"])
    assert made[0].shape[0] == 2


def test_denoise_starts_from_the_picture(pack: Any, image: Any) -> None:
    picture = image(1)
    latents = [edited(pack, picture, denoise=share)[1]["samples"] for share in (0.1, 1.0)]
    own = pack.run("KontextReference", image=picture, vae=pack.run("KontextLoadVAE")[0])[0]
    near, far = (float((x - own.items[0].latent).abs().mean()) for x in latents)
    assert near < 0.5 * far


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"mask": torch.ones(1, 64, 64), "width": 64, "height": 64}, "a mask, which starts from"),
        ({"denoise": 0.5, "width": 64, "height": 64}, "denoise, which starts from"),
        ({"mask": half(64, 32)}, "another shape"),
    ],
)  # fmt: skip
def test_what_has_nothing_to_start_from_is_refused(
    pack: Any, image: Any, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(pack.error("KontextError"), match=says):
        edited(pack, image(1, 64, 64), **more)


def test_a_count_of_a_batch_is_refused(pack: Any, image: Any) -> None:
    with pytest.raises(pack.error("InputError"), match="count is 2"):
        edited(pack, image(1, batch=2), count=2)
