"""References by name, and at their own resolution, through the nodes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

TEXT: list[list[Any]] = [[torch.zeros(1, 16, 40), {}]]


def notes(made: Any) -> str:
    return "\n".join(made.ui["kontext_notes"])


@pytest.fixture
def chain(pack: Any, vae: Any, image: Any) -> Any:
    first = pack.run("KontextReference", image=image(1), vae=vae, name="the mug")[0]
    return pack.run(
        "KontextReference", references=first, image=image(2), vae=vae, name="The  Logo"
    )[0]


def test_names_become_numbers_and_it_is_said(pack: Any, chain: Any) -> None:
    made = pack.run("KontextNames", text="put the logo on the mug, the logo", references=chain)
    assert made[0] == "put image 2 on image 1, image 2"
    said = notes(made)
    assert '"the logo" is image 2, 2 times' in said
    assert '"the mug" is image 1' in said
    assert "The model reads: put image 2 on image 1, image 2" in said
    made = pack.run("KontextNames", text="put the logo on image 1", references=chain)
    assert made[0] == "put image 2 on image 1"
    assert '"the mug", the name of image 1, is not in the text' in notes(made)


def test_without_names_nothing_is_changed_or_said(pack: Any, vae: Any, image: Any) -> None:
    plain = pack.run("KontextReference", image=image(1), vae=vae)[0]
    for references in (None, plain):
        made = pack.run("KontextNames", text=" put the logo on it ", references=references)
        assert made[0] == " put the logo on it "
        assert notes(made) == ""


def test_two_of_one_name_are_refused_where_the_second_is_given(
    pack: Any, vae: Any, image: Any, chain: Any
) -> None:
    with pytest.raises(pack.error("InputError"), match="image 2 and image 3 are both named"):
        pack.run("KontextReference", references=chain, image=image(3), vae=vae, name="the logo")


def test_the_layout_has_the_names(pack: Any, chain: Any) -> None:
    made = pack.run("KontextStitch", conditioning=TEXT, references=chain)
    names = [placed["name"] for placed in made.ui["kontext_layout"]]
    assert names == [None, "the mug", "The Logo"]


def test_fewer_tokens_for_one_reference(pack: Any, vae: Any, image: Any) -> None:
    """Half of each side is a quarter of the tokens, from the same corner; the target keeps all."""
    chain = pack.run("KontextReference", image=image(1), vae=vae, resolution=0.5)[0]
    made = pack.run("KontextStitch", conditioning=TEXT, references=chain)
    target, placed = made.ui["kontext_layout"]
    assert (placed["t"], placed["h"], placed["w"], placed["tokens"]) == (1, 0, 0, 4)
    assert target["tokens"] == 16
    assert made[1]["samples"].shape == (1, 16, 8, 8)
    [size] = made.ui["kontext_size"]
    assert size["references"] == (4,)
    assert size["alone"] < 1.3
    whole = pack.run("KontextReference", image=image(1), vae=vae)[0]
    plain = pack.run("KontextStitch", conditioning=TEXT, references=whole).ui["kontext_size"][0]
    assert plain["memory"] > size["memory"]


def test_resolution_says_where_it_can_t_act(pack: Any) -> None:
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    made = pack.run("KontextReference", latent=latent, resolution=0.5)
    assert "resolution has no effect" in notes(made)
    assert made[0].items[0].cells == (8, 8)


def test_a_mask_at_a_lower_resolution(pack: Any, vae: Any, image: Any) -> None:
    """The left half of 96 x 64: three of the six tokens that are left."""
    mask = torch.zeros(1, 64, 96)
    mask[..., :48] = 1
    picture = image(1, 64, 96)
    chain = pack.run("KontextReference", image=picture, vae=vae, mask=mask, resolution=0.5)[0]
    made = pack.run("KontextStitch", conditioning=TEXT, references=chain)
    placed = made.ui["kontext_layout"][1]
    assert (placed["rows"], placed["columns"], placed["tokens"]) == (2, 3, 4)


def test_images_on_each_other_are_said(pack: Any, vae: Any, image: Any) -> None:
    first = pack.run("KontextReference", image=image(1), vae=vae)[0]
    chain = pack.run(
        "KontextReference", references=first, image=image(2), vae=vae, placement="explicit", t=1
    )[0]
    made = pack.run("KontextStitch", conditioning=TEXT, references=chain)
    assert "image 1 and image 2 share 16 places" in notes(made)
