"""Puts references beside the target: tokens, rotary ids, attention bias and a layout to draw.

The sequence a Kontext transformer sees is [text, target, reference 1, reference 2, ...]; a
reference differs from the target only by its ids (t, h, w) and by never being noised
(arXiv 2506.15742, section 3). **Reference ids are made in `place` (where) and `_ids` (the
numbers) below**, for the core's sampler and, by `arrange`, for ComfyUI's.

Placements, in token units (2x2 latent cells, 16 pixels):
    offset   t = 1 for all; the first at the origin, each next one beside or below what is
             already there, whichever keeps the canvas squarer. ComfyUI's default, and what
             today's [dev] weights handle best with several references.
    index    t = 1, 2, 3, ... at the origin, as the paper describes it.
    index_timestep_zero
             placed as by index, and modulated at timestep 0, as finished pictures, whatever the
             step. ComfyUI's name.
    uxo      t = 0, each down the diagonal after target and earlier references (UNO, USO LoRAs).
    explicit a reference's own `position` (t, dh, dw), whatever the method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .checks import check_choice, check_number, is_number
from .errors import InputError, ShapeError
from .finite import check_finite
from .latents import FLUX_LATENT, LatentFormat, pack, token_grid
from .seen import check_mask, kept_tokens

if TYPE_CHECKING:
    from .framing import Framing

INDEX_AT_ZERO = "index_timestep_zero"
METHODS = ("offset", "index", "uxo", INDEX_AT_ZERO)
# (t, h, w) of an image's first token, in token units.
Position = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Reference:
    """One picture the model may look at.

    Attributes:
        latent: [1 or b, c, h, w] RAW latent.
        strength: 0..4. Weight of its tokens in every attention (1 as trained, 0 leaves it out).
        start, end: share of the run, 0..1, in which it is present: step i of n has it when
            start <= i / n < end.
        mask: None, or [height, width] in 0..1 at any resolution; tokens whose area has nothing
            of at least 0.5 are left out.
        position: None, or (t, dh, dw) in token units, which overrides the method.
        name: what messages and the layout call it; the instruction calls it by its number.
        framing: None, or how its picture was brought onto the grid; travels along, for a target
            that is to have its shape.
        resolution: share of each side's pixels that its latent was made with, see
            `framing.at_resolution`; `framing` is that of all of them.
    """

    latent: Tensor
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mask: Tensor | None = None
    position: Position | None = None
    name: str | None = None
    framing: Framing | None = None
    resolution: float = 1.0

    @property
    def cells(self) -> tuple[int, int]:
        """(height, width) of a latent in its shape, with all of its pixels."""
        if self.framing is not None and self.resolution < 1:
            return self.framing.size[1] // 8, self.framing.size[0] // 8
        return self.latent.shape[-2], self.latent.shape[-1]


@dataclass(frozen=True)
class Placed:
    """Where one image stands: `t, h, w` of its first token and its size, in token units.

    `tokens` counts what is kept after the mask; `index` is 0 for the target, then 1, 2, ...
    """

    index: int
    t: float
    h: float
    w: float
    rows: int
    columns: int
    tokens: int
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    name: str | None = None


@dataclass(frozen=True, eq=False)
class StepContext:
    """What the transformer needs beside the target's tokens at one step.

    Attributes:
        tokens, img_ids, bias: as in `Context`, without absent references.
        counts: tokens of each reference that is there.
        still: references are modulated at timestep 0; never set where there are none.
        present: which of the references are there.
    """

    tokens: Tensor
    img_ids: Tensor
    bias: Tensor | None
    counts: tuple[int, ...] = ()
    still: bool = False
    present: tuple[bool, ...] = ()


@dataclass(frozen=True, eq=False)
class Context:
    """References stitched to a target.

    Attributes:
        target_shape: (b, c, h, w) of the target's latent.
        latent_format: raw latents to model space and back.
        tokens: [b, n_ref, 4c] all kept reference tokens, model space, chain order.
        img_ids: [1, n_target + n_ref, 3] float32, target first.
        bias: None, or [1, n_target + n_ref] log strengths.
        layout: target and references, in order.
        still: references are modulated at timestep 0, whatever the step's.
    """

    target_shape: tuple[int, int, int, int]
    latent_format: LatentFormat
    tokens: Tensor
    img_ids: Tensor
    bias: Tensor | None
    layout: tuple[Placed, ...]
    still: bool = False

    @property
    def target_tokens(self) -> int:
        """Number of tokens of the target, which come first in `img_ids`."""
        return self.layout[0].tokens

    def at(self, progress: float) -> StepContext:
        """The context of a step at this share of the run (0..1), without absent references."""
        present = tuple(p.start <= progress < p.end for p in self.layout[1:])
        counts = tuple(p.tokens for p, here in zip(self.layout[1:], present, strict=True) if here)
        still = self.still and bool(counts)
        if all(present):
            return StepContext(self.tokens, self.img_ids, self.bias, counts, still, present)
        return StepContext(
            self._kept(self.tokens, present, 1),
            self._kept(self.img_ids, [True, *present], 0),
            None if self.bias is None else self._kept(self.bias, [True, *present], 0),
            counts,
            still,
            present,
        )

    def _kept(self, values: Tensor, present: Sequence[bool], first: int) -> Tensor:
        """Those of the images, from number `first` on, that are `present`; along dimension 1."""
        parts = values.split([p.tokens for p in self.layout[first:]], 1)
        kept = [part for part, here in zip(parts, present, strict=True) if here]
        return torch.cat(kept, 1) if kept else values[:, :0]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Context:
        """The same context with tokens in `dtype`; ids and bias stay float32."""
        return Context(
            self.target_shape,
            self.latent_format,
            self.tokens.to(device, dtype),
            self.img_ids.to(device),
            None if self.bias is None else self.bias.to(device),
            self.layout,
            self.still,
        )


def stitch(
    target: tuple[int, ...] | torch.Size,
    references: Sequence[Reference] = (),
    *,
    method: str = "offset",
    latent_format: LatentFormat = FLUX_LATENT,
) -> Context:
    """Lay out a target and its references.

    Args:
        target: (b, c, h, w), the shape of the target's latent; odd sides are allowed.
        references: in the order in which the instruction numbers them.
        method: one of METHODS.
        latent_format: the model's, `model.latent_format`; `sample` refuses a context of another.

    Raises:
        InputError: unknown method; strength, start or end outside their range; an empty mask.
        ShapeError: a latent that is not [1 or b, c, h, w], or a mask that is not 2D.
    """
    check_choice(method, "placement method", METHODS, "or give a reference its own position")
    if len(target) != 4 or target[1] != latent_format.channels or min(target) < 1:
        raise ShapeError(
            f"target shape is {tuple(target)}; expected (batch, {latent_format.channels}, "
            "height, width) of a latent"
        )
    for number, reference in enumerate(references, 1):
        _check(reference, number, target[0], latent_format)
    there = [
        replace(reference, latent=latent_format.process_in(reference.latent.float()))
        for reference in references
    ]
    return arrange(tuple(target), there, method, latent_format=latent_format)


def arrange(
    target: tuple[int, ...],
    references: Sequence[Reference],
    method: str,
    *,
    latent_format: LatentFormat = FLUX_LATENT,
    rope: Mapping[str, float] | None = None,
    device: torch.device | str | None = None,
) -> Context:
    """As `stitch`, of references whose latents are in model space, without its checks.

    Args:
        rope: None, or ComfyUI's `rope_options`: `scale_x`, `scale_y` spread the tokens of every
            image, `shift_x`, `shift_y`, `shift_t` move all of them.
        device: of ids and bias; None takes that of the references.

    Raises:
        InputError: a mask that leaves nothing of its reference.
    """
    batch, channels, height, width = target
    rows, columns = token_grid(height, width)
    layout = [Placed(0, 0.0, 0.0, 0.0, rows, columns, rows * columns)]
    ids = [_ids(rows, columns, (0.0, 0.0, 0.0), rope)]
    tokens, biases = [], [torch.zeros(rows * columns)]
    sizes = [(r.latent.shape[-2], r.latent.shape[-1]) for r in references]
    positions = place(sizes, method, (rows, columns), [r.position for r in references])
    for index, (reference, position) in enumerate(zip(references, positions, strict=True), 1):
        if reference.strength == 0:
            # It has no part in any attention: left out is the same, for less. Its place stays
            # free, so that turning a strength down moves nothing else.
            continue
        latent = reference.latent
        packed = pack(latent.repeat(batch // len(latent), 1, 1, 1))
        rows, columns = token_grid(*latent.shape[-2:])
        kept = kept_tokens(reference.mask, rows, columns, index)
        grid = _ids(rows, columns, position, rope)
        if kept is not None:
            packed, grid = packed[:, kept.to(packed.device)], grid[kept]
        tokens.append(packed)
        ids.append(grid)
        biases.append(torch.full((len(grid),), math.log(reference.strength)))
        layout.append(
            Placed(
                index, *position, rows, columns, len(grid),
                reference.strength, reference.start, reference.end, reference.name,
            )
        )  # fmt: skip
    if device is None:
        device = tokens[0].device if tokens else torch.device("cpu")
    plain = all(placed.strength == 1 for placed in layout)
    return Context(
        target_shape=(batch, channels, height, width),
        latent_format=latent_format,
        tokens=torch.cat(tokens, 1)
        if tokens
        else torch.zeros(batch, 0, 4 * channels, device=device),
        img_ids=torch.cat(ids)[None].to(device),
        bias=None if plain else torch.cat(biases)[None].to(device),
        layout=tuple(layout),
        still=method == INDEX_AT_ZERO,
    )


def place(
    sizes: Sequence[tuple[int, int]],
    method: str,
    target: tuple[int, int],
    explicit: Sequence[Position | None] | None = None,
) -> list[Position]:
    """First-token position (t, h, w) of each reference, in token units.

    The running extents are kept in latent cells, then rounded up to tokens, as ComfyUI does
    (comfy/ldm/flux/model.py), so that odd sizes land on the same ids.

    Args:
        sizes: (height, width) of each reference's latent, in cells.
        method: one of METHODS.
        target: (rows, columns) of the target, in tokens.
        explicit: positions of their own, which take no place in the method's arrangement.
    """
    positions: list[Position] = []
    h = w = index = 0
    for (ref_h, ref_w), own in zip(sizes, explicit or [None] * len(sizes), strict=True):
        if own is not None:
            t, off_h, off_w = own
            positions.append((float(t), float(off_h), float(off_w)))
            continue
        index += 1
        t, off_h, off_w = 1, 0, 0
        if method == "offset":
            if ref_h + h > ref_w + w:
                off_w = w
            else:
                off_h = h
            h, w = max(h, ref_h + off_h), max(w, ref_w + off_w)
        elif method == "uxo":
            t, off_h, off_w = 0, target[0] * 2 + h, target[1] * 2 + w
            h, w = h + ref_h, w + ref_w
        else:
            t = index
        positions.append((float(t), float((off_h + 1) // 2), float((off_w + 1) // 2)))
    return positions


def _ids(
    rows: int, columns: int, position: Position, rope: Mapping[str, float] | None = None
) -> Tensor:
    """[rows * columns, 3] float32 ids of a grid whose first token stands at `position`, scaled
    and shifted by `rope`."""
    asked = rope or {}
    t, h, w = position
    grid = torch.zeros(rows, columns, 3, dtype=torch.float32)
    grid[..., 0] = t + asked.get("shift_t", 0.0)
    grid[..., 1] = _along(h, rows, "y", asked)[:, None]
    grid[..., 2] = _along(w, columns, "x", asked)[None, :]
    return grid.flatten(0, 1)


def _along(first: float, count: int, axis: str, rope: Mapping[str, float]) -> Tensor:
    """[count] float32 positions along one axis."""
    first = first + rope.get(f"shift_{axis}", 0.0)
    reach = (count - 1) * rope.get(f"scale_{axis}", 1.0)
    return torch.linspace(first, first + reach, count, dtype=torch.float32)


def _check(reference: Reference, number: int, batch: int, latent_format: LatentFormat) -> None:
    if not isinstance(reference, Reference):
        raise InputError(
            f"reference {number} is a {type(reference).__name__}; expected a Reference, which holds "
            "an encoded picture"
        )
    name = f"reference {number}"
    if reference.name is not None:
        name += f" ({reference.name})"
    latent_format.check(reference.latent, name)
    if batch % len(reference.latent):
        raise ShapeError(
            f"{name} is a batch of {len(reference.latent)}, the target one of {batch}; give one "
            "reference picture, or as many as targets"
        )
    check_finite(
        reference.latent, name, "check the picture or the autoencoder that made it (half precision "
        "can overflow: use float32 or bfloat16)",
    )  # fmt: skip
    check_number(reference.strength, f"{name}: strength", 0, 4, "1 is neutral")
    shares = reference.start, reference.end
    if not all(map(is_number, shares)) or not 0 <= shares[0] < shares[1] <= 1:
        raise InputError(
            f"{name}: start {shares[0]!r} and end {shares[1]!r} must be shares of the run with "
            "0 <= start < end <= 1"
        )
    check_mask(reference.mask, name)
    position = reference.position
    if position is None:
        return
    three = isinstance(position, Sequence) and len(position) == 3
    if not three or not all(map(is_number, position)):
        raise InputError(f"{name}: position is {position!r}; expected three numbers (t, dh, dw)")
