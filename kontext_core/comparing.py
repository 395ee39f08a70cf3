"""How two pictures differ: figures inside and outside an area, and a heat map to look at.

Pictures are [b, h, w, 3] in 0..1, masks [b or 1, h, w].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_number
from .errors import InputError, ShapeError
from .framing import same_shape
from .images import check_image, resize
from .metrics import psnr, ssim_map

# Colours of no difference to a full one: black, violet, red, yellow, white, each lighter than the last.
HEAT = (
    (0.0, 0.0, 0.0),
    (0.28, 0.07, 0.47),
    (0.82, 0.22, 0.26),
    (0.98, 0.75, 0.15),
    (1.0, 1.0, 1.0),
)
# A pixel counts as changed where a channel differs by more than rounding to 8 bits explains.
CHANGED = 1.5 / 255


@dataclass(frozen=True)
class Likeness:
    """How alike two pictures are over an area.

    Attributes:
        psnr: dB, 100 for equal ones.
        ssim: structural similarity, 1 for equal ones; None where the picture is smaller than its
            window of 11 pixels.
        changed: share of the area's pixels that differ by more than 8-bit rounding, 0..1.
    """

    psnr: float
    ssim: float | None
    changed: float


@dataclass(frozen=True)
class Comparison:
    """Of one pair. `inside` and `outside` of the mask; None without a mask, or where it leaves
    nothing."""

    whole: Likeness
    inside: Likeness | None
    outside: Likeness | None


def paired(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Both at the size of `before`, one picture of the one for each of the other.

    Raises:
        ShapeError: batches that don't fit each other; InputError: pictures of another shape.
    """
    before = check_image(before[..., :3], "before").float()
    after = check_image(after[..., :3], "after").float()
    (height, width), (rows, columns) = before.shape[1:3], after.shape[1:3]
    if not same_shape((width, height), (columns, rows)):
        raise InputError(
            f"before is {width} x {height} and after {columns} x {rows}: another shape, so their pixels "
            "can't be compared. Give Kontext: Finish the original, and the result has its size"
        )
    if (rows, columns) != (height, width):
        after = resize(after, width, height)
    count = max(len(before), len(after))
    if not {len(before), len(after)} <= {1, count}:
        raise ShapeError(
            f"before is a batch of {len(before)}, after one of {len(after)}; give one, or as many"
        )
    return before.expand(count, -1, -1, -1), after.expand(count, -1, -1, -1)


def compare(before: Tensor, after: Tensor, mask: Tensor | None = None) -> list[Comparison]:
    """Likeness of every pair.

    Args:
        before, after: [b, h, w, 3] each, from `paired`.
        mask: [b or 1, H, W] of their shape at any size; pixels of at least half are inside.

    Raises:
        ShapeError: as many masks as don't fit; InputError: a mask of another shape.
    """
    size = before.shape[1:3]
    areas = None if mask is None else _area(mask, size, len(before))
    found = []
    for index in range(len(before)):
        a, b = (x[index : index + 1].movedim(-1, 1) for x in (before, after))
        similar = ssim_map(a, b) if min(size) >= 11 else None
        changed = ((a - b).abs().amax(1) > CHANGED).float()
        whole = _figures(a, b, similar, changed, torch.ones(1, *size))
        if areas is None:
            found.append(Comparison(whole, None, None))
            continue
        area = areas[index : index + 1]
        inside, outside = (
            _figures(a, b, similar, changed, side) if bool(side.any()) else None
            for side in (area, 1 - area)
        )
        found.append(Comparison(whole, inside, outside))
    return found


def _figures(
    a: Tensor, b: Tensor, similar: Tensor | None, changed: Tensor, area: Tensor
) -> Likeness:
    area = area.to(a.device)
    share = float((changed * area).sum() / area.sum())
    alike = None
    if similar is not None:
        # The window leaves no value for the outermost five pixels.
        inner = area[:, 5:-5, 5:-5]
        if bool(inner.any()):
            alike = float((similar.mean(1) * inner).sum() / inner.sum())
    return Likeness(float(psnr(a, b, area[:, None])), alike, share)


def _area(mask: Tensor, size: torch.Size, count: int) -> Tensor:
    """[b, h, w] of 0 and 1."""
    if mask.ndim != 3 or len(mask) not in (1, count):
        raise ShapeError(f"mask has shape {tuple(mask.shape)}; expected [1 or {count}, h, w]")
    height, width = size
    own = mask.shape[2], mask.shape[1]
    if not same_shape((width, height), own):
        raise InputError(
            f"mask is {own[0]} x {own[1]}, the picture {width} x {height}: another shape; crop or pad "
            "it to the picture's"
        )
    if mask.shape[1:] != size:
        mask = F.interpolate(mask[:, None].float(), size=size, mode="bilinear")[:, 0]
    return (mask >= 0.5).float().expand(count, -1, -1)


def heat_map(before: Tensor, after: Tensor, full: float = 0.25) -> Tensor:
    """The largest difference of a pixel's channels as a colour, [b, h, w, 3]: black where there is
    none, over violet, red and yellow to white at `full` (0.001..1) and above.

    Raises:
        InputError: full out of range.
    """
    full = check_number(full, "full", 0.001, 1, "the difference that is drawn white")
    share = ((before - after).abs().amax(-1) / full).clamp(0, 1) * (len(HEAT) - 1)
    colours = torch.tensor(HEAT, device=share.device)
    low = share.floor().long().clamp(max=len(HEAT) - 2)
    return torch.lerp(colours[low], colours[low + 1], (share - low)[..., None])


def in_words(found: Comparison) -> str:
    """One pair's figures as a line."""
    parts = [_line("whole", found.whole)]
    parts += [
        _line(name, side)
        for name, side in (("in the mask", found.inside), ("outside", found.outside))
        if side is not None
    ]
    return "; ".join(parts)


def _line(name: str, figures: Likeness) -> str:
    if figures.psnr >= 100:
        return f"{name}: identical"
    alike = "" if figures.ssim is None else f", SSIM {figures.ssim:.3f}"
    return f"{name}: PSNR {figures.psnr:.1f} dB{alike}, {100 * figures.changed:.1f} % of pixels changed"
