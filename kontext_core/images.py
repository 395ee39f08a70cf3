"""Pictures at the edge: taking, checking and resizing them. `b h w c` floats in 0..1."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .checks import check_choice
from .errors import InputError, ShapeError
from .reading import max_pixels, read_frames, read_picture
from .resolutions import MAX_SIDE

log = logging.getLogger(__name__)

MIN_SIDE = 16
# Sharpening and resizing overshoot 0..1 a little; another scale lies farther off.
OVERSHOOT = 0.25
MASK_CHANNELS = ("luminance", "alpha")


def check_image(image: Tensor, name: str = "image") -> Tensor:
    """Return `image` if it is a usable [b, h, w, 3] picture in 0..1, else raise.

    Raises:
        ShapeError: wrong rank, channels or dtype; says which, and how to mend it.
        InputError: a side under 16 or over 16384 pixels, more than `max_pixels()`, NaN, numbers
            on another scale.
    """
    if not isinstance(image, Tensor):
        raise ShapeError(
            f"{name} is a {type(image).__name__}; expected a tensor [batch, height, width, 3] of "
            "floats in 0..1, as load_image gives"
        )
    if image.ndim != 4 or image.shape[-1] != 3 or 0 in image.shape:
        raise ShapeError(
            f"{name} has shape {tuple(image.shape)}; expected [batch, height, width, 3]. "
            f"{_advice(image)}"
        )
    if not image.is_floating_point():
        raise ShapeError(
            f"{name} has dtype {image.dtype}; expected floats in 0..1. Divide 0..255 by 255"
        )
    _check_sides(image.shape[2], image.shape[1], name)
    if not bool(torch.isfinite(image).all()):
        raise InputError(
            f"{name} contains NaN or infinite values; the node or file it comes from is broken. "
            "Decode it again in float32"
        )
    low, high = (float(value) for value in image.aminmax())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        scale = "divide by 255" if high > 2 else "make it (image + 1) / 2, as for -1..1"
        raise InputError(
            f"{name} holds values from {low:.4g} to {high:.4g}; expected 0..1: {scale}"
        )
    return image


def _advice(image: Tensor) -> str:
    """What makes a picture of a tensor of the wrong shape."""
    shape = image.shape
    if image.ndim == 3 and shape[-1] == 3:
        return "Add the batch dimension first: image[None]"
    if image.ndim == 4 and shape[1] in (1, 3, 4) and shape[-1] not in (1, 3, 4):
        return "The channels stand second; put them last: image.movedim(1, -1)"
    if image.ndim == 3 and shape[0] in (1, 3, 4):
        return "The channels stand first; put them last and add a batch: image.movedim(0, -1)[None]"
    if image.ndim == 4 and shape[-1] == 1:
        return "It has one channel, grey; make three of it: image.expand(-1, -1, -1, 3)"
    return "Remove an alpha channel, or add the batch dimension, first"


def load_image(path: str | Path) -> Tensor:
    """Read a picture file by the rules of `reading`: any mode, sRGB, turned as EXIF says, hidden
    colours where it is transparent, all frames of an animated one.

    Returns:
        [frames, h, w, 3] float32 in 0..1.

    Raises:
        InputError: missing, not a picture, damaged, of an unusable size, or numbers and colours that
            can't be read right; the size is judged from the header, before anything is decoded.
    """
    frames = read_picture(path)
    if frames.alpha is not None and bool((frames.alpha == 0).any()):
        log.warning("%s is transparent in places; the colours stored there are taken", path)
    _check_sides(frames.colours.shape[2], frames.colours.shape[1], str(path))
    return frames.colours


def load_mask(path: str | Path, channel: str = "luminance") -> Tensor:
    """Read a mask from a picture file: [h, w] float32, white is 1 and black 0.

    Args:
        channel: "luminance" reads the colours and not alpha; "alpha" is 1 where the picture is
            transparent, as ComfyUI's mask editor saves what was painted.

    Raises:
        InputError: as `load_image`; several frames; no alpha where it is to be read.
    """
    check_choice(channel, "mask channel", MASK_CHANNELS)
    frames = read_picture(path)
    colours = frames.colours
    if len(colours) != 1:
        raise InputError(f"{path} has {len(colours)} frames; expected one, as a mask")
    if channel == "alpha":
        if frames.alpha is None:
            raise InputError(
                f"{path} has no alpha channel to read a mask from; erase what may change, or read its "
                "luminance"
            )
        return 1 - frames.alpha[0].reshape(colours.shape[1:3]).clamp(0, 1)
    luminance = torch.tensor([0.299, 0.587, 0.114])
    return (colours[0] @ luminance).clamp(0, 1)


def as_image(value: Any, name: str = "image") -> Tensor:
    """A picture [b, h, w, 3] from what people have: a path, a Pillow picture, or the tensor itself.

    Raises:
        InputError, ShapeError: it is something else, or as `load_image` and `check_image`.
    """
    if isinstance(value, str | Path):
        return load_image(value)
    if isinstance(value, Image.Image):
        return check_image(read_frames(value, name).colours, name)
    if isinstance(value, Tensor):
        return check_image(value, name)
    raise InputError(
        f"{name} is a {type(value).__name__}; expected a path, a Pillow picture or a tensor "
        "[1, height, width, 3] of floats in 0..1"
    )


def resize(
    image: Tensor, width: int, height: int, box: tuple[float, float, float, float] | None = None
) -> Tensor:
    """[b, h, w, 3] to exactly width x height with 8-bit Lanczos, as the published pipeline does.

    Args:
        box: (left, top, right, bottom) of what is resized, in pixels, not always whole; None is all.
    """
    rows, columns = image.shape[1:3]
    if (columns, rows) == (width, height) and box in (None, (0, 0, columns, rows)):
        return image
    left, top, right, bottom = box or (0, 0, columns, rows)
    if (right - left, bottom - top) == (width, height) and left % 1 == 0 == top % 1:
        # Nothing but a part cut out: to the bit, not in 8-bit steps.
        return image[:, int(top) : int(bottom), int(left) : int(right)]
    size, kind = (width, height), Image.Resampling.LANCZOS
    made = [np.asarray(to_pil(one).resize(size, kind, box), dtype=np.float32) for one in image]
    return torch.from_numpy(np.stack(made) / 255.0).to(image.device, image.dtype)


def to_model(image: Tensor) -> Tensor:
    """[b, h, w, 3] in 0..1 to [b, 3, h, w] in -1..1, as the autoencoder takes it."""
    return image.movedim(-1, 1) * 2 - 1


def to_picture(decoded: Tensor) -> Tensor:
    """[b, 3, h, w] in -1..1 to a clamped float32 [b, h, w, 3] in 0..1."""
    return ((decoded.float() + 1) / 2).clamp(0, 1).movedim(1, -1).contiguous()


def to_pil(image: Tensor) -> Image.Image:
    """One picture, [h, w, 3] or [1, h, w, 3], to Pillow, rounded to 8 bits."""
    if image.ndim == 4:
        image = image[0]
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return (
        Image.fromarray(pixels, "RGB") if pixels.shape[-1] == 3 else Image.fromarray(pixels[..., 0])
    )


def _check_sides(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"{name} is {width}x{height} px; both sides need at least {MIN_SIDE}, one token of "
            "the model. Use a larger picture"
        )
    most = max_pixels()
    if max(width, height) > MAX_SIDE or width * height > most:
        raise InputError(
            f"{name} is {width}x{height} px; at most {MAX_SIDE} a side and {most} in all "
            "are taken. Scale it down first: the model works at about one megapixel"
        )
