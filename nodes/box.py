"""Kontext: Box: boxes drawn into a picture, for instructions that point at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.cues import COLOURS, box_of, draw_boxes, outlines, read_boxes
from .inputs import boxes_input
from .schema import make

if TYPE_CHECKING:
    from torch import Tensor


def _share(name: str, default: float, tooltip: str, low: float = 0.0) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=low, max=1.0, step=0.01, tooltip=tooltip)


class KontextBox(io.ComfyNode):
    """IMAGE to IMAGE with a cue in it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextBox",
            display_name="Kontext: Box",
            description='Draws a box into a picture, for instructions such as "remove what is in the '
            'box". The result comes without it. Around a mask, by numbers, or as other nodes say.',
            search_aliases=["kontext", "visual cue", "bounding box", "rectangle", "mark", "point"],
            inputs=[
                io.Image.Input("image", tooltip="The picture. Others may have boxes of their own."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Paint over what is meant: the box goes around it, with a margin, and the "
                    "four numbers don't count.",
                ),
                _share("left", 0.25, "Left edge, as a share of the picture's width."),
                _share("top", 0.25, "Upper edge, as a share of the picture's height."),
                _share("width", 0.5, "As a share of the picture's width.", 0.01),
                _share("height", 0.5, "As a share of the picture's height.", 0.01),
                io.Combo.Input(
                    "colour",
                    options=list(COLOURS),
                    default=next(iter(COLOURS)),
                    tooltip="One that stands out. Name it in the instruction where the picture has "
                    "other boxes.",
                ),
                io.Float.Input(
                    "line",
                    default=0.03,
                    min=0.005,
                    max=0.2,
                    step=0.005,
                    tooltip="Thickness of the line, as a share of the shorter side.",
                ),
                boxes_input(
                    "Boxes around what is meant, in the picture's pixels; then neither mask nor the four "
                    "numbers count."
                ),
            ],
            outputs=[
                io.Image.Output(
                    "boxed",
                    display_name="IMAGE",
                    tooltip="For Kontext: Reference or Kontext: Edit.",
                ),
                io.Mask.Output(
                    "inside",
                    display_name="MASK",
                    tooltip="White in the box: for Kontext: Finish, which then keeps all pixels outside.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        left: float,
        top: float,
        width: float,
        height: float,
        colour: str,
        line: float,
        mask: Tensor | None = None,
        boxes: Any = None,
    ) -> io.NodeOutput:
        if boxes is not None:
            found = outlines(read_boxes(boxes), (image.shape[2], image.shape[1]))
        else:
            found = [(left, top, width, height) if mask is None else box_of(mask)]
        return io.NodeOutput(*draw_boxes(image[..., :3], found, colour, line))
