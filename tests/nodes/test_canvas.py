"""Kontext: Canvas, and the way back by Finish: nothing moves, nothing is squashed, margins are new."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from registration import displacement, smooth
from torch import Tensor

TEXT: list[list[Any]] = [[torch.zeros(1, 16, 40), {}]]
# Odd, 9:21, 21:9, strips of 8:1, and far from everything.
PICTURES = [(111, 79), (181, 421), (420, 181), (801, 100), (100, 801), (2000, 100), (64, 64)]
POLICIES = [
    {"policy": "exact"},
    {"policy": "trained size"},
    {"policy": "trained size", "other_shape": "crop"},
    {"policy": "megapixels", "megapixels": 0.02},
]


class Film:
    """A VAE that gives back what it was shown last: a run that edits nothing."""

    resolutions = ((64, 64), (96, 64), (64, 96))

    def encode(self, pixels: Tensor) -> Tensor:
        self.seen = pixels
        return torch.zeros(len(pixels), 16, pixels.shape[1] // 8, pixels.shape[2] // 8)

    def decode(self, samples: Tensor) -> Tensor:
        assert samples.shape[-2:] == (self.seen.shape[1] // 8, self.seen.shape[2] // 8)
        return self.seen


def lines(width: int, height: int, channels: int = 3) -> Tensor:
    """Two dark columns on white, at 12 and 98: what a shift or a stretch would move."""
    picture = torch.ones(1, height, width, channels)
    picture[:, :, 12] = picture[:, :, min(98, width - 1)] = 0
    return picture


def round_trip(pack: Any, picture: Tensor, through: str, **canvas: Any) -> tuple[Tensor, Tensor]:
    """Canvas, Reference, Stitch and Finish: the result, and what the model saw.

    `through` is what Reference gets: the "canvas" or the "picture" itself.
    """
    vae = Film()
    made = pack.run("KontextCanvas", image1=picture, vae=vae, **canvas)
    shown = made[0] if through == "canvas" else picture
    chain = pack.run("KontextReference", image=shown, vae=vae, target=made[1])[0]
    target = pack.run("KontextStitch", conditioning=TEXT, references=chain, latent=made[1])
    assert target.ui["kontext_notes"] == [] or "times the area" in target.ui["kontext_notes"][0]
    alone = pack.run("KontextStitch", conditioning=TEXT, references=chain)[1]
    for latent in (target[1], alone):
        assert latent["samples"].shape[-2:] == made[1]["samples"].shape[-2:]
        assert latent["kontext_framing"] == made[1]["kontext_framing"]
    # The same ids: target and reference have the same tokens.
    assert target[1]["samples"].shape[-2:] == chain.items[0].latent.shape[-2:]
    result = pack.run("KontextFinish", samples=target[1], vae=vae, original=picture)
    assert result.ui["kontext_notes"] == []
    return result[0], vae.seen


@pytest.mark.parametrize("size", PICTURES, ids=str)
@pytest.mark.parametrize("canvas", POLICIES, ids=lambda one: "-".join(map(str, one.values())))
@pytest.mark.parametrize("through", ["canvas", "picture"])
def test_a_round_trip_moves_nothing(
    pack: Any, size: tuple[int, int], canvas: dict[str, Any], through: str
) -> None:
    picture = smooth(*size)
    result, seen = round_trip(pack, picture, through, **canvas)
    assert result.shape == picture.shape
    if canvas["policy"] == "exact":
        assert torch.equal(result, picture)
        return
    # Measured: 0.018 at most, of the picture's own pixels, in the corners too; where next to nothing
    # of a strip is painted there is nothing to measure.
    if min(seen.shape[1:3]) * min(size) / max(size) > 20:
        assert displacement(picture, result)[1] < 0.1


@pytest.mark.parametrize("canvas", POLICIES[:3], ids=lambda one: "-".join(map(str, one.values())))
def test_alpha_and_batches(pack: Any, canvas: dict[str, Any]) -> None:
    picture = torch.cat([lines(111, 79, 4), lines(111, 79, 4).flip(2)])
    result, seen = round_trip(pack, picture, "canvas", **canvas)
    assert result.shape == (2, 79, 111, 3)
    assert len(seen) == 2
    # Measured: 0.02 of these hard lines, and 0 by exact.
    assert (result - picture[..., :3]).abs().mean() < 0.05


@pytest.mark.parametrize("fit", ["keep", "exact", "trained size"])
def test_lines_come_back_where_they_were(pack: Any, fit: str) -> None:
    """As reported: at 12 and 98 of 111, and back at 6 and 105."""
    picture, vae = lines(111, 79), Film()
    chain = pack.run("KontextReference", image=picture, vae=vae, fit=fit)[0]
    latent = pack.run("KontextStitch", conditioning=TEXT, references=chain)[1]
    result = pack.run("KontextFinish", samples=latent, vae=vae, original=picture)[0]
    dark = result[0, 40, :, 0].argsort()[:2].sort().values
    assert dark.tolist() == [12, 98]
    if fit != "trained size":
        assert torch.equal(result, picture)


@pytest.mark.parametrize("through", ["canvas", "picture"])
@pytest.mark.parametrize("fill", ["edge", "mirror", "grey"])
def test_margins_are_new_and_the_picture_stays(pack: Any, fill: str, through: str) -> None:
    picture = lines(111, 79)
    margins = {"left": 32, "top": 0, "right": 16, "bottom": 5}
    result, seen = round_trip(pack, picture, through, policy="exact", fill=fill, **margins)
    assert result.shape == (1, 84, 159, 3)
    assert torch.equal(result[:, :79, 32:143], picture)
    assert seen.shape == (1, 96, 160, 3)


@pytest.mark.parametrize("feather", [0, 8])
def test_only_the_new_area_changes(pack: Any, feather: int) -> None:
    picture, vae = torch.rand(1, 79, 111, 3), Film()
    canvas = {"policy": "exact", "left": 32, "right": 16, "feather": feather}
    made = pack.run("KontextCanvas", image1=picture, vae=vae, **canvas)
    image, latent, area, width, height = made.result
    assert (width, height) == (160, 80) == (image.shape[2], image.shape[1])
    assert area.shape == (1, 80, 160)
    vae.seen = torch.zeros_like(image)
    inputs = {"samples": latent, "vae": vae, "original": picture, "mask": area}
    result = pack.run("KontextFinish", **inputs)[0]
    assert result.shape == (1, 79, 159, 3)
    inner = slice(32 + feather, 143 - feather)
    assert torch.equal(result[:, :, inner], picture[:, :, feather : 111 - feather])
    assert not result[:, :, :32].any()
    assert not result[:, :, 143:].any()
    if feather:
        # It fades from the new area into the picture.
        share = (result[:, :, 32:40] / picture[:, :, :8].clamp(min=1e-3)).mean((0, 1, 3))
        assert bool((share.diff() > 0).all())


def test_the_mask_of_the_picture_is_added(pack: Any) -> None:
    picture, vae = torch.rand(1, 79, 111, 3), Film()
    mask = torch.zeros(1, 79, 111)
    mask[:, 10:20, 10:20] = 1
    made = pack.run("KontextCanvas", image1=picture, vae=vae, mask=mask, policy="exact", top=16)
    vae.seen = torch.zeros_like(made[0])
    result = pack.run("KontextFinish", samples=made[1], vae=vae, original=picture, mask=made[2])[0]
    changed = (result[0] == 0).all(-1)
    assert changed[:16].all()
    expected = mask[0] > 0
    assert torch.equal(changed[16:], expected)
    whole = pack.run("KontextCanvas", image1=picture, vae=vae, policy="exact")
    assert whole[2].min() == 1
    with pytest.raises(pack.error("ShapeError"), match="50 x 50.*111 x 79"):
        pack.run("KontextCanvas", image1=picture, vae=vae, mask=torch.ones(1, 50, 50))


def test_shapes_are_extended_or_cut_off(pack: Any) -> None:
    picture = lines(111, 79)
    for other_shape, size in (("pad", (111, 111)), ("crop", (79, 79))):
        canvas = {"aspect": "1:1", "other_shape": other_shape, "policy": "exact"}
        result, _ = round_trip(pack, picture, "canvas", **canvas)
        assert (result.shape[2], result.shape[1]) == size
    canvas = {"aspect": "width : height", "width": 128, "height": 64, "policy": "exact"}
    assert round_trip(pack, picture, "canvas", **canvas)[0].shape == (1, 79, 158, 3)
    custom = {"policy": "custom", "width": 128, "height": 64}
    assert round_trip(pack, picture, "canvas", **custom)[1].shape == (1, 64, 128, 3)
    assert round_trip(pack, picture, "canvas", **custom)[0].shape == (1, 79, 158, 3)


def test_which_image_stands_on_it(pack: Any) -> None:
    pictures = {"image1": lines(111, 79), "image2": lines(128, 64)}
    made = pack.run("KontextCanvas", **pictures, policy="exact", like_image=2)
    assert made.result[3:] == (128, 64)
    missing = pack.run("KontextCanvas", **pictures, policy="exact", like_image=3)
    assert missing.result[3:] == (128, 64)
    assert any("like_image is 3" in note for note in missing.ui["kontext_notes"])


def test_the_vae_tells_the_trained_sizes(pack: Any) -> None:
    picture = lines(111, 79)
    assert pack.run("KontextCanvas", image1=picture, vae=Film()).result[3:] == (96, 64)
    assert pack.run("KontextCanvas", image1=picture).result[3:] == (1184, 880)


def test_a_size_far_from_what_was_trained_is_said(pack: Any) -> None:
    def notes(**canvas: Any) -> str:
        made = pack.run("KontextCanvas", image1=lines(2000, 100), vae=Film(), **canvas)
        return "\n".join(made.ui["kontext_notes"])

    assert "fills 8% of 96 x 64" in notes()
    assert "times the area" in notes(policy="exact")
    assert "longer than every shape" in notes(policy="exact")
    assert "gives 2000 x 100" in notes()
    assert "aspect 1:1 has no effect" in notes(policy="custom", width=128, height=64, aspect="1:1")
    with pytest.raises(pack.error("InputError"), match="multiple of 16"):
        notes(policy="custom", width=100)


def test_a_reference_of_the_targets_shape_stands_on_its_grid(pack: Any, vae: Any) -> None:
    """An empty latent is enough; without it things would move, and Stitch says so."""
    target = {"samples": torch.zeros(1, 16, 10, 14)}
    picture = lines(112, 80)
    stitch = {"conditioning": TEXT, "latent": target}
    own = pack.run("KontextReference", image=picture, vae=vae)[0]
    made = pack.run("KontextStitch", references=own, **stitch)
    assert any("things move" in note for note in made.ui["kontext_notes"])
    tied = pack.run("KontextReference", image=picture, vae=vae, target=target)[0]
    assert tied.items[0].latent.shape[-2:] == (10, 14)
    made = pack.run("KontextStitch", references=tied, **stitch)
    assert not any("things move" in note for note in made.ui["kontext_notes"])
    # Another shape keeps fit's size.
    other = pack.run("KontextReference", image=lines(100, 300), vae=vae, target=target)[0]
    assert other.items[0].latent.shape[-2:] != (10, 14)


def test_edit_puts_a_picture_of_the_asked_shape_on_its_grid(pack: Any) -> None:
    """As reported: 112 x 80 asked of a picture of 112 x 80, which stood at 96 x 64."""
    inputs = {"image1": lines(112, 80), "prompt": "a star", "steps": 1}
    made = pack.run("KontextEdit", **inputs, width=112, height=80)
    assert made[0].shape == (1, 80, 112, 3)
    assert made.ui["kontext_size"][0]["references"] == (35,)
