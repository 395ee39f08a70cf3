"""Inputs, outputs and types of nodes: what `io.Image.Input(...)` and its kin are made of.

Names and keyword arguments follow the public interface `comfy_api.latest.io`, so that one node
class runs here and in ComfyUI. widgets.py has the types that the editor draws widgets for.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

__all__ = [
    "AnyType", "Clip", "ClipVision", "ClipVisionOutput", "ComfyType", "Conditioning", "ControlNet",
    "Custom", "Guider", "Image", "Input", "Latent", "Mask", "Model", "MultiType", "Noise", "Output",
    "Sampler", "Sigmas", "Vae",
]  # fmt: skip


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.value if isinstance(value, Enum) else value
        for key, value in values.items()
        if value is not None
    }


class Input:
    """A socket on a node's left side."""

    io_type = "*"

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        extra_dict: dict[str, Any] | None = None,
        raw_link: bool | None = None,
        advanced: bool | None = None,
    ) -> None:
        self.id = id
        self.display_name = display_name
        self.optional = optional
        self.tooltip = tooltip
        self.lazy = lazy
        self.extra_dict = extra_dict or {}
        self.raw_link = raw_link
        self.advanced = advanced

    def get_io_type(self) -> str:
        """The type's name in object_info, as 'IMAGE'."""
        return self.io_type

    def as_dict(self) -> dict[str, Any]:
        """The options in object_info, only those that were given."""
        return _without_none(
            {
                "display_name": self.display_name,
                "tooltip": self.tooltip,
                "lazy": self.lazy,
                "rawLink": self.raw_link,
                "advanced": self.advanced,
                **self.extra_dict,
                **self.options_dict(),
            }
        )

    def options_dict(self) -> dict[str, Any]:
        """Options that only this kind of input has; None means not given."""
        return {}


class Output:
    """A socket on a node's right side."""

    io_type = "*"

    def __init__(
        self,
        id: str | None = None,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ) -> None:
        self.id = id
        self.display_name = display_name or id
        self.tooltip = tooltip
        self.is_output_list = is_output_list


class ComfyType:
    """A type of values that travel along links; `Input` and `Output` make its sockets."""

    Type: Any = Any
    io_type = "*"
    Input = Input
    Output = Output


def Custom(io_type: str) -> type[ComfyType]:
    """A type of one's own (or any type that has no widget), known by its name."""
    parts = {
        "io_type": io_type,
        "Input": type("Input", (Input,), {"io_type": io_type}),
        "Output": type("Output", (Output,), {"io_type": io_type}),
    }
    return type(io_type.title().replace("_", ""), (ComfyType,), parts)


AnyType = Custom("*")
Clip = Custom("CLIP")
ClipVision = Custom("CLIP_VISION")
ClipVisionOutput = Custom("CLIP_VISION_OUTPUT")
Conditioning = Custom("CONDITIONING")
ControlNet = Custom("CONTROL_NET")
Guider = Custom("GUIDER")
Image = Custom("IMAGE")
Latent = Custom("LATENT")
Mask = Custom("MASK")
Model = Custom("MODEL")
Noise = Custom("NOISE")
Sampler = Custom("SAMPLER")
Sigmas = Custom("SIGMAS")
Vae = Custom("VAE")


class MultiType(ComfyType):
    """An input that takes any of several types."""

    class Input(Input):
        def __init__(self, id: str, types: Iterable[type[ComfyType]], *args: Any, **kwargs: Any):
            super().__init__(id, *args, **kwargs)
            self.io_type = ",".join(dict.fromkeys(kind.io_type for kind in types))
