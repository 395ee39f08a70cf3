"""Layers of ComfyUI's compositor (Add Layer, Layers From Bounding Boxes), as pictures for an arrangement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..kontext_core.errors import InputError
from ..kontext_core.images import check_image
from ..kontext_core.masks import PixelBox

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layer:
    """One picture of a stack.

    Attributes:
        image: [1, h, w, 3 or 4] in 0..1.
        mask: None, or [1, h', w'] in 0..1, white where the picture is shown.
        box: left, top, width and height in pixels of the stack's canvas; may reach beyond it.
    """

    image: Tensor
    mask: Tensor | None
    box: PixelBox


@dataclass(frozen=True, eq=False)
class LayerStack:
    """The visible layers, lowest first.

    Attributes:
        size: (width, height) of the canvas that the boxes stand on: the one the stack names, or as far
            as its layers reach.
    """

    layers: Sequence[Layer]
    size: tuple[int, int]


def read_layers(document: Any) -> LayerStack:
    """The visible layers of a LAYERS document; every picture of a batch is a layer.

    Raises:
        InputError: no such document, one of a later version, or a layer that is turned or blended: the
            host's own Create Layered Image draws those.
    """
    items = document.get("layers") if isinstance(document, dict) else None
    if not isinstance(items, list) or document.get("version", 1) != 1:
        raise InputError(
            "layers is not a stack of layers that this node knows; connect Add Layer, or draw them with "
            "Create Layered Image and connect its IMAGE to an image input"
        )
    layers: list[Layer] = []
    # Things without a picture mean nothing, as in the host.
    there = [item for item in items if isinstance(item, dict) and "image" in item]
    for item in sorted(there, key=lambda item: item.get("z_index") or 0):
        if item.get("visible", True):
            layers.extend(_pictures(item, f"layer {item.get('name') or len(layers) + 1}"))
    size = document.get("canvas") or (
        max((left + width for left, _, width, _ in (one.box for one in layers)), default=1),
        max((top + height for _, top, _, height in (one.box for one in layers)), default=1),
    )
    return LayerStack(layers, (int(size[0]), int(size[1])))


def _pictures(item: dict[str, Any], name: str) -> list[Layer]:
    blend, turned = item.get("blend_mode", "normal"), item.get("rotation", 0.0)
    if item.get("type", "raster") != "raster" or blend != "normal" or turned:
        raise InputError(
            f"{name} is turned or blended (rotation {turned}, blend mode {blend}); draw the layers with "
            "Create Layered Image and connect its IMAGE to an image input"
        )
    image = item["image"]
    check_image(image[..., :3], name)
    flipped = [axis for axis, key in ((-1, "flip_h"), (-2, "flip_v")) if item.get(key)]
    height, width = image.shape[1:3]
    box = (
        int(item.get("x", 0)), int(item.get("y", 0)),
        int(item.get("w", 0)) or width, int(item.get("h", 0)) or height,
    )  # fmt: skip
    layers = []
    for index in range(len(image)):
        picture, shown = image[index : index + 1], _shown(item, image, index)
        if flipped:
            picture = torch.flip(picture, [axis - 1 for axis in flipped])
            shown = None if shown is None else torch.flip(shown, flipped)
        layers.append(Layer(picture, shown, box))
    return layers


def _shown(item: dict[str, Any], image: Tensor, index: int) -> Tensor | None:
    """One picture's mask, which is white where it is transparent, and the layer's opacity, as one:
    [1, h, w]. As in the host, one mask serves all pictures, of several each serves its own."""
    opacity, mask = float(item.get("opacity", 1.0)), item.get("mask")
    if mask is not None and (len(mask) == 1 or index < len(mask)):
        own = mask[0 if len(mask) == 1 else index]
        return (1 - own[None].float().cpu()) * opacity
    return torch.full((1, *image.shape[1:3]), opacity) if opacity != 1 else None
