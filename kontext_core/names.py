"""Names of references in an instruction: "the logo" becomes "image 2", which is what a Kontext
model was trained to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import InputError

LONGEST = 64
# Written without spaces between words (Han, kana), or with endings on them (Hangul): any place in
# them is a word's edge.
_JOINED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f"
_LETTER = rf"[^\W{_JOINED}]"
_NUMBER = re.compile(r"image\s*\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Named:
    """An instruction with numbers in place of names.

    Attributes:
        text: what the model is to read.
        found: (as it was written, number of the image) of everything replaced, in order.
        absent: (name, number of the image) of names that don't occur.
    """

    text: str
    found: tuple[tuple[str, int], ...]
    absent: tuple[tuple[str, int], ...]


def check_names(names: Sequence[str | None]) -> list[str]:
    """Names of image 1, image 2, ... without blanks around and doubled inside; "" for none.

    Raises:
        InputError: one is no text, too long, has no letter or digit, or reads as the number of an
            image; two are the same but for capitals.
    """
    tidy: list[str] = []
    for number, name in enumerate(names, 1):
        if name is not None and not isinstance(name, str):
            raise InputError(f"the name of image {number} is {name!r}; expected a text, or none")
        found = " ".join((name or "").split())
        if len(found) > LONGEST:
            raise InputError(
                f"the name of image {number} has {len(found)} letters; expected at most {LONGEST}, "
                'a word or two such as "the logo"'
            )
        if found and not re.search(r"\w", found):
            raise InputError(
                f"the name of image {number} is {found!r}; expected a word or two such as "
                '"the logo"'
            )
        if _NUMBER.fullmatch(found):
            raise InputError(
                f"image {number} is named {found!r}, which the instruction could not tell from a "
                'number; give it a word or two such as "the logo"'
            )
        same = [other for other in tidy if other and other.casefold() == found.casefold()]
        if same:
            first = tidy.index(same[0]) + 1
            raise InputError(
                f"image {first} and image {number} are both named {found!r}; give each a name of "
                "its own, or leave one without"
            )
        tidy.append(found)
    return tidy


def write_numbers(text: str, names: Sequence[str | None]) -> Named:
    """An instruction with "image 2" wherever the second reference's name stands.

    Whole words, capitals or not, the longest name first; "the" before a name goes with it. What is
    written in place of a name is never looked at again.

    Args:
        names: of image 1, image 2, ...; None or "" for one without.

    Raises:
        InputError: names that can't be used, see `check_names`.
    """
    tidy = check_names(names)
    numbers = {name.casefold(): number for number, name in enumerate(tidy, 1) if name}
    if not numbers:
        return Named(text, (), ())
    longest = sorted(filter(None, tidy), key=len, reverse=True)
    pattern = re.compile(
        "|".join(f"(?P<name{numbers[name.casefold()]}>{_pattern(name)})" for name in longest),
        re.IGNORECASE,
    )
    found: list[tuple[str, int]] = []

    def number(match: re.Match[str]) -> str:
        image = int(str(match.lastgroup).removeprefix("name"))
        found.append((" ".join(match.group().split()), image))
        return f"image {image}"

    written = pattern.sub(number, text)
    there = {image for _, image in found}
    absent = tuple((n, image) for image, n in enumerate(tidy, 1) if n and image not in there)
    return Named(written, tuple(found), absent)


def _pattern(name: str) -> str:
    """Of one name as whole words, an English article before it included."""
    words = r"\s+".join(map(re.escape, name.split()))
    before = rf"(?<!{_LETTER})" if re.match(_LETTER, name) else ""
    after = rf"(?!{_LETTER})" if re.match(_LETTER, name[-1]) else ""
    article = "" if name.casefold().startswith("the ") else rf"(?:(?<!{_LETTER})the\s+)?"
    return f"{article}{before}{words}{after}"
