"""The questions: each asked twice, with the references exchanged and the same words.

Only the order of the pictures tells the two apart, and their right answers differ, so that whoever
takes no notice of it is right in one of the two at most.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from kontext_core.checks import check_whole
from kontext_core.errors import InputError

from ..world.names import COLOURS
from ..world.render import render
from ..world.sample import Ask, Retry, Sample
from ..world.scene import clear_grounds, fits, random_scene
from ..world.tasks_two import OPPOSITE, two_scenes
from ..world.thing import Scene
from .layouts import FALLING, RISING, SIDE_BY_SIDE, STACKED, PageLayout, arranged, smaller

# What the words call references by name; the world draws none of these.
NAMES = ("the postcard", "the poster", "the flyer", "the stamp", "the sketch", "the snapshot")
SMALLEST, LARGEST = 64, 2048

_COMPOSE = (
    "Show the object of image {i} in front of the background of image {j}.",
    "Keep the object of image {i} as it is, but give it the background of image {j}.",
    "Put the object of image {i} on the background of image {j}.",
    "Use the background of image {j} for the object of image {i}.",
)
_TRANSFER = (
    "Paint the object of image {i} in the colour of the object of image {j}.",
    "Keep image {i} as it is, but give its object the colour of the object of image {j}.",
    "Show the object of image {i} with the colour of the object of image {j}.",
)
_COMBINE = (
    "Put the object of image {i} at the {place} and the object of image {j} at the {place2}, on a "
    "plain {ground} background.",
    "On a plain {ground} background, show the object of image {i} at the {place} and the object of "
    "image {j} at the {place2}.",
)
_THREE = (
    "Show the object of image {i} in the colour of the object of image {j}, in front of the "
    "background of image {k}.",
    "Take the object of image {i}, the colour of the object of image {j} and the background of image "
    "{k}.",
)
_RECOLOUR = (
    "Give back image {i} with its object painted {colour}.",
    "Change only image {i}: paint its object {colour}.",
)
_GROUND = (
    "Give back image {i} with a plain {colour} background.",
    "Change only image {i}: make its background plain {colour}.",
)


@dataclass(frozen=True, eq=False)
class Question:
    """One case.

    Attributes:
        key: "0001a"; its twin "0001b" has the pictures exchanged.
        category: one of `CATEGORIES`.
        instruction: all that a pipeline needs to be told.
        request: the instruction without the sentence that gives names, for a pipeline that is told
            them otherwise; the instruction itself where there are none.
        names: of image 1, image 2, ...; empty where the words go by number or place.
        layout: "separate", or the name of the `PageLayout` that all pictures stand in.
        scenes: shown, in their order.
        sample: what the judge reads: the right answer, and as `swapped` that of the twin.
        small: whether the second picture is half as large.
        seed: for a pipeline's noise.
    """

    key: str
    category: str
    instruction: str
    request: str
    names: tuple[str, ...]
    layout: str
    scenes: tuple[Scene, ...]
    sample: Sample
    small: bool
    seed: int

    @property
    def pair(self) -> str:
        """What the two twins have in common."""
        return self.key[:-1]

    def pictures(self, side: int) -> list[Tensor]:
        """What a pipeline is shown, [3, h, w] in 0..1 each, from scenes of side x side pixels."""
        drawn = list(render(self.scenes, side, side))
        if self.layout != "separate":
            return [arranged(_LAYOUTS[self.layout], drawn)]
        if self.small:
            drawn[1] = smaller(drawn[1], side // 2)
        return drawn

    def target(self, side: int) -> Tensor:
        """The right answer, [3, side, side]."""
        return render([self.sample.target], side, side)[0]


_LAYOUTS = {layout.name: layout for layout in (SIDE_BY_SIDE, STACKED, FALLING, RISING)}


@dataclass(frozen=True)
class _Asked:
    """A sentence about "image 1", "image 2", ... and the answers before and after the exchange."""

    text: str
    scenes: tuple[Scene, ...]
    task: str
    target: Scene
    exchanged: Scene
    # What the judge compares with, the edited scene first, before and after the exchange.
    about: tuple[tuple[Scene, ...], tuple[Scene, ...]]


def _filled(
    rng: random.Random, sentences: Sequence[str], numbers: Sequence[int], **words: str
) -> str:
    images = {name: str(n + 1) for name, n in zip("ijk", numbers, strict=False)}
    return rng.choice(sentences).format(**images, **words)


def _compose(rng: random.Random) -> _Asked:
    def make(a: Scene, b: Scene) -> Scene:
        return replace(a, top=b.top, bottom=b.bottom, texture=b.texture)

    return _of_two(rng, "compose", _COMPOSE, make)


def _transfer(rng: random.Random) -> _Asked:
    def make(a: Scene, b: Scene) -> Scene:
        return a.with_thing(0, colour=b.things[0].colour)

    return _of_two(rng, "transfer", _TRANSFER, make)


def _combine(rng: random.Random) -> _Asked:
    places = rng.choice(OPPOSITE)
    shades: list[str] = []

    def make(a: Scene, b: Scene) -> Scene:
        if not shades:
            shades.append(rng.choice(clear_grounds({a.things[0].colour, b.things[0].colour})))
        things = tuple(
            replace(one.things[0], place=place, size="medium", dx=0.0, dy=0.0)
            for one, place in zip((a, b), places, strict=True)
        )
        if not fits(things):
            raise Retry
        return Scene(things, shades[0], shades[0])

    return _of_two(rng, "combine", _COMBINE, make, place=places[0], place2=places[1], shades=shades)


def _of_two(
    rng: random.Random, task: str, sentences: Sequence[str], make: Callable[[Scene, Scene], Scene],
    shades: Sequence[str] = (), **words: str,
) -> _Asked:  # fmt: skip
    scenes = two_scenes(Ask(rng, held=True))
    i = rng.randrange(2)
    one, other = scenes[i], scenes[1 - i]
    target, exchanged = make(one, other), make(other, one)
    if shades:
        words["ground"] = shades[0]
    text = _filled(rng, sentences, (i, 1 - i), **words)
    return _Asked(text, scenes, task, target, exchanged, (scenes, scenes[::-1]))


def _three(rng: random.Random) -> _Asked:
    """Thing, colour and background from three pictures; the first two roles are exchanged."""
    first, second = two_scenes(Ask(rng, held=True))
    used = {(scene.top, scene.bottom) for scene in (first, second)}
    third = random_scene(rng, 1, gradient=0.2)
    worn = {scene.things[0].colour for scene in (first, second)}
    kinds = {scene.things[0].kind for scene in (first, second)}
    odd = third.things[0]
    if odd.kind in kinds or odd.colour in worn or (third.top, third.bottom) in used:
        raise Retry
    if not {third.top, third.bottom} <= set(clear_grounds(worn)):
        raise Retry
    roles = [0, 1, 2]
    rng.shuffle(roles)
    by_role = (first, second, third)
    scenes = tuple(by_role[roles.index(place)] for place in range(3))

    def make(a: Scene, b: Scene) -> Scene:
        changed = a.with_thing(0, colour=b.things[0].colour)
        return replace(changed, top=third.top, bottom=third.bottom, texture=third.texture)

    text = _filled(rng, _THREE, roles)
    about = (scenes, scenes)
    return _Asked(text, scenes, "transfer", make(first, second), make(second, first), about)


def _edit_one(rng: random.Random) -> _Asked:
    """An edit of one of two pictures; the other one is of no concern."""
    scenes = two_scenes(Ask(rng, held=True))
    i = rng.randrange(2)
    worn = {scene.things[0].colour for scene in scenes}
    grounds = {ground for scene in scenes for ground in (scene.top, scene.bottom)}
    if rng.random() < 0.5:
        colour = rng.choice([name for name in COLOURS if name not in worn | grounds])
        targets = [scene.with_thing(0, colour=colour) for scene in scenes]
        text, task = _filled(rng, _RECOLOUR, (i,), colour=colour), "recolour"
    else:
        colour = rng.choice([name for name in clear_grounds(worn) if name not in grounds])
        targets = [replace(s, top=colour, bottom=colour, texture="plain") for s in scenes]
        text, task = _filled(rng, _GROUND, (i,), colour=colour), "background"
    # The edited one first, since the judge compares it with what is to stay.
    about = ((scenes[i],), (scenes[1 - i],))
    return _Asked(text, scenes, task, targets[i], targets[1 - i], about)


def _of_any(rng: random.Random) -> _Asked:
    return rng.choice((_compose, _transfer, _combine))(rng)


# By category: what is asked, and how it is shown.
CATEGORIES: dict[str, tuple[Callable[[random.Random], _Asked], str]] = {
    "Order - Scene and Object": (_compose, "separate"),
    "Order - Colour Source": (_transfer, "separate"),
    "Order - Two Objects": (_combine, "separate"),
    "Order - Three References": (_three, "separate"),
    "Order - Edit One of Two": (_edit_one, "separate"),
    "Named References": (_of_any, "named"),
    "Layout - Unequal Sizes": (_of_any, "small"),
    "Layout - Side by Side": (_of_any, SIDE_BY_SIDE.name),
    "Layout - Stacked": (_of_any, STACKED.name),
    "Layout - Canvas": (_of_any, "canvas"),
}


def make_questions(count: int = 500, seed: int = 0) -> list[Question]:
    """`count` questions, two and two twins, one pair a category in turn.

    The first of them are the same for any larger count.

    Raises:
        InputError: an odd count, or one outside 2..9998.
    """
    check_whole(count, "cases", 2, 9998)
    if count % 2:
        raise InputError(f"cases is {count}; expected an even number, since every case has a twin")
    names = list(CATEGORIES)
    found: list[Question] = []
    for number in range(count // 2):
        found += _twins(number, names[number % len(names)], seed)
    return found


def _twins(number: int, category: str, seed: int) -> tuple[Question, Question]:
    rng = random.Random(f"{seed}/anchor/{number}")
    make, shown = CATEGORIES[category]
    while True:
        try:
            asked = make(rng)
        except (Retry, IndexError, InputError):
            # What was drawn leaves no colour or place; draw again.
            continue
        if asked.target != asked.exchanged and _seen(asked.target, asked.exchanged):
            break
    names = tuple(rng.sample(NAMES, len(asked.scenes))) if shown == "named" else ()
    layout = rng.choice((FALLING, RISING)).name if shown == "canvas" else shown
    instruction, request = _worded(asked.text, names, _LAYOUTS.get(layout))
    pair = f"{number + 1:04d}"
    one = Question(
        f"{pair}a", category, instruction, request, names,
        layout if layout in _LAYOUTS else "separate", asked.scenes,
        Sample(asked.task, request, asked.about[0], asked.target, True, asked.exchanged),
        shown == "small", zlib.crc32(f"{seed}/anchor/{number}".encode()),
    )  # fmt: skip
    turned = _turned(asked)
    other = replace(
        one, key=f"{pair}b", scenes=turned,
        sample=Sample(asked.task, request, asked.about[1], asked.exchanged, True, asked.target),
    )  # fmt: skip
    return one, other


def _turned(asked: _Asked) -> tuple[Scene, ...]:
    """The pictures with those two exchanged that the two answers come from."""
    if len(asked.scenes) == 2:
        return asked.scenes[::-1]
    kind = asked.target.things[0].kind
    other = asked.exchanged.things[0].kind
    places = {scene.things[0].kind: place for place, scene in enumerate(asked.scenes)}
    scenes = list(asked.scenes)
    i, j = places[kind], places[other]
    scenes[i], scenes[j] = scenes[j], scenes[i]
    return tuple(scenes)


def _seen(one: Scene, other: Scene) -> bool:
    """Whether the two answers differ enough to be told apart (0.05 of 1, root mean square)."""
    a, b = render([one, other])
    return float((a - b).square().mean().sqrt()) > 0.05


def _worded(text: str, names: Sequence[str], layout: PageLayout | None) -> tuple[str, str]:
    """(instruction, request) with names or places in place of numbers."""
    calls = list(names) or (list(layout.calls) if layout else [])
    if not calls:
        return text, text
    request = re.sub(r"image (\d)", lambda match: calls[int(match[1]) - 1], text)
    if layout:
        return f"{layout.introduction} {request} Give back one square picture.", request
    called = " and ".join(f'image {n} "{name}"' for n, name in enumerate(names, 1))
    return f"Call {called}. {request}", request
