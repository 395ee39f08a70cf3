"""How the world talks: many ways to say one thing, some of them never used in training.

The sentences are in `phrases_*.py`, single words in `words.py`. Every
phrase carries what it means, slot by slot, so that the meaning of a sentence is exactly what its
wording says and nothing that only the pictures show.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from kontext_core.errors import InputError

from .names import BACKGROUNDS, COLOURS, GLYPHS, KINDS, LOOKS, PLACES, SIZES, STYLES
from .names import TEXTURES as _TEXTURES
from .phrases_fresh_boxes import BOXES
from .phrases_fresh_looks import LIGHT
from .phrases_fresh_things import THINGS
from .phrases_fresh_two import TWO
from .phrases_fresh_whole import WHOLE
from .phrases_global import GLOBAL
from .phrases_local import LOCAL
from .phrases_more import MORE
from .words import (
    COMMON,
    DETERMINERS,
    IMAGES,
    KIND_WORDS,
    LOOK_WORDS,
    NEUTRAL_PREFIXES,
    PLACE_WORDS,
    PREFIXES,
    SIZE_WORDS,
    STYLE_WORDS,
    SUFFIXES,
    SUFFIXES_EDIT,
    SYNONYMS,
    TEXTURE_WORDS,
    VERBS,
)

_FRESH = {**THINGS, **BOXES, **WHOLE, **LIGHT, **TWO}

# Key to (wordings for training, held-out wordings).
WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    key: (train + MORE[key] + _FRESH[key][0], held + _FRESH[key][1])
    for key, (train, held) in {**LOCAL, **GLOBAL}.items()
}

TASK_NAMES = (
    "text_to_image", "recolour", "recolour_all", "replace", "add", "remove", "move", "resize",
    "background", "look", "character", "style", "text", "box_remove", "box_recolour",
    "box_replace", "box_add", "compose", "transfer", "combine",
)  # fmt: skip


def _values(*values: str) -> tuple[str, ...]:
    return ("none", *values)


# What a sentence can say. The plain slots are about the thing pointed at or described first, 2
# and 3 about the next ones; "none" where a sentence doesn't say it.
SLOT_VALUES: dict[str, tuple[str, ...]] = {
    "task": _values(*TASK_NAMES),
    "kind": _values(*KINDS),
    "colour": _values(*COLOURS),
    "size": _values(*SIZES, "bigger", "smaller"),
    "place": _values(*PLACES),
    "new_kind": _values(*KINDS),
    "new_colour": _values(*COLOURS),
    **{
        f"{name}{number}": _values(*values)
        for number in (2, 3)
        for name, values in (
            ("kind", KINDS), ("colour", COLOURS), ("size", SIZES), ("place", PLACES),
        )
    },
    "new_colour2": _values(*COLOURS),
    "top": _values(*BACKGROUNDS),
    "bottom": _values(*BACKGROUNDS),
    "texture": _values(*_TEXTURES),
    "look": _values(*LOOKS),
    "style": _values(*STYLES),
    "source": _values("1", "2"),
}  # fmt: skip
SLOTS = tuple(SLOT_VALUES)

# Tasks that leave the rest of the picture alone, so that a sentence may ask for it.
_EDITS = frozenset(LOCAL) | {"background", "gradient"}
_TWO = frozenset({"compose", "transfer", "combine"})
_NOUNS = frozenset("letter number digit character symbol glyph sign numeral capital".split())
_PIECES = re.compile(r"\{([a-z0-9 ]+)\}|\[([^\]]*)\]")
_QUESTIONS = frozenset(p for p in PREFIXES if "can " in p or "could " in p or "would you" in p)


class Phrase(NamedTuple):
    """Words for one brace of a wording, and what they mean: slot to value."""

    text: str
    meaning: Mapping[str, str] = {}  # noqa: RUF012  (never written to)


class _Hole(NamedTuple):
    """A brace: its name, and whether "a" or another determiner or a noun stands before it."""

    name: str
    before: str


@lru_cache(maxsize=8192)
def _parsed(wording: str) -> tuple[str | tuple[str, ...] | _Hole, ...]:
    parts: list[str | tuple[str, ...] | _Hole] = []
    end = 0
    for match in [*_PIECES.finditer(wording), None]:
        literal = wording[end : match.start() if match else len(wording)]
        before = ""
        if match and match[1]:
            words = wording[: match.start()].rsplit("}", 1)[-1].lower().split()
            last = words[-1] if words else ""
            if literal.endswith((" a ", " an ")) or literal in ("a ", "an "):
                literal, before = literal.rstrip()[: -len(last)], "article"
            elif last in _NOUNS:
                before = "noun"
            elif DETERMINERS.intersection(words[-2:]) and not literal.rstrip().endswith(","):
                before = "determiner"
        if literal:
            parts.append(literal)
        if match:
            end = match.end()
            parts.append(_Hole(match[1], before) if match[1] else tuple(match[2].split("|")))
    return tuple(parts)


def article(word: str) -> str:
    """'a word' or 'an word'; single letters are read by their names: 'an X'."""
    first = word.split(" ", 1)[0]
    vowel = first in "AEFHILMNORSX" if len(first) == 1 else first[0].lower() in "aeiou"
    return ("an " if vowel else "a ") + word


def _glyph_words(rng: random.Random, hole: _Hole, text: str) -> str:
    """A glyph, said with the article that its place in the wording lacks."""
    if hole.before == "noun":
        return text.rsplit(" ", 1)[-1]
    if hole.before == "article":
        return article(text)
    if hole.before == "determiner":
        return text
    if hole.name == "old":
        return "the " + text
    if text in GLYPHS:
        # "a" alone would be read as the article.
        return text if text != "A" and rng.random() < 0.5 else article(text)
    return "the " + text if rng.random() < 0.6 else article(text)


def _varied(rng: random.Random, text: str) -> str:
    """Some words replaced by their synonyms."""
    words = text.split(" ")
    for i, word in enumerate(words):
        if word in SYNONYMS and rng.random() < 0.18:
            new = rng.choice(SYNONYMS[word])
            # "a picture" is not "a image".
            if not (i and words[i - 1] == "a" and new[0] in "aeiou"):
                words[i] = new
    return " ".join(words)


def _polite(rng: random.Random, key: str, text: str) -> str:
    """The sentence with what people put around it."""
    request = re.split(r"[ ,:]", text, maxsplit=1)[0] in VERBS
    drawn = rng.random()
    closed = text.endswith("?") or "please" in text
    if drawn < (0.3 if request else 0.1):
        prefix = rng.choice(PREFIXES if request else NEUTRAL_PREFIXES)
        if not (closed and "please" in prefix):
            text = f"{prefix} {text}"
            if prefix in _QUESTIONS and not closed and rng.random() < 0.6:
                return text + "?"
    if not closed and rng.random() < 0.16:
        edit = request and key in _EDITS and rng.random() < 0.5
        text = f"{text} {rng.choice(SUFFIXES_EDIT if edit else SUFFIXES)}"
    if rng.random() < 0.035:
        strewn = " ".join(rng.choices(_FILLERS, k=rng.randint(1, 2)))
        text = f"{strewn}, {text}" if rng.random() < 0.5 else f"{text}, {strewn}"
    return text


def _name_images(rng: random.Random, text: str) -> str:
    """Another name for "image 1" and "image 2", the same kind of name for both."""
    if rng.random() < 0.5:
        return text
    one, two = rng.choice(IMAGES)
    return text.replace("image 1", one).replace("image 2", two)


def say(
    rng: random.Random,
    key: str,
    phrases: Mapping[str, Phrase],
    *,
    held_out: bool = False,
    wordings: Mapping[str, Sequence[str]] | None = None,
) -> tuple[str, dict[str, str]]:
    """Fill one wording of `key`.

    Args:
        phrases: what goes into the braces, by name; `a new` is spelled `a_new`.
        held_out: use a wording that training never sees.
        wordings: sentences to use instead, by key, with the same braces. They and the held-out
            ones stay as they are; those of training get synonyms and politeness.

    Returns the sentence and what it means, only the slots it fills.
    Raises InputError where a wording has an unknown brace or `wordings` lacks the key.
    """
    if wordings is not None:
        if not wordings.get(key):
            raise InputError(f"no wording for {key!r}; give at least one sentence for every key")
        wording = rng.choice(wordings[key])
    else:
        wording = rng.choice(WORDINGS[key][1 if held_out else 0])
    meaning: dict[str, str] = {}
    out = ""
    for part in _parsed(wording):
        if isinstance(part, str):
            out += part
        elif isinstance(part, _Hole):
            phrase = phrases.get(part.name.replace(" ", "_"))
            if phrase is None:
                raise InputError(
                    f"the wording {wording!r} has a brace {part.name!r}; {key} knows "
                    f"{', '.join(phrases) or 'none'}"
                )
            text = phrase.text
            if key == "text":
                text = _glyph_words(rng, part, text)
            elif part.before == "article":
                text = article(text)
            out += text
            meaning.update(phrase.meaning)
        else:
            out += rng.choice(part)
    if wordings is None and not held_out:
        out = _polite(rng, key, _varied(rng, out))
    if key in _TWO:
        out = re.sub(r"\bthe the ", "the ", _name_images(rng, out))
    out = " ".join(out.split())
    for mark in ",.!?;:":
        out = out.replace(" " + mark, mark)
    return out.replace(",,", ","), meaning


_SWAPS = {
    "1": "2", "2": "1", "one": "two", "two": "one", "first": "second", "second": "first",
    "1st": "2nd", "2nd": "1st",
}  # fmt: skip
_NUMBERED = re.compile(
    r"(\b(?:image|picture|photo|reference|input|img)s?(?: number)? #?)(one|two)\b"
    r"|\b(1|2|first|second|1st|2nd)\b"
)


def swap_images(prompt: str) -> str:
    """The same sentence with image 1 and image 2 exchanged, however it names them."""
    return _NUMBERED.sub(
        lambda match: (match[1] + _SWAPS[match[2]]) if match[2] else _SWAPS[match[3]], prompt
    )


def _texts() -> list[str]:
    """Everything that training sentences are made of, braces taken out."""
    texts = [text for train, _ in WORDINGS.values() for text in train]
    texts += [f"{a} {b} to" for words in PLACE_WORDS.values() for a, b in words]
    tables = (SYNONYMS, SIZE_WORDS, KIND_WORDS, LOOK_WORDS, STYLE_WORDS)
    texts += [word for table in tables for words in table.values() for word in words]
    texts += [word for pair in TEXTURE_WORDS.values() for words in pair for word in words]
    texts += [name for pair in IMAGES for name in pair]
    texts += [*PREFIXES, *NEUTRAL_PREFIXES, *SUFFIXES, *SUFFIXES_EDIT, *SYNONYMS]
    texts += [*KINDS, *COLOURS, *BACKGROUNDS, *SIZES, *PLACES, *_TEXTURES]
    texts += [
        "a an 1 2 one shape object thing on against in front of over background from fading at",
        "the top bottom to and gradient ground that goes character creature figure animal letter",
        "number digit capital this same together with next to along version of large medium-sized",
        "bigger smaller picture image's colour used item , . ! ? ; : ' - # with symbol plain",
        "of from in s drawn",
    ]
    return [re.sub(r"\{[a-z0-9 ]+\}|[\[\]|]", " ", text).lower() for text in texts]


def _words(texts: Sequence[str]) -> set[str]:
    return set(re.findall(r"\w+|[^\w\s]", " ".join(texts)))


def vocabulary() -> list[str]:
    """Every word of training sentences and common words besides, sorted, in lower case."""
    return sorted(_words(_texts()) | _words(COMMON))


_FILLERS = sorted(_words(COMMON) - _words(_texts()) - {"'"})
