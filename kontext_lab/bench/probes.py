"""Questions changed so that the right answer changes, or can't be known: does a model notice?"""

from __future__ import annotations

import random
import re
from dataclasses import replace

import torch

from ..world.render import render
from ..world.sample import Sample
from ..world.thing import Scene
from .held_out import Case

_PAIRS = (("1", "2"), ("first", "second"), ("1st", "2nd"), ("former", "latter"))
_OTHER = {word: pair[1 - i] for pair in _PAIRS for i, word in enumerate(pair)}
_NUMBER = re.compile(
    r"(?<![0-9a-z])(1st|2nd|first|second|former|latter)(?![0-9a-z])|(?<![0-9])([12])(?![0-9a-z])",
    re.IGNORECASE,
)
# "one" is also a pronoun; it is a number where it follows what it counts.
_WRITTEN = re.compile(
    r"\b((?:image|picture|photo|photograph|pic|img|reference|input|number|drawing)s?) (one|two)\b",
    re.IGNORECASE,
)


def exchange_images(prompt: str) -> str:
    """The sentence with the two images exchanged, however they are numbered.

    Image 1 and 2, first and second, 1st and 2nd, former and latter, image one and two.
    """

    def number(match: re.Match[str]) -> str:
        return _OTHER[match.group(0).lower()]

    def written(match: re.Match[str]) -> str:
        return f"{match.group(1)} {'two' if match.group(2).lower() == 'one' else 'one'}"

    return _WRITTEN.sub(written, _NUMBER.sub(number, prompt))


def exchanged_words(case: Case) -> Case | None:
    """The case with the images' numbers exchanged in its words, or None where that says nothing."""
    prompt = exchange_images(case.sample.prompt)
    swapped = case.sample.swapped
    if swapped is None or prompt == case.sample.prompt:
        return None
    meaning = dict(case.sample.meaning)
    if meaning.get("source") in ("1", "2"):
        meaning["source"] = _OTHER[meaning["source"]]
    return _other_answer(replace(case.sample, prompt=prompt, meaning=meaning), case, swapped)


def exchanged_pictures(case: Case) -> Case | None:
    """The case with its two references exchanged, or None where no answer to that is right."""
    if case.sample.swapped is None:
        return None
    turned = replace(case.sample, references=case.sample.references[::-1])
    shown = replace(case, references=case.references[::-1])
    return _other_answer(turned, shown, case.sample.swapped)


def _other_answer(turned: Sample, case: Case, right: Scene) -> Case:
    turned = replace(turned, target=right, swapped=case.sample.target)
    height, width = case.target.shape[-2:]
    return replace(case, sample=turned, target=render([right], height, width)[0])


def blanked(case: Case) -> Case | None:
    """The case with grey sheets for references, or None where it has none."""
    if not case.references:
        return None
    return replace(case, references=tuple(torch.full_like(r, 0.5) for r in case.references))


def scrambled(case: Case) -> Case | None:
    """The case with its words in another order, or None where their order says nothing."""
    words = case.sample.prompt.split()
    if not case.sample.ordered or len(set(words)) < 2:
        return None
    rng = random.Random(case.seed)
    mixed = words
    while mixed == words:
        mixed = rng.sample(words, len(words))
    return replace(case, sample=replace(case.sample, prompt=" ".join(mixed)))
