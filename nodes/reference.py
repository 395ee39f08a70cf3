"""Kontext: Reference: one picture the model may look at, as a link of a chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.errors import InputError, ShapeError
from ..kontext_core.framing import (
    FITS,
    Framing,
    alike,
    at_resolution,
    fit_picture,
    frame_mask,
    on_grid_of,
    on_page_mask,
    plan_fit,
    same_shape,
)
from ..kontext_core.images import check_image
from ..kontext_core.latents import FLUX_LATENT
from ..kontext_core.names import check_names
from ..kontext_core.resolutions import KONTEXT_RESOLUTIONS
from ..kontext_core.stitcher import Reference
from .conditioning import ReferenceChain
from .native.vae import require_vae
from .notes import FRAMING, batch_notes, output, size_notes
from .preview import thumbnail
from .schema import References, make, widget

if TYPE_CHECKING:
    from torch import Tensor


PLACEMENTS = ("auto", "explicit")
# A reference latent of unknown origin may have been resized to a trained shape near the picture's.
NEAR = 0.1


@dataclass(frozen=True)
class TargetGrid:
    """What a reference may share its grid with.

    Attributes:
        size: (width, height) of what is painted, in pixels.
        framing: None, or how the picture that it is made for was brought to it.
    """

    size: tuple[int, int]
    framing: Framing | None = None

    @classmethod
    def of(cls, latent: dict[str, Any]) -> TargetGrid:
        """Of a LATENT."""
        rows, columns = latent["samples"].shape[-2:]
        size, framing = (columns * 8, rows * 8), latent.get(FRAMING)
        return cls(size, framing if framing is not None and framing.size == size else None)


def encode_reference(
    vae: Any,
    image: Tensor,
    fit: str,
    name: str,
    target: TargetGrid | None = None,
    resolution: float = 1.0,
) -> tuple[Tensor, Framing]:
    """A picture as a raw latent, and how it is brought onto the grid with all its pixels.

    Args:
        vae: ours or the host's own, which knows no trained sizes: then those of FLUX.1 Kontext.
        target: a picture of its shape goes onto its grid, so that both have the same places.
        resolution: share of each side's pixels that the latent is made with.

    Raises:
        InputError, ShapeError: a picture or a VAE that can't be used.
    """
    image = check_image(image[..., :3], name)
    sizes = getattr(require_vae(vae), "resolutions", KONTEXT_RESOLUTIONS)
    own = (image.shape[2], image.shape[1])
    made = None if target is None else target.framing
    if target is not None and made is not None and own == target.size:
        # The picture of Kontext: Canvas, on the grid already.
        on_grid = Framing(own, (0, 0, *own), own, made.trained)
        return vae.encode(fit_picture(image, at_resolution(on_grid, resolution))), made
    if target is None or (made is not None and own == made.original):
        framing = made
    else:
        framing = on_grid_of(target.size, own, sizes)
    framing = framing or plan_fit(*own, sizes, fit)
    return vae.encode(fit_picture(image, at_resolution(framing, resolution))), framing


def _encoded(
    vae: Any,
    image: Tensor | None,
    latent: dict[str, Any] | None,
    fit: str,
    target: dict[str, Any] | None,
    resolution: float,
) -> tuple[Tensor, Framing | None] | None:
    """Latent and framing of what is connected; None when nothing is."""
    if image is not None and latent is not None:
        raise InputError("Kontext: Reference got an image and a latent; connect one of them")
    if latent is not None:
        FLUX_LATENT.check(latent["samples"], "the reference latent")
        return latent["samples"], latent.get(FRAMING)
    if image is None:
        return None
    if vae is None:
        raise InputError(
            "Kontext: Reference got an image but no VAE to encode it with; connect Kontext: Load "
            "VAE, or give a latent"
        )
    on = None if target is None else TargetGrid.of(target)
    return encode_reference(vae, image, fit, "the reference image", on, resolution)


def _seen(mask: Tensor, samples: Tensor, framing: Framing | None, of_image: bool) -> Tensor:
    """A mask [h, w] or [1, h, w] as [h, w] over the latent.

    Raises:
        ShapeError: several masks, or one of another shape than the picture.
        InputError: nothing of the picture would be seen.
    """
    if mask.ndim == 3:
        if len(mask) != 1:
            raise ShapeError(f"the mask is a batch of {len(mask)}; a reference takes one")
        mask = mask[0]
    if not bool((mask >= 0.5).any()):
        raise InputError(
            "the mask is all black, so nothing of the picture would be seen. Paint what the model "
            "may see (Load Image gives an empty mask when nothing was painted), or take the mask away"
        )
    size = (mask.shape[-1], mask.shape[-2])
    shown = (samples.shape[-1] * 8, samples.shape[-2] * 8)
    if framing is not None and size == framing.size:
        return mask
    if framing is not None:
        mask = on_page_mask(mask, framing, 0.0)
        size = (mask.shape[-1], mask.shape[-2])
        if alike(framing.picture, size):
            return frame_mask(mask, framing)
    if not of_image and same_shape(size, shown, NEAR * min(shown)):
        return mask
    expected = framing.picture if framing is not None and of_image else shown
    raise ShapeError(
        f"the mask is {size[0]} x {size[1]}, the picture {expected[0]} x {expected[1]}: of another "
        "shape, so it can't say which part is meant. Draw it on the picture itself (Load Image gives "
        "both), or crop or pad it to the picture's shape"
    )


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
            search_aliases=[
                "kontext",
                "reference image",
                "multi image",
                "image 1",
                "image 2",
                "two images",
                "combine images",
            ],
            # Has the notes sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            inputs=[
                References.Input(
                    "references",
                    optional=True,
                    tooltip="The chain so far. Leave open for image 1.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture. Needs a VAE; leave open when giving a latent. Without "
                    "either, as when it comes from a muted node, the reference is left out.",
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
                    "and costs nothing. In the picture's shape, at any size.",
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
                    "the closest shape, and pad to it. shrink: only if it is larger than that. "
                    "keep: every pixel, cropped to a multiple of 16; large pictures get slow. exact: "
                    "every pixel, padded to a multiple of 16.",
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
                io.Float.Input(
                    "resolution",
                    optional=True,
                    default=1.0,
                    min=0.25,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of each side's pixels that is seen: 0.5 costs a quarter of the "
                    "tokens. For a style, a colour or a simple thing; the picture being edited needs "
                    "all of them.",
                ),
                io.String.Input(
                    "name",
                    optional=True,
                    default="",
                    tooltip='What the instruction may call it, such as "the logo". Kontext: Names '
                    "writes its number instead, and says so.",
                ),
                io.Latent.Input(
                    "target",
                    optional=True,
                    tooltip="What is painted, where it has a size of its own: the LATENT of Kontext: "
                    "Canvas, or the empty one that Kontext: Stitch gets. A picture of its shape "
                    "stands on the same grid, so that nothing moves; fit is for others.",
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
        resolution: float = 1.0,
        name: str = "",
        target: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        if not start < end:
            raise InputError(
                f"start is {start} and end {end}; the reference would never be seen. Make start "
                "smaller than end"
            )
        chain = references or ReferenceChain()
        found = _encoded(vae, image, latent, fit, target, resolution)
        if found is None:
            return output(
                chain,
                notes=[
                    "no picture comes in (nothing is connected, or what is was muted): left out. The "
                    "references behind it move up by one number"
                ],
            )
        samples, framing = found
        name = check_names([*(one.name for one in chain.items), name])[-1]
        idle = image is None and resolution < 1
        if image is None:
            resolution = 1.0
        if mask is not None:
            fewer = framing and at_resolution(framing, resolution)
            mask = _seen(mask, samples, fewer, image is not None)
        reference = Reference(
            samples,
            strength=strength,
            start=start,
            end=end,
            mask=mask,
            position=(t, dh, dw) if placement == "explicit" else None,
            name=name or None,
            framing=framing,
            resolution=resolution,
        )
        small = None if image is None else thumbnail(image[..., :3])
        notes = batch_notes("the picture", len(samples))
        if framing is not None and image is not None and strength > 0:
            notes += size_notes("the picture", at_resolution(framing, resolution))
        if idle:
            notes.append("resolution has no effect: a latent is taken as it is")
        if strength == 0:
            notes.append("strength is 0: the model does not see it; its number stays taken")
        return output(chain.add(reference, small), notes=notes)
