"""Picture sizes a Kontext model was trained at, and how to choose among them.

The table is the published one (black-forest-labs/flux, src/flux/util.py); a model with other
sizes brings its own. Sizes are (width, height) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import InputError

KONTEXT_RESOLUTIONS: tuple[tuple[int, int], ...] = (
    (672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248),
    (880, 1184), (944, 1104), (1024, 1024), (1104, 944), (1184, 880), (1248, 832),
    (1328, 800), (1392, 752), (1456, 720), (1504, 688), (1568, 672),
)  # fmt: skip

MAX_SIDE = 16_384


def nearest_resolution(
    width: int, height: int, table: Sequence[tuple[int, int]] = KONTEXT_RESOLUTIONS
) -> tuple[int, int]:
    """The table's entry with the closest width-to-height ratio; of equals the narrowest."""
    aspect = width / height
    return min(table, key=lambda size: (abs(aspect - size[0] / size[1]), size[0], size[1]))


def check_size(width: int, height: int) -> tuple[int, int]:
    """Return a target size that tokens can tile.

    Raises:
        InputError: a side that is not a multiple of 16 from 16 to 16384.
    """
    for name, side in (("width", width), ("height", height)):
        if (
            isinstance(side, bool)
            or not isinstance(side, int)
            or side % 16
            or not (16 <= side <= MAX_SIDE)
        ):
            lower = max(16, int(side) // 16 * 16) if isinstance(side, int) else 1024
            raise InputError(
                f"{name} is {side!r}; expected a multiple of 16 from 16 to {MAX_SIDE}, "
                f"for example {min(lower, MAX_SIDE)}"
            )
    return width, height
