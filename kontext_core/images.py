"""Pictures at the edge: reading, checking, resizing and writing them. `b h w c` floats in 0..1."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin
from torch import Tensor

from .errors import InputError, ShapeError
from .resolutions import MAX_SIDE

__all__ = ["check_image", "load_image", "resize", "save_image", "to_model", "to_picture"]

MIN_SIDE = 16
MAX_PIXELS = 2**27


def check_image(image: Tensor, name: str = "image") -> Tensor:
    """Return `image` if it is a usable [b, h, w, 3] picture in 0..1, else raise.

    Raises:
        ShapeError: wrong rank, channels or dtype.
        InputError: a side under 16 or over 16384 pixels, more than 134 million pixels, NaN.
    """
    if image.ndim != 4 or image.shape[-1] != 3 or 0 in image.shape:
        raise ShapeError(
            f"{name} has shape {tuple(image.shape)}; expected [batch, height, width, 3]. "
            "Remove an alpha channel, or add the batch dimension, first"
        )
    if not image.is_floating_point():
        raise ShapeError(f"{name} has dtype {image.dtype}; expected floats in 0..1")
    _check_sides(image.shape[2], image.shape[1], name)
    if not bool(torch.isfinite(image).all()):
        raise InputError(
            f"{name} contains NaN or infinite values; the node or file it comes from is broken. "
            "Decode it again in float32"
        )
    return image


def load_image(path: str | Path) -> Tensor:
    """Read a picture file: turned as its EXIF says, transparency laid over white.

    Returns:
        [1, h, w, 3] float32 in 0..1.

    Raises:
        InputError: missing, not a picture, damaged, or of an unusable size; the size is judged
            from the header, before anything is decoded.
    """
    path = Path(path)
    try:
        with Image.open(path) as opened:
            _check_sides(opened.width, opened.height, str(path))
            picture = ImageOps.exif_transpose(opened)
            if picture.mode == "I;16":
                picture = picture.point(lambda value: value / 256).convert("L")
            if picture.has_transparency_data:
                layer = picture.convert("RGBA")
                picture = Image.new("RGBA", layer.size, "white")
                picture.alpha_composite(layer)
            pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0
    except FileNotFoundError as error:
        raise InputError(f"there is no picture at {path}; check the path") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large a picture ({error}); make it smaller") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} can't be read as a picture ({error}); expected PNG, JPEG, WebP or another "
            "format Pillow knows, undamaged"
        ) from error
    return torch.from_numpy(pixels)[None]


def save_image(image: Tensor, path: str | Path, metadata: dict[str, str] | None = None) -> Path:
    """Write one [1, h, w, 3] or [h, w, 3] picture; PNG text chunks carry `metadata`.

    The file appears whole or not at all.

    Raises:
        InputError: an unknown file ending or a folder that can't be written to.
    """
    path = Path(path)
    info = PngImagePlugin.PngInfo()
    for key, value in (metadata or {}).items():
        info.add_text(key, value)
    picture = to_pil(image)
    Image.init()
    kind = Image.EXTENSION.get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise InputError(f"can't write pictures as {path.suffix or 'a file without ending'!r}; "
                         f"use .png, .jpg or .webp ({path})")  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
    except OSError as error:
        raise InputError(
            f"can't write into {path.parent} ({error}); choose another folder"
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            picture.save(file, format=kind, **({"pnginfo": info} if kind == "PNG" else {}))
        # mkstemp makes the file private; give it what a plain open would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"can't write {path} ({error}); free some space or choose another"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def resize(image: Tensor, width: int, height: int) -> Tensor:
    """[b, h, w, 3] to exactly width x height with 8-bit Lanczos, as the published pipeline does."""
    if image.shape[1:3] == (height, width):
        return image
    size, kind = (width, height), Image.Resampling.LANCZOS
    rows = [np.asarray(to_pil(one).resize(size, kind), dtype=np.float32) / 255.0 for one in image]
    return torch.from_numpy(np.stack(rows)).to(image.device, image.dtype)


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
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputError(
            f"{name} is {width}x{height} px; at most {MAX_SIDE} a side and {MAX_PIXELS} in all "
            "are taken. Scale it down first: the model works at about one megapixel"
        )
