"""Things, places and backgrounds in words, each with what the words mean."""

from __future__ import annotations

import random

from .names import CREATURES, GLYPHS, SHAPES
from .thing import Scene, Thing
from .wording import Phrase, article
from .words import KIND_WORDS, PLACE_WORDS, SIZE_WORDS, TEXTURE_WORDS


def kind_words(rng: random.Random, kind: str, *, bare: bool = True) -> str:
    """'star', 'rabbit', 'letter T', '5'; "A" alone would be read as the article."""
    if kind in GLYPHS:
        drawn = rng.random()
        if bare and kind != "A" and drawn < 0.2:
            return kind
        if kind.isdigit():
            return f"{'number' if drawn < 0.6 else 'digit'} {kind}"
        return f"{'letter' if drawn < 0.9 else 'capital'} {kind}"
    if kind in KIND_WORDS and rng.random() < 0.08:
        return rng.choice(KIND_WORDS[kind])
    return kind


def class_words(kind: str) -> tuple[str, ...]:
    """What a thing can be called without saying which kind it is."""
    if kind in SHAPES:
        return ("shape",)
    if kind in CREATURES:
        return ("character", "creature", "figure")
    return ("number", "digit") if kind.isdigit() else ("letter",)


def thing_phrase(
    rng: random.Random, thing: Thing, number: str = "", *, size: bool = True
) -> Phrase:
    """'a small red star'; a medium size mostly goes unsaid, and so does what has no name.

    Args:
        number: which slots the meaning fills: "", "2" or "3".
        size: False leaves the size unsaid.
    """
    meaning = {f"kind{number}": thing.kind}
    words = []
    if size and (thing.size != "medium" or rng.random() < 0.08):
        words.append(rng.choice(SIZE_WORDS[thing.size]))
        meaning[f"size{number}"] = thing.size
    if thing.named:
        words.append(thing.colour)
        meaning[f"colour{number}"] = thing.colour
    words.append(kind_words(rng, thing.kind))
    return Phrase(article(" ".join(words)), meaning)


def point_at(
    rng: random.Random, scene: Scene, index: int, number: str = "", *, full: bool = False
) -> Phrase | None:
    """How a sentence points at a thing after "the": 'red star', 'star', 'red one', 'character'.

    Only words that fit no other thing of the scene. `full` always names the kind, and the
    colour if that has a name. None where there are no such words.
    """
    thing = scene.things[index]
    others = scene.things[:index] + scene.things[index + 1 :]
    if any((other.kind, other.colour) == (thing.kind, thing.colour) for other in others):
        return None
    lone_kind = all(other.kind != thing.kind for other in others)
    lone_colour = all(other.colour != thing.colour for other in others)
    kind, colour = f"kind{number}", f"colour{number}"
    drawn = 1.0 if full else rng.random()
    if drawn < 0.1 and lone_colour and thing.named:
        noun = rng.choice((*class_words(thing.kind), "thing", "object", "one"))
        return Phrase(f"{thing.colour} {noun}", {colour: thing.colour})
    if drawn < 0.18:
        names = class_words(thing.kind)
        if not any(class_words(other.kind) == names for other in others):
            return Phrase(rng.choice(names), {})
    if drawn < 0.22 and not others:
        return Phrase(rng.choice(("thing", "object")), {})
    if lone_kind and (drawn < 0.4 or not thing.named):
        return Phrase(kind_words(rng, thing.kind), {kind: thing.kind})
    if not thing.named:
        return None
    meaning = {kind: thing.kind, colour: thing.colour}
    return Phrase(f"{thing.colour} {kind_words(rng, thing.kind)}", meaning)


def place_phrase(rng: random.Random, place: str, number: str = "") -> Phrase:
    """'at the top left'."""
    preposition, where = rng.choice(PLACE_WORDS[place])
    return Phrase(f"{preposition} {where}", {f"place{number}": place})


def to_phrase(rng: random.Random, place: str) -> Phrase:
    """'to the top left'."""
    return Phrase(f"to {rng.choice(PLACE_WORDS[place])[1]}", {"place": place})


def background_words(rng: random.Random, top: str, texture: str, *, named: bool = False) -> Phrase:
    """'blue', 'striped blue': what stands before "background". `named` says "plain" as well."""
    meaning = {"top": top, "bottom": top}
    if texture == "plain" and not named:
        return Phrase(top, meaning)
    word = rng.choice(TEXTURE_WORDS[texture][0])
    return Phrase(f"{word} {top}", {**meaning, "texture": texture})


def background_phrase(
    rng: random.Random, top: str, bottom: str, texture: str = "plain", *, named: bool = False
) -> Phrase:
    """'on a blue background', 'on a striped background from blue to red'.

    Args:
        named: say "plain" for a plain texture.
    """
    meaning = {"top": top, "bottom": bottom}
    before, after = "", ""
    if texture != "plain" or named or rng.random() < 0.05:
        meaning["texture"] = texture
        adjectives, phrases = TEXTURE_WORDS[texture]
        if rng.random() < 0.2 and top == bottom:
            after = " " + rng.choice(phrases)
        else:
            before = rng.choice(adjectives) + " "
    on = rng.choices(("on", "against", "in front of"), (0.82, 0.1, 0.08))[0]
    if top == bottom:
        return Phrase(f"{on} {article(before + top)} background{after}", meaning)
    how = rng.random()
    if how < 0.55:
        text = f"{article(before + 'background')} from {top} to {bottom}"
    elif how < 0.7:
        text = f"{article(before + 'background')} that goes from {top} to {bottom}"
    elif how < 0.85:
        text = f"{article(before + 'gradient')} from {top} to {bottom}"
    else:
        text = f"{article(before + 'background')}, {top} at the top and {bottom} at the bottom"
    return Phrase(f"{on} {text}", meaning)
