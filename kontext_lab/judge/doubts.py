"""What a picture could have got wrong: for every attribute, the scenes in which only it differs.

A doubt is one such scene with the attribute's name; `judge.py` renders it and asks whether the
picture is clearly nearer to the right scene. Attributes of things that an edit leaves alone are
all called "kept".
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from ..world.names import BACKGROUNDS, COLOURS, CREATURES, GLYPHS, KINDS, SHAPES, SIZES, TEXTURES
from ..world.render import render
from ..world.sample import Sample
from ..world.tasks import TASKS
from ..world.thing import Scene, Thing, placed

# Tasks whose picture keeps everything outside the edit.
EDITS = ("local", "text", "box")


@dataclass(frozen=True)
class Doubt:
    """One wrong scene and the name of the attribute in which it is wrong.

    With a `base`, the wrong picture is the right one plus what `scene` has over `base`: both
    show only the thing in question, number `thing`, which is quicker to draw than the whole scene.
    """

    name: str
    scene: Scene
    base: Scene | None = None
    thing: int = -1


def _said(sample: Sample, index: int, slot: str) -> bool:
    """Whether the words give this attribute of the target's thing number `index`."""
    number = ("", "2", "3")[index if len(sample.target.things) > 1 else 0]
    if sample.task == "add":
        number = ""
    return sample.meaning.get(slot + number, "none") != "none"


def free_size(sample: Sample, index: int) -> bool:
    """Whether any size of this thing is right: no words give one, and no picture shows it."""
    if sample.task == "combine":
        return True
    new = sample.task in ("text_to_image", "style", "character") or (
        sample.task == "add" and index == len(sample.target.things) - 1
    )
    return new and not _said(sample, index, "size")


def free_place(sample: Sample, index: int) -> bool:
    """Whether the thing may stand anywhere."""
    return sample.task == "text_to_image" and not _said(sample, index, "place")


def roles(sample: Sample) -> tuple[str, ...]:
    """Per thing of the target: kept (as in a reference), changed (in part) or new."""
    before = [thing for scene in sample.references for thing in scene.things]
    found = []
    for thing in sample.target.things:
        if thing in before:
            found.append("kept")
        elif any((thing.place, thing.dx, thing.dy) == (b.place, b.dx, b.dy) for b in before) or any(
            (thing.kind, thing.colour) == (b.kind, b.colour) for b in before
        ):
            found.append("changed")
        else:
            found.append("new")
    return tuple(found)


def alone(scene: Scene, index: int | None = None) -> Scene:
    """The scene with only one of its things, or none."""
    return replace(scene, things=() if index is None else (scene.things[index],), box=None)


@functools.cache
def alike(kind: str, count: int) -> tuple[str, ...]:
    """The kinds to tell this one from: its family, and `count` others that look most like it.

    A picture of a kind that is not among them is far from the right one anyway.
    """
    family = next(group for group in (SHAPES, CREATURES, GLYPHS) if kind in group)
    names = [name for name in KINDS if name not in family]
    drawn = render([Scene((Thing(name, "blue", "medium", "middle"),)) for name in (kind, *names)])
    far = (drawn[1:] - drawn[0]).square().mean((1, 2, 3)).tolist()
    nearest = sorted(range(len(names)), key=far.__getitem__)[:count]
    return (*(k for k in family if k != kind), *(names[i] for i in nearest))


def doubts(sample: Sample, right: Scene, size: tuple[int, int]) -> list[Doubt]:
    """Every way in which the answer `right` could be wrong, one attribute at a time.

    Args:
        right: `sample.target`, its things moved and sized as the picture has them where that is
            left open.
        size: (height, width) of the picture.
    """
    found: list[Doubt] = []
    role = roles(sample)
    keeps = TASKS[sample.task].category in (*EDITS, "global")
    for i in range(len(right.things)):
        kept = keeps and role[i] == "kept"
        mine = _of_thing(right, i, size=not free_size(sample, i), kinds=4 if kept else 6)
        thing, asked = right.things[i], sample.target.things[i]
        plain = replace(thing, size=asked.size, dx=asked.dx, dy=asked.dy)
        if plain.size != thing.size or _moved(plain, thing, size):
            # Another kind drives the fit astray; so it is also met where nothing was fitted.
            base = alone(right, i)
            mine += [
                Doubt("kind", replace(base, things=(replace(plain, kind=kind),)), base, i)
                for kind in dict.fromkeys(d.scene.things[0].kind for d in mine if d.name == "kind")
            ]
        if kept:
            mine = [replace(doubt, name="kept") for doubt in mine]
        elif sample.task == "character" and i == 0:
            identity = ("kind", "colour")
            mine = [replace(d, name="identity" if d.name in identity else d.name) for d in mine]
        found += mine
    found += [Doubt("edited", scene) for scene in sample.references]
    found += [Doubt("gone", scene) for scene in _left_behind(sample, right)]
    found += [Doubt("box", replace(right, box=s.box)) for s in sample.references if s.box]
    if sample.swapped is not None:
        found.append(Doubt("order", sample.swapped))
    return found


def _moved(one: Thing, other: Thing, size: tuple[int, int]) -> bool:
    (ax, ay, _), (bx, by, _) = placed(one, *size), placed(other, *size)
    return abs(ax - bx) + abs(ay - by) > 0.75


def _of_thing(right: Scene, index: int, *, size: bool, kinds: int) -> list[Doubt]:
    base = alone(right, index)
    thing = right.things[index]
    changes = [("kind", kind) for kind in alike(thing.kind, kinds)]
    changes += [("colour", colour) for colour in COLOURS if colour != thing.colour]
    if size:
        changes += [("size", name) for name in SIZES if name != thing.size]
    return [
        Doubt("presence", alone(right), base, index),
        *(Doubt(slot, base.with_thing(0, **{slot: value}), base, index) for slot, value in changes),
    ]


def _left_behind(sample: Sample, right: Scene) -> list[Scene]:
    """The answer with things in it that should have left their place."""
    if TASKS[sample.task].category not in EDITS:
        return []
    now = {(thing.place, thing.dx, thing.dy) for thing in sample.target.things}
    return [
        replace(right, things=(*right.things, thing))
        for thing in sample.references[0].things
        if (thing.place, thing.dx, thing.dy) not in now
    ]


def grounds(right: Scene) -> list[Scene]:
    """The right background without things and texture, then all others."""
    empty = replace(alone(right), texture="plain")
    names = list(BACKGROUNDS)
    pairs = [(name, name) for name in names]
    if right.top != right.bottom:
        pairs += [(name, right.bottom) for name in names] + [(right.top, name) for name in names]
        pairs.append((right.bottom, right.top))
    others = [pair for pair in dict.fromkeys(pairs) if pair != (right.top, right.bottom)]
    return [empty, *(replace(empty, top=top, bottom=bottom) for top, bottom in others)]


def textures(right: Scene) -> dict[str, Scene]:
    """The background without things, in every texture."""
    return {name: replace(alone(right), texture=name) for name in TEXTURES}
