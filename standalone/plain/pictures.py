"""Load Image, Load Image (as Mask), Save Image, Preview Image."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from kontext_core.errors import InputError

from .. import runtime
from ..comfy_api import nodes as n
from ..comfy_api import sockets, ui, widgets

__all__ = ["LoadImage", "LoadImageMask", "PreviewImage", "SaveImage", "open_picture"]

# A picture this large on a side can't be worked with, and decoding it could eat all memory.
MAX_SIDE = 16384
# Pillow's own guard stands at a third of that, and its error doesn't tell the size; it warns below
# twice its limit, where `open_picture` refuses by side.
Image.MAX_IMAGE_PIXELS = MAX_SIDE**2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
CHANNELS = ("alpha", "red", "green", "blue")


def open_picture(path: Path) -> Image.Image:
    """Opens a picture file without decoding it yet.

    Raises:
        InputError: no picture in the file, or one with a side above 16384 pixels.
    """
    try:
        picture = Image.open(path)
    except Image.DecompressionBombError as error:
        raise InputError(
            f"the picture {path.name} is too large ({error}); sides up to {MAX_SIDE} pixels are "
            "possible, make it smaller first"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{path.name} can't be read as a picture ({type(error).__name__}); "
            "choose a PNG, JPEG or WebP file"
        ) from error
    if max(picture.size) > MAX_SIDE:
        width, height = picture.size
        picture.close()
        raise InputError(
            f"the picture {path.name} is {width}x{height}; sides up to {MAX_SIDE} pixels are "
            "possible, make it smaller first"
        )
    return picture


def _read(path: Path) -> tuple[Any, Any]:
    """A file as IMAGE [b, h, w, 3] and MASK [b, h, w], float32 in 0..1.

    The mask is 1 where the picture is transparent; without transparency it is 64x64 zeros, which
    is what ComfyUI gives. Frames of another size than the first are left out.
    """
    import torch

    images, masks, size = [], [], None
    with open_picture(path) as picture:
        try:
            for frame in ImageSequence.Iterator(picture):
                turned = ImageOps.exif_transpose(frame)
                if turned.mode == "I":
                    turned = turned.point(lambda value: value * (1 / 255))
                size = size or turned.size
                if turned.size != size:
                    continue
                if turned.mode == "P" and "transparency" in turned.info:
                    turned = turned.convert("RGBA")
                rgb = np.asarray(turned.convert("RGB"), dtype=np.float32) / 255.0
                images.append(torch.from_numpy(rgb))
                if "A" in turned.getbands():
                    alpha = np.asarray(turned.getchannel("A"), dtype=np.float32) / 255.0
                    masks.append(1.0 - torch.from_numpy(alpha))
                else:
                    masks.append(torch.zeros(64, 64))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(
                f"{path.name} is damaged: {error}; save the picture again or choose another"
            ) from error
    if len({tuple(mask.shape) for mask in masks}) > 1:
        masks = masks[:1]
    return torch.stack(images), torch.stack(masks)


def _find(image: str) -> Path:
    path = runtime.current().folders.find(image)
    if path is None:
        raise InputError(f"no picture {image!r} in the input folder; upload it or choose another")
    return path


def _check(image: str | None) -> bool | str:
    """Validation of a picture's name; None stands for a linked value, which is not known yet."""
    if image is None:
        return True
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
