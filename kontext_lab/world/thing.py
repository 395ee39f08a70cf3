"""Scenes as plain data: a few coloured things on a background, seen in a certain look and style.

Nothing here draws; `render.py` does. A scene is immutable, so an edit is a new scene.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kontext_core.errors import InputError

from .names import (
    BACKGROUNDS,
    BOUNDS,
    COLOURS,
    HELD_OUT,
    KINDS,
    LOOKS,
    PLACES,
    SIZES,
    STYLES,
    TEXTURES,
    is_code,
)

# (left, top, right, bottom) in shares of width and height.
Box = tuple[float, float, float, float]

_EDGE = 0.02  # kept free at the picture's edge, as a share of the shorter side
_VALUES = {
    "kind": frozenset(KINDS),
    "colour": COLOURS,
    "size": SIZES,
    "place": PLACES,
    "top": BACKGROUNDS,
    "bottom": BACKGROUNDS,
    "texture": frozenset(TEXTURES),
    "look": frozenset(LOOKS),
    "style": frozenset(STYLES),
}


def _check(owner: object, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(owner, name)
        if name == "colour" and is_code(value):
            continue
        if value not in _VALUES[name]:
            raise InputError(f"{name} is {value!r}; use one of {', '.join(sorted(_VALUES[name]))}")


@dataclass(frozen=True)
class Thing:
    """A shape, a creature or a glyph; its colour is one of `COLOURS` or a code "#rrggbb".

    `dx`, `dy` shift it from its place, as shares of the shorter side. Raises InputError on a
    name that is not in the tables above.
    """

    kind: str
    colour: str
    size: str
    place: str
    dx: float = 0.0
    dy: float = 0.0

    def __post_init__(self) -> None:
        _check(self, ("kind", "colour", "size", "place"))

    @property
    def named(self) -> bool:
        """Whether its colour has a name."""
        return self.colour in COLOURS

    @property
    def held_out(self) -> bool:
        """Whether training must never show it."""
        return (self.kind, self.colour) in HELD_OUT


@dataclass(frozen=True)
class Scene:
    """Things, painted in order, on a background running from `top` to `bottom`.

    Attributes:
        box: drawn last as an outline: it points at something and is never part of an answer. A
            thing stands for the box around it, whatever the canvas.
    """

    things: tuple[Thing, ...]
    top: str = "white"
    bottom: str = "white"
    texture: str = "plain"
    look: str = "plain"
    style: str = "plain"
    box: Box | Thing | None = None

    def __post_init__(self) -> None:
        _check(self, ("top", "bottom", "texture", "look", "style"))
        if isinstance(self.box, tuple):
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


def centre(place: str, height: float = 1, width: float = 1) -> tuple[float, float]:
    """(x, y) of a place in pixels: a quarter of the shorter side from its edges, or the middle.

    So at 64x64 every place is a corner of the transformer's 16-pixel tokens.
    """
    quarter = min(height, width) / 4
    row, column = PLACES[place]
    x = (quarter, width / 2, width - quarter)[column]
    y = (quarter, height / 2, height - quarter)[row]
    return x, y


def placed(thing: Thing, height: float = 1, width: float = 1) -> tuple[float, float, float]:
    """Centre x, y and radius in pixels; a thing never leaves the picture."""
    short = min(height, width)
    radius = SIZES[thing.size] * short
    edge = radius + _EDGE * short
    x, y = centre(thing.place, height, width)
    x, y = x + thing.dx * short, y + thing.dy * short
    return min(max(x, edge), width - edge), min(max(y, edge), height - edge), radius


def box_around(thing: Thing, height: int = 64, width: int = 64) -> Box:
    """What `Scene.box` shows of a thing: its extent and a margin, in shares of width and height.

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
