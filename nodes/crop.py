"""Kontext: Crop and Kontext: Paste: a small region edited at full size, and back in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.crop import Crop, cut_crop, paste_crop
from ..kontext_core.errors import InputError
from ..kontext_core.resolutions import KONTEXT_RESOLUTIONS, MAX_SIDE
from .native.vae import require_vae
from .notes import output
from .schema import CroppedPart, make

if TYPE_CHECKING:
    from torch import Tensor


def _box(left: int, top: int, width: int, height: int) -> tuple[int, int, int, int] | None:
    """(left, top, width, height), None where both sides are 0.

    Raises:
        InputError: only one of width and height.
    """
    if (width == 0) != (height == 0):
        raise InputError(
            f"width is {width} and height {height}; set both, or both to 0 to crop around the mask"
        )
    return (left, top, width, height) if width else None


def _notes(crop: Crop) -> list[str]:
    """What is shown of the picture, and where more was asked than fits."""
    left, top, width, height = crop.framing.box
    across, down = crop.framing.size
    notes = [
        f"shows {width} x {height} pixels from {left}, {top} at {across} x {down}, "
        f"{crop.enlarged:.1f} times as large"
    ]
    if crop.enlarged < 1:
        notes.append(
            "the region is larger than what is painted, so its details get lost: mask less, or set "
            "context lower"
        )
    if crop.framing.filled < 1:
        notes.append(
            "the region reaches beyond the picture, whose outermost pixels are repeated there"
        )
    return notes


class KontextCrop(io.ComfyNode):
    """IMAGE and MASK to the part around the mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side: dict[str, Any] = {"default": 0, "min": 0, "max": MAX_SIDE}
        return make(
            node_id="KontextCrop",
            display_name="Kontext: Crop",
            description="Cuts out what a mask or a box shows, with some of its surroundings, at a "
            "size that the model was trained at, so that a small region is edited in full detail. "
            "Kontext: Paste puts the edit back in its place.",
            search_aliases=[
                "kontext",
                "crop and stitch",
                "inpaint crop",
                "detailer",
                "crop to mask",
                "zoom in",
            ],
            # Has the notes sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            inputs=[
                io.Image.Input(
                    "image", tooltip="The whole picture; those of a batch are cut alike."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White may change, of the picture's shape at any size. Open: all of the "
                    "box may.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Whose trained sizes are taken. Open: those of FLUX.1 Kontext.",
                ),
                io.Int.Input("x", tooltip="Left edge of the box, in pixels.", **side),
                io.Int.Input("y", tooltip="Upper edge of the box, in pixels.", **side),
                io.Int.Input(
                    "width",
                    tooltip="Of the box, in pixels. 0: the smallest around the mask.",
                    **side,
                ),
                io.Int.Input(
                    "height", tooltip="Of the box, in pixels. 0 together with width.", **side
                ),
                io.Float.Input(
                    "context",
                    default=1.5,
                    min=1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How much is shown around the region: 1 is the region alone, 2 twice its "
                    "width and height. The model needs some to fit in what it paints.",
                ),
                io.Int.Input("margin", tooltip="Pixels shown around it beyond context.", **side),
                io.Float.Input(
                    "enlarge",
                    default=4.0,
                    min=1.0,
                    max=64.0,
                    step=0.5,
                    tooltip="At most so many times enlarged: a smaller region shows more of what is "
                    "around it.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-512,
                    max=512,
                    tooltip="Pixels by which the mask is grown; below 0 it shrinks.",
                ),
                io.Int.Input(
                    "blur",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Pixels outside the mask over which the change fades out. What is beyond "
                    "stays exactly as it was.",
                ),
                io.Float.Input(
                    "megapixels",
                    default=0.0,
                    min=0.0,
                    max=16.0,
                    step=0.1,
                    tooltip="Size of the crop. 0: as the model was trained.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "part",
                    display_name="IMAGE",
                    tooltip="The crop, for Kontext: Reference or Edit.",
                ),
                io.Mask.Output(
                    "seen_mask",
                    display_name="MASK",
                    tooltip="The mask on the crop, for Kontext: Stitch.",
                ),
                CroppedPart.Output(
                    "crop",
                    display_name="crop",
                    tooltip="Picture, mask and place, for Kontext: Paste.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        x: int,
        y: int,
        width: int,
        height: int,
        context: float,
        margin: int,
        enlarge: float,
        grow: int,
        blur: int,
        megapixels: float,
        mask: Tensor | None = None,
        vae: Any = None,
    ) -> io.NodeOutput:
        sizes = KONTEXT_RESOLUTIONS
        if vae is not None:
            sizes = getattr(require_vae(vae), "resolutions", KONTEXT_RESOLUTIONS)
        crop = cut_crop(
            image,
            mask,
            sizes,
            box=_box(x, y, width, height),
            context=context,
            margin=margin,
            enlarge=enlarge,
            grow=grow,
            blur=blur,
            megapixels=megapixels,
        )
        return output(crop.picture(), crop.seen_mask(), crop, notes=_notes(crop))


class KontextPaste(io.ComfyNode):
    """The edited crop into its picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextPaste",
            display_name="Kontext: Paste",
            description="Puts an edited crop back where Kontext: Crop cut it out. Every pixel outside "
            "the mask is the original's own, to the bit; nothing is shifted.",
            search_aliases=[
                "kontext",
                "crop and stitch",
                "inpaint stitch",
                "uncrop",
                "paste back",
                "composite",
            ],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The edited crop, from Kontext: Finish, VAE Decode or Kontext: Edit. May "
                    "have been enlarged.",
                ),
                CroppedPart.Input("crop", tooltip="From Kontext: Crop."),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Pixels inside the mask's edge over which the edit fades in. 0 is a hard "
                    "edge.",
                ),
                io.Boolean.Input(
                    "match_colours",
                    default=True,
                    tooltip="Corrects the edit's colours by what differs from the original just "
                    "outside the mask, so that no seam shows.",
                ),
            ],
            outputs=[
                io.Image.Output("picture", display_name="IMAGE", tooltip="The whole picture.")
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, crop: Crop, feather: int, match_colours: bool) -> io.NodeOutput:
        return io.NodeOutput(paste_crop(image, crop, feather=feather, match=match_colours))
