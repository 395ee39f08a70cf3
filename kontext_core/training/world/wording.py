"""How the world talks: many ways to say one thing, some of them never used in training.

Every entry is (wordings for training, held-out wordings). Braces name what gets filled in.
"""

from __future__ import annotations

import random
import re

from .scene import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, Thing

__all__ = [
    "WORDINGS",
    "article",
    "background_words",
    "place_words",
    "say",
    "thing_words",
    "vocabulary",
]

WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "scene": (
        ("{things} {on}", "a picture of {things} {on}", "draw {things} {on}", "{things}, {on}",
         "{on}, {things}"),
        ("show {things} {on}", "an image with {things} {on}"),
    ),
    "recolour": (
        ("make the {old} {new}", "paint the {old} {new}", "turn the {old} {new}",
         "change the {old} to {new}", "recolour the {old} to {new}", "the {old} should be {new}"),
        ("colour the {old} {new}", "let the {old} become {new}"),
    ),
    "recolour_all": (
        ("make the {old} {new} and the {old2} {new2}", "paint the {old} {new}, the {old2} {new2}"),
        ("turn the {old} {new} and turn the {old2} {new2}",),
    ),
    "replace": (
        ("replace the {old} with a {new}", "turn the {old} into a {new}",
         "change the {old} to a {new}", "put a {new} in place of the {old}",
         "instead of the {old} draw a {new}"),
        ("swap the {old} for a {new}", "make the {old} a {new}"),
    ),
    "add": (
        ("add {thing} {place}", "put {thing} {place}", "draw {thing} {place}",
         "place {thing} {place}", "{place} add {thing}"),
        ("insert {thing} {place}", "show {thing} {place} as well"),
    ),
    "remove": (
        ("remove the {old}", "delete the {old}", "erase the {old}", "take the {old} away",
         "take away the {old}"),
        ("get rid of the {old}", "the {old} should go"),
    ),
    "move": (
        ("move the {old} {to}", "shift the {old} {to}", "put the {old} {place}",
         "the {old} should be {place}"),
        ("place the {old} {place}", "bring the {old} {to}"),
    ),
    "bigger": (
        ("make the {old} bigger", "enlarge the {old}", "the {old} should be larger",
         "make the {old} larger"),
        ("grow the {old}", "show the {old} bigger"),
    ),
    "smaller": (
        ("make the {old} smaller", "shrink the {old}", "the {old} should be smaller"),
        ("reduce the {old}", "show the {old} smaller"),
    ),
    "background": (
        ("make the background {new}", "change the background to {new}",
         "put everything {on}", "paint the background {new}", "use {a new} background"),
        ("turn the background {new}", "the background should be {new}"),
    ),
    "gradient": (
        ("make the background {top} at the top and {bottom} at the bottom",
         "change the background to a gradient from {top} to {bottom}",
         "make the background go from {top} to {bottom}"),
        ("let the background fade from {top} to {bottom}",),
    ),
    "night": (
        ("make it night", "turn it into a night scene", "change it to night"),
        ("it should be night", "show it at night"),
    ),
    "grey": (
        ("make it black and white", "remove all colour", "turn it into a grey picture",
         "make the picture grey"),
        ("change it to black and white", "show it without colour"),
    ),
    "inverted": (
        ("invert the colours", "make it a negative", "invert the picture"),
        ("turn the colours into a negative", "show the colours inverted"),
    ),
    # {o}: the thing of one image; {b}: the background of the other; {c}: its colour. Many frames,
    # because with few the model learns whole sentences by heart instead of what "of" means.
    "compose": (
        ("put {o} on {b}", "place {o} on {b}", "show {o} on {b}", "draw {o} on {b}",
         "paint {o} on {b}", "on {b} put {o}", "on {b} draw {o}", "use {b} for {o}",
         "for {o} use {b}", "{o} on {b}", "{o} with {b}", "{b} with {o}", "{b} and {o}",
         "{o} and {b}", "use {o} and {b}", "use {b} and {o}", "move {o} to {b}", "add {o} to {b}",
         "take {b} and put {o} on it", "take {b}, add {o}", "a picture of {o} on {b}",
         "a picture with {b} and {o}", "change the background of image {i} to {b}",
         "make the background of image {i} the background of image {j}",
         "put image {i} on {b}"),
        ("take {o} and {b}", "give {o} {b}"),
    ),
    "transfer": (
        ("recolour image {i} as image {j}", "recolour {o} as image {j}", "paint {o} in {c}",
         "give {o} {c}", "make {o} {c}", "use {c} for {o}", "for {o} use {c}", "{o} in {c}",
         "{o} with {c}", "{c} for {o}", "change {o} to {c}", "put {c} on {o}",
         "change the colour of {o} to {c}", "make the colour of {o} {c}",
         "recolour {o} to {c}", "take {c} for {o}", "paint image {i} as image {j}",
         "a picture of {o} in {c}", "{o} should be {c}"),
        ("colour {o} like image {j}", "turn {o} to {c}"),
    ),
    "combine": (
        ("{o} {place} and {o2} {place2} {on}", "put {o} {place} and {o2} {place2} {on}",
         "{on} {o} {place} and {o2} {place2}", "show {o} {place}, {o2} {place2} {on}",
         "{place} {o} and {place2} {o2}, {on}"),
        ("draw {o} {place}, {o2} {place2}, {on}",),
    ),
}  # fmt: skip

_PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "top left": ("at the top left", "in the top left corner"),
    "top": ("at the top",),
    "top right": ("at the top right", "in the top right corner"),
    "left": ("at the left", "on the left"),
    "middle": ("in the middle", "in the centre"),
    "right": ("at the right", "on the right"),
    "bottom left": ("at the bottom left", "in the bottom left corner"),
    "bottom": ("at the bottom",),
    "bottom right": ("at the bottom right", "in the bottom right corner"),
}

# Same meaning, swapped in at random; both sides are in the vocabulary.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "colour": ("color",),
    "colours": ("colors",),
    "recolour": ("recolor",),
    "grey": ("gray",),
    "centre": ("center",),
    "image": ("picture",),
    "background": ("backdrop",),
    "small": ("tiny", "little"),
    "big": ("large",),
}


def say(rng: random.Random, key: str, *, held_out: bool = False, **words: str) -> str:
    """Fill one wording of `key`.

    Args:
        held_out: use a wording that training never sees.
        words: what goes into the braces, by name; `a new` is spelled `a_new`.
    """
    wording = rng.choice(WORDINGS[key][1 if held_out else 0])
    values = {name.replace("_", " "): value for name, value in words.items()}
    text = re.sub(r"\{([a-z0-9 ]+)\}", lambda match: values[match[1]], wording)
    pieces = re.findall(r"\w+|[^\w\s]", text)
    out = ""
    for piece in pieces:
        if piece in _SYNONYMS and rng.random() < 0.2:
            piece = rng.choice(_SYNONYMS[piece])
        out += piece if piece == "," or not out else " " + piece
    return out.strip(" ,")


def article(word: str) -> str:
    """'a word' or 'an word'."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def thing_words(thing: Thing, *, colour: bool = True, size: bool = True) -> str:
    """'small red star'; medium things say nothing about their size."""
    words = [thing.size] if size and thing.size != "medium" else []
    return " ".join([*words, *([thing.colour] if colour else []), thing.shape])


def place_words(rng: random.Random, place: str) -> str:
    """'at the top left'."""
    return rng.choice(_PLACE_WORDS[place])


def background_words(rng: random.Random, scene: Scene) -> str:
    """'on a blue background', or 'on a background from blue to red'."""
    if scene.top == scene.bottom:
        return f"on {article(scene.top)} background"
    return f"on a background from {scene.top} to {scene.bottom}"


def vocabulary() -> list[str]:
    """Every word that training sentences use, sorted; anything else is spelled in bytes."""
    texts = [text for train, _ in WORDINGS.values() for text in train]
    texts += [text for words in _PLACE_WORDS.values() for text in words]
    texts += [word for words in _SYNONYMS.values() for word in words]
    texts += [*_SYNONYMS, *SHAPES, *COLOURS, *BACKGROUNDS, *SIZES, *PLACES]
    texts += ["a an 1 2 3 shape object thing on background from to , . and"]
    plain = " ".join(re.sub(r"\{[a-z0-9 ]+\}", " ", text) for text in texts)
    return sorted(set(re.findall(r"\w+|[^\w\s]", plain)))
