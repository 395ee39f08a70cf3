"""The world's tables: every kind, colour, place and style that has a name."""

from __future__ import annotations

import functools
import math
import re

RGB = tuple[float, float, float]

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond")
CREATURES = ("cat", "bunny", "bear", "robot")
GLYPHS = ("A", "C", "E", "H", "O", "T", "X", "Z", "3", "4", "5", "7")
KINDS = SHAPES + CREATURES + GLYPHS

# sRGB in 0..1. Things wear these, or an unnamed colour "#rrggbb"; backgrounds wear a paler version
# (see `BACKGROUNDS`).
COLOURS: dict[str, RGB] = {
    "red": (0.86, 0.16, 0.16),
    "orange": (0.96, 0.54, 0.10),
    "yellow": (0.97, 0.85, 0.16),
    "green": (0.18, 0.64, 0.28),
    "blue": (0.16, 0.38, 0.86),
    "purple": (0.52, 0.24, 0.72),
    "pink": (0.96, 0.47, 0.70),
    "white": (0.96, 0.96, 0.96),
}


# An unnamed colour is at least so far (see `distance`) from the named ones and from all around it.
UNLIKE = 0.25

_CODE = re.compile("#[0-9a-f]{6}")


def is_code(colour: str) -> bool:
    """Whether it is the code "#rrggbb" of an unnamed colour."""
    return _CODE.fullmatch(colour) is not None


@functools.lru_cache(maxsize=4096)
def rgb_of(colour: str) -> RGB:
    """sRGB in 0..1 of a thing's colour, by its name or its code."""
    if colour in COLOURS:
        return COLOURS[colour]
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def distance(one: RGB, other: RGB) -> float:
    """Between two colours, Euclidean in sRGB, 0 to 1.73."""
    return math.dist(one, other)


def _pale(rgb: RGB) -> RGB:
    red, green, blue = (0.55 * value + 0.42 for value in rgb)
    return red, green, blue


BACKGROUNDS: dict[str, RGB] = {
    **{name: _pale(rgb) for name, rgb in COLOURS.items()},
    "grey": (0.50, 0.50, 0.52),
    "black": (0.08, 0.08, 0.10),
}

# Of a background: two close tones of its colour.
TEXTURES = ("plain", "striped", "checked")

# Radius as a share of the shorter side; a big thing just fits at any place. Creatures and glyphs
# are drawn medium or big.
SIZES: dict[str, float] = {"small": 0.14, "medium": 0.17, "big": 0.23}

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
STYLES = ("plain", "outline", "neon", "sticker")

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

# A kind's left, top, right and bottom, in radii from its centre. No point is farther than `REACH`.
REACH = 1.11
BOUNDS: dict[str, tuple[float, float, float, float]] = {
    "circle": (-0.94, -0.94, 0.94, 0.94),
    "square": (-0.77, -0.77, 0.77, 0.77),
    "triangle": (-0.87, -0.95, 0.87, 0.71),
    "star": (-0.94, -0.95, 0.94, 0.84),
    "heart": (-0.90, -0.83, 0.90, 0.82),
    "diamond": (-0.77, -1.0, 0.77, 1.0),
    "cat": (-0.93, -0.79, 0.93, 0.84),
    "bunny": (-0.67, -0.91, 0.67, 0.97),
    "bear": (-0.88, -0.75, 0.88, 0.93),
    "robot": (-0.97, -0.98, 0.97, 0.79),
    "A": (-0.73, -0.87, 0.73, 0.87),
    "C": (-0.67, -0.87, 0.61, 0.87),
    "E": (-0.61, -0.85, 0.61, 0.85),
    "H": (-0.65, -0.87, 0.65, 0.87),
    "O": (-0.73, -0.87, 0.73, 0.87),
    "T": (-0.73, -0.85, 0.73, 0.87),
    "X": (-0.67, -0.87, 0.67, 0.87),
    "Z": (-0.64, -0.85, 0.64, 0.85),
    "3": (-0.67, -0.87, 0.61, 0.87),
    "4": (-0.69, -0.87, 0.73, 0.89),
    "5": (-0.60, -0.85, 0.64, 0.86),
    "7": (-0.65, -0.85, 0.65, 0.87),
}
