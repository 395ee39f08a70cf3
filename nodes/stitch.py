"""Kontext: Stitch: puts a chain of references beside the target and shows where everything stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.cost import FLUX_HIDDEN, Cost, estimate, plain_size
from ..kontext_core.errors import InputError
from ..kontext_core.framing import ROUNDED, same_shape
from ..kontext_core.resolutions import KONTEXT_RESOLUTIONS, nearest_resolution
from ..kontext_core.stitcher import INDEX_AT_ZERO, METHODS, Context, Reference, stitch
from .conditioning import ReferenceChain, attach, beyond_native
from .inputs import like_input, present_like
from .latent import target_samples, with_mask
from .notes import (
    FRAMING,
    TEXT_NOTES,
    cost_notes,
    cost_payload,
    output,
    overlap_notes,
    told_by,
)
from .schema import Layout, References, make

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDED = Path(__file__).parents[1] / "kontext_core/assets/tiny"

# Hidden size of the transformer by the width of its text features, where they differ.
HIDDEN = {4096: FLUX_HIDDEN}


def layout_payload(context: Context, thumbnails: Sequence[str | None] = ()) -> list[dict[str, Any]]:
    """The layout as the browser draws it: one dict per image, target first, token units.

    Args:
        thumbnails: data URLs of the references' pictures, in the chain's order.
    """
    return [
        {
            "index": placed.index,
            "t": placed.t,
            "h": placed.h,
            "w": placed.w,
            "rows": placed.rows,
            "columns": placed.columns,
            "tokens": placed.tokens,
            "strength": placed.strength,
            "start": placed.start,
            "end": placed.end,
            "name": placed.name,
            "picture": thumbnails[placed.index - 1]
            if 0 < placed.index <= len(thumbnails)
            else None,
        }
        for placed in context.layout
    ]


def models_payload() -> dict[str, dict[str, Any]]:
    """What web/js/size.js has to know of the models to tell size and cost before a run: trained
    sizes (width, height), hidden size, and tokens of a short instruction."""
    from ..kontext_core.config import FluxParams, read_config

    # By its path: what finds models brings in what loads them, and a description is made at start.
    config = read_config(EMBEDDED / "config.json")
    return {
        "embedded": {
            "sizes": config["resolutions"],
            "hidden": config["transformer"]["hidden_size"],
            "text": config["text_encoder"]["min_length"],
        },
        # T5's padding as Kontext: Load Text Encoders has it.
        "published": {
            "sizes": [list(s) for s in KONTEXT_RESOLUTIONS],
            "hidden": FluxParams().hidden_size,
            "text": 256,
        },
    }


def native_leaves_out(references: Sequence[Reference], method: str = METHODS[0]) -> list[str]:
    """What of these references a FLUX.1 that ComfyUI itself has loaded can't heed, one line for
    each. Which MODEL will get them is not known here: the editor knows, and so does a sampler."""
    asked = [
        f"image {number}: {', '.join(found)}"
        for number, reference in enumerate(references, 1)
        if (found := beyond_native(reference))
    ]
    if method == INDEX_AT_ZERO and references:
        asked.append(f"method {method}")
    return asked


def _target(references: Sequence[Reference], number: int, picture: bool) -> dict[str, Any]:
    """An empty LATENT in the shape of image `number`, one for each picture of a batch; or its own."""
    import torch

    like = references[number - 1]
    batch = max(len(reference.latent) for reference in references)
    shape = batch, like.latent.shape[1], *like.cells
    empty = like.latent.new_zeros(shape, dtype=torch.float32)
    if picture:
        if like.latent.shape[-2:] != like.cells:
            raise InputError(
                f"a mask starts from image {number}, but that is read at a lower resolution; set its "
                "resolution to 1, or connect an encoded picture to latent"
            )
        empty = like.latent.float().repeat(batch // len(like.latent), 1, 1, 1)
    return {"samples": empty, **({} if like.framing is None else {FRAMING: like.framing})}


def off_grid_notes(target: Tensor, references: Sequence[Reference]) -> list[str]:
    """References of the target's shape that stand on a grid of their own: what they show moves."""
    size = (target.shape[-1] * 8, target.shape[-2] * 8)
    return [
        f"image {number} has the result's shape, but stands at {of.size[0]} x {of.size[1]} beside "
        f"{size[0]} x {size[1]}, so things move and may be doubled: connect latent to target of its "
        "Kontext: Reference, too"
        for number, reference in enumerate(references, 1)
        if (of := reference.framing) is not None
        and reference.position is None
        and of.size != size
        and same_shape(size, of.picture, ROUNDED)
    ]


def _cost(
    context: Context, conditioning: Sequence[Any], references: Sequence[Reference]
) -> tuple[Cost, tuple[int, int] | None]:
    """The price of a step, and the trained size nearest to the target's shape. Text features tell
    the models of web/js/size.js by their width; another model's sizes are known from its references."""
    text, width = conditioning[0][0].shape[-2:] if conditioning else (0, 0)
    hidden = HIDDEN.get(width, width)
    known = [model["sizes"] for model in models_payload().values() if model["hidden"] == hidden]
    framed = [reference.framing.trained for reference in references if reference.framing]
    sizes = [(columns, rows) for columns, rows in known[0]] if known else framed
    rows, columns = (side * 8 for side in context.target_shape[2:])
    tokens = [placed.tokens for placed in context.layout[1:]]
    plain = plain_size(sizes) if sizes else None
    cost = estimate((columns, rows), tokens, text=text, hidden_size=hidden, trained=plain)
    return cost, nearest_resolution(columns, rows, sizes) if sizes else None


class KontextStitch(io.ComfyNode):
    """References into CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextStitch",
            display_name="Kontext: Stitch",
            description="Writes references into the conditioning, places each beside the target, "
            "and draws the layout. The result works in Kontext: Sampler and, without strength, "
            "start, end, mask and explicit places, in KSampler with a natively loaded FLUX.1 too.",
            search_aliases=[
                "kontext",
                "stitch",
                "reference latent",
                "multi image",
                "two images",
                "combine images",
                "placement",
            ],
            # Has the layout sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The instruction, from CLIP Text Encode. References it already has are "
                    "replaced.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The target: an empty latent of the size to paint, or a picture to "
                    "start from. Open: empty, in the shape of image like_image.",
                ),
                References.Input(
                    "references",
                    optional=True,
                    tooltip="The last of the chained Kontext: Reference nodes.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=METHODS[0],
                    tooltip="offset: side by side, what today's weights do best with several "
                    "pictures. index: one behind the other. uxo: down the diagonal, for UNO and "
                    "USO LoRAs. index_timestep_zero: placed as by index, and read as finished "
                    "pictures at every step.",
                ),
                like_input(
                    "Which image is being edited: the result gets its shape, and Kontext: Finish "
                    "knows where to put it back. 1 is the first of the chain. Only when latent is "
                    "open."
                ),
                Layout.Input(
                    "layout",
                    optional=True,
                    tooltip="The drawing: where everything stands, as the graph is now; references "
                    "can be moved in it. The editor writes into it what it was drawn for; leave it "
                    "out of prompts of your own.",
                    extra_dict={"socketless": True, "models": models_payload()},
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White may change, black keeps the picture: image like_image, or that in "
                    "latent. Holds in every sampler, in cells of 8 pixels; never exact, as the "
                    "autoencoder goes over all of it: give Kontext: Finish the mask too.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "stitched",
                    display_name="CONDITIONING",
                    tooltip="The instruction with its references.",
                ),
                io.Latent.Output(
                    "target", display_name="LATENT", tooltip="The target, for the sampler."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        conditioning: list[list[Any]],
        method: str,
        latent: dict[str, Any] | None = None,
        references: ReferenceChain | None = None,
        like_image: int = 1,
        layout: Any = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        items = tuple(references.items) if references is not None else ()
        notes = told_by(conditioning)
        like = None
        if latent is None:
            if not items:
                raise InputError(
                    "Kontext: Stitch got neither a latent nor a reference with a picture (none is "
                    "connected, or they were muted), so the size to paint is unknown; connect at "
                    "least one of them"
                )
            like, missing = present_like(like_image, len(items))
            notes += missing
            latent = _target(items, like, mask is not None)
        else:
            if like_image != 1:
                notes.append(f"like_image {like_image} has no effect: latent gives the size")
            notes += off_grid_notes(target_samples(latent), items)
        if mask is not None:
            latent = with_mask(latent, mask)
        context = stitch(tuple(target_samples(latent).shape), items, method=method)
        thumbnails = references.thumbnails if references is not None else ()
        cost, trained = _cost(context, conditioning, items)
        notes = [*cost_notes(cost, trained), *overlap_notes(context.layout), *notes]
        # Said here; the sampler need not say it again.
        said = [
            [features, {key: value for key, value in extra.items() if key != TEXT_NOTES}]
            for features, extra in conditioning
        ]
        return output(
            attach(said, items, method),
            latent,
            notes=notes,
            kontext_layout=layout_payload(context, thumbnails),
            kontext_made=[layout] if isinstance(layout, str) else [],
            kontext_native_leaves_out=native_leaves_out(items, method),
            kontext_size=cost_payload(cost, trained, like),
        )
