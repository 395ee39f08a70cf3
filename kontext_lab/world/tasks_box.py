"""Edits that point with a box drawn into the picture; the words never name what is in it."""

from __future__ import annotations

from dataclasses import replace

from .describing import kind_words, thing_phrase
from .names import CREATURES, GLYPHS, SHAPES
from .sample import Ask, Retry, Sample
from .scene import fits
from .tasks_local import new_colour, new_kind
from .wording import Phrase


def box_remove(ask: Ask) -> Sample:
    """The thing in the box is gone, and so is the box, as from every answer."""
    scene = ask.scene((1, 2, 2, 3), varied=False)
    index = ask.rng.randrange(len(scene.things))
    boxed = replace(scene, box=scene.things[index])
    return ask.sample("box_remove", "box_remove", (boxed,), scene.without(index))


def box_recolour(ask: Ask) -> Sample:
    """The thing in the box in another colour."""
    scene = ask.scene((1, 2, 2, 3), varied=False)
    index = ask.rng.randrange(len(scene.things))
    thing = scene.things[index]
    shared = len(scene.things) > 1 and ask.rng.random() < 0.3
    new = new_colour(ask, scene.without(index) if shared else scene, thing.kind, shared=shared)
    if new is None or new == thing.colour:
        raise Retry
    return ask.sample(
        "box_recolour", "box_recolour", (replace(scene, box=thing),),
        scene.with_thing(index, colour=new), new=Phrase(new, {"new_colour": new}),
    )  # fmt: skip


def box_replace(ask: Ask) -> Sample:
    """Another kind of thing in the box."""
    scene = ask.scene((1, 2, 2, 3), varied=False)
    index = ask.rng.randrange(len(scene.things))
    thing = scene.things[index]
    new = new_kind(ask, scene, thing, shared=len(scene.things) > 1 and ask.rng.random() < 0.3)
    if new is None:
        raise Retry
    target = scene.with_thing(index, kind=new)
    if not fits(target.things):
        raise Retry
    return ask.sample(
        "box_replace", "box_replace", (replace(scene, box=thing),), target,
        new=Phrase(kind_words(ask.rng, new), {"new_kind": new}),
    )  # fmt: skip


def box_add(ask: Ask) -> Sample:
    """A thing that fills the empty box; its size may go unsaid, for the box shows it."""
    rng = ask.rng
    held, ask.held = ask.held, False
    scene = ask.scene((1, 1, 2), varied=False)
    ask.held = held
    thing = ask.thing(
        scene.things, held_out=held, backgrounds=(scene.top, scene.bottom), jitter=ask.jitter,
        sizes=("small", "medium"), kinds=rng.choices((SHAPES, CREATURES, GLYPHS), (6, 3, 2))[0],
    )  # fmt: skip
    return ask.sample(
        "box_add", "box_add", (replace(scene, box=thing),),
        replace(scene, things=(*scene.things, thing)),
        thing=thing_phrase(rng, thing, size=rng.random() < 0.5),
    )  # fmt: skip
