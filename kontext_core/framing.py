"""Which part of a picture stands on the token grid, so that a result goes back exactly where it
came from.

Sizes are (width, height) in pixels, pictures [b, h, w, 3] in 0..1, masks [..., h, w].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError, ShapeError
from .images import resize
from .pages import Page, lay_out, lay_out_mask
from .resolutions import nearest_resolution

FITS = ("trained size", "shrink", "keep", "exact")
OTHER_SHAPE = ("refuse", "crop", "pad", "stretch")
TOKEN = 16
# Pixels that a side may be off when a shape was rounded to whole tokens.
ROUNDED = 8
# A Lanczos kernel reaches over three pixels of the coarser grid; beyond that a repeated edge is constant.
REACH = 4


@dataclass(frozen=True)
class Framing:
    """How a picture was brought onto the grid.

    Attributes:
        picture: its size.
        box: (left, top, width, height) of what is shown of it, in its pixels; what lies beyond its
            edges is padding.
        size: what the box was resized to.
        trained: the size with the closest shape that the model was trained at.
        page: None, or how the picture was laid out before: then everything above is of the page.
    """

    picture: tuple[int, int]
    box: tuple[int, int, int, int]
    size: tuple[int, int]
    trained: tuple[int, int]
    page: Page | None = None

    @property
    def original(self) -> tuple[int, int]:
        """Size of the picture before it was laid out on a page."""
        return self.picture if self.page is None else self.page.picture

    @property
    def whole(self) -> bool:
        """Whether all of the picture is shown, and nothing else."""
        return self.box == (0, 0, *self.picture)

    @property
    def covers(self) -> bool:
        """Whether all of the picture is shown, with or without padding."""
        left, top, width, height = self.box
        return (
            max(left, top) <= 0
            and left + width >= self.picture[0]
            and top + height >= self.picture[1]
        )

    @property
    def filled(self) -> float:
        """Share of `size` that the picture fills, 0..1; the rest is padding."""
        _, _, width, height = self.box
        return min(1.0, self.picture[0] / width) * min(1.0, self.picture[1] / height)


def plan_size(
    picture: tuple[int, int],
    size: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
    *,
    crop: bool = False,
) -> Framing:
    """A picture in the middle of exactly this size, its shape kept to half a pixel of its own.

    Args:
        sizes: that the model was trained at.
        crop: fill the size and leave out what is too much at two edges, instead of showing all and
            repeating the outermost pixels there.
    """
    (width, height), (columns, rows) = picture, size
    like = round(height * columns / rows), round(width * rows / columns)
    pick = min if crop else max
    box = max(1, pick(width, like[0])), max(1, pick(height, like[1]))
    first = (width - box[0]) // 2, (height - box[1]) // 2
    return Framing(picture, (*first, *box), size, nearest_resolution(width, height, sizes))


def plan_exact(picture: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> Framing:
    """Every pixel as it is, in the middle of as many whole tokens as it takes."""
    width, height = (math.ceil(side / TOKEN) * TOKEN for side in picture)
    first = (picture[0] - width) // 2, (picture[1] - height) // 2
    trained = nearest_resolution(*picture, sizes)
    return Framing(picture, (*first, width, height), (width, height), trained)


def plan_fit(width: int, height: int, sizes: Sequence[tuple[int, int]], fit: str) -> Framing:
    """What becomes of a picture of this size.

    Args:
        sizes: that the model was trained at.
        fit: "trained size" resizes to the one of them with the closest shape, and pads the picture
            to it; "shrink" does so only with larger pictures; "keep" leaves every pixel and crops to
            whole tokens of 16 pixels; "exact" leaves every pixel and pads to whole tokens.

    Raises:
        InputError: another `fit`.
    """
    if fit not in FITS:
        raise InputError(f"fit is {fit!r}; expected one of {', '.join(FITS)}")
    picture, trained = (width, height), nearest_resolution(width, height, sizes)
    if fit == "trained size" or (fit == "shrink" and width * height > math.prod(trained)):
        return plan_size(picture, trained, sizes)
    if fit == "exact":
        return plan_exact(picture, sizes)
    columns, rows = width // TOKEN * TOKEN, height // TOKEN * TOKEN
    box = ((width - columns) // 2, (height - rows) // 2, columns, rows)
    return Framing(picture, box, (columns, rows), trained)


def at_resolution(framing: Framing, share: float) -> Framing:
    """The same picture with fewer pixels and so fewer tokens, in whole tokens, its shape kept.

    Args:
        share: 0..1, of the pixels of each side; 0.5 leaves a quarter of the tokens.

    Raises:
        InputError: not above 0 and up to 1.
    """
    if not 0 < share <= 1:
        raise InputError(f"resolution is {share!r}; expected a share above 0 and up to 1")
    columns, rows = (max(1, math.floor(side * share / TOKEN + 0.5)) for side in framing.size)
    size = columns * TOKEN, rows * TOKEN
    if size == framing.size:
        return framing
    return plan_size(framing.picture, size, [framing.trained], crop=not framing.covers)


def on_grid_of(
    size: tuple[int, int], picture: tuple[int, int], sizes: Sequence[tuple[int, int]]
) -> Framing | None:
    """A picture of the result's shape, to half a token, on the result's own grid, so that both have
    the same places; None for another shape.

    Args:
        size: of the result.
        sizes: that the model was trained at.
    """
    if not same_shape(size, picture, ROUNDED):
        return None
    return plan_size(picture, size, sizes, crop=True)


def fit_picture(image: Tensor, framing: Framing) -> Tensor:
    """A picture of `framing.picture`'s size as it stands on the grid, `framing.size`; beyond its
    edges its outermost pixels are repeated. One with a page is laid out first."""
    if framing.page is not None:
        image = lay_out(image, framing.page)
    left, top, width, height = framing.box
    across = _span(left, width, framing.picture[0], framing.size[0])
    down = _span(top, height, framing.picture[1], framing.size[1])
    image = image[:, slice(*down.taken), slice(*across.taken)]
    image = _repeat_edges(image, (*across.padding, *down.padding))
    box = (across.source[0], down.source[0], across.source[1], down.source[1])
    image = resize(image, across.made, down.made, box)
    return _repeat_edges(image, (*across.rest, *down.rest))


@dataclass(frozen=True)
class _Span:
    """One axis of `fit_picture`: only what differs is resized, so that a strip of 16:1 does not
    become a square of its length on the way.

    Attributes:
        taken: (first, end) of the picture's pixels.
        padding: pixels repeated before and after them.
        source: (first, end) within these, not always whole, resized to `made` pixels of the grid.
        rest: pixels of the grid repeated before and after those.
    """

    taken: tuple[int, int]
    padding: tuple[int, int]
    source: tuple[float, float]
    made: int
    rest: tuple[int, int]


def _span(first: int, extent: int, total: int, cells: int) -> _Span:
    scale = extent / cells
    margin = REACH * max(1.0, 1 / scale)
    # The part of the grid that the picture and a kernel's reach around it cover.
    begin = max(0, math.floor(-first / scale - margin))
    end = min(cells, math.ceil((total - first) / scale + margin))
    low, high = first + begin * scale, first + end * scale
    taken = max(first, 0), min(first + extent, total)
    before, after = max(0, math.ceil(-low)), max(0, math.ceil(high - total))
    start = taken[0] - before
    limit = taken[1] + after - start
    source = max(0.0, low - start), min(float(limit), high - start)
    return _Span(taken, (before, after), source, end - begin, (begin, cells - end))


def _repeat_edges(image: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """[b, h, w, 3] with its outermost pixels repeated (left, right, top, bottom)."""
    if not any(padding):
        return image
    return F.pad(image.movedim(-1, 1), padding, mode="replicate").movedim(1, -1)


def frame_mask(mask: Tensor, framing: Framing, *, edges: bool = False) -> Tensor:
    """What a mask [..., h, w] of the picture's shape, at any resolution, says of the box; beyond its
    edges 0, or with `edges` what stands there, as `fit_picture` repeats the picture."""
    (full_width, full_height), (left, top, width, height) = framing.picture, framing.box
    x, y = mask.shape[-1] / full_width, mask.shape[-2] / full_height
    first, end = math.floor(left * x), math.ceil((left + width) * x)
    upper, lower = math.floor(top * y), math.ceil((top + height) * y)
    beyond = -first, end - mask.shape[-1], -upper, lower - mask.shape[-2]
    if not edges:
        # Negative padding crops.
        return F.pad(mask, beyond)
    flat = F.pad(mask.reshape(-1, *mask.shape[-2:]), [min(0, side) for side in beyond])
    flat = F.pad(flat, [max(0, side) for side in beyond], mode="replicate")
    return flat.reshape(*mask.shape[:-2], *flat.shape[-2:])


def unframe_mask(mask: Tensor, framing: Framing, size: tuple[int, int]) -> Tensor:
    """The opposite of `frame_mask`: what a mask [..., h, w] of the canvas, at any resolution, says of
    the framing's picture, at `size`; 0 where the box does not reach. Where the canvas has the
    picture's own pixels it is a plain cut."""
    x, y = size[0] / framing.picture[0], size[1] / framing.picture[1]
    left, top, width, height = framing.box
    columns, rows = max(1, round(width * x)), max(1, round(height * y))
    if mask.shape[-2:] != (rows, columns):
        several = mask.reshape(-1, 1, *mask.shape[-2:]).float()
        made = F.interpolate(several, (rows, columns), mode="bilinear", antialias=True)
        mask = made.reshape(*mask.shape[:-2], rows, columns)
    first, upper = round(left * x), round(top * y)
    return F.pad(mask, (first, size[0] - first - columns, upper, size[1] - upper - rows))


def cut_out(result: Tensor, framing: Framing, size: tuple[int, int] | None = None) -> Tensor:
    """The picture's own part of a result, without padding.

    Args:
        result: [b, h, w, 3] at any resolution, of the box.
        size: that the whole picture is to have, `framing.picture`'s if None.

    Returns:
        [b, H, W, 3] of `size`; smaller where the box leaves out some of the picture.
    """
    return _visible(result, framing, size or framing.picture)[1]


def _visible(
    result: Tensor, framing: Framing, size: tuple[int, int]
) -> tuple[tuple[slice, slice], Tensor]:
    """Rows and columns that the box covers of a picture of this size, and the result's part there."""
    places, source = [], []
    for axis in (0, 1):
        scale, first = size[axis] / framing.picture[axis], framing.box[axis]
        extent = framing.box[2 + axis]
        begin = round(max(first, 0) * scale)
        end = max(begin + 1, round(min(first + extent, framing.picture[axis]) * scale))
        places.append(slice(begin, end))
        cells = result.shape[2 - axis]
        source.append(tuple(
            min(max((edge / scale - first) * cells / extent, 0.0), float(cells))
            for edge in (begin, end)
        ))  # fmt: skip
    (left, right), (top, bottom) = source
    columns, rows = (place.stop - place.start for place in places)
    part = resize(result, columns, rows, (left, top, right, bottom))
    return (places[1], places[0]), part


def put_back(result: Tensor, original: Tensor, framing: Framing) -> Tensor:
    """The opposite of `fit_picture`: a result in its place in the picture that it was made from.

    Args:
        result: [b, h, w, 3] at any resolution.
        original: [1 or b, H, W, 3] of the framing's shape, see `on_page`; its own pixels stand where
            the box does not reach. Twice the size of `framing.picture` is fine.

    Returns:
        [b, H, W, 3].

    Raises:
        ShapeError: batches that don't fit each other.
    """
    height, width = original.shape[1:3]
    if framing.covers:
        return cut_out(result, framing, (width, height))
    if len(original) not in (1, len(result)):
        raise ShapeError(
            f"original is a batch of {len(original)}, the result one of {len(result)}; give one, "
            "or as many"
        )
    place, part = _visible(result, framing, (width, height))
    made = original.to(result).expand(len(result), -1, -1, -1).clone()
    made[:, place[0], place[1]] = part
    return made


def on_page(original: Tensor, framing: Framing) -> Tensor:
    """What a result is compared with and laid over: the original, on its page if it has one.

    Args:
        original: the picture, or the page itself if it has exactly its size; at another size of the
            picture's shape too.
    """
    page = _page_for((original.shape[2], original.shape[1]), framing)
    return original if page is None else lay_out(original, page)


def on_page_mask(mask: Tensor, framing: Framing, new: float) -> Tensor:
    """As `on_page`, of a mask [..., h, w]; `new` is what it says of the new area."""
    page = _page_for((mask.shape[-1], mask.shape[-2]), framing)
    return mask if page is None else lay_out_mask(mask, page, new)


def _page_for(size: tuple[int, int], framing: Framing) -> Page | None:
    """The page that something of this size is to be laid out on, if any."""
    page = framing.page
    if page is None or (size == framing.picture and size != page.picture):
        return None
    return page if alike(page.picture, size) else None


def same_shape(a: tuple[int, int], b: tuple[int, int], slack: float = 1.0) -> bool:
    """Whether one is the other resized, with each side of `b` up to `slack` pixels off, as after
    rounding to whole pixels (1) or to whole tokens (8)."""
    low = max((b[0] - slack) / a[0], (b[1] - slack) / a[1])
    high = min((b[0] + slack) / a[0], (b[1] + slack) / a[1])
    return low <= high


def alike(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether one size is the other, enlarged or shrunk and rounded to whole pixels."""
    return same_shape(a, b) if a[0] >= b[0] else same_shape(b, a)


def bring_to(result: Tensor, width: int, height: int, rule: str) -> Tensor:
    """A result [b, h, w, 3] of another shape in exactly this size.

    Args:
        rule: "crop" fills the size and cuts off what is too much, alike at both ends; "pad" shows
            all of it, in the middle, on black; "stretch" distorts it.
    """
    rows, columns = result.shape[1:3]
    if rule == "stretch":
        return resize(result, width, height)
    scales = (width / columns, height / rows)
    scale = max(scales) if rule == "crop" else min(scales)
    inner = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    result = resize(result, *inner)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    right, bottom = width - inner[0] - left, height - inner[1] - top
    # Negative padding crops.
    padded: Tensor = F.pad(result.movedim(-1, 1), (left, right, top, bottom))
    return padded.movedim(1, -1).to(torch.float32)
