"""What `edit` paints on: which size, and how every picture and mask is brought onto it.

Sizes are (width, height) in pixels; pictures [b, h, w, 3] in 0..1.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .errors import InputError
from .framing import (
    ROUNDED,
    Framing,
    alike,
    cut_out,
    frame_mask,
    plan_fit,
    plan_size,
    same_shape,
)
from .masks import cover_mask
from .models.flux import Flux
from .resolutions import check_size, nearest_resolution
from .stitcher import Reference

log = logging.getLogger(__name__)

# Below this share of the trained size a picture is said to be seen small.
SMALL = 0.5
# Pixels a side of one cell of a latent.
CELL = 8


@dataclass(frozen=True)
class Canvas:
    """What is painted.

    Attributes:
        size: of what the model paints.
        framing: None, or how the picture was brought to it whose size the result gets.
        asked: somebody chose the size: the result has it, and so has every picture of its shape.
        sizes: that the model was trained at.
    """

    size: tuple[int, int]
    framing: Framing | None
    asked: bool
    sizes: Sequence[tuple[int, int]]

    def frame(self, picture: Tensor) -> Framing:
        """How a reference is brought onto the grid: that of the result if it has its shape (then
        both have the same places), else the nearest trained size, padded."""
        own = picture.shape[2], picture.shape[1]
        if self.asked and same_shape(self.size, own, ROUNDED):
            return plan_size(own, self.size, self.sizes, crop=True)
        framing = plan_fit(*own, self.sizes, "trained size")
        if framing.filled < SMALL:
            log.warning(
                "a picture of %d x %d is far from every shape that the model was trained at: it "
                "fills %.0f %% of %d x %d and is seen that small; crop it to what matters",
                *own, 100 * framing.filled, *framing.size,
            )  # fmt: skip
        return framing

    def finish(self, result: Tensor) -> Tensor:
        """The result, [b, h, w, 3] of `size`, as it is given back."""
        return result if self.framing is None else cut_out(result, self.framing)

    def check_start(self, image: Tensor | Reference, why: str) -> None:
        """Refuse a first picture of another shape than the result.

        Raises:
            InputError: says `why` it would be started from.
        """
        if isinstance(image, Reference):
            cells = image.latent.shape[-2:]
            if (cells[1] * 8, cells[0] * 8) != self.size:
                raise InputError(
                    f"{why}, which starts from image 1, but that is a latent of {tuple(cells)} "
                    f"cells for a result of {(self.size[1] // 8, self.size[0] // 8)}; give the "
                    "picture itself, or leave out width and height"
                )
            return
        own = image.shape[2], image.shape[1]
        if self.asked and not same_shape(self.size, own, ROUNDED):
            raise InputError(
                f"{why}, which starts from image 1, but that is {own[0]} x {own[1]} and the "
                f"result {self.size[0]} x {self.size[1]}: another shape; crop or pad the picture "
                "to it, or leave out width and height"
            )

    def mask(self, mask: Tensor, framing: Framing | None) -> Tensor:
        """A noise mask [..., h, w] of the first picture's shape or of the canvas's, over the latent.

        Args:
            framing: of the first picture, if known.

        Raises:
            InputError: of another shape.
        """
        size = mask.shape[-1], mask.shape[-2]
        if framing is not None and framing.size == self.size and alike(framing.picture, size):
            return self._cells(frame_mask(mask, framing, edges=True))
        if alike(size, self.size):
            return self._cells(mask)
        shown = self.framing.picture if self.framing else self.size
        raise InputError(
            f"noise_mask is {size[0]} x {size[1]}, the result {shown[0]} x {shown[1]}: of another "
            "shape, so it can't say which part is meant; crop or pad it to the result's shape"
        )

    def _cells(self, mask: Tensor) -> Tensor:
        return cover_mask(mask, self.size[0] // CELL, self.size[1] // CELL)


def plan_canvas(
    given: Sequence[Tensor | Reference], width: int | None, height: int | None, model: Flux
) -> Canvas:
    """Of these references and this size, if any.

    Raises:
        InputError: a side that is not a multiple of 16; ShapeError: a first latent of other channels.
    """
    sizes = model.resolutions
    if width is not None and height is not None:
        return Canvas(check_size(width, height), None, True, sizes)
    if not given:
        return Canvas(nearest_resolution(1, 1, sizes), None, False, sizes)
    first = given[0]
    if isinstance(first, Tensor):
        framing = plan_fit(first.shape[2], first.shape[1], sizes, "trained size")
        return Canvas(framing.size, framing, False, sizes)
    model.latent_format.check(first.latent, "image 1")
    scale = model.latent_format.downscale
    rows, columns = first.cells
    size = columns * scale, rows * scale
    framing = first.framing
    # One that leaves out a part can't be undone without the picture.
    known = framing is not None and framing.size == size and framing.covers
    return Canvas(size, framing if known else None, False, sizes)
