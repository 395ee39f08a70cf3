"""Scenes as plain data: a few coloured things on a background, seen in a certain look and style.

Nothing here draws; `render.py` does. A scene is immutable, so an edit is a new scene.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...errors import InputError

__all__ = [
    "BACKGROUNDS",
    "BOUNDS",
    "COLOURS",
    "CREATURES",
    "GLYPHS",
    "HELD_OUT",
    "KINDS",
    "LOOKS",
    "PATTERNS",
    "PLACES",
    "SHAPES",
    "SIZES",
    "STYLES",
    "TEXTURES",
    "Scene",
    "Thing",
    "box_around",
    "centre",
    "fits",
    "free_places",
    "placed",
    "random_scene",
    "random_thing",
]

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond")
CREATURES = ("cat", "bunny", "bear", "robot")
GLYPHS = ("A", "C", "E", "H", "O", "T", "X", "Z", "3", "4", "5", "7")
KINDS = SHAPES + CREATURES + GLYPHS

# sRGB in 0..1. Things wear these; backgrounds wear a paler version (see `BACKGROUNDS`).
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.16, 0.16),
    "orange": (0.96, 0.54, 0.10),
    "yellow": (0.97, 0.85, 0.16),
    "green": (0.18, 0.64, 0.28),
    "blue": (0.16, 0.38, 0.86),
    "purple": (0.52, 0.24, 0.72),
    "pink": (0.96, 0.47, 0.70),
    "white": (0.96, 0.96, 0.96),
}


def _pale(rgb: tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue = (0.55 * value + 0.42 for value in rgb)
    return red, green, blue


BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    **{name: _pale(rgb) for name, rgb in COLOURS.items()},
    "grey": (0.50, 0.50, 0.52),
    "black": (0.08, 0.08, 0.10),
}

# Of a thing: its colour alternates with a darker tone. Glyphs are always plain.
PATTERNS = ("plain", "striped", "dotted")

# Of a background: two close tones of its colour.
TEXTURES = ("plain", "striped", "checked", "dotted", "noisy")

# Radius as a share of the shorter side. Creatures and glyphs are drawn medium or big.
SIZES: dict[str, float] = {"small": 0.12, "medium": 0.17, "big": 0.25}

# (row, column) on a 3x3 grid, by the name that the instructions use.
PLACES: dict[str, tuple[int, int]] = {
    "top left": (0, 0),
    "top": (0, 1),
    "top right": (0, 2),
    "left": (1, 0),
    "middle": (1, 1),
    "right": (1, 2),
    "bottom left": (2, 0),
    "bottom": (2, 1),
    "bottom right": (2, 2),
}

# The light on the whole picture, and how it is drawn.
LOOKS = ("plain", "night", "grey", "inverted", "sunset")
STYLES = ("plain", "outline", "neon", "pixel", "sticker", "soft")

# One pair per kind that no training picture or sentence ever contains.
HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("circle", "purple"), ("square", "pink"), ("triangle", "blue"),
        ("star", "green"), ("heart", "orange"), ("diamond", "red"),
        ("cat", "green"), ("bunny", "blue"), ("bear", "pink"), ("robot", "yellow"),
        ("A", "red"), ("C", "orange"), ("E", "yellow"), ("H", "green"), ("O", "blue"),
        ("T", "purple"), ("X", "pink"), ("Z", "white"), ("3", "green"), ("4", "red"),
        ("5", "purple"), ("7", "blue"),
    }
)  # fmt: skip

# Left, top, right, bottom of a kind, in radii from its centre.
BOUNDS: dict[str, tuple[float, float, float, float]] = {kind: (-1, -1, 1, 1) for kind in KINDS}

# How far a square's corners reach, in radii; nothing else leaves its circle.
_CORNER = 1.08
_HALF_SQUARE = 0.76
_EDGE = 0.02  # kept free at the picture's edge, as a share of the shorter side
_GAP = 0.008  # between two things, likewise; half a pixel of soft edge at 64 px
_VALUES = {
    "kind": frozenset(KINDS),
    "colour": COLOURS,
    "size": SIZES,
    "place": PLACES,
    "pattern": frozenset(PATTERNS),
    "top": BACKGROUNDS,
    "bottom": BACKGROUNDS,
    "texture": frozenset(TEXTURES),
    "look": frozenset(LOOKS),
    "style": frozenset(STYLES),
}


def _check(owner: object, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(owner, name)
        if value not in _VALUES[name]:
            raise InputError(f"{name} is {value!r}; use one of {', '.join(sorted(_VALUES[name]))}")


@dataclass(frozen=True)
class Thing:
    """A shape, a creature or a glyph. Glyphs turn plain by themselves, whatever `pattern` says.

    `dx`, `dy` shift it from its place, as shares of the shorter side. Raises InputError on a
    name that is not in the tables above.
    """

    kind: str
    colour: str
    size: str
    place: str
    pattern: str = "plain"
    dx: float = 0.0
    dy: float = 0.0

    def __post_init__(self) -> None:
        _check(self, ("kind", "colour", "size", "place", "pattern"))
        if self.pattern != "plain" and self.kind in GLYPHS:
            object.__setattr__(self, "pattern", "plain")

    @property
    def held_out(self) -> bool:
        """Whether training must never show it."""
        return (self.kind, self.colour) in HELD_OUT


@dataclass(frozen=True)
class Scene:
    """Things, painted in order, on a background running from `top` to `bottom`.

    Attributes:
        box: (left, top, right, bottom) in shares of width and height, drawn last as an outline:
            it points at something and is never part of an answer.
        seed: of the noisy texture.
    """

    things: tuple[Thing, ...]
    top: str = "white"
    bottom: str = "white"
    texture: str = "plain"
    look: str = "plain"
    style: str = "plain"
    box: tuple[float, float, float, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, ("top", "bottom", "texture", "look", "style"))
        if self.box is not None:
            left, top, right, bottom = self.box
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise InputError(
                    f"box is {self.box}; use (left, top, right, bottom) in 0..1, left < right and "
                    "top < bottom"
                )

    def with_thing(self, index: int, **changes: object) -> Scene:
        """The same scene with one thing changed."""
        things = list(self.things)
        things[index] = replace(things[index], **changes)  # type: ignore[arg-type]
        return replace(self, things=tuple(things))

    def without(self, index: int) -> Scene:
        """The same scene with one thing gone."""
        return replace(self, things=self.things[:index] + self.things[index + 1 :])

    @property
    def held_out(self) -> bool:
        """Whether any of its things is held out."""
        return any(thing.held_out for thing in self.things)


def centre(thing: Thing) -> tuple[float, float]:
    """(x, y) in shares of width and height, before the jitter and before staying inside."""
    row, column = PLACES[thing.place]
    return 0.2 + 0.3 * column, 0.2 + 0.3 * row


def placed(thing: Thing, height: float = 1, width: float = 1) -> tuple[float, float, float]:
    """Centre x, y and radius in pixels; a thing never leaves the picture."""
    short = min(height, width)
    radius = SIZES[thing.size] * short
    row, column = PLACES[thing.place]
    edge = radius + _EDGE * short
    x = (0.2 + 0.3 * column) * width + thing.dx * short
    y = (0.2 + 0.3 * row) * height + thing.dy * short
    return min(max(x, edge), width - edge), min(max(y, edge), height - edge), radius


def box_around(
    thing: Thing, height: int = 64, width: int = 64
) -> tuple[float, float, float, float]:
    """A box for `Scene.box`: the thing's extent and a margin, in shares of width and height.

    The margin leaves the thing free of the outline, which is two pixels wide.
    """
    x, y, radius = placed(thing, height, width)
    left, top, right, bottom = BOUNDS[thing.kind]
    margin = max(3.5, 0.05 * min(height, width))
    return (
        max(0.0, (x + left * radius - margin) / width),
        max(0.0, (y + top * radius - margin) / height),
        min(1.0, (x + right * radius + margin) / width),
        min(1.0, (y + bottom * radius + margin) / height),
    )


def _unit(thing: Thing) -> tuple[float, float, float]:
    """`placed` on a canvas of 1x1."""
    if thing.dx or thing.dy:
        return placed(thing)
    return _STILL[thing.size, thing.place]


def _apart(one: Thing, other: Thing) -> bool:
    """Whether two things don't touch on a square canvas; on any other they are further apart."""
    ax, ay, a = _unit(one)
    bx, by, b = _unit(other)
    if math.hypot(ax - bx, ay - by) >= (
        a * (_CORNER if one.kind == "square" else 1)
        + b * (_CORNER if other.kind == "square" else 1)
        + _GAP
    ):
        return True
    return max(abs(ax - bx), abs(ay - by)) >= (
        a * (_HALF_SQUARE if one.kind == "square" else 1)
        + b * (_HALF_SQUARE if other.kind == "square" else 1)
        + _GAP
    )


def fits(things: tuple[Thing, ...]) -> bool:
    """Whether no two things touch, wherever their jitter took them."""
    return all(_apart(one, other) for i, one in enumerate(things) for other in things[i + 1 :])


# By kind, for speed.
_HELD_COLOURS = {kind: [c for c in COLOURS if (kind, c) in HELD_OUT] for kind in KINDS}
_FREE_COLOURS = {kind: [c for c in COLOURS if (kind, c) not in HELD_OUT] for kind in KINDS}

# One thing of each size and place, to try out places with.
_PROBES = {size: tuple(Thing("circle", "red", size, place) for place in PLACES) for size in SIZES}
_STILL = {(p.size, p.place): placed(p) for probes in _PROBES.values() for p in probes}


def free_places(things: tuple[Thing, ...], size: str) -> list[str]:
    """Places where a thing of this size would touch nothing."""
    return [probe.place for probe in _PROBES[size] if all(_apart(thing, probe) for thing in things)]


def random_thing(
    rng: random.Random,
    others: tuple[Thing, ...] = (),
    *,
    held_out: bool = False,
    backgrounds: tuple[str, ...] = (),
    jitter: float = 0.0,
    sizes: tuple[str, ...] = tuple(SIZES),
    kinds: tuple[str, ...] = SHAPES,
    patterns: float = 0.25,
) -> Thing:
    """A thing that differs from the others in kind and colour and touches none.

    Args:
        held_out: take one of the held-out pairs; otherwise never take one.
        backgrounds: colours it must not have.
        jitter: largest shift off its place, as a share of the shorter side.
        sizes: to choose from. Beside others it isn't big, creatures and glyphs are never small,
            unless nothing else is left.
        kinds: to choose from, evenly.
        patterns: how often it is striped or dotted.

    Raises InputError where no such thing exists.
    """
    kinds_taken = {thing.kind for thing in others}
    colours_taken = {thing.colour for thing in others}.union(backgrounds)
    table = _HELD_COLOURS if held_out else _FREE_COLOURS
    pool = [kind for kind in kinds if kind not in kinds_taken]
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
    allowed = [size for size in sizes if not (others and size == "big")] or list(sizes)
    if kind not in SHAPES:
        allowed = [size for size in allowed if size != "small"] or ["medium"]
    rng.shuffle(allowed)
    for size in allowed:
        places = free_places(others, size)
        if places:
            break
    else:
        # Only a crowd gets here: the smallest of all still has a chance.
        size = "small"
        places = free_places(others, size)
        if not places:
            raise InputError(f"no place is left beside {len(others)} things; draw fewer")
    pattern = "plain"
    if patterns and rng.random() < patterns and kind not in GLYPHS:
        pattern = rng.choice(PATTERNS[1:])
    still = Thing(kind, colour, size, rng.choice(places), pattern)
    for _ in range(4 if jitter else 0):
        thing = replace(still, dx=rng.uniform(-jitter, jitter), dy=rng.uniform(-jitter, jitter))
        if all(_apart(thing, other) for other in others):
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
    patterns: float = 0.25,
) -> Scene:
    """A scene of `count` things; with `held_out`, the first drawn is a held-out pair.

    Args:
        gradient, textures: how often the background has two colours, or a texture.
        kinds: to choose from, evenly; None mixes shapes, creatures and glyphs.
        jitter, sizes, patterns: as in `random_thing`; several things are never big.

    Raises InputError where the things don't fit (more than 4 or 5) or `kinds` is too narrow.
    """
    few = tuple(size for size in sizes if size != "big") if count > 1 else sizes
    few = few or sizes
    for _ in range(20):
        # The background gives way to the things, so that a narrow `kinds` always finds a colour.
        things: tuple[Thing, ...] = ()
        try:
            for i in range(count):
                group = kinds or rng.choices(*_MIXED)[0]
                thing = random_thing(
                    rng, things, held_out=held_out and i == 0, jitter=jitter, sizes=few,
                    kinds=group, patterns=patterns,
                )  # fmt: skip
                things = (*things, thing)
            break
        except InputError as error:
            problem = error
    else:
        raise problem
    worn = {thing.colour for thing in things}
    grounds = [name for name in BACKGROUNDS if name not in worn]
    top = bottom = rng.choice(grounds)
    if rng.random() < gradient:
        bottom = rng.choice([name for name in grounds if name != top])
    texture, seed = "plain", 0
    if textures and rng.random() < textures:
        texture = rng.choice(TEXTURES[1:])
        seed = rng.randrange(1 << 16) if texture == "noisy" else 0
    order = list(things)
    rng.shuffle(order)
    return Scene(tuple(order), top, bottom, texture, seed=seed)
