"""Pictures and masks of different shapes: tied, refused, cropped or padded, never stretched silently."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

TEXT: list[list[Any]] = [[torch.zeros(1, 16, 40), {}]]
TALL, WIDE = (96, 64), (80, 120)


@pytest.fixture
def chain(pack: Any, vae: Any, image: Any) -> Any:
    """Image 1 is tall, image 2 wide."""
    first = pack.run("KontextReference", image=image(1, *TALL), vae=vae)[0]
    return pack.run("KontextReference", references=first, image=image(2, *WIDE), vae=vae)[0]


def latent_of(pack: Any, chain: Any, **inputs: Any) -> dict[str, Any]:
    return pack.run("KontextStitch", conditioning=TEXT, references=chain, **inputs)[1]


def finish(pack: Any, vae: Any, samples: Any, original: Tensor, **inputs: Any) -> Any:
    return pack.run("KontextFinish", samples=samples, vae=vae, original=original, **inputs)


def test_the_target_has_the_shape_of_the_image_that_is_edited(pack: Any, chain: Any) -> None:
    for number in (1, 2):
        samples = latent_of(pack, chain, like_image=number)["samples"]
        assert samples.shape == chain.items[number - 1].latent.shape


def test_an_image_that_is_missing_is_replaced_by_the_last_one(pack: Any, chain: Any) -> None:
    """As when its reference is bypassed or muted; and it is said."""
    inputs = {"conditioning": TEXT, "references": chain}
    made = pack.run("KontextStitch", **inputs, like_image=3)
    assert made[1]["samples"].shape == chain.items[1].latent.shape
    assert any("like_image is 3, but there are 2" in note for note in made.ui["kontext_notes"])


def test_the_batch_is_that_of_any_reference(pack: Any, vae: Any, image: Any) -> None:
    first = pack.run("KontextReference", image=image(1, batch=2), vae=vae)[0]
    chain = pack.run("KontextReference", references=first, image=image(2), vae=vae)[0]
    assert len(latent_of(pack, chain, like_image=2)["samples"]) == 2


def test_a_result_of_another_shape_is_refused_by_default(
    pack: Any, chain: Any, vae: Any, image: Any
) -> None:
    samples = latent_of(pack, chain)
    with pytest.raises(pack.error("InputError"), match="another shape") as caught:
        finish(pack, vae, samples, image(2, *WIDE))
    assert "like_image" in str(caught.value)
    assert "120 x 80" in str(caught.value)
    made = finish(pack, vae, latent_of(pack, chain, like_image=2), image(2, *WIDE))
    assert made[0].shape == (1, *WIDE, 3)
    assert made.ui["kontext_notes"] == []


@pytest.mark.parametrize(
    ("rule", "word"), [("crop", "cropped"), ("pad", "padded"), ("stretch", "stretched")]
)
def test_what_was_done_to_another_shape_is_said(
    pack: Any, chain: Any, vae: Any, image: Any, rule: str, word: str
) -> None:
    made = finish(pack, vae, latent_of(pack, chain), image(2, *WIDE), other_shape=rule)
    assert made[0].shape == (1, *WIDE, 3)
    [note] = made.ui["kontext_notes"]
    assert word in note
    assert bool((made[0][:, :, 0] == 0).all()) is (rule == "pad")


def test_a_kept_pictures_margin_stays_its_own(pack: Any, vae: Any, image: Any) -> None:
    original = image(3, 79, 111)
    chain = pack.run("KontextReference", image=original, vae=vae, fit="keep")[0]
    made = finish(pack, vae, latent_of(pack, chain), original)[0]
    left, top, width, height = chain.items[0].framing.box
    inner = torch.zeros(79, 111, dtype=torch.bool)
    inner[top : top + height, left : left + width] = True
    assert (width, height) == (96, 64)
    assert torch.equal(made[:, ~inner], original[:, ~inner])
    decoded = vae.decode(torch.zeros(1, 16, 8, 12))
    # Moved by nothing, resized by nothing.
    assert torch.equal(made[:, top : top + height, left : left + width], decoded)


def test_a_framing_that_is_not_true_any_more_is_not_used(pack: Any, vae: Any, image: Any) -> None:
    chain = pack.run("KontextReference", image=image(1, *TALL), vae=vae)[0]
    cropped = {**latent_of(pack, chain), "samples": torch.zeros(1, 16, 4, 12)}
    with pytest.raises(pack.error("InputError"), match="another shape"):
        finish(pack, vae, cropped, image(1, *TALL))


def test_masks_of_another_shape_are_refused(pack: Any, vae: Any, image: Any) -> None:
    """As reported: 100 x 50 on 256 x 256."""
    mask, original = torch.ones(1, 50, 100), image(1, 256, 256)
    chain = pack.run("KontextReference", image=original, vae=vae)[0]
    for node_id, inputs in (
        ("KontextReference", {"image": original}),
        ("KontextFinish", {"samples": latent_of(pack, chain), "original": original}),
    ):
        with pytest.raises(pack.error("ShapeError"), match="100 x 50.*256 x 256"):
            pack.run(node_id, vae=vae, mask=mask, **inputs)
        half = torch.ones(1, 128, 128)
        pack.run(node_id, vae=vae, mask=half, **inputs)


def test_a_mask_for_a_latent_may_be_of_its_picture(pack: Any, vae: Any, image: Any) -> None:
    chain = pack.run("KontextReference", image=image(1, *WIDE), vae=vae)[0]
    target = latent_of(pack, chain)
    for height, width in (WIDE, (48, 80)):
        pack.run("KontextReference", latent=target, mask=torch.ones(1, height, width))
    with pytest.raises(pack.error("ShapeError"), match="another shape"):
        pack.run("KontextReference", latent=target, mask=torch.ones(1, 90, 40))


def test_edit_follows_the_picture_that_is_edited(pack: Any, vae: Any, image: Any) -> None:
    inputs = {"image1": image(1, *TALL), "image2": image(2, *WIDE), "prompt": "a star", "steps": 1}
    assert pack.run("KontextEdit", **inputs)[0].shape == (1, *TALL, 3)
    made = pack.run("KontextEdit", **inputs, like_image=2)
    assert made[0].shape == (1, *WIDE, 3)
    assert made[1]["samples"].shape == (1, 16, 6, 10)
    assert torch.equal(finish(pack, vae, made[1], inputs["image2"])[0], made[0])
    assert finish(pack, vae, made[1], inputs["image2"])[0].shape == (1, *WIDE, 3)
    missing = pack.run("KontextEdit", **inputs, like_image=3)
    assert missing[0].shape == made[0].shape
    assert any("like_image is 3" in note for note in missing.ui["kontext_notes"])
    # A size of its own goes before.
    assert pack.run("KontextEdit", **inputs, like_image=3, width=64, height=32)[0].shape[1] == 32
