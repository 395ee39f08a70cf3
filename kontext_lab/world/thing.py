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
    GLYPHS,
    HELD_OUT,
    KINDS,
    LOOKS,
    PATTERNS,
    PLACES,
    SIZES,
    STYLES,
    TEXTURES,
)

__all__ = ["Scene", "Thing", "box_around", "centre", "placed"]

_EDGE = 0.02  # kept free at the picture's edge, as a share of the shorter side
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
