"""Scenes as plain data: a few coloured things on a background, seen in a certain look.

Nothing here draws; `render.py` does. A scene is immutable, so an edit is a new scene.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "HELD_OUT",
    "LOOKS",
    "PLACES",
    "SHAPES",
    "SIZES",
    "Scene",
    "Thing",
    "centre",
    "fits",
    "free_places",
    "random_scene",
    "random_thing",
]

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond")

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

# Radius as a share of the shorter side.
SIZES: dict[str, float] = {"small": 0.11, "medium": 0.16, "big": 0.24}

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

LOOKS = ("plain", "night", "grey", "inverted")

# One pair per shape that no training picture or sentence ever contains.
HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("circle", "purple"),
        ("square", "pink"),
        ("triangle", "blue"),
        ("star", "green"),
        ("heart", "orange"),
        ("diamond", "red"),
    }
)


@dataclass(frozen=True)
class Thing:
    """One shape. `dx`, `dy` shift it from its place, as shares of the shorter side."""

    shape: str
    colour: str
    size: str
    place: str
    dx: float = 0.0
    dy: float = 0.0

    @property
    def held_out(self) -> bool:
        """Whether training must never show it."""
        return (self.shape, self.colour) in HELD_OUT


@dataclass(frozen=True)
class Scene:
    """Things, painted in order, on a background running from `top` to `bottom`."""

    things: tuple[Thing, ...]
    top: str = "white"
    bottom: str = "white"
    look: str = "plain"

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


def fits(things: tuple[Thing, ...]) -> bool:
    """Whether no two things touch on a square canvas."""
    for i, one in enumerate(things):
        for other in things[i + 1 :]:
            (ax, ay), (bx, by) = centre(one), centre(other)
            if math.hypot(ax - bx, ay - by) < 0.92 * (SIZES[one.size] + SIZES[other.size]):
                return False
    return True


def free_places(things: tuple[Thing, ...], size: str) -> list[str]:
    """Places where a thing of this size would touch nothing."""
    return [place for place in PLACES if fits((*things, Thing("circle", "red", size, place)))]


def random_thing(
    rng: random.Random,
    others: tuple[Thing, ...] = (),
    *,
    held_out: bool = False,
    backgrounds: tuple[str, ...] = (),
    jitter: float = 0.0,
    sizes: tuple[str, ...] = tuple(SIZES),
) -> Thing:
    """A thing that differs from the others in shape and colour and touches none.

    Args:
        held_out: take one of the held-out pairs; otherwise never take one.
        backgrounds: colours it must not have.
        jitter: largest shift off its place, as a share of the shorter side.
    """
    shapes_taken = {thing.shape for thing in others}
    colours_taken = {thing.colour for thing in others} | set(backgrounds)
    while True:
        if held_out:
            shape, colour = rng.choice(sorted(HELD_OUT))
        else:
            shape, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
            if (shape, colour) in HELD_OUT:
                continue
        if shape in shapes_taken or colour in colours_taken:
            if not held_out:
                continue
            if shape in shapes_taken or colour in {thing.colour for thing in others}:
                continue
        size = rng.choice(sizes if not others else [s for s in sizes if s != "big"] or sizes)
        places = free_places(others, size)
        if places:
            dx, dy = rng.uniform(-jitter, jitter), rng.uniform(-jitter, jitter)
            return Thing(shape, colour, size, rng.choice(places), dx, dy)


def random_scene(
    rng: random.Random,
    count: int,
    *,
    held_out: bool = False,
    jitter: float = 0.0,
    gradient: float = 0.3,
    sizes: tuple[str, ...] = tuple(SIZES),
) -> Scene:
    """A scene of `count` things; with `held_out`, the first drawn is a held-out pair."""
    top = bottom = rng.choice(list(BACKGROUNDS))
    if rng.random() < gradient:
        bottom = rng.choice([name for name in BACKGROUNDS if name != top])
    things: tuple[Thing, ...] = ()
    few = sizes if count == 1 else tuple(size for size in sizes if size != "big")
    for i in range(count):
        thing = random_thing(
            rng, things, held_out=held_out and i == 0, backgrounds=(top, bottom),
            jitter=jitter, sizes=few,
        )  # fmt: skip
        things = (*things, thing)
    order = list(things)
    rng.shuffle(order)
    return Scene(tuple(order), top, bottom)
