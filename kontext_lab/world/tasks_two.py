"""Tasks with two references: a thing before another background, in another colour, or two together."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from .describing import background_phrase, class_words, kind_words, place_phrase
from .names import HELD_OUT, PLACES, SHAPES, SIZES
from .sample import Ask, Retry, Sample
from .scene import fits, random_scene
from .tasks_global import named_ground
from .thing import Scene, Thing
from .wording import Phrase

_PLACES = tuple(PLACES)
OPPOSITE = (("left", "right"), ("right", "left"), ("top", "bottom"), ("bottom", "top"))
# Where two medium things stand clear of each other; squares reach furthest.
_CLEAR = tuple(
    (one, two)
    for one in PLACES
    for two in PLACES
    if one != two and fits(tuple(Thing("square", "red", "medium", place) for place in (one, two)))
)


def two_scenes(ask: Ask) -> tuple[Scene, Scene]:
    """Two one-thing scenes that differ in everything that a task may carry over."""
    rng = ask.rng
    both = random_scene(rng, 2, held_out=ask.held, unnamed=ask.unnamed)
    a, b = both.things
    if not ask.held and {(a.kind, b.colour), (b.kind, a.colour)} & HELD_OUT:
        raise Retry
    one = replace(both, things=(_anywhere(ask, a),))
    top, bottom, texture = named_ground(rng, {a.colour, b.colour})
    if (top, bottom) == (one.top, one.bottom):
        raise Retry
    two = Scene((_anywhere(ask, b),), top, bottom, texture)
    return (one, two) if rng.random() < 0.5 else (two, one)


def _anywhere(ask: Ask, thing: Thing) -> Thing:
    """The thing as it could be alone in a picture: of any size, at any place."""
    sizes = tuple(SIZES) if thing.kind in SHAPES else ("medium", "big")
    rng, jitter = ask.rng, ask.jitter
    size, place = rng.choice(sizes), rng.choice(_PLACES)
    if not jitter:
        return Thing(thing.kind, thing.colour, size, place)
    dx, dy = rng.uniform(-jitter, jitter), rng.uniform(-jitter, jitter)
    return Thing(thing.kind, thing.colour, size, place, dx, dy)


def _of(rng: random.Random, what: str, image: str, *, used: bool = False) -> str:
    """'the star of image 1', 'image 1's star'."""
    drawn = rng.random()
    if drawn < 0.5:
        return f"the {what} of {image}"
    if drawn < 0.72:
        return f"the {what} from {image}"
    if drawn < 0.84:
        return f"the {what} in {image}"
    if drawn < 0.88 and used:
        return f"the {what} used in {image}"
    return f"{image}'s {what}"


def _noun(ask: Ask, pair: tuple[Scene, Scene], k: int, number: str, general: bool) -> Phrase:
    """What one picture's thing is called.

    With `general` words, the sentence stays true when the pictures change places; otherwise the
    meaning has the mark "named".
    """
    rng = ask.rng
    thing, other = pair[k].things[0], pair[1 - k].things[0]
    classes = class_words(thing.kind)
    if general:
        both = classes if class_words(other.kind) == classes else ()
        return Phrase(rng.choice(("object", "thing", *both)))
    drawn = rng.random()
    if drawn < 0.15:
        return Phrase(rng.choice(classes), {"named": "yes"})
    meaning = {"named": "yes", f"kind{number}": thing.kind}
    text = kind_words(rng, thing.kind)
    if drawn < 0.35 and thing.named:
        text = f"{thing.colour} {text}"
        meaning[f"colour{number}"] = thing.colour
    return Phrase(text, meaning)


def _two(
    ask: Ask, task: str, make: Callable[[Scene, Scene], Scene], **extra: Phrase
) -> Callable[[tuple[Scene, Scene]], Sample]:
    """Say it about a pair; `make(first, second)` builds the answer for roles i, j."""

    def about(pair: tuple[Scene, Scene]) -> Sample:
        rng = ask.rng
        i = rng.randrange(2)
        j = 1 - i
        general = rng.random() < 0.55
        noun, noun2 = _noun(ask, pair, i, "", general), _noun(ask, pair, j, "2", general)
        one, other = f"image {i + 1}", f"image {j + 1}"
        if rng.random() < 0.55:
            colour = Phrase(_of(rng, "colour", other, used=True))
        else:
            text = (
                f"the {noun2.text}'s colour {rng.choice(('of', 'from', 'in'))} {other}"
                if rng.random() < 0.2
                else f"the colour of {_of(rng, noun2.text, other)}"
            )
            # The colour that is given can't be named by another colour word.
            colour = Phrase(text, noun2.meaning)
        swapped = make(pair[j], pair[i])
        sample = ask.sample(
            task, task, pair, make(pair[i], pair[j]), ordered=True, swapped=swapped,
            said={"source": str(i + 1)},
            i=Phrase(str(i + 1)), j=Phrase(str(j + 1)),
            o=Phrase(_of(rng, noun.text, one), noun.meaning),
            o2=Phrase(_of(rng, noun2.text, other), noun2.meaning),
            b=Phrase(_of(rng, "background", other)), c=colour, **extra,
        )  # fmt: skip
        named = sample.meaning.pop("named", None)
        return replace(sample, swapped=None) if named else sample

    return about


def compose(ask: Ask) -> Sample:
    """The thing of one picture on the background of the other."""

    def make(a: Scene, b: Scene) -> Scene:
        return replace(a, top=b.top, bottom=b.bottom, texture=b.texture)

    return _two(ask, "compose", make)(two_scenes(ask))


def transfer(ask: Ask) -> Sample:
    """The picture of one thing in the colour of the other."""

    def make(a: Scene, b: Scene) -> Scene:
        return a.with_thing(0, colour=b.things[0].colour)

    return _two(ask, "transfer", make)(two_scenes(ask))


def combine(ask: Ask) -> Sample:
    """Both things side by side, at named places on a named background."""
    rng = ask.rng
    pair = two_scenes(ask)
    places = rng.choice(OPPOSITE if rng.random() < 0.5 else _CLEAR)
    top, bottom, texture = named_ground(rng, {scene.things[0].colour for scene in pair})

    def make(first: Scene, second: Scene) -> Scene:
        things = tuple(
            replace(scene.things[0], place=place, size="medium", dx=0.0, dy=0.0)
            for scene, place in zip((first, second), places, strict=True)
        )
        if not fits(things):
            raise Retry
        return Scene(things, top, bottom, texture)

    return _two(
        ask, "combine", make, place=place_phrase(rng, places[0]),
        place2=place_phrase(rng, places[1], "2"), on=background_phrase(rng, top, bottom, texture),
    )(pair)  # fmt: skip
