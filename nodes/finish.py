"""Kontext: Finish: latent to picture, and the untouched pixels of the original back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.composite import composite
from ..kontext_core.errors import InputError
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
                    "pixel. Needs the original, and has its shape, at any size: of one of another "
                    "size, pixels that lie over any black stay too.",
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
                io.Boolean.Input(
                    "match_colours",
                    default=False,
                    optional=True,
                    tooltip="Corrects the result's colours by what differs from the original just "
                    "outside the mask, so that no seam shows. Needs original and mask.",
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
        match_colours: bool = False,
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
            image = composite(image, original, mask, feather, match=match_colours)
        if mask is not None and not bool(mask.any()):
            notes.append(
                "the mask is all black: this is the original, and nothing of the result is in it. "
                "Paint what may change (Load Image gives an empty mask when nothing was painted), "
                "or take the mask away"
            )
        return output(image, notes=notes)
