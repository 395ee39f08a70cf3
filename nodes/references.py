"""Kontext: References: several pictures to look at, in one node instead of a chain of Kontext: Reference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.errors import InputError
from ..kontext_core.framing import FITS
from ..kontext_core.names import check_names
from ..kontext_core.stitcher import Position, Reference
from .conditioning import ReferenceChain
from .inputs import picture_inputs
from .notes import batch_notes, order_notes, output, size_notes
from .preview import thumbnail
from .reference import TargetGrid, encode_reference
from .schema import References, make, widget

if TYPE_CHECKING:
    from torch import Tensor

MOST = 8
# As the widgets t, dh and dw of Kontext: Reference.
LIMITS = (64, 1024, 1024)


def read_positions(text: str) -> list[Position | None]:
    """Places of pictures from lines such as "1, 0, 4": t, dh and dw; None for an empty line.

    Raises:
        InputError: a line of something else.
    """
    found: list[Position | None] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words:
            found.append(None)
            continue
        try:
            t, down, across = (float(word) for word in words)
        except ValueError:
            t = down = across = math.nan
        # NaN is within no limit.
        if not all(abs(one) <= most for one, most in zip((t, down, across), LIMITS, strict=True)):
            raise InputError(
                f"line {number} of positions is {line.strip()!r}; expected t, dh and dw, such as "
                "1, 0, 4 (t up to 64, the others up to 1024), or nothing for a place by the method"
            )
        found.append((t, down, across))
    return found


class KontextReferences(io.ComfyNode):
    """Adds several pictures to a chain of references."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextReferences",
            display_name="Kontext: References",
            description=f"Up to {MOST} pictures for the model to look at, in one node: image_1 is "
            '"image 1" of the instruction, image_2 "image 2". For strength, mask or time of one of them '
            "take Kontext: Reference; both can be chained.",
            search_aliases=[
                "kontext",
                "reference images",
                "multi image",
                "several images",
                "two images",
                "combine images",
                "image list",
            ],
            # Has the notes sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            inputs=[
                References.Input(
                    "references",
                    optional=True,
                    tooltip="A chain to go on from; its pictures have the first numbers.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Encodes the pictures."),
                io.Latent.Input(
                    "target",
                    optional=True,
                    tooltip="What is painted, where it has a size of its own, as for Kontext: "
                    "Reference: a picture of its shape stands on the same grid.",
                ),
                *picture_inputs(
                    MOST,
                    "Picture {0}. Open ones are left out, and those behind them move up by one number.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default=FITS[0],
                    tooltip="Size at which they are seen, as in Kontext: Reference. trained size suits "
                    "most.",
                ),
                io.String.Input(
                    "names",
                    multiline=True,
                    default="",
                    tooltip='What the instruction may call them, one a line, such as "the logo": line 2 '
                    "is that of image_2. For Kontext: Names.",
                ),
                widget(
                    io.String,
                    "positions",
                    multiline=True,
                    default="",
                    tooltip="Places of their own, one a line as t, dh, dw in tokens; an empty line "
                    "leaves it to the method. Dragging in Kontext: Stitch writes them.",
                    advanced=True,
                ),
            ],
            outputs=[
                References.Output(
                    "chain",
                    display_name="references",
                    tooltip="The chain with these pictures at its end.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, positions: str | None = None) -> bool | str:
        """Refuses a wrong place before anything runs; a linked text is judged later."""
        try:
            read_positions(positions or "")
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        fit: str,
        names: str,
        positions: str,
        references: ReferenceChain | None = None,
        vae: Any = None,
        target: dict[str, Any] | None = None,
        **pictures: Tensor | None,
    ) -> io.NodeOutput:
        slots = [pictures.get(f"image_{number}") for number in range(1, MOST + 1)]
        if vae is None and any(image is not None for image in slots):
            raise InputError(
                "Kontext: References got pictures but no VAE to encode them with; connect Kontext: Load "
                "VAE"
            )
        chain = references or ReferenceChain()
        grid = None if target is None else TargetGrid.of(target)
        called, places = names.splitlines(), read_positions(positions)
        notes = order_notes("image_", slots, len(chain.items))
        for slot, image in enumerate(slots):
            if image is None:
                continue
            name = called[slot] if slot < len(called) else ""
            name = check_names([*(one.name for one in chain.items), name])[-1]
            samples, framing = encode_reference(vae, image, fit, f"image_{slot + 1}", grid)
            reference = Reference(
                samples,
                position=places[slot] if slot < len(places) else None,
                name=name or None,
                framing=framing,
            )
            chain = chain.add(reference, thumbnail(image[..., :3]))
            notes += batch_notes(f"image_{slot + 1}", len(samples))
            notes += size_notes(f"image_{slot + 1}", framing)
        if all(image is None for image in slots):
            notes.append("no picture comes in (nothing is connected, or what is was muted)")
        return output(chain, notes=notes)
