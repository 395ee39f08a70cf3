"""Tasks: an instruction, the pictures it speaks about, and the one picture that is right.

Where the instruction has an order that matters, the sample says so; where exchanging the two
references has one right answer, the sample carries it, for the probes in `evaluation/`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from .scene import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    fits,
    free_places,
    random_scene,
    random_thing,
)
from .wording import article, background_words, place_words, say, thing_words

__all__ = ["CATEGORIES", "TASKS", "Sample", "make_sample"]

JITTER = 0.03


@dataclass(frozen=True)
class Sample:
    """One training or test case.

    Attributes:
        task: name in `TASKS`.
        prompt: the instruction.
        references: scenes of image 1, image 2, ...
        target: the right answer.
        ordered: whether the same words in another order mean something else.
        swapped: the right answer when "1" and "2" change places in the words, or the two
            references do; None where there is none.
    """

    task: str
    prompt: str
    references: tuple[Scene, ...]
    target: Scene
    ordered: bool = False
    swapped: Scene | None = None


def _text_to_image(rng: random.Random, held: bool) -> Sample:
    count = rng.choices((1, 2, 3), (0.35, 0.5, 0.15))[0]
    scene = random_scene(rng, count, held_out=held)
    phrases = []
    for thing in scene.things:
        # Now and then the place is left to the model.
        where = "" if rng.random() < 0.06 else " " + place_words(rng, thing.place)
        phrases.append(article(thing_words(thing)) + where)
    things = ", ".join(phrases[:-1]) + " and " + phrases[-1] if count > 1 else phrases[0]
    on = background_words(rng, scene)
    return Sample(
        "text_to_image", say(rng, "scene", held_out=held, things=things, on=on), (), scene,
        ordered=count > 1,
    )  # fmt: skip


def _edited(rng: random.Random, held: bool, count: tuple[int, ...] = (1, 2, 2, 3)) -> Scene:
    return random_scene(rng, rng.choice(count), held_out=held, jitter=JITTER)


def _name(rng: random.Random, scene: Scene, index: int) -> str:
    """How a sentence points at a thing: 'red star', or 'star' now and then."""
    return thing_words(scene.things[index], colour=rng.random() < 0.75, size=False)


def _other_colour(rng: random.Random, scene: Scene, shape: str, held: bool) -> str:
    used = {thing.colour for thing in scene.things} | {scene.top, scene.bottom}
    free = [c for c in COLOURS if c not in used and (held or (shape, c) not in HELD_OUT)]
    return rng.choice(free)


def _recolour(rng: random.Random, held: bool) -> Sample:
    scene = _edited(rng, held)
    index = rng.randrange(len(scene.things))
    thing = scene.things[index]
    others = [t.colour for i, t in enumerate(scene.things) if i != index]
    # Half of the time the new colour is one that is in the picture already, so that "make the
    # red star blue" and "make the blue star red" are both sensible and the order decides.
    shared = [c for c in others if held or (thing.shape, c) not in HELD_OUT]
    ordered = bool(shared) and rng.random() < 0.6
    new = rng.choice(shared) if ordered else _other_colour(rng, scene, thing.shape, held)
    old = thing_words(thing, size=False) if ordered else _name(rng, scene, index)
    prompt = say(rng, "recolour", held_out=held, old=old, new=new)
    target = scene.with_thing(index, colour=new)
    return Sample("recolour", prompt, (scene,), target, ordered=ordered)


def _recolour_all(rng: random.Random, held: bool) -> Sample:
    scene = _edited(rng, held, (2,))
    one, two = scene.things
    new = _other_colour(rng, scene, one.shape, held)
    new2 = _other_colour(rng, scene, two.shape, held)
    while new2 == new:
        new, new2 = (_other_colour(rng, scene, thing.shape, held) for thing in (one, two))
    first, second = ((0, new), (1, new2)) if rng.random() < 0.5 else ((1, new2), (0, new))
    prompt = say(
        rng, "recolour_all", held_out=held, old=_name(rng, scene, first[0]), new=first[1],
        old2=_name(rng, scene, second[0]), new2=second[1],
    )  # fmt: skip
    target = scene.with_thing(0, colour=new).with_thing(1, colour=new2)
    return Sample("recolour", prompt, (scene,), target, ordered=True)


def _replace(rng: random.Random, held: bool) -> Sample:
    scene = _edited(rng, held)
    index = rng.randrange(len(scene.things))
    thing = scene.things[index]
    others = [t.shape for i, t in enumerate(scene.things) if i != index]
    possible = [
        s for s in SHAPES if s != thing.shape and (held or (s, thing.colour) not in HELD_OUT)
    ]
    shared = [s for s in possible if s in others]
    ordered = bool(shared) and rng.random() < 0.6
    new = rng.choice(shared if ordered else [s for s in possible if s not in others])
    prompt = say(rng, "replace", held_out=held, old=_name(rng, scene, index), new=new)
    target = scene.with_thing(index, shape=new)
    return Sample("replace", prompt, (scene,), target, ordered=ordered)


def _add(rng: random.Random, held: bool) -> Sample:
    scene = _edited(rng, False, (1, 1, 2))
    if any(thing.size == "big" for thing in scene.things):
        scene = scene.with_thing(0, size="medium")
    thing = random_thing(
        rng, scene.things, held_out=held, backgrounds=(scene.top, scene.bottom),
        sizes=("small", "medium"),
    )  # fmt: skip
    prompt = say(
        rng, "add", held_out=held, thing=article(thing_words(thing)),
        place=place_words(rng, thing.place),
    )  # fmt: skip
    target = replace(scene, things=(*scene.things, thing))
    return Sample("add", prompt, (scene,), target, ordered=len(scene.things) > 1)


def _remove(rng: random.Random, held: bool) -> Sample:
    scene = _edited(rng, held, (2, 2, 3))
    index = rng.randrange(len(scene.things))
    prompt = say(rng, "remove", held_out=held, old=_name(rng, scene, index))
    return Sample("remove", prompt, (scene,), scene.without(index))


def _move(rng: random.Random, held: bool) -> Sample:
    while True:
        scene = _edited(rng, held, (1, 1, 2))
        index = rng.randrange(len(scene.things))
        thing = scene.things[index]
        rest = scene.without(index).things
        places = [p for p in free_places(rest, thing.size) if p != thing.place]
        if places:
            break
    place = rng.choice(places)
    where = place_words(rng, place)
    to = "to" + where[2:] if where[:2] in ("at", "in", "on") else "to " + where
    prompt = say(rng, "move", held_out=held, old=_name(rng, scene, index), place=where, to=to)
    return Sample("move", prompt, (scene,), scene.with_thing(index, place=place, dx=0.0, dy=0.0))


def _resize(rng: random.Random, held: bool) -> Sample:
    names = list(SIZES)
    while True:
        scene = _edited(rng, held, (1, 1, 2))
        index = rng.randrange(len(scene.things))
        now = names.index(scene.things[index].size)
        step = rng.choice((-1, 1))
        if 0 <= now + step < len(names):
            target = scene.with_thing(index, size=names[now + step])
            if fits(target.things):
                break
    key = "bigger" if step > 0 else "smaller"
    prompt = say(rng, key, held_out=held, old=_name(rng, scene, index))
    return Sample("resize", prompt, (scene,), target)


def _background(rng: random.Random, held: bool) -> Sample:
    scene = _edited(rng, held)
    used = {thing.colour for thing in scene.things} | {scene.top, scene.bottom}
    new = rng.choice([name for name in BACKGROUNDS if name not in used])
    if rng.random() < 0.6:
        prompt = say(
            rng, "background", held_out=held, new=new, a_new=article(new),
            on=f"on {article(new)} background",
        )  # fmt: skip
        return Sample("background", prompt, (scene,), replace(scene, top=new, bottom=new))
    bottom = rng.choice([name for name in BACKGROUNDS if name not in used | {new}])
    prompt = say(rng, "gradient", held_out=held, top=new, bottom=bottom)
    target = replace(scene, top=new, bottom=bottom)
    return Sample("background", prompt, (scene,), target, ordered=True)


def _look(rng: random.Random, held: bool) -> Sample:
    scene = _edited(rng, held)
    look = rng.choice(("night", "grey", "inverted"))
    return Sample("look", say(rng, look, held_out=held), (scene,), replace(scene, look=look))


def _noun(rng: random.Random, thing: Thing, general: bool) -> str:
    return rng.choice(("shape", "object")) if general or rng.random() < 0.5 else thing.shape


def _pair(rng: random.Random, held: bool) -> tuple[Scene, Scene]:
    """Two one-thing scenes that differ in everything that a task may carry over."""
    while True:
        one = random_scene(rng, 1, held_out=held, jitter=JITTER)
        two = random_scene(rng, 1, jitter=JITTER)
        a, b = one.things[0], two.things[0]
        colours = {a.colour, b.colour}
        clash = colours & {one.top, one.bottom, two.top, two.bottom}
        if a.shape == b.shape or len(colours) < 2 or clash or (one.top, one.bottom) == (
            two.top, two.bottom
        ):  # fmt: skip
            continue
        if not held and {(a.shape, b.colour), (b.shape, a.colour)} & HELD_OUT:
            continue
        return one, two


def _two(rng: random.Random, held: bool, task: str, make: Callable[..., Scene]) -> Sample:
    """A two-reference sample; `make(first, second)` builds the answer for roles i, j."""
    pair = _pair(rng, held)
    if rng.random() < 0.5:
        pair = (pair[1], pair[0])
    i = rng.randrange(2)
    j = 1 - i
    # With general words the sentence stays true when the pictures change places.
    general = rng.random() < 0.6
    of, of2 = rng.choices(("of", "from", "in"), (6, 2, 1), k=2)
    noun, noun2 = (_noun(rng, pair[k].things[0], general) for k in (i, j))
    one, other = f"image {i + 1}", f"image {j + 1}"
    colour = rng.choice((f"the colour {of2} {other}", f"the colour of the {noun2} {of2} {other}"))
    words = {
        "i": str(i + 1),
        "j": str(j + 1),
        "o": f"the {noun} {of} {one}",
        "o2": f"the {noun2} {of2} {other}",
        "b": f"the background {of2} {other}",
        "c": colour,
    }
    extra = make.extra(rng, pair) if isinstance(make, _Combine) else {}
    prompt = say(rng, task, held_out=held, **words, **extra)
    named = any(word in SHAPES for word in prompt.replace(",", " ").split())
    swapped = None if named else make(pair[j], pair[i])
    return Sample("two_references", prompt, pair, make(pair[i], pair[j]), True, swapped)


def _compose(rng: random.Random, held: bool) -> Sample:
    return _two(rng, held, "compose", lambda a, b: replace(a, top=b.top, bottom=b.bottom))


def _transfer(rng: random.Random, held: bool) -> Sample:
    return _two(rng, held, "transfer", lambda a, b: a.with_thing(0, colour=b.things[0].colour))


class _Combine:
    """Both things side by side; remembers the places and the background it drew."""

    def extra(self, rng: random.Random, pair: tuple[Scene, Scene]) -> dict[str, str]:
        used = {scene.things[0].colour for scene in pair}
        self.top = rng.choice([name for name in BACKGROUNDS if name not in used])
        self.places = rng.choice((("left", "right"), ("right", "left"), ("top", "bottom"),
                                  ("bottom", "top")))  # fmt: skip
        return {
            "place": place_words(rng, self.places[0]),
            "place2": place_words(rng, self.places[1]),
            "on": f"on {article(self.top)} background",
        }

    def __call__(self, first: Scene, second: Scene) -> Scene:
        things = tuple(
            replace(scene.things[0], place=place, size="medium", dx=0.0, dy=0.0)
            for scene, place in zip((first, second), self.places, strict=True)
        )
        return Scene(things, self.top, self.top)


def _combine(rng: random.Random, held: bool) -> Sample:
    return _two(rng, held, "combine", _Combine())


# Name, category and share among samples with the same number of references.
TASKS: dict[str, tuple[str, float, Callable[[random.Random, bool], Sample]]] = {
    "text_to_image": ("text_to_image", 1.0, _text_to_image),
    "recolour": ("local", 0.14, _recolour),
    "recolour_all": ("local", 0.05, _recolour_all),
    "replace": ("local", 0.13, _replace),
    "add": ("local", 0.13, _add),
    "remove": ("local", 0.10, _remove),
    "move": ("local", 0.13, _move),
    "resize": ("local", 0.10, _resize),
    "background": ("global", 0.10, _background),
    "look": ("global", 0.12, _look),
    "compose": ("two_references", 0.4, _compose),
    "transfer": ("two_references", 0.35, _transfer),
    "combine": ("two_references", 0.25, _combine),
}

CATEGORIES = ("text_to_image", "local", "global", "two_references")

_BY_COUNT = {
    0: ("text_to_image",),
    1: tuple(n for n, (c, _, _) in TASKS.items() if c in ("local", "global")),
    2: ("compose", "transfer", "combine"),
}


def make_sample(
    rng: random.Random, *, references: int | None = None, task: str | None = None,
    held_out: bool = False,
) -> Sample:  # fmt: skip
    """One sample of a task, or of any task with so many references (0, 1 or 2).

    Args:
        held_out: a case that training never makes: held-out wording, and a held-out pair of
            shape and colour wherever the task draws one.
    """
    chosen = task
    if chosen is None:
        names = _BY_COUNT[rng.randrange(3) if references is None else references]
        chosen = rng.choices(names, [TASKS[name][1] for name in names])[0]
    while True:
        sample = replace(TASKS[chosen][2](rng, held_out), task=chosen)
        scenes = (*sample.references, sample.target)
        if held_out or not any(scene.held_out for scene in scenes):
            return sample
