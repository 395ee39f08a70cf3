"""The policies by which a picture that is to be edited is brought onto the grid.

None of them squashes: a picture that has another shape is padded or cropped, and `Framing` says how,
so that the result goes back exactly there. Sizes are (width, height) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .checks import check_choice, check_number
from .cost import beyond_trained
from .errors import InputError
from .framing import TOKEN, Framing, plan_exact, plan_size
from .pages import FILLS, SHAPES, Margins, plan_page
from .resolutions import MAX_SIDE, check_size, nearest_resolution

POLICIES = ("trained size", "exact", "megapixels", "custom")
MEGAPIXEL = 1024 * 1024
# Of the trained area or less, a size counts as far below it.
TOO_SMALL = 0.5
# Below this share of the size a picture is said to be seen small.
SEEN_SMALL = 0.5
# So many times as long as the longest trained shape is far from all of them.
TOO_LONG = 1.25


@dataclass(frozen=True)
class Fit:
    """How the picture that is edited is brought onto the grid.

    Attributes:
        policy: "trained size" is the one with the closest shape. "exact" keeps the picture's own
            pixels, padded to whole tokens of 16. "megapixels" keeps its shape at another area.
            "custom" is `size`.
        other_shape: "pad" shows all of the picture and repeats its outermost pixels beyond it; "crop"
            fills the grid and leaves out what is too much, which stays the original's own.
        megapixels: 0.01..16, in units of 1024 x 1024 pixels; for that policy.
        size: (width, height), multiples of 16; for "custom".
        aspect: None, or width to height that the result is to have; then `other_shape` says whether
            the picture is extended or cut off to it. "custom" has that of its size.
        margins: new pixels beside the picture at (left, top, right, bottom), in its pixels.
        fill: what stands on new pixels before they are encoded, one of `pages.FILLS`.
    """

    policy: str = POLICIES[0]
    other_shape: str = SHAPES[0]
    megapixels: float = 1.0
    size: tuple[int, int] | None = None
    aspect: float | None = None
    margins: Margins = (0, 0, 0, 0)
    fill: str = FILLS[0]

    def plan(self, picture: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> Framing:
        """What becomes of a picture of this size.

        Args:
            sizes: that the model was trained at.

        Raises:
            InputError: a policy or value that there is not.
        """
        check_choice(self.policy, "fit", POLICIES)
        size, aspect = None, self.aspect
        if self.policy == "custom":
            if self.size is None:
                raise InputError('fit is "custom", but no width and height are given; give both')
            if aspect is not None:
                raise InputError(
                    f'fit is "custom", so width and height {self.size} say the aspect; leave out '
                    f"aspect {aspect:g}"
                )
            size = check_size(*self.size)
            aspect = size[0] / size[1]
        page = plan_page(
            picture,
            aspect=aspect,
            margins=self.margins,
            other_shape=self.other_shape,
            fill=self.fill,
        )
        shown = picture if page is None else page.size
        if self.policy == "exact":
            framing = plan_exact(shown, sizes)
        else:
            size = size or self._size(shown, sizes)
            framing = plan_size(shown, size, sizes, crop=self.other_shape == "crop")
        return replace(framing, page=page)

    def _size(self, shown: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        if self.policy == "trained size":
            return nearest_resolution(*shown, sizes)
        area = check_number(self.megapixels, "megapixels", 0.01, 16, "1 is 1024 x 1024 pixels")
        scale = math.sqrt(area * MEGAPIXEL / math.prod(shown))
        width, height = (max(1, round(side * scale / TOKEN)) * TOKEN for side in shown)
        return min(width, MAX_SIDE), min(height, MAX_SIDE)


def aspect_of(text: str) -> float:
    """Width to height from words such as "16:9" or "1.5".

    Raises:
        InputError: it is neither.
    """
    width, _, height = text.partition(":")
    try:
        return float(width) / float(height or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(
            f'aspect is {text!r}; expected width to height, such as "16:9" or "1.5"'
        ) from error


def far_from_trained(framing: Framing) -> list[str]:
    """What is doubtful about a canvas, one sentence each: a size or a shape far from all that the
    model was trained at, or a picture that is seen small on it."""
    size, trained = framing.size, framing.trained
    said = []
    times = beyond_trained(size, trained)
    share = math.prod(size) / math.prod(trained)
    if times is not None:
        said.append(
            f"the canvas is {_size(size)}: {times:.1f} times the area that the model was trained at "
            f"({_size(trained)}). Slow, and things may be doubled or misplaced; a trained size is safe"
        )
    elif share < TOO_SMALL:
        said.append(
            f"the canvas is {_size(size)}: {share:.0%} of the area that the model was trained at "
            f"({_size(trained)}), and details may be lost; a trained size is safe"
        )
    longer = (size[0] / size[1]) / (trained[0] / trained[1])
    if max(longer, 1 / longer) > TOO_LONG:
        said.append(
            f"the canvas is {_size(size)}: longer than every shape that the model was trained at "
            f"({_size(trained)} is the closest), so things may be repeated along it"
        )
    if framing.filled < SEEN_SMALL:
        said.append(
            f"a picture of {_size(framing.picture)} is far from every shape that the model was "
            f"trained at: it fills {framing.filled:.0%} of {_size(size)} and is seen that small; "
            "crop it to what matters"
        )
    return said


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
