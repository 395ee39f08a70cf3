"""Kontext: Finish: latent to picture, and the untouched pixels of the original back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.errors import InputError, ShapeError
from ..kontext_core.framing import (
    OTHER_SHAPE,
    ROUNDED,
    alike,
    bring_to,
    on_page,
    on_page_mask,
    plan_fit,
    put_back,
    same_shape,
    unframe_mask,
)
from ..kontext_core.images import check_image, resize
from ..kontext_core.resolutions import KONTEXT_RESOLUTIONS, nearest_resolution
from .native.vae import require_vae
from .notes import FRAMING, output
from .schema import make

if TYPE_CHECKING:
    from torch import Tensor

    from ..kontext_core.framing import Framing


def soften(mask: Tensor, feather: int) -> Tensor:
    """Fade the inside of a mask [b, h, w] over about `feather` pixels; outside stays exactly 0."""
    import torch
    import torch.nn.functional as F

    if feather <= 0:
        return mask
    radius = feather
    grid = torch.arange(-radius, radius + 1, dtype=torch.float32, device=mask.device)
    kernel = torch.exp(-0.5 * (grid / (feather / 2)) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    x = mask.float()[:, None]
    x = F.pad(x, (radius, radius, radius, radius), mode="replicate")
    x = F.conv2d(F.conv2d(x, kernel[..., None, :]), kernel[..., :, None])[:, 0]
    # At an edge the blur is one half: from there it rises inwards, so nothing leaks outwards.
    return torch.minimum(mask.float(), (2 * x - 1).clamp(0, 1))


def place(
    result: Tensor,
    original: Tensor,
    framing: Framing | None,
    other_shape: str,
    sizes: Sequence[tuple[int, int]],
) -> tuple[Tensor, list[str]]:
    """The result in the original's size, and what had to be done to it beyond resizing.

    Args:
        result: [b, h, w, 3].
        original: [1 or b, H, W, 3].
        framing: how the picture that the result was made of was brought onto the grid, if known.
        other_shape: for a result of another shape: "refuse", or as in `bring_to`.
        sizes: (width, height) that the model was trained at.

    Raises:
        InputError: another shape, which is to be refused.
        ShapeError: batches that don't fit each other.
    """
    made = (result.shape[2], result.shape[1])
    size = (original.shape[2], original.shape[1])
    if framing is not None:
        if alike(framing.picture, size):
            return put_back(result, original, framing), []
    elif made == nearest_resolution(*size, sizes):
        # Nothing says how it was brought there: as our nodes do it.
        return put_back(result, original, plan_fit(*size, sizes, "trained size")), []
    elif same_shape(size, made, ROUNDED):
        return resize(result, *size), []
    said = f"the result is {_size(made)}, the original {_size(size)}: another shape"
    if other_shape == "refuse":
        raise InputError(
            f"{said}. To edit this picture, set like_image of Kontext: Stitch to its number; to "
            "keep the result, connect the picture whose shape it has to original, or set "
            "other_shape to crop or pad"
        )
    done = {"crop": "cropped", "pad": "padded with black", "stretch": "stretched"}
    if other_shape not in done:
        raise InputError(
            f"other_shape is {other_shape!r}; expected one of {', '.join(OTHER_SHAPE)}"
        )
    return bring_to(result, *size, other_shape), [f"{said}, so it was {done[other_shape]}"]


def true_framing(samples: dict[str, Any], image: Tensor) -> Framing | None:
    """How the picture that a result was made of was brought onto the grid, if known. A node between,
    such as a crop of the latent, leaves one behind that is not true."""
    framing = samples.get(FRAMING)
    made = (image.shape[2], image.shape[1])
    return framing if framing is not None and same_shape(framing.size, made, ROUNDED) else None


def on_canvas(
    original: Tensor, mask: Tensor | None, framing: Framing | None
) -> tuple[Tensor, Tensor | None]:
    """Original and mask as what a framing's result is laid over: on its page if it has one; a mask
    of the canvas, as Kontext: Canvas gives it, cut to the original."""
    if framing is None:
        return original, mask
    original = on_page(original, framing)
    if mask is not None:
        size = (original.shape[2], original.shape[1])
        own = (mask.shape[-1], mask.shape[-2])
        if own == framing.size and own != size:
            mask = unframe_mask(mask, framing, size)
        elif own != size:
            mask = on_page_mask(mask, framing, 1.0)
    return original, mask


def composite(result: Tensor, original: Tensor, mask: Tensor | None, feather: int) -> Tensor:
    """The result laid over the original where the mask is white.

    Args:
        result: [b, h, w, 3].
        original: [1 or b, h, w, 3].
        mask: None, or [1 or b, h, w], of the original's shape at any size; 1 = from the result.
        feather: pixels over which the result fades in.

    Raises:
        ShapeError: batches that don't fit each other, or a mask of another shape.
    """
    import torch.nn.functional as F

    if mask is None:
        return result
    height, width = original.shape[1:3]
    if mask.ndim == 2:
        mask = mask[None]
    if mask.shape[1:] != (height, width) and bool(mask.any()):
        size = (mask.shape[2], mask.shape[1])
        if not alike((width, height), size):
            raise ShapeError(
                f"the mask is {_size(size)}, the original {_size((width, height))}: of another "
                "shape, so it can't say which part is meant. Draw it on the original (Load Image "
                "gives both), or crop or pad it to the original's shape"
            )
    if mask.shape[1:] != (height, width):
        mask = F.interpolate(mask[:, None].float(), size=(height, width), mode="bilinear")[:, 0]
    for name, tensor in (("original", original), ("mask", mask)):
        if len(tensor) not in (1, len(result)):
            raise ShapeError(
                f"{name} is a batch of {len(tensor)}, the result one of {len(result)}; give one, "
                "or as many"
            )
    weight = soften(mask, feather)[..., None].to(result)
    original = original.to(result)
    blended = original + weight * (result - original)
    # Exact where nothing was to change: no rounding from the sum.
    return original.expand_as(blended).where(weight == 0, blended)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


class KontextFinish(io.ComfyNode):
    """LATENT to IMAGE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextFinish",
            display_name="Kontext: Finish",
            description="Decodes the result. With an original it comes out in the original's size, "
            "in its place, and with a mask too, every pixel outside the mask is the original's own.",
            search_aliases=[
                "kontext",
                "vae decode",
                "composite",
                "paste back",
                "keep background",
                "inpaint",
            ],
            # Has the notes sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            inputs=[
                io.Latent.Input("samples", tooltip="From Kontext: Sampler."),
                io.Vae.Input("vae", tooltip="From Kontext: Load VAE, or ComfyUI's own Load VAE."),
                io.Image.Input(
                    "original",
                    optional=True,
                    tooltip="The picture that was edited. Gives the result its size; what fit left "
                    "out at its edges stays the original's own.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White is taken from the result, black from the original, pixel by "
                    "pixel. Needs the original, and has its shape, at any size: one of another "
                    "size is resized bilinearly, which softens its edge.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Pixels inside the mask's edge over which the result fades in. 0 is a "
                    "hard edge.",
                ),
                io.Combo.Input(
                    "other_shape",
                    options=list(OTHER_SHAPE),
                    default=OTHER_SHAPE[0],
                    optional=True,
                    tooltip="When the result has another shape than the original. refuse: stop and "
                    "say so. crop: fill the original's size, cut off the rest. pad: show all of it "
                    "on black. stretch: distort it.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="IMAGE", tooltip="The finished picture.")
            ],
        )

    @classmethod
    def execute(
        cls,
        samples: dict[str, Any],
        vae: Any,
        feather: int,
        original: Tensor | None = None,
        mask: Tensor | None = None,
        other_shape: str = OTHER_SHAPE[0],
    ) -> io.NodeOutput:
        if mask is not None and original is None:
            raise InputError(
                "Kontext: Finish got a mask but no original to keep pixels of; connect the edited "
                "picture to original, or take the mask away"
            )
        image = require_vae(vae).decode(samples["samples"])
        notes = []
        if original is not None:
            original = check_image(original[..., :3], "original")
            sizes = getattr(vae, "resolutions", KONTEXT_RESOLUTIONS)
            framing = true_framing(samples, image)
            original, mask = on_canvas(original, mask, framing)
            image, notes = place(image, original, framing, other_shape, sizes)
            image = composite(image, original, mask, feather)
        if mask is not None and not bool(mask.any()):
            notes.append(
                "the mask is all black: this is the original, and nothing of the result is in it. "
                "Paint what may change (Load Image gives an empty mask when nothing was painted), "
                "or take the mask away"
            )
        return output(image, notes=notes)
