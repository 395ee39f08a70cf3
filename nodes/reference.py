"""Kontext: Reference: one picture the model may look at, as a link of a chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.errors import InputError, ShapeError
from ..kontext_core.images import check_image, resize
from ..kontext_core.latents import FLUX_LATENT
from ..kontext_core.resolutions import KONTEXT_RESOLUTIONS, nearest_resolution
from ..kontext_core.stitcher import Reference
from .conditioning import ReferenceChain
from .native.vae import require_vae
from .preview import thumbnail
from .schema import References, make, widget

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KontextReference", "encode_reference", "fit_picture"]

FITS = ("trained size", "shrink", "keep")
PLACEMENTS = ("auto", "explicit")
TOKEN = 16


def fit_picture(image: Tensor, sizes: tuple[tuple[int, int], ...], fit: str) -> Tensor:
    """Bring a picture [b, h, w, 3] to a size the model likes.

    Args:
        sizes: (width, height) the model was trained at.
        fit: "trained size" resizes to the one of them with the closest shape; "shrink" does so
            only with larger pictures; "keep" leaves every pixel and crops to whole tokens.
    """
    height, width = image.shape[1:3]
    trained = nearest_resolution(width, height, sizes)
    if fit == "trained size" or (fit == "shrink" and width * height > trained[0] * trained[1]):
        return resize(image, *trained)
    return _whole_tokens(image.movedim(-1, 1)).movedim(1, -1)


def _whole_tokens(x: Tensor) -> Tensor:
    """The middle of [..., height, width], cropped to multiples of 16 pixels: half a token would
    be filled with what stands at the opposite edge."""
    height, width = x.shape[-2:]
    rows, columns = height // TOKEN * TOKEN, width // TOKEN * TOKEN
    top, left = (height - rows) // 2, (width - columns) // 2
    return x[..., top : top + rows, left : left + columns]


def encode_reference(vae: Any, image: Tensor, fit: str, name: str) -> Tensor:
    """A picture as a raw latent.

    Args:
        vae: ours or the host's own, which knows no trained sizes: then those of FLUX.1 Kontext.

    Raises:
        InputError, ShapeError: a picture or a VAE that can't be used.
    """
    image = check_image(image[..., :3], name)
    sizes = getattr(require_vae(vae), "resolutions", KONTEXT_RESOLUTIONS)
    return vae.encode(fit_picture(image, sizes, fit))


def _latent(vae: Any, image: Tensor | None, latent: dict[str, Any] | None, fit: str) -> Tensor:
    if image is not None and latent is not None:
        raise InputError("Kontext: Reference got an image and a latent; connect one of them")
    if latent is not None:
        FLUX_LATENT.check(latent["samples"], "the reference latent")
        return latent["samples"]
    if image is None:
        raise InputError(
            "Kontext: Reference got neither image nor latent; connect one of them (an image also "
            "needs a VAE)"
        )
    if vae is None:
        raise InputError(
            "Kontext: Reference got an image but no VAE to encode it with; connect Kontext: Load "
            "VAE, or give a latent"
        )
    return encode_reference(vae, image, fit, "the reference image")


class KontextReference(io.ComfyNode):
    """Adds a picture to a chain of references."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextReference",
            display_name="Kontext: Reference",
            description="One picture for the model to look at. Chain several: the first in the "
            'chain is "image 1" of the instruction, the next "image 2". The chain ends in '
            "Kontext: Stitch.",
            search_aliases=["kontext", "reference image", "multi image", "image 1", "image 2"],
            inputs=[
                References.Input(
                    "references",
                    optional=True,
                    tooltip="The chain so far. Leave open for image 1.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture. Needs a VAE; leave open when giving a latent.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Encodes the picture."),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="An encoded picture instead of image and VAE, for example the result "
                    "of another sampler: no decoding in between, nothing lost.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White is what the model may see of the picture; the rest is left out "
                    "and costs nothing.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="How much the model attends to it. 1 is as trained, 0 leaves it out.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the steps after which the model begins to see it. 0 is from "
                    "the first step on.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the steps after which it is taken away. 1 is never; 0.5 "
                    "keeps the layout and leaves the details free.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default=FITS[0],
                    tooltip="trained size: resize to the size the model was trained at that has "
                    "the closest shape. shrink: only if it is larger than that. keep: every "
                    "pixel, cropped to a multiple of 16; large pictures get slow.",
                ),
                io.Combo.Input(
                    "placement",
                    options=list(PLACEMENTS),
                    default=PLACEMENTS[0],
                    tooltip="Where it stands beside the target. auto: as the method of Kontext: "
                    "Stitch says. explicit: at t, dh, dw below.",
                ),
                widget(
                    io.Float,
                    "t",
                    default=1.0,
                    min=-64.0,
                    max=64.0,
                    step=1.0,
                    tooltip="explicit only: position on the time axis. The target is 0, references "
                    "are 1 as trained.",
                    advanced=True,
                ),
                widget(
                    io.Float,
                    "dh",
                    default=0.0,
                    min=-1024.0,
                    max=1024.0,
                    step=1.0,
                    tooltip="explicit only: distance below the target's top edge, in tokens of 16 "
                    "pixels.",
                    advanced=True,
                ),
                widget(
                    io.Float,
                    "dw",
                    default=0.0,
                    min=-1024.0,
                    max=1024.0,
                    step=1.0,
                    tooltip="explicit only: distance from the target's left edge, in tokens of 16 "
                    "pixels.",
                    advanced=True,
                ),
            ],
            outputs=[
                References.Output(
                    "chain",
                    display_name="references",
                    tooltip="The chain with this picture at its end.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        strength: float,
        start: float,
        end: float,
        fit: str,
        placement: str,
        t: float,
        dh: float,
        dw: float,
        references: ReferenceChain | None = None,
        image: Tensor | None = None,
        vae: Any = None,
        latent: dict[str, Any] | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        if not start < end:
            raise InputError(
                f"start is {start} and end {end}; the reference would never be seen. Make start "
                "smaller than end"
            )
        if mask is not None and mask.ndim == 3:
            if len(mask) != 1:
                raise ShapeError(f"the mask is a batch of {len(mask)}; a reference takes one")
            mask = mask[0]
        samples = _latent(vae, image, latent, fit)
        if mask is not None and image is not None and fit != "trained size":
            cropped = _whole_tokens(mask)
            rows, columns = (side * 8 for side in samples.shape[-2:])
            # A picture that lost its margins takes those of a mask of its size with it.
            if mask.shape == image.shape[1:3] and cropped.shape == (rows, columns):
                mask = cropped
        reference = Reference(
            samples,
            strength=strength,
            start=start,
            end=end,
            mask=mask,
            position=(t, dh, dw) if placement == "explicit" else None,
        )
        small = None if image is None else thumbnail(image[..., :3])
        return io.NodeOutput((references or ReferenceChain()).add(reference, small))
