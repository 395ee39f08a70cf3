"""Kontext: References: several pictures in one node, as a chain of Kontext: Reference would have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

TEXT: list[list[Any]] = [[torch.zeros(1, 16, 40), {}]]
PLAIN = {"fit": "trained size", "names": "", "positions": ""}


def test_the_same_as_a_chain(pack: Any, vae: Any, image: Any) -> None:
    pictures = [image(seed, 80, 96) for seed in (1, 2, 3)]
    chain = None
    for picture in pictures:
        chain = pack.run("KontextReference", references=chain, image=picture, vae=vae)[0]
    made = pack.run(
        "KontextReferences", **PLAIN, vae=vae,
        image_1=pictures[0], image_2=pictures[1], image_3=pictures[2],
    )  # fmt: skip
    assert made[0] == chain
    assert made[0].thumbnails == chain.thumbnails
    assert made.ui["kontext_notes"] == []


def test_names_and_positions_are_lines(pack: Any, vae: Any, image: Any) -> None:
    first = pack.run("KontextReference", image=image(1), vae=vae, name="the mug")[0]
    values = {**PLAIN, "names": "\nthe logo\nthe cat", "positions": "\n1, 0, 4"}
    made = pack.run(
        "KontextReferences", **values, references=first, vae=vae, image_2=image(2), image_3=image(3)
    )
    assert [one.name for one in made[0].items] == ["the mug", "the logo", "the cat"]
    assert [one.position for one in made[0].items] == [None, (1, 0, 4), None]
    assert "image_3 is image 3" not in "\n".join(made.ui["kontext_notes"])
    text = pack.run("KontextNames", text="put the logo on the mug", references=made[0])[0]
    assert text == "put image 2 on image 1"
    placed = pack.run("KontextStitch", conditioning=TEXT, references=made[0]).ui["kontext_layout"]
    assert (placed[2]["t"], placed[2]["h"], placed[2]["w"]) == (1, 0, 4)


def test_numbers_that_differ_from_the_inputs_are_said(pack: Any, vae: Any, image: Any) -> None:
    made = pack.run("KontextReferences", **PLAIN, vae=vae, image_2=image(1))
    assert made.ui["kontext_notes"] == [
        "image_2 is image 1 of the prompt: an input before it is open"
    ]
    made = pack.run("KontextReferences", **PLAIN, vae=vae, references=made[0], image_1=image(1))
    assert made.ui["kontext_notes"] == ["image_1 is image 2 of the prompt: a chain comes before it"]


def test_a_target_puts_pictures_of_its_shape_on_its_grid(pack: Any, vae: Any, image: Any) -> None:
    target = {"samples": torch.zeros(1, 16, 12, 12)}
    made = pack.run(
        "KontextReferences", **PLAIN, vae=vae, target=target,
        image_1=image(1, 64, 64), image_2=image(2, 64, 96),
    )  # fmt: skip
    plain = pack.run("KontextReference", image=image(2, 64, 96), vae=vae)[0]
    sizes = [one.framing.size for one in made[0].items]
    assert sizes == [(96, 96), plain.items[0].framing.size]
    assert sizes[1] != (96, 96)


def test_without_pictures_the_chain_goes_on(pack: Any, vae: Any, image: Any) -> None:
    first = pack.run("KontextReference", image=image(1), vae=vae)[0]
    made = pack.run("KontextReferences", **PLAIN, vae=vae, references=first)
    assert made[0] == first
    assert "no picture comes in" in made.ui["kontext_notes"][0]


@pytest.mark.parametrize("text", ["1, 2", "one 2 3", "\n99 0 0", "1 0 nan"])
def test_a_wrong_place_is_refused_before_the_run(pack: Any, text: str) -> None:
    check = pack.nodes["KontextReferences"].validate_inputs
    assert "of positions is" in check(positions=text)
    assert check(positions="1, 0, 4\n\n-2 3.5 0") is True and check(positions=None) is True


def test_two_of_one_name_are_refused(pack: Any, vae: Any, image: Any) -> None:
    values = {**PLAIN, "names": "the cat\nThe Cat"}
    with pytest.raises(pack.error("InputError"), match="both named"):
        pack.run("KontextReferences", **values, vae=vae, image_1=image(1), image_2=image(2))


def test_pictures_need_a_vae(pack: Any, image: Any) -> None:
    with pytest.raises(pack.error("InputError"), match="no VAE"):
        pack.run("KontextReferences", **PLAIN, image_1=image(1))
