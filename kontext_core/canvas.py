"""What `edit` paints on: which size, and how every picture and mask is brought onto it.

Sizes are (width, height) in pixels; pictures [b, h, w, 3] in 0..1.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from .errors import InputError
from .fit import Fit, far_from_trained
from .framing import (
    ROUNDED,
    Framing,
    alike,
    cut_out,
    frame_mask,
    on_grid_of,
    on_page,
    on_page_mask,
    plan_fit,
    plan_size,
    put_back,
    same_shape,
)
from .masks import cover_mask
from .models.flux import Flux
from .resolutions import check_size, nearest_resolution
from .stitcher import Reference

log = logging.getLogger(__name__)

# Pixels a side of one cell of a latent.
CELL = 8


@dataclass(frozen=True)
class Canvas:
    """What is painted.

    Attributes:
        size: of what the model paints.
        framing: None, or how the picture was brought to it whose size the result gets.
        asked: somebody chose the size: every picture of its shape stands on the same grid.
        sizes: that the model was trained at.
        first: None, or how the first picture is brought to it by a policy.
        original: the first picture, where a part of it is not painted.
    """

    size: tuple[int, int]
    framing: Framing | None
    asked: bool
    sizes: Sequence[tuple[int, int]]
    first: Framing | None = None
    original: Tensor | None = None

    def frame(self, picture: Tensor, number: int) -> Framing:
        """How a reference is brought onto the grid; `number` counts from 1."""
        if number == 1 and self.first is not None:
            return self.first
        own = picture.shape[2], picture.shape[1]
        on_grid = on_grid_of(self.size, own, self.sizes) if self.asked else None
        if on_grid is not None:
            return on_grid
        framing = plan_fit(*own, self.sizes, "trained size")
        _warn(framing)
        return framing

    def finish(self, result: Tensor) -> Tensor:
        """The result, [b, h, w, 3] of `size`, as it is given back."""
        if self.framing is None:
            return result
        if self.original is None:
            return cut_out(result, self.framing)
        original = on_page(self.original, self.framing)
        original = original.repeat(len(result) // len(original), 1, 1, 1)
        return put_back(result, original, self.framing)

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
        if self.asked and self.first is None and not same_shape(self.size, own, ROUNDED):
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
        if framing is not None and framing.size == self.size:
            mask = on_page_mask(mask, framing, new=1.0)
            size = mask.shape[-1], mask.shape[-2]
            if alike(framing.picture, size):
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
    given: Sequence[Tensor | Reference],
    width: int | None,
    height: int | None,
    model: Flux,
    fit: Fit | None = None,
) -> Canvas:
    """Of these references and this size, if any.

    Args:
        fit: None, or how the first picture is brought to it; then width and height are for the
            policy "custom" alone.

    Raises:
        InputError: a side that is not a multiple of 16; a fit that can't be.
        ShapeError: a first latent of other channels.
    """
    sizes = model.resolutions
    size = None if width is None or height is None else check_size(width, height)
    if fit is not None and fit != Fit():
        return _by_policy(given, size, sizes, fit)
    if size is not None:
        _warn(plan_size(size, size, sizes))
        return Canvas(size, None, True, sizes)
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


def _by_policy(
    given: Sequence[Tensor | Reference],
    size: tuple[int, int] | None,
    sizes: Sequence[tuple[int, int]],
    fit: Fit,
) -> Canvas:
    if not given or not isinstance(given[0], Tensor):
        there = "a latent, whose size is settled" if given else "missing"
        raise InputError(
            f"fit is {fit.policy!r}, which is about the first picture, but that is {there}; give the "
            "picture itself, or leave out fit"
        )
    custom = fit.policy == "custom"
    if size is not None and not custom:
        raise InputError(
            f"width and height are {size[0]} and {size[1]}, but fit {fit.policy!r} chooses the size; "
            'leave one of them out, or use fit "custom"'
        )
    fit = replace(fit, size=size or fit.size)
    picture = given[0]
    framing = fit.plan((picture.shape[2], picture.shape[1]), sizes)
    _warn(framing)
    # A size that was asked for is given back as it is.
    back = None if custom else framing
    original = picture if back is not None and not back.covers else None
    return Canvas(framing.size, back, True, sizes, framing, original)


def _warn(framing: Framing) -> None:
    for sentence in far_from_trained(framing):
        log.warning("%s", sentence)
