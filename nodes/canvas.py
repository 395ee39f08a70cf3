"""Kontext: Canvas: what a result is painted on: which size, which part of the picture, what is new."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.errors import ShapeError
from ..kontext_core.fit import POLICIES, Fit, aspect_of, far_from_trained
from ..kontext_core.framing import alike, fit_picture, frame_mask, on_page_mask
from ..kontext_core.images import check_image
from ..kontext_core.pages import FILLS, SHAPES, new_area
from ..kontext_core.resolutions import KONTEXT_RESOLUTIONS, MAX_SIDE
from .inputs import like_input, present_like
from .native.vae import require_vae
from .notes import FRAMING, output
from .schema import make

if TYPE_CHECKING:
    from torch import Tensor

    from ..kontext_core.framing import Framing

OWN, CUSTOM = "of the picture", "width : height"
ASPECTS = (
    OWN, "1:1", "4:3", "3:2", "16:9", "21:9", "3:4", "2:3", "9:16", "9:21", CUSTOM,
)  # fmt: skip
SIDES = ("left", "top", "right", "bottom")


def area(mask: Tensor | None, framing: Framing, feather: int) -> Tensor:
    """What may change of a canvas, [1 or b, h, w] in 0..1: what is new, what the mask says, and all
    where there is neither.

    Args:
        mask: None, or [h, w] or [1 or b, h, w] of the picture's shape, at any size.

    Raises:
        ShapeError: a mask of another shape.
    """
    import torch
    import torch.nn.functional as F

    width, height = framing.size
    made = torch.zeros(1, height, width)
    page = framing.page
    if mask is not None:
        mask = mask[None] if mask.ndim == 2 else mask
        own = framing.picture if page is None else page.picture
        size = (mask.shape[2], mask.shape[1])
        if not alike(own, size):
            raise ShapeError(
                f"the mask is {size[0]} x {size[1]}, the picture {own[0]} x {own[1]}: of another "
                "shape, so it can't say which part is meant. Draw it on the picture itself (Load "
                "Image gives both), or crop or pad it to the picture's shape"
            )
        # At the picture's own size, so that it meets what is new pixel by pixel.
        mask = _resized(mask, own)
        made = _resized(frame_mask(on_page_mask(mask, framing, 0.0), framing), framing.size)
    if page is not None and max(page.margins) > 0:
        # Beyond the page is padding, which is cut off again: it goes on as at the edge.
        left, top, right, bottom = _padding(framing)
        new = new_area(page, feather)[None, None]
        new = new[..., max(0, -top) : new.shape[-2] - max(0, -bottom), :]
        new = new[..., max(0, -left) : new.shape[-1] - max(0, -right)]
        padding = tuple(max(0, one) for one in (left, right, top, bottom))
        new = _resized(F.pad(new, padding, mode="replicate")[0], framing.size)
        made = torch.maximum(made, new)
    elif mask is None:
        made = torch.ones(1, height, width)
    return made


def _padding(framing: Framing) -> tuple[int, int, int, int]:
    """Pixels of the framing's picture between its edges and the box's (left, top, right, bottom)."""
    left, top, width, height = framing.box
    return -left, -top, left + width - framing.picture[0], top + height - framing.picture[1]


def _resized(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask [b, h, w] at (width, height)."""
    import torch.nn.functional as F

    shape = (size[1], size[0])
    if mask.shape[1:] == shape:
        return mask
    return F.interpolate(mask[:, None].float(), shape, mode="bilinear", antialias=True)[:, 0]


def _said(framing: Framing) -> str:
    """What was done, and what comes of it."""
    width, height = framing.size
    back = framing.picture
    return (
        f"painted at {width} x {height}; Kontext: Finish with the picture as original gives "
        f"{back[0]} x {back[1]}"
    )


class KontextCanvas(io.ComfyNode):
    """Picture and policy to a canvas."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextCanvas",
            display_name="Kontext: Canvas",
            description="Chooses what the result is painted on: the size, which part of the picture "
            "stands on it, and what is new beside it. Nothing is squashed, and Kontext: Finish puts "
            "the result back exactly where the picture came from.",
            search_aliases=[
                "kontext",
                "size",
                "aspect ratio",
                "megapixels",
                "outpaint",
                "extend picture",
                "pad image",
                "resize",
            ],
            # Has the notes sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("image1", tooltip="The picture that is edited."),
                io.Image.Input(
                    "image2",
                    optional=True,
                    tooltip="Another picture that may be the one that is edited, see like_image.",
                ),
                io.Image.Input(
                    "image3",
                    optional=True,
                    tooltip="A third one that may be edited, see like_image.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Tells the sizes that its model was trained at. Open: those of FLUX.1 "
                    "Kontext; connect the embedded VAE when you paint with the embedded model.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What may change of the picture itself; the new area is added to it. In "
                    "the picture's shape, at any size.",
                ),
                io.Combo.Input(
                    "policy",
                    options=list(POLICIES),
                    default=POLICIES[0],
                    tooltip="trained size: the one with the closest shape that the model was trained "
                    "at. exact: the picture's own pixels, padded to whole tokens of 16. megapixels: "
                    "its shape at another area. custom: width and height below.",
                ),
                io.Combo.Input(
                    "other_shape",
                    options=list(SHAPES),
                    default=SHAPES[0],
                    tooltip="Where the picture has another shape than the canvas. pad: show all of "
                    "it, and more beside it. crop: fill the canvas and leave out two edges.",
                ),
                io.Combo.Input(
                    "aspect",
                    options=list(ASPECTS),
                    default=ASPECTS[0],
                    tooltip="Shape of the result. Another one than the picture's extends it or cuts "
                    "it off, as other_shape says. width : height is that of the two below.",
                ),
                io.Float.Input(
                    "megapixels",
                    default=1.0,
                    min=0.01,
                    max=16.0,
                    step=0.01,
                    tooltip="megapixels only: the area, in units of 1024 x 1024 pixels. FLUX.1 "
                    "Kontext was trained at 1.",
                ),
                io.Int.Input(
                    "width",
                    default=1024,
                    min=16,
                    max=MAX_SIDE,
                    step=16,
                    tooltip="custom only: of the canvas, in pixels. Also the first number of aspect "
                    "width : height.",
                ),
                io.Int.Input(
                    "height",
                    default=1024,
                    min=16,
                    max=MAX_SIDE,
                    step=16,
                    tooltip="custom only: of the canvas, in pixels. Also the second number of aspect "
                    "width : height.",
                ),
                *(
                    io.Int.Input(
                        side,
                        default=0,
                        min=0,
                        max=MAX_SIDE,
                        tooltip=f"New pixels at the {side} of the picture, in its own pixels.",
                    )
                    for side in SIDES
                ),
                io.Combo.Input(
                    "fill",
                    options=list(FILLS),
                    default=FILLS[0],
                    tooltip="What the model sees on the new area. edge: the outermost pixels "
                    "repeated. mirror: the picture mirrored. grey: nothing.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Pixels of the picture along the new area that MASK lets change too, "
                    "fading inwards, so that no seam shows.",
                ),
                like_input("Which image is being edited and stands on the canvas. 1 is image1.", 3),
            ],
            outputs=[
                io.Image.Output(
                    "canvas",
                    display_name="IMAGE",
                    tooltip="The picture on the canvas, for the image of Kontext: Reference.",
                ),
                io.Latent.Output(
                    "target",
                    display_name="LATENT",
                    tooltip="Empty, of the canvas's size, and knows what was done: for target of "
                    "Kontext: Reference, and for Kontext: Stitch when that has no reference of it.",
                ),
                io.Mask.Output(
                    "area",
                    display_name="MASK",
                    tooltip="White may change: what is new, and mask; all of it where there is "
                    "neither. For Kontext: Finish.",
                ),
                io.Int.Output("columns", display_name="width", tooltip="Of the canvas, in pixels."),
                io.Int.Output("rows", display_name="height", tooltip="Of the canvas, in pixels."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image1: Tensor,
        policy: str,
        other_shape: str,
        aspect: str,
        megapixels: float,
        width: int,
        height: int,
        left: int,
        top: int,
        right: int,
        bottom: int,
        fill: str,
        feather: int,
        image2: Tensor | None = None,
        image3: Tensor | None = None,
        vae: Any = None,
        mask: Tensor | None = None,
        like_image: int = 1,
    ) -> io.NodeOutput:
        import torch

        images = [image for image in (image1, image2, image3) if image is not None]
        like, notes = present_like(like_image, len(images))
        image = check_image(images[like - 1][..., :3], f"image {like}")
        sizes = KONTEXT_RESOLUTIONS
        if vae is not None:
            sizes = getattr(require_vae(vae), "resolutions", sizes)
        custom = policy == "custom"
        if custom and aspect not in (OWN, CUSTOM):
            notes.append(
                f"aspect {aspect} has no effect: policy custom has that of width and height"
            )
        ratio = None
        if not custom and aspect != OWN:
            ratio = width / height if aspect == CUSTOM else aspect_of(aspect)
        fit = Fit(
            policy,
            other_shape,
            megapixels,
            size=(width, height) if custom else None,
            aspect=ratio,
            margins=(left, top, right, bottom),
            fill=fill,
        )
        framing = fit.plan((image.shape[2], image.shape[1]), sizes)
        columns, rows = framing.size
        empty = torch.zeros(len(image), 16, rows // 8, columns // 8)
        return output(
            fit_picture(image, framing),
            {"samples": empty, FRAMING: framing},
            area(mask, framing, feather),
            columns,
            rows,
            notes=[*far_from_trained(framing), *notes, _said(framing)],
        )
