"""Edits of things in one picture: colour, kind, adding, removing, place, size, text."""

from __future__ import annotations

from dataclasses import replace

from .describing import (
    kind_words,
    place_phrase,
    point_at,
    thing_phrase,
    to_phrase,
)
from .names import COLOURS, CREATURES, GLYPHS, HELD_OUT, SHAPES, SIZES
from .sample import Ask, Retry, Sample
from .scene import fits, free_places
from .thing import Scene, Thing
from .wording import Phrase


def new_colour(ask: Ask, scene: Scene, kind: str, *, shared: bool = False) -> str | None:
    """A colour for a thing: none of the picture's, or with `shared` one of the other things'."""
    worn = {thing.colour for thing in scene.things}
    ground = {scene.top, scene.bottom}
    possible = [
        colour
        for colour in COLOURS
        if (colour in worn) == shared
        and colour not in ground
        and (ask.held or (kind, colour) not in HELD_OUT)
    ]
    return ask.rng.choice(possible) if possible else None


def new_kind(ask: Ask, scene: Scene, thing: Thing, *, shared: bool = False) -> str | None:
    """Another kind for a thing, likewise; small things only become shapes."""
    there = {other.kind for other in scene.things}
    groups = [SHAPES] * 4
    if thing.size != "small":
        groups += [CREATURES] * 2 + [GLYPHS]
    pool = sum(dict.fromkeys(groups), ()) if shared else ask.rng.choice(groups)
    possible = [
        kind
        for kind in pool
        if kind != thing.kind
        and (kind in there) == shared
        and (ask.held or (kind, thing.colour) not in HELD_OUT)
    ]
    return ask.rng.choice(possible) if possible else None


def _colour(value: str, number: str = "") -> Phrase:
    return Phrase(value, {f"new_colour{number}": value})


def recolour(ask: Ask) -> Sample:
    """A thing in another colour; often one that is there already, so that the order decides."""
    rng = ask.rng
    scene = ask.scene()
    index = rng.randrange(len(scene.things))
    thing = scene.things[index]
    # "make the red star blue" and "make the blue star red" are both sensible then.
    shared = rng.random() < 0.6
    new = new_colour(ask, scene.without(index), thing.kind, shared=True) if shared else None
    if not (ordered := new is not None and new != thing.colour):
        new = new_colour(ask, scene, thing.kind)
    if new is None:
        raise Retry
    return ask.sample(
        "recolour", "recolour", (scene,), scene.with_thing(index, colour=new), ordered=ordered,
        old=point_at(rng, scene, index, full=ordered and rng.random() < 0.7), new=_colour(new),
    )  # fmt: skip


def recolour_all(ask: Ask) -> Sample:
    """Two things, each in its own new colour; often each in the other's old one."""
    rng = ask.rng
    scene = ask.scene((2, 2, 3))
    one, two = rng.sample(range(len(scene.things)), 2)
    first, second = scene.things[one], scene.things[two]
    if first.colour == second.colour:
        raise Retry
    crossed = {(first.kind, second.colour), (second.kind, first.colour)}
    sayable = first.named and second.named and (ask.held or not crossed & HELD_OUT)
    if rng.random() < 0.4 and sayable:
        new, new2 = second.colour, first.colour
    else:
        new, new2 = (new_colour(ask, scene, t.kind) for t in (first, second))
    if new is None or new2 is None or new == new2:
        raise Retry
    return ask.sample(
        "recolour_all", "recolour_all", (scene,),
        scene.with_thing(one, colour=new).with_thing(two, colour=new2), ordered=True,
        old=point_at(rng, scene, one), new=_colour(new),
        old2=point_at(rng, scene, two, "2"), new2=_colour(new2, "2"),
    )  # fmt: skip


def replace_thing(ask: Ask) -> Sample:
    """A thing of another kind in the same place, colour and size."""
    rng = ask.rng
    scene = ask.scene()
    index = rng.randrange(len(scene.things))
    thing = scene.things[index]
    new = None
    if rng.random() < 0.5:
        new = new_kind(ask, scene, thing, shared=True)
    if not (ordered := new is not None):
        new = new_kind(ask, scene, thing)
    if new is None:
        raise Retry
    target = scene.with_thing(index, kind=new)
    if not fits(target.things):
        raise Retry
    return ask.sample(
        "replace", "replace", (scene,), target, ordered=ordered,
        old=point_at(rng, scene, index),
        new=Phrase(kind_words(rng, new), {"new_kind": new}),
    )  # fmt: skip


def add(ask: Ask) -> Sample:
    """One more thing at a named place."""
    rng = ask.rng
    held, ask.held = ask.held, False
    scene = ask.scene((1, 1, 2))
    ask.held = held
    if len(scene.things) > 3:
        raise Retry
    thing = ask.thing(
        scene.things, held_out=held, backgrounds=(scene.top, scene.bottom),
        sizes=("small", "medium"), kinds=rng.choices((SHAPES, CREATURES, GLYPHS), (6, 3, 2))[0],
    )  # fmt: skip
    return ask.sample(
        "add", "add", (scene,), replace(scene, things=(*scene.things, thing)),
        thing=thing_phrase(rng, thing), place=place_phrase(rng, thing.place),
    )  # fmt: skip


def remove(ask: Ask) -> Sample:
    """A thing less."""
    scene = ask.scene((2, 2, 3))
    index = ask.rng.randrange(len(scene.things))
    return ask.sample(
        "remove", "remove", (scene,), scene.without(index), old=point_at(ask.rng, scene, index)
    )


def move(ask: Ask) -> Sample:
    """A thing at another place."""
    rng = ask.rng
    scene = ask.scene((1, 1, 2, 2))
    index = rng.randrange(len(scene.things))
    thing = scene.things[index]
    places = [p for p in free_places(scene.without(index).things, thing.size) if p != thing.place]
    if not places:
        raise Retry
    place = rng.choice(places)
    target = scene.with_thing(index, place=place, dx=0.0, dy=0.0)
    if not fits(target.things):
        raise Retry
    return ask.sample(
        "move", "move", (scene,), target, old=point_at(rng, scene, index),
        place=place_phrase(rng, place), to=to_phrase(rng, place),
    )  # fmt: skip


def resize(ask: Ask) -> Sample:
    """A thing one size up or down."""
    rng = ask.rng
    scene = ask.scene((1, 1, 2))
    possible = []
    for index, thing in enumerate(scene.things):
        names = [name for name in SIZES if name != "small" or thing.kind in SHAPES]
        now = names.index(thing.size)
        for key, step in (("bigger", 1), ("smaller", -1)):
            if 0 <= now + step < len(names):
                target = scene.with_thing(index, size=names[now + step])
                if fits(target.things):
                    possible.append((index, key, target))
    if not possible:
        raise Retry
    index, key, target = rng.choice(possible)
    return ask.sample(
        "resize", key, (scene,), target, said={"size": key}, old=point_at(rng, scene, index)
    )


def text(ask: Ask) -> Sample:
    """A letter or digit for another; often one that is there too, so that the order decides."""
    rng = ask.rng
    count = rng.choice((1, 2, 2))
    scene = ask.scene((count,), kinds=GLYPHS, varied=False)
    if rng.random() < 0.3 and count < 3 and ask.given is None:
        other = ask.thing(
            scene.things, backgrounds=(scene.top, scene.bottom), kinds=SHAPES + CREATURES,
            sizes=("small", "medium"), jitter=ask.jitter, unnamed=ask.unnamed,
        )  # fmt: skip
        scene = replace(scene, things=(*scene.things, other))
    glyphs = [i for i, thing in enumerate(scene.things) if thing.kind in GLYPHS]
    if not glyphs:
        raise Retry
    index = rng.choice(glyphs)
    thing = scene.things[index]
    there = [scene.things[i].kind for i in glyphs if i != index]
    if ordered := bool(there) and rng.random() < 0.5:
        new = rng.choice(there)
    else:
        new = rng.choice([glyph for glyph in GLYPHS if glyph not in (thing.kind, *there)])
    if new == thing.kind or (not ask.held and (new, thing.colour) in HELD_OUT):
        raise Retry
    target = scene.with_thing(index, kind=new)
    if sum(scene.things[i].kind == thing.kind for i in glyphs) > 1 or not fits(target.things):
        raise Retry
    old = Phrase(_glyph(ask, thing.kind), {"kind": thing.kind})
    if thing.named and rng.random() < 0.12:
        old = Phrase(f"{thing.colour} {old.text}", {"colour": thing.colour, **old.meaning})
    new_phrase = Phrase(_glyph(ask, new), {"new_kind": new})
    return ask.sample(
        "text", "text", (scene,), target, ordered=ordered, old=old, new=new_phrase
    )  # fmt: skip


def _glyph(ask: Ask, kind: str) -> str:
    """'letter T', 'T', 'number 5', ...; the wording puts the article."""
    drawn = ask.rng.random()
    if drawn < (0.12 if kind == "A" else 0.35):
        return kind
    if kind.isdigit():
        return f"{'number' if drawn < 0.7 else 'digit'} {kind}"
    return f"{'letter' if drawn < 0.93 else 'capital'} {kind}"
