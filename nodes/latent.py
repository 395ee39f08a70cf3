"""LATENT at the edge: the dict of ComfyUI's sockets to the tensors the core takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kontext_core.errors import InputError, ShapeError
from ..kontext_core.framing import alike, frame_mask
from ..kontext_core.latents import FLUX_LATENT, LatentFormat
from ..kontext_core.masks import cover_mask
from .notes import FRAMING

if TYPE_CHECKING:
    from torch import Tensor


def target_samples(latent: dict[str, Any], latent_format: LatentFormat = FLUX_LATENT) -> Tensor:
    """The samples of a LATENT to paint on, [b, c, h, w].

    An empty latent made for another kind of model (4 channels, say) becomes an empty one with the
    right number of channels, as in ComfyUI.

    Raises:
        ShapeError: not a latent of this kind of model.
    """
    import torch

    samples = latent.get("samples")
    if not isinstance(samples, torch.Tensor) or samples.ndim != 4:
        found = type(samples).__name__ if samples is None else getattr(samples, "shape", samples)
        raise ShapeError(
            f"the latent holds {found}; expected a picture latent [batch, "
            f"{latent_format.channels}, height, width], for example from Empty SD3 Latent Image"
        )
    if samples.shape[1] != latent_format.channels:
        if bool(torch.count_nonzero(samples)):
            raise ShapeError(
                f"the latent has {samples.shape[1]} channels, this model {latent_format.channels}; "
                "it was made by another kind of model. Encode the picture with this model's VAE"
            )
        shape = (len(samples), latent_format.channels, *samples.shape[2:])
        return samples.new_zeros(shape, dtype=torch.float32)
    return samples


def noise_for(seed: int, samples: Tensor, batch_index: list[int] | None) -> Tensor:
    """Noise equal to ComfyUI's for this seed; `batch_index` picks pictures out of a larger batch."""
    import torch

    from ..kontext_core.sampling import make_noise

    if batch_index is None:
        return make_noise(seed, samples.shape)
    # One draw a picture, in order, as ComfyUI does: a single large draw gives other numbers.
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, *samples.shape[1:])
    drawn = [torch.randn(shape, generator=generator) for _ in range(max(batch_index) + 1)]
    return torch.cat([drawn[index] for index in batch_index])


def with_mask(latent: dict[str, Any], mask: Tensor) -> dict[str, Any]:
    """A LATENT that samplers may paint only where the mask is white: its `noise_mask`, in cells.

    A cell is free as far as the freest pixel it covers, so that all of the mask is painted.

    Args:
        latent: of the picture; one with a framing takes a mask of the picture's shape.
        mask: [b, h, w] or [h, w], at any size.

    Raises:
        InputError: an empty latent, which holds no picture to keep.
        ShapeError: a mask of another shape.
    """
    import torch

    samples, framing = latent["samples"], latent.get(FRAMING)
    if not bool(torch.count_nonzero(samples)):
        raise InputError(
            "there is a mask, but latent is empty, so there is no picture to keep; leave latent open "
            "to keep image like_image, or connect an encoded picture"
        )
    mask = mask[None] if mask.ndim == 2 else mask
    rows, columns = samples.shape[-2:]
    grid, size = (columns * 8, rows * 8), (mask.shape[-1], mask.shape[-2])
    if size != grid and framing is not None and alike(framing.picture, size):
        mask = frame_mask(mask, framing, edges=True)
    elif bool(mask.any()) and not alike(grid, size):
        shown = grid if framing is None else framing.picture
        raise ShapeError(
            f"the mask is {size[0]} x {size[1]}, the picture {shown[0]} x {shown[1]}: of another "
            "shape, so it can't say which part is meant. Draw it on the picture itself (Load Image "
            "gives both), or crop or pad it to the picture's shape"
        )
    return {**latent, "noise_mask": cover_mask(mask, columns, rows)[:, None]}


def with_boxes(mask: Tensor | None, boxes: Any, image: Tensor | None) -> Tensor:
    """White in the boxes, and where a mask [h, w] or [b, h, w] of the image's shape is.

    Raises:
        InputError: there is no image whose pixels the boxes count; or no box in it.
    """
    import torch
    import torch.nn.functional as F

    from ..kontext_core.cues import inside, outlines, read_boxes

    if image is None:
        raise InputError(
            "boxes need the picture that they are drawn on: connect it, and set width and height to 0"
        )
    size = image.shape[2], image.shape[1]
    found = inside(outlines(read_boxes(boxes), size), size)
    if mask is None:
        return found
    mask = (mask[None] if mask.ndim == 2 else mask).cpu()
    if mask.shape[1:] != found.shape[1:]:
        # To the mask's own size, which says the shape it was made for.
        found = F.interpolate(found[None], tuple(mask.shape[1:]), mode="area")[0]
    return torch.maximum(mask.float(), found)
