"""Names of references become numbers of images: whole words, the longest first, and never twice."""

from __future__ import annotations

import pytest

from kontext_core.errors import InputError
from kontext_core.names import check_names, write_numbers


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("put the logo on the mug", ["the mug", "the logo"], "put image 2 on image 1"),
        ("put the logo on the mug", ["mug", "logo"], "put image 2 on image 1"),
        ("Put The  LOGO on it", [None, "the logo"], "Put image 2 on it"),
        # No part of another word.
        ("logos, catalogo, logo_2, the logo's red", ["logo"], "logos, catalogo, logo_2, image 1's red"),
        # The longest first, whichever comes first in the chain.
        ("the red logo beside the logo", ["logo", "red logo"], "image 2 beside image 1"),
        # What is written is not looked at again.
        ("the image of the cat", ["image", "cat"], "image 1 of image 2"),
        # Scripts without spaces, alone and beside Latin ones.
        ("\u628alogo\u653e\u5728\u676f\u5b50\u4e0a", ["\u676f\u5b50", "logo"], "\u628aimage 2\u653e\u5728image 1\u4e0a"),
        ("\ub85c\uace0\ub97c \ucef5\uc5d0", ["\ucef5", "\ub85c\uace0"], "image 2\ub97c image 1\uc5d0"),
        # Signs of a pattern are letters like others, at an edge too.
        ("the C++ (old) one", ["C++ (old)"], "image 1 one"),
        ("the stra\u00dfe", ["Stra\u00dfe"], "image 1"),
        ("nothing named", ["", None], "nothing named"),
        ("gather a mug", ["mug"], "gather a image 1"),
    ],
)  # fmt: skip
def test_names_become_numbers(text: str, names: list[str | None], expected: str) -> None:
    assert write_numbers(text, names).text == expected


def test_it_says_what_was_replaced_and_what_is_not_there() -> None:
    made = write_numbers("The Logo on the mug, the logo again", ["mug", "logo", "the  sky"])
    assert made.found == (("The Logo", 2), ("the mug", 1), ("the logo", 2))
    assert made.absent == (("the sky", 3),)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["the logo", None, " The  Logo "], "image 1 and image 3 are both named 'The Logo'"),
        (["Image 2"], "number"),
        (["..."], "word or two"),
        (["x" * 65], "65 letters"),
        ([7], "expected a text"),
    ],
)
def test_names_that_cannot_be_used_are_refused(names: list[str | None], why: str) -> None:
    with pytest.raises(InputError, match=why):
        check_names(names)
    with pytest.raises(InputError, match=why):
        write_numbers("any", names)


def test_names_are_tidied() -> None:
    assert check_names([None, "  ", " the   logo\n"]) == ["", "", "the logo"]
