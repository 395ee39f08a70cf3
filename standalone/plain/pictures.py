"""Load Image, Load Image (as Mask), Save Image, Preview Image."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from kontext_core.errors import InputError
from kontext_core.reading import open_picture, read_picture

from .. import runtime
from ..comfy_api import nodes as n
from ..comfy_api import sockets, ui, widgets

# The limit is `open_picture`'s: Pillow would warn of pictures that it takes, and refuse larger ones
# without their size.
Image.MAX_IMAGE_PIXELS = None
CHANNELS = ("alpha", "red", "green", "blue")


def _read(path: Path) -> tuple[Any, Any]:
    """A file as IMAGE [b, h, w, 3] and MASK [b, h, w], float32 in 0..1.

    The mask is 1 where the picture is transparent; without transparency it is 64x64 zeros, which
    is what ComfyUI gives.
    """
    import torch

    frames = read_picture(path)
    if frames.alpha is None:
        return frames.colours, torch.zeros(len(frames.colours), 64, 64)
    return frames.colours, 1.0 - frames.alpha


def _find(image: str) -> Path:
    path = runtime.current().folders.find(image)
    if path is None:
        raise InputError(f"no picture {image!r} in the input folder; upload it or choose another")
    return path


def _check(image: str | None) -> bool | str:
    """Validation of a picture's name; None stands for a linked value, which is not known yet."""
    if image is None:
        return True
    if not isinstance(image, str):
        return f"Invalid image file: {str(image)[:80]}"
    try:
        path = runtime.current().folders.find(image)
        if path is None:
            return f"Invalid image file: {image}"
        open_picture(path).close()
    except InputError as error:
        return str(error)
    return True


def _fingerprint(image: str | None) -> str:
    path = None if image is None else runtime.current().folders.find(image)
    return "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def _image_combo() -> sockets.Input:
    files = runtime.current().folders.pictures()
    return widgets.Combo.Input(
        "image",
        options=files,
        upload=widgets.UploadType.image,
        tooltip="A picture of the input folder.",
    )


class LoadImage(n.ComfyNode):
    """A picture file as IMAGE, its transparency as MASK."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        return n.Schema(
            node_id="LoadImage",
            display_name="Load Image",
            category="image",
            description="Loads a picture from the input folder.",
            inputs=[_image_combo()],
            outputs=[
                sockets.Image.Output(display_name="IMAGE"),
                sockets.Mask.Output(display_name="MASK"),
            ],
        )

    @classmethod
    def validate_inputs(cls, image: str | None = None) -> bool | str:
        return _check(image)

    @classmethod
    def fingerprint_inputs(cls, image: str | None = None) -> str:
        return _fingerprint(image)

    @classmethod
    def execute(cls, image: str) -> n.NodeOutput:
        return n.NodeOutput(*_read(_find(image)))


class LoadImageMask(n.ComfyNode):
    """One channel of a picture file as MASK."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        return n.Schema(
            node_id="LoadImageMask",
            display_name="Load Image (as Mask)",
            category="image",
            description="Loads one channel of a picture from the input folder as a mask.",
            inputs=[
                _image_combo(),
                widgets.Combo.Input(
                    "channel", options=CHANNELS, tooltip="Which channel is the mask."
                ),
            ],
            outputs=[sockets.Mask.Output(display_name="MASK")],
        )

    @classmethod
    def validate_inputs(cls, image: str | None = None) -> bool | str:
        return _check(image)

    @classmethod
    def fingerprint_inputs(cls, image: str | None = None, channel: str | None = None) -> str:
        return _fingerprint(image)

    @classmethod
    def execute(cls, image: str, channel: str) -> n.NodeOutput:
        picture, mask = _read(_find(image))
        if channel != "alpha":
            mask = picture[..., CHANNELS.index(channel) - 1].clone()
        return n.NodeOutput(mask)


class SaveImage(n.ComfyNode):
    """Writes pictures to the output folder as PNG files that carry their workflow."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        return n.Schema(
            node_id="SaveImage",
            display_name="Save Image",
            category="image",
            description="Saves the pictures to the output folder.",
            inputs=[
                sockets.Image.Input("images", tooltip="The pictures to save."),
                widgets.String.Input(
                    "filename_prefix",
                    default="ComfyUI",
                    tooltip="The start of the file's name; may hold a subfolder and %date% parts.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        """A refused place is told before anything has been computed for it."""
        if isinstance(filename_prefix, str):
            try:
                runtime.current().folders.place_of(filename_prefix, "output")
            except InputError as error:
                return str(error)
        return True

    @classmethod
    def execute(cls, images: Any, filename_prefix: str = "ComfyUI") -> n.NodeOutput:
        return n.NodeOutput(ui=ui.ImageSaveHelper.get_save_images_ui(images, filename_prefix, cls))


class PreviewImage(n.ComfyNode):
    """Shows pictures in the node without keeping them."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        return n.Schema(
            node_id="PreviewImage",
            display_name="Preview Image",
            category="image",
            description="Shows the pictures without saving them.",
            inputs=[sockets.Image.Input("images", tooltip="The pictures to show.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Any) -> n.NodeOutput:
        return n.NodeOutput(ui={"images": ui.PreviewImage(images, cls=cls).values})
