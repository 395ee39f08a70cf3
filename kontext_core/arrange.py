"""Several pictures on one canvas in pixel space, before anything is encoded: rows, columns, grids, and
boxes on a scene.

Sizes are (width, height) and boxes (left, top, width, height) in pixels; pictures [b, h, w, 3 or 4] in
0..1, the fourth channel being opacity; masks [b, h, w] in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_choice, check_whole
from .errors import InputError, ShapeError
from .framing import alike
from .images import check_image
from .masks import PixelBox
from .resolutions import MAX_SIDE

LAYOUTS = ("row", "column", "grid", "places")
# What shows where no picture is, red, green, blue alike.
BACKGROUNDS = {"white": 1.0, "grey": 0.5, "black": 0.0}

# Left, top, width and height in shares of the canvas.
Share = tuple[float, float, float, float]
Floats = tuple[float, float, float, float]


@dataclass(frozen=True)
class Arrangement:
    """Where each picture stands.

    Attributes:
        size: of the canvas.
        boxes: of the pictures, in their order; later ones lie above earlier ones.
    """

    size: tuple[int, int]
    boxes: tuple[PixelBox, ...]


def read_places(text: str) -> list[Share | None]:
    """Boxes from lines such as "0.5, 0.2, 0.4, 0.6", one for each picture; None for an empty line.

    Raises:
        InputError: a line that is no box.
    """
    found: list[Share | None] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words:
            found.append(None)
            continue
        try:
            left, top, width, height = (float(word) for word in words)
        except ValueError:
            left = top = width = height = math.nan
        inside = 0 <= left < 1 and 0 <= top < 1 and 0 < width <= 1 and 0 < height <= 1
        if not inside:
            raise InputError(
                f"line {number} of places is {line.strip()!r}; expected left, top, width and height as "
                'shares of the canvas, 0 to 1, such as "0.5, 0.2, 0.4, 0.6"'
            )
        found.append((left, top, width, height))
    return found


def arrange_sizes(
    sizes: Sequence[tuple[int, int]],
    layout: str,
    *,
    gap: int = 0,
    columns: int = 0,
    size: tuple[int, int] = (0, 0),
    places: Sequence[Share | None] = (),
) -> Arrangement:
    """Where pictures of these sizes go. None is squashed: each keeps its shape to half a pixel.

    Args:
        layout: "row" gives all the height of the first; "column" all its width; "grid" puts each into
            a cell of the first one's size; "places" puts each into its box, on a canvas of the first
            one's size.
        gap: pixels between pictures, at the first one's size. Not for "places".
        columns: of the grid; 0 makes it as square as it gets.
        size: of the canvas, 0 for a side that follows: rows, columns and grids are brought into it and
            stand in its middle.
        places: for "places", a box of each; the first picture may have None, which is all of the
            canvas.

    Raises:
        InputError: no picture, a value out of range, a picture without a place, or a canvas with a side
            of more than 16384 pixels.
    """
    check_choice(layout, "layout", LAYOUTS)
    check_whole(gap, "gap", 0, MAX_SIDE)
    check_whole(columns, "columns", 0, 64)
    for side, name in zip(size, ("width", "height"), strict=True):
        check_whole(side, name, 0, MAX_SIDE)
    if not sizes:
        raise InputError("there is no picture to arrange; connect at least one")
    if layout == "places":
        return _placed(sizes, size, places)
    if layout == "grid":
        natural, boxes = _grid(sizes, gap, columns)
    else:
        natural, boxes = _line(sizes, gap, axis=0 if layout == "row" else 1)
    width, height = placed_size(natural, size)
    scale = min(width / natural[0], height / natural[1]) if any(size) else 1.0
    left, top = (width - natural[0] * scale) / 2, (height - natural[1] * scale) / 2
    return Arrangement((width, height), tuple(_rounded(box, scale, left, top) for box in boxes))


def _line(
    sizes: Sequence[tuple[int, int]], gap: int, axis: int
) -> tuple[tuple[float, float], list[Floats]]:
    """Side by side along an axis, 0 for a row, all as long across it as the first."""
    across = sizes[0][1 - axis]
    at, boxes = 0.0, []
    for own in sizes:
        along = own[axis] * across / own[1 - axis]
        boxes.append((at, 0.0, along, across) if axis == 0 else (0.0, at, across, along))
        at += along + gap
    length = at - gap
    return (length, across) if axis == 0 else (across, length), boxes


def _grid(
    sizes: Sequence[tuple[int, int]], gap: int, columns: int
) -> tuple[tuple[float, float], list[Floats]]:
    columns = min(columns or math.ceil(math.sqrt(len(sizes))), len(sizes))
    rows = math.ceil(len(sizes) / columns)
    width, height = sizes[0]
    boxes = [
        _inside(own, (number % columns * (width + gap), number // columns * (height + gap), width, height))
        for number, own in enumerate(sizes)
    ]  # fmt: skip
    return (columns * (width + gap) - gap, rows * (height + gap) - gap), boxes


def placed_size(first: tuple[float, float], size: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """The canvas of "places": the size asked for; sides of 0 follow, so that the first picture fills it.

    Raises:
        InputError: a side below 16 or above 16384 pixels.
    """
    scale = min((want / have for want, have in zip(size, first, strict=True) if want), default=1)
    width, height = (
        want or max(1, round(have * scale)) for want, have in zip(size, first, strict=True)
    )
    _check_canvas(width, height)
    return width, height


def _placed(
    sizes: Sequence[tuple[int, int]], size: tuple[int, int], places: Sequence[Share | None]
) -> Arrangement:
    width, height = placed_size(sizes[0], size)
    boxes = []
    for number, own in enumerate(sizes, 1):
        place = places[number - 1] if number <= len(places) else None
        if place is None and number > 1:
            raise InputError(
                f"picture {number} has no place: give it a line of places with left, top, width and "
                "height in shares of the canvas, or choose row, column or grid"
            )
        left, top, across, down = place or (0.0, 0.0, 1.0, 1.0)
        box = (left * width, top * height, across * width, down * height)
        first, upper, wide, high = (round(one) for one in _inside(own, box))
        boxes.append((first, upper, max(1, wide), max(1, high)))
    return Arrangement((width, height), tuple(boxes))


def _inside(own: tuple[int, int], box: Floats) -> Floats:
    """The largest of this shape in the middle of a box."""
    left, top, width, height = box
    scale = min(width / own[0], height / own[1])
    across, down = own[0] * scale, own[1] * scale
    return left + (width - across) / 2, top + (height - down) / 2, across, down


def _rounded(box: Floats, scale: float, left: float, top: float) -> PixelBox:
    """Edges on whole pixels, so that neighbours meet without a seam."""
    first, upper = round(left + box[0] * scale), round(top + box[1] * scale)
    end, lower = round(left + (box[0] + box[2]) * scale), round(top + (box[1] + box[3]) * scale)
    return first, upper, max(1, end - first), max(1, lower - upper)


def _check_canvas(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE or min(width, height) < 16:
        raise InputError(
            f"the canvas would be {width} x {height} pixels; sides of 16 to {MAX_SIDE} are taken. Set "
            "width and height, or another layout"
        )


def arrange(
    pictures: Sequence[Tensor],
    arrangement: Arrangement,
    *,
    masks: Sequence[Tensor | None] = (),
    background: str = "white",
) -> tuple[Tensor, Tensor]:
    """The canvas with all pictures on it.

    Args:
        pictures: [b, h, w, 3 or 4] each, b either 1 or the same for all.
        masks: of the pictures' shapes, at any size, what of them is shown; beside their own opacity.
        background: of `BACKGROUNDS`.

    Returns:
        (canvas [b, h, w, 3], what the pictures cover of it [b, h, w]).

    Raises:
        ShapeError, InputError: something that is no picture, batches or masks that don't fit, or an
            unknown background.
    """
    check_choice(background, "background", tuple(BACKGROUNDS))
    batch = max((len(one) for one in pictures), default=1)
    width, height = arrangement.size
    canvas = torch.full((batch, height, width, 3), BACKGROUNDS[background])
    covered = torch.zeros(batch, height, width)
    for number, (picture, box) in enumerate(zip(pictures, arrangement.boxes, strict=True), 1):
        name = f"picture {number}"
        colours = check_image(picture[..., :3], name)
        if len(picture) not in (1, batch):
            raise ShapeError(
                f"{name} is a batch of {len(picture)}, another one of {batch}; give one, or as many"
            )
        mask = masks[number - 1] if number <= len(masks) else None
        opacity = _opacity(picture, mask, name).expand(len(picture), -1, -1, -1)
        colours = colours.float().cpu()
        left, top, across, down = box
        # Colours count by their opacity, so that what is invisible does not bleed into edges.
        seen = _resized(torch.cat([colours * opacity, opacity], -1), across, down)
        # What reaches beyond the canvas is cut off.
        first, upper = max(0, left), max(0, top)
        end, lower = min(width, left + across), min(height, top + down)
        if end <= first or lower <= upper:
            continue
        seen = seen[:, upper - top : lower - top, first - left : end - left]
        where = (slice(None), slice(upper, lower), slice(first, end))
        canvas[where] = canvas[where] * (1 - seen[..., 3:]) + seen[..., :3]
        covered[where] = 1 - (1 - covered[where]) * (1 - seen[..., 3])
    return canvas.clamp(0, 1), covered


def _opacity(picture: Tensor, mask: Tensor | None, name: str) -> Tensor:
    """[b or 1, h, w, 1] in 0..1 of a picture with its mask."""
    rows, columns = picture.shape[1:3]
    alpha = (
        picture[..., 3:4].float().cpu()
        if picture.shape[-1] == 4
        else torch.ones(1, rows, columns, 1)
    )
    if mask is None:
        return alpha
    mask = mask[None] if mask.ndim == 2 else mask
    size = (mask.shape[2], mask.shape[1])
    if not alike((columns, rows), size) or len(mask) not in (1, len(picture)):
        raise ShapeError(
            f"the mask of {name} is {len(mask)} of {size[0]} x {size[1]}, the picture {columns} x "
            f"{rows}; expected one of its shape"
        )
    return alpha * _resized(mask[..., None].float().cpu(), columns, rows)


def _resized(image: Tensor, width: int, height: int) -> Tensor:
    """[b, h, w, c] at another size, bicubic, antialiased."""
    if image.shape[1:3] == (height, width):
        return image
    channels = image.float().cpu().movedim(-1, 1)
    made = F.interpolate(channels, (height, width), mode="bicubic", antialias=True)
    return made.movedim(1, -1).clamp(0, 1)
