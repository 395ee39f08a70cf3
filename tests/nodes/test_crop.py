"""Crop and Paste as nodes, and a mask from Kontext: Stitch into both samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture
def mask() -> torch.Tensor:
    made = torch.zeros(1, 100, 150)
    made[:, 30:60, 90:130] = 1
    return made


def test_crop_and_paste_touch_nothing_else(
    pack: Any, vae: Any, image: Callable[..., torch.Tensor], mask: torch.Tensor
) -> None:
    picture = image(1, 100, 150)
    part, seen, crop = pack.run("KontextCrop", image=picture, mask=mask, vae=vae).result
    sizes = vae.resolutions
    assert (part.shape[2], part.shape[1]) in sizes and part.shape[1:3] == seen.shape[1:]
    back = pack.run("KontextPaste", image=torch.zeros_like(part), crop=crop, match_colours=False)[0]
    assert back[mask == 0].equal(picture[mask == 0])
    assert back[mask == 1].max() == 0


def test_a_box_is_four_numbers(pack: Any, vae: Any, image: Callable[..., torch.Tensor]) -> None:
    picture = image(1, 100, 150)
    sides = {"x": 20, "y": 30, "width": 40, "height": 25}
    by_hand = pack.run("KontextCrop", image=picture, vae=vae, **sides)
    mask = by_hand.result[2].mask
    assert int(mask.sum()) == 1000 and bool(mask[0, 30:55, 20:60].all())
    [note] = by_hand.ui["kontext_notes"]
    assert note.startswith("shows ") and "times as large" in note
    for given, message in (
        ({"width": 40}, "width is 40 and height 0"),
        ({}, "neither a mask nor a box"),
    ):
        with pytest.raises(pack.error("InputError"), match=message):
            pack.run("KontextCrop", image=picture, vae=vae, **given)


def test_what_is_odd_about_a_crop_is_said(pack: Any, image: Callable[..., torch.Tensor]) -> None:
    small = pack.run("KontextCrop", image=image(1, 64, 64), width=64, height=64, enlarge=64.0)
    assert len(small.ui["kontext_notes"]) == 1
    wide = pack.run("KontextCrop", image=image(1, 64, 400), width=400, height=64)
    assert any("reaches beyond" in note for note in wide.ui["kontext_notes"])
    large = pack.run(
        "KontextCrop", image=image(1, 200, 200), width=200, height=200, megapixels=0.02
    )
    assert any("details get lost" in note for note in large.ui["kontext_notes"])


def stitched(pack: Any, vae: Any, picture: torch.Tensor, **given: Any) -> Any:
    references = pack.run("KontextReference", image=picture, vae=vae)[0]
    words = [[torch.zeros(1, 1, 1), {}]]
    return pack.run("KontextStitch", conditioning=words, references=references, **given)


def test_stitch_masks_the_picture_that_is_edited(
    pack: Any, vae: Any, image: Callable[..., torch.Tensor]
) -> None:
    """The mask goes onto the grid as the picture does, and all of it is free there."""
    picture = image(1, 100, 150)
    mask = torch.zeros(1, 200, 300)
    mask[:, 101:103, 150:152] = 1
    latent = stitched(pack, vae, picture, mask=mask)[1]
    samples, cells = latent["samples"], latent["noise_mask"]
    assert bool(samples.any()) and cells.shape == (1, 1, *samples.shape[2:])
    # One dot at the middle, a little lower: in four cells at most, never in none.
    rows, columns = samples.shape[2:]
    assert 1 <= int((cells == 1).sum()) <= 4 and int((cells > 0).sum()) <= 4
    assert (
        cells[0, 0, rows // 2 - 1 : rows // 2 + 1, columns // 2 - 1 : columns // 2 + 1].max() == 1
    )
    # Without a mask the target stays empty, as ever.
    plain = stitched(pack, vae, picture)[1]
    assert not plain["samples"].any() and "noise_mask" not in plain


def test_stitch_refuses_masks_that_keep_nothing(
    pack: Any, vae: Any, image: Callable[..., torch.Tensor]
) -> None:
    with pytest.raises(pack.error("InputError"), match="no picture to keep"):
        stitched(
            pack, vae, image(1), mask=torch.ones(1, 64, 64),
            latent={"samples": torch.zeros(1, 16, 8, 8)},
        )  # fmt: skip
    with pytest.raises(pack.error("ShapeError"), match="the mask is 300 x 64"):
        stitched(pack, vae, image(1), mask=torch.ones(1, 64, 300))


@pytest.mark.parametrize("mode", ["soft", "differential"])
def test_the_sampler_keeps_to_the_mask(
    mode: str, pack: Any, model: Any, vae: Any, encode: Any, image: Callable[..., torch.Tensor]
) -> None:
    mask = torch.linspace(0, 1, 64).expand(1, 64, 64)
    latent = stitched(pack, vae, image(1), mask=mask)[1]
    given = {"model": model, "positive": encode("a"), "latent_image": latent, "steps": 4}
    made = pack.run("KontextSampler", mask_mode=mode, **given)[0]["samples"]
    start = latent["samples"]
    black = latent["noise_mask"].expand_as(made) < 0.13
    # Below the last level of four steps nothing is free, and soft mixes in a little.
    moved = (made - start)[black].abs().max()
    assert moved < 1e-4 if mode == "differential" else moved > 1e-3
    assert (made - start)[..., -1].abs().mean() > 0.1


def test_finish_matches_colours_when_asked(
    pack: Any, vae: Any, image: Callable[..., torch.Tensor]
) -> None:
    latent = {"samples": torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(2))}
    original, mask = image(1), torch.zeros(1, 64, 64)
    mask[:, 20:40, 20:40] = 1
    given = {"samples": latent, "vae": vae, "original": original, "mask": mask}
    plain, matched = (
        pack.run("KontextFinish", match_colours=match, **given)[0] for match in (False, True)
    )
    assert plain[mask == 0].equal(original[mask == 0])
    assert matched[mask == 0].equal(original[mask == 0])
    seam = mask.bool()
    seam[:, 22:38, 22:38] = False
    before, after = ((one - original)[seam].abs().mean() for one in (plain, matched))
    # Measured: 0.27 and 0.15.
    assert after < 0.8 * before
