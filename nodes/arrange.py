"""Kontext: Arrange: several pictures on one canvas, which the model then sees as one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.arrange import (
    BACKGROUNDS,
    LAYOUTS,
    Arrangement,
    Share,
    arrange,
    arrange_sizes,
    placed_size,
    read_places,
)
from ..kontext_core.errors import InputError
from ..kontext_core.masks import PixelBox
from ..kontext_core.resolutions import MAX_SIDE
from .inputs import boxes_input
from .layers import LayerStack, read_layers
from .notes import order_notes, output
from .schema import Layers, make

if TYPE_CHECKING:
    from torch import Tensor

MOST = 8


def _sockets() -> list[Any]:
    """A picture and its mask each. The editor shows as many pairs as are wired, and one more
    (web/js/growing.js)."""
    found: list[Any] = []
    for number in range(1, MOST + 1):
        first = (
            "In places all of the canvas, if it has no place."
            if number == 1
            else "Lies above those before it."
        )
        found.append(
            io.Image.Input(
                f"image_{number}",
                optional=True,
                tooltip=f"Picture {number}; what is transparent stays so. {first}",
            )
        )
        found.append(
            io.Mask.Input(
                f"mask_{number}",
                optional=True,
                tooltip=f"White is what is shown of image_{number}. Load Image gives what is transparent "
                "in white: put Invert Mask between.",
            )
        )
    return found


class KontextArrange(io.ComfyNode):
    """IMAGEs to one IMAGE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side: dict[str, Any] = {"default": 0, "min": 0, "max": MAX_SIDE}
        return make(
            node_id="KontextArrange",
            display_name="Kontext: Arrange",
            description="Puts several pictures on one canvas: in a row, a column, a grid, or each in a "
            "place of its own on a scene. The model sees the canvas as one picture, which Kontext: "
            "Reference or Kontext: Edit takes.",
            search_aliases=[
                "kontext",
                "image stitch",
                "concatenate images",
                "collage",
                "composite",
                "one canvas",
                "combine images",
            ],
            # Has the notes sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            inputs=[
                *_sockets(),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default=LAYOUTS[0],
                    tooltip="row: side by side, as high as the first. column: as wide as the first. grid: "
                    "cells of the first one's size. places: boxes of their own, on image_1.",
                ),
                io.Int.Input(
                    "gap",
                    tooltip="Pixels of background between pictures, at the first one's size. Not for "
                    "places.",
                    **side,
                ),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=MOST,
                    tooltip="Of the grid. 0: as square as it gets.",
                ),
                io.Combo.Input(
                    "background",
                    options=list(BACKGROUNDS),
                    default=next(iter(BACKGROUNDS)),
                    tooltip="What shows where no picture is.",
                ),
                io.Int.Input(
                    "width",
                    tooltip="Of the canvas, in pixels. 0: follows from the pictures and height.",
                    **side,
                ),
                io.Int.Input(
                    "height",
                    tooltip="Of the canvas, in pixels. 0: follows from the pictures and width.",
                    **side,
                ),
                io.String.Input(
                    "places",
                    multiline=True,
                    default="",
                    tooltip="places only, one line for each picture: left, top, width and height as shares "
                    'of the canvas, such as "0.5, 0.2, 0.4, 0.6". Shapes are kept.',
                ),
                boxes_input(
                    "places only, instead of the lines: the first box is that of image_2 where image_1 is "
                    "the scene, in pixels of the canvas."
                ),
                Layers.Input(
                    "layers",
                    optional=True,
                    tooltip="From Add Layer of newer ComfyUI: each layer is one more picture, after those "
                    "above. With places, each stands where its own x, y, width and height say.",
                ),
            ],
            outputs=[
                io.Image.Output("canvas", display_name="IMAGE", tooltip="All pictures in one."),
                io.Mask.Output(
                    "covered",
                    display_name="MASK",
                    tooltip="White where pictures are: for the mask of Kontext: Reference, which then "
                    "leaves the background out.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, places: str | None = None) -> bool | str:
        """Refuses a wrong place before anything runs; a linked text is judged later."""
        try:
            read_places(places or "")
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        layout: str,
        gap: int,
        columns: int,
        background: str,
        width: int,
        height: int,
        places: str,
        boxes: Any = None,
        layers: Any = None,
        **sockets: Tensor | None,
    ) -> io.NodeOutput:
        slots = [sockets.get(f"image_{number}") for number in range(1, MOST + 1)]
        there = [slot for slot, image in enumerate(slots) if image is not None]
        images = [image for image in slots if image is not None]
        masks = [sockets.get(f"mask_{slot + 1}") for slot in there]
        stack = read_layers(layers) if layers is not None else LayerStack((), (0, 0))
        if not images and not stack.layers:
            raise InputError(
                "Kontext: Arrange got no picture (none is connected, or they were muted); connect at "
                "least one"
            )
        sizes = [(image.shape[2], image.shape[1]) for image in images]
        lines = read_places(places)
        shares = [lines[slot] if slot < len(lines) else None for slot in there]
        if layout == "places":
            # Without a picture of its own the canvas is that of the layers.
            size = placed_size(sizes[0] if sizes else stack.size, (width, height))
            if boxes is not None:
                shares = _of_boxes(boxes, size, len(images))
            shares += [_share(layer.box, size) for layer in stack.layers]
            width, height = size
        images += [layer.image for layer in stack.layers]
        masks += [layer.mask for layer in stack.layers]
        sizes += [(layer.image.shape[2], layer.image.shape[1]) for layer in stack.layers]
        plan = arrange_sizes(
            sizes, layout, gap=gap, columns=columns, size=(width, height), places=shares
        )
        canvas, covered = arrange(images, plan, masks=masks, background=background)
        notes = [_said(plan), *order_notes("image_", slots)]
        if boxes is not None and layout != "places":
            notes.append(f"boxes have no effect: layout is {layout}, not places")
        return output(canvas, covered, notes=notes)


def _share(box: PixelBox, size: tuple[int, int]) -> Share:
    """A box in shares of the canvas."""
    return box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]


def _of_boxes(boxes: Any, size: tuple[int, int], count: int) -> list[Share | None]:
    """One box for each picture, or for each but the first, which is then the scene.

    Raises:
        InputError: another number of them, or one outside of the canvas.
    """
    from ..kontext_core.cues import outlines, read_boxes

    found = outlines(read_boxes(boxes), size)
    if len(found) not in (count, count - 1):
        raise InputError(
            f"there are {len(found)} boxes for {count} pictures; give a box for each, or for each but "
            "image_1, which is then the scene"
        )
    return list(found) if len(found) == count else [None, *found]


def _said(plan: Arrangement) -> str:
    stand = "; ".join(
        f"{width} x {height} at {left}, {top}" for left, top, width, height in plan.boxes
    )
    return f"canvas {plan.size[0]} x {plan.size[1]}: {stand}"
