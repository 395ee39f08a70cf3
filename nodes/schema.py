"""Builds io.Schema and inputs for any host from 0.3.64 on: fields it does not know are dropped."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from comfy_api.latest import io

CATEGORY = "Kontext"

# Socket types of ours: a chain of pictures to look at; what Kontext: Crop cut out of which picture; a turn
# of a session to go on from.
References = io.Custom("KONTEXT_REFERENCES")
CroppedPart = io.Custom("KONTEXT_CROP")
SessionPoint = io.Custom("KONTEXT_SESSION")
# ComfyUI's own boxes in pixels, from 0.31 on; older hosts have nothing that gives them, but packs may.
BoundingBox = io.Custom("BOUNDING_BOX")
# ComfyUI's own stack of pictures on a canvas, from the releases with Add Layer on.
Layers = io.Custom("LAYERS")
# No socket but the drawing in Kontext: Stitch: web/js/layout.js makes it.
Layout = io.Custom("KONTEXT_LAYOUT")


def make(**values: Any) -> io.Schema:
    """An io.Schema in the pack's category, without the fields the running host lacks."""
    known = {field.name for field in fields(io.Schema)}
    values = {"category": CATEGORY, **values}
    return io.Schema(**{key: value for key, value in values.items() if key in known})


def widget(kind: Any, name: str, **values: Any) -> Any:
    """`kind.Input(name, ...)`, without the arguments the running host lacks (advanced, ...)."""
    known = inspect.signature(kind.Input.__init__).parameters
    return kind.Input(name, **{key: value for key, value in values.items() if key in known})
