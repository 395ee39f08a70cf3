"""Everything about scenes but the drawing: the tables, the data, what fits where, random ones."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import replace

from kontext_core.errors import InputError

from .names import (
    BACKGROUNDS,
    COLOURS,
    CREATURES,
    GLYPHS,
    HELD_OUT,
    KINDS,
    PLACES,
    REACH,
    SHAPES,
    SIZES,
    TEXTURES,
    UNLIKE,
    distance,
    is_code,
    rgb_of,
)
from .thing import Scene, Thing, placed

_GAP = 0.008  # between two things, as a share of the shorter side; half a pixel at 64 px
_TRIES = 16  # at shifting a thing off its place without touching another

# By kind, for speed.
_HELD_COLOURS = {kind: [c for c in COLOURS if (kind, c) in HELD_OUT] for kind in KINDS}
_FREE_COLOURS = {kind: [c for c in COLOURS if (kind, c) not in HELD_OUT] for kind in KINDS}

# Where things without jitter are on a canvas of 1x1.
_STILL = {
    (size, place): placed(Thing("circle", "red", size, place)) for size in SIZES for place in PLACES
}


def _unit(thing: Thing) -> tuple[float, float, float]:
    """`placed` on a canvas of 1x1; on any other, things are further apart."""
    if thing.dx or thing.dy:
        return placed(thing)
    return _STILL[thing.size, thing.place]


def _apart(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    """Whether two things of any kind don't touch, so that a thing may always become another kind.

    Their circles don't, or the squares around them don't.
    """
    (ax, ay, a), (bx, by, b) = one, other
    across, down = abs(ax - bx), abs(ay - by)
    return max(across, down) >= a + b + _GAP or (math.hypot(across, down) >= REACH * (a + b) + _GAP)


def fits(things: tuple[Thing, ...]) -> bool:
    """Whether no two things touch, whatever their kinds and wherever their jitter took them."""
    spots = [_unit(thing) for thing in things]
    return all(_apart(one, other) for i, one in enumerate(spots) for other in spots[i + 1 :])


def free_places(things: tuple[Thing, ...], size: str) -> list[str]:
    """Places where a thing of this size would touch nothing."""
    spots = [_unit(thing) for thing in things]
    return [place for place in PLACES if all(_apart(_STILL[size, place], spot) for spot in spots)]


def clear_grounds(colours: Iterable[str]) -> list[str]:
    """Backgrounds to show things of these colours: of other names, and unlike unnamed ones."""
    worn = set(colours)
    codes = [rgb_of(colour) for colour in worn if is_code(colour)]
    return [
        name
        for name, rgb in BACKGROUNDS.items()
        if name not in worn and all(distance(rgb, code) >= UNLIKE for code in codes)
    ]


def _unnamed(
    rng: random.Random, others: tuple[Thing, ...], backgrounds: tuple[str, ...]
) -> str | None:
    """A colour without a name, unlike all others; None where chance finds none."""
    around = [*COLOURS.values(), *(rgb_of(thing.colour) for thing in others)]
    around += [BACKGROUNDS[name] for name in backgrounds]
    for _ in range(100):
        code = f"#{rng.randrange(1 << 24):06x}"
        if all(distance(rgb_of(code), rgb) >= UNLIKE for rgb in around):
            return code
    return None


def random_thing(
    rng: random.Random,
    others: tuple[Thing, ...] = (),
    *,
    held_out: bool = False,
    backgrounds: tuple[str, ...] = (),
    jitter: float = 0.0,
    sizes: tuple[str, ...] = tuple(SIZES),
    kinds: tuple[str, ...] = SHAPES,
    unnamed: float = 0.0,
) -> Thing:
    """A thing that differs from the others in kind and colour and touches none.

    Args:
        held_out: take one of the held-out pairs; otherwise never take one.
        backgrounds: colours it must not have.
        jitter: largest shift off its place, as a share of the shorter side.
        sizes: to choose from. Beside others it isn't big, creatures and glyphs are never small,
            unless nothing else is left.
        kinds: to choose from, evenly.
        unnamed: how often its colour is one without a name, unless it is held out.

    Raises InputError where no such thing exists.
    """
    kinds_taken = {thing.kind for thing in others}
    colours_taken = {thing.colour for thing in others}.union(backgrounds)
    table = _HELD_COLOURS if held_out else _FREE_COLOURS
    pool = [kind for kind in kinds if kind not in kinds_taken]
    kind = ""
    colours: list[str] = []
    while pool and not colours:
        kind = rng.choice(pool)
        pool.remove(kind)
        colours = [colour for colour in table[kind] if colour not in colours_taken]
    if not colours:
        raise InputError(
            f"no {'held-out ' if held_out else ''}pair of kind and colour is left among {kinds}, "
            f"beside {sorted(kinds_taken)} and without {sorted(colours_taken)}; offer more kinds "
            "or another background"
        )
    colour = rng.choice(colours)
    if unnamed and not held_out and rng.random() < unnamed:
        colour = _unnamed(rng, others, backgrounds) or colour
    allowed = [size for size in sizes if not (others and size == "big")] or list(sizes)
    if kind not in SHAPES:
        allowed = [size for size in allowed if size != "small"] or ["medium"]
    rng.shuffle(allowed)
    for size in allowed:
        places = free_places(others, size)
        if places:
            break
    else:
        # Only a crowd gets here: the smallest of all still has a chance, which only shapes may be.
        size = "small"
        places = free_places(others, size) if kind in SHAPES else []
        if not places:
            raise InputError(f"no place is left beside {len(others)} things; draw fewer")
    still = Thing(kind, colour, size, rng.choice(places))
    for _ in range(_TRIES if jitter else 0):
        thing = replace(still, dx=rng.uniform(-jitter, jitter), dy=rng.uniform(-jitter, jitter))
        spot = placed(thing)
        if all(_apart(spot, _unit(other)) for other in others):
            return thing
    return still


_MIXED = ((SHAPES, CREATURES, GLYPHS), (0.6, 0.25, 0.15))


def random_scene(
    rng: random.Random,
    count: int,
    *,
    held_out: bool = False,
    jitter: float = 0.0,
    gradient: float = 0.3,
    textures: float = 0.3,
    sizes: tuple[str, ...] = tuple(SIZES),
    kinds: tuple[str, ...] | None = None,
    unnamed: float = 0.0,
) -> Scene:
    """A scene of `count` things; with `held_out`, the first drawn is a held-out pair.

    Args:
        gradient, textures: how often the background has two colours, or a texture.
        kinds: to choose from, evenly; None mixes shapes, creatures and glyphs.
        jitter, sizes, unnamed: as in `random_thing`; several things are never big.

    Raises InputError where the things don't fit (more than 4 or 5) or `kinds` is too narrow.
    """
    few = tuple(size for size in sizes if size != "big") if count > 1 else sizes
    few = few or sizes
    problem = InputError(f"no {count} things fit")  # until a try says more
    for _ in range(20):
        # The background gives way to the things, so that a narrow `kinds` always finds a colour.
        things: tuple[Thing, ...] = ()
        try:
            for i in range(count):
                group = kinds or rng.choices(*_MIXED)[0]
                thing = random_thing(
                    rng, things, held_out=held_out and i == 0, jitter=jitter, sizes=few,
                    kinds=group, unnamed=unnamed,
                )  # fmt: skip
                things = (*things, thing)
            break
        except InputError as error:
            problem = error
    else:
        raise problem
    grounds = clear_grounds(thing.colour for thing in things)
    top = bottom = rng.choice(grounds)
    if rng.random() < gradient:
        bottom = rng.choice([name for name in grounds if name != top])
    texture = "plain"
    if textures and rng.random() < textures:
        texture = rng.choice(TEXTURES[1:])
    order = list(things)
    rng.shuffle(order)
    return Scene(tuple(order), top, bottom, texture)
