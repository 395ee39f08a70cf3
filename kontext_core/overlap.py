"""Images of a layout that stand on each other's places: to the model they are one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .stitcher import Placed


@dataclass(frozen=True)
class Overlap:
    """Two images at one time t whose rectangles meet.

    Attributes:
        first, second: their numbers, 0 for the target.
        tokens: area that both cover, in tokens.
    """

    first: int
    second: int
    tokens: float


def overlaps(layout: Sequence[Placed]) -> list[Overlap]:
    """Every pair of images that share places: the same t, and rows and columns in common.

    References at their own t and the target at 0 meet nowhere, however they lie: so the model was
    trained.
    """
    found = []
    for index, a in enumerate(layout):
        for b in layout[index + 1 :]:
            rows = min(a.h + a.rows, b.h + b.rows) - max(a.h, b.h)
            columns = min(a.w + a.columns, b.w + b.columns) - max(a.w, b.w)
            if a.t == b.t and rows > 0 and columns > 0:
                found.append(Overlap(a.index, b.index, rows * columns))
    return found
