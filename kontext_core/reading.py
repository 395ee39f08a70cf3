"""Picture files as numbers: every mode Pillow knows, colours as sRGB, transparency apart from them.

The rules, the same at every door of the pack:
    colours   as the file stores them, converted to sRGB by its ICC profile; without one they are
              taken for sRGB.
    alpha     never mixed into colours: where a picture is transparent, its hidden colours stay, as
              ComfyUI's Load Image has it.
    depth     integers by their type's largest value, floats as 0..1.
    frames    an animated file is a batch of all its frames; those of another size than the first
              are left out.
    turned    as EXIF says.
    size      at most 1536 MiB decoded, as float32 RGB of all frames; KONTEXT_MAX_PICTURE_MB in the
              environment sets another limit. Judged before anything is decoded.
What can't be read right is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, ImageSequence
from torch import Tensor

from .errors import InputError
from .resolutions import MAX_SIDE

LIMIT_VARIABLE = "KONTEXT_MAX_PICTURE_MB"
DEFAULT_LIMIT_MB = 1536
# Three float32 numbers.
PIXEL_BYTES = 12
# All their frames have the size of the first.
ANIMATED = ("AVIF", "GIF", "PNG", "WEBP")
# Their further frames are not moments of one picture: a phone's depth map, layers.
ONE_PICTURE = ("MPO", "PSD")
# The colour space an ICC profile has to be of, for each mode.
SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}
# Tags of TIFF.
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
UNSIGNED, WHITE_IS_ZERO = 1, 0


class Frames(NamedTuple):
    """colours [n, h, w, 3] float32 sRGB in 0..1; alpha None, or [n, h, w], 1 = opaque."""

    colours: Tensor
    alpha: Tensor | None


def max_pixels() -> int:
    """How many pixels a picture may have in all its frames: the limit on decoded bytes by 12.

    Raises:
        InputError: KONTEXT_MAX_PICTURE_MB is not a whole number of MiB from 1.
    """
    # This one variable only: the registry holds back packs that read the whole environment.
    unset = f"${LIMIT_VARIABLE}"
    text = os.path.expandvars(unset)
    if text in ("", unset):
        text = str(DEFAULT_LIMIT_MB)
    if not text.isascii() or not text.isdecimal() or not 0 < len(text) < 10 or int(text) < 1:
        raise InputError(
            f"{LIMIT_VARIABLE} is {text[:20]!r}; expected a whole number of MiB from 1, as 1536"
        )
    return int(text) * 2**20 // PIXEL_BYTES


def open_picture(source: str | Path | IO[bytes], name: str | None = None) -> Image.Image:
    """Open a picture file and judge its header, without decoding it; `name` is for messages.

    Raises:
        InputError: missing, no picture, or with a side above 16384 or more than `max_pixels()`.
    """
    name = str(source) if name is None else name
    try:
        opened = Image.open(source)
    except FileNotFoundError as error:
        raise InputError(f"there is no picture at {name}; check the path") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} is too large a picture ({error}); make it smaller") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(name, error) from error
    width, height = opened.size
    most = max_pixels()
    if max(width, height) > MAX_SIDE or width * height > most:
        opened.close()
        raise InputError(
            f"{name} is {width}x{height} px; at most {MAX_SIDE} a side and {most} in all "
            "are taken. Scale it down first: the model works at about one megapixel"
        )
    return opened


def read_picture(path: str | Path) -> Frames:
    """Read a picture file by the rules above.

    Raises:
        InputError: as `open_picture`; damaged; numbers or colours that can't be read right.
    """
    with open_picture(path) as opened:
        return read_frames(opened, str(path))


def read_frames(picture: Image.Image, name: str = "the picture") -> Frames:
    """A picture of Pillow's by the rules above; `name` is for messages."""
    colours: list[Tensor] = []
    alphas: list[Tensor | None] = []
    most = max_pixels()
    try:
        count = getattr(picture, "n_frames", 1) if picture.format in ANIMATED else 1
        if count * picture.height * picture.width > most:
            raise _too_many(name, most)
        for frame, tags in _frames(picture):
            if colours and (frame.height, frame.width) != colours[0].shape[:2]:
                continue
            if (len(colours) + 1) * frame.height * frame.width > most:
                raise _too_many(name, most)
            rgb, alpha = _read(frame, tags, picture.format, name)
            colours.append(torch.from_numpy(np.ascontiguousarray(rgb, dtype=np.float32)))
            alphas.append(None if alpha is None else torch.from_numpy(alpha))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise _unreadable(name, error) from error
    if all(alpha is None for alpha in alphas):
        return Frames(torch.stack(colours), None)
    opaque = torch.ones(colours[0].shape[:2])
    return Frames(torch.stack(colours), torch.stack([opaque if a is None else a for a in alphas]))


def srgb_profile() -> bytes:
    """The ICC profile of what the pack writes: the same bytes every time."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # LittleCMS writes the moment it was made into the header.
    made[24:36] = bytes((7, 208, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0))
    return bytes(made)


def _frames(picture: Image.Image) -> Iterator[tuple[Image.Image, Any]]:
    """Frames the right way up, each with its TIFF tags."""
    if getattr(picture, "n_frames", 1) == 1 or picture.format in ONE_PICTURE:
        yield ImageOps.exif_transpose(picture), getattr(picture, "tag_v2", {})
        return
    for frame in ImageSequence.Iterator(picture):
        yield ImageOps.exif_transpose(frame), getattr(picture, "tag_v2", {})


def _read(
    frame: Image.Image, tags: Any, form: str | None, name: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """One frame as rgb [h, w, 3] and alpha [h, w] or None, in 0..1."""
    profile = frame.info.get("icc_profile")
    if frame.mode == "F" or frame.mode.startswith("I"):
        grey, alpha = _deep(frame, tags, form, name)
        # A profile of grey is a curve: 256 points of it are enough to bend 16 bits.
        curve = np.arange(256, dtype=np.uint8)[None]
        bent = np.asarray(_to_srgb(Image.fromarray(curve), profile, name))[0] / 255.0
        if np.array_equal(bent, np.repeat(curve[0, :, None], 3, 1) / 255.0):
            return np.repeat(grey[..., None], 3, axis=2), alpha
        steps = np.linspace(0, 1, 256)
        return np.stack([np.interp(grey, steps, bent[:, i]) for i in range(3)], axis=2), alpha
    alpha = None
    if frame.has_transparency_data:
        whole = frame.convert("LA") if frame.mode == "La" else frame.convert("RGBA")
        alpha = np.asarray(whole.getchannel("A"), dtype=np.float32) / 255.0
        frame = whole if frame.mode in ("La", "RGBa") else frame
    if frame.mode in ("1", "L", "LA"):
        base = frame.convert("L")
    elif frame.mode in ("CMYK", "LAB"):
        base = frame
    else:
        base = frame.convert("RGBA" if alpha is not None else "RGB").convert("RGB")
    return np.asarray(_to_srgb(base, profile, name), dtype=np.float32) / 255.0, alpha


def _deep(
    frame: Image.Image, tags: Any, form: str | None, name: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey [h, w] of more than 8 bits, scaled by its type, and alpha or None."""
    values = np.asarray(frame)
    bits = int(tags.get(BITS, (0,))[0])
    if frame.mode == "F":
        full = 1.0
    elif frame.mode.startswith("I;16"):
        full = float(2**bits - 1) if 8 < bits < 16 else 65535.0
    elif form in ("PNG", "PPM") or form == "TIFF" and bits == 16:
        # Pillow widens what these store in 16 bits: PNG and PPM unsigned, TIFF signed.
        full = 32767.0 if form == "TIFF" else 65535.0
    else:
        unsigned = form == "TIFF" and int(tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0]) == UNSIGNED
        values = values.view(np.uint32) if unsigned else values
        full = float(2**32 - 1) if unsigned else float(2**31 - 1)
    if values.size and not (
        np.isfinite(values).all() and 0 <= values.min() and values.max() <= full
    ):
        raise InputError(
            f"{name} holds numbers from {values.min()} to {values.max()}; expected 0 to {full:g} in "
            f"a picture of mode {frame.mode}. Save it with 8 or 16 bits a channel"
        )
    if full > 2**30 and 0 < values.max() < 2**16:
        raise InputError(
            f"{name} has 32 bits a pixel, of which its numbers, up to {values.max()}, use no more "
            "than 16: it would come in black. Save it with 8 or 16 bits a channel"
        )
    alpha = None
    hidden = frame.info.get("transparency")
    if isinstance(hidden, int):
        alpha = (values != hidden).astype(np.float32)
    grey = values.astype(np.float64) / full
    return (1 - grey if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else grey), alpha


def _to_srgb(picture: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """Mode L, RGB, CMYK or LAB to RGB, as the profile says."""
    srgb = ImageCms.createProfile("sRGB")
    if not profile:
        if picture.mode != "LAB":
            return picture.convert("RGB")
        return _converted(picture, ImageCms.createProfile("LAB"), srgb)
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        core: Any = source.profile
        space = core.xcolor_space.strip()
        if picture.mode == "L" and space == "RGB":
            picture = picture.convert("RGB")
        if SPACES[picture.mode] != space:
            raise InputError(
                f"{name} has an ICC profile for {space} colours, but its own are {picture.mode}; "
                "save it as sRGB, or without a profile"
            )
        if picture.mode == "RGB" and _is_srgb(source, srgb):
            return picture
        return _converted(picture, source, srgb)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name} has a damaged ICC profile ({error}); save it as sRGB, or without a profile"
        ) from error


def _is_srgb(source: Any, srgb: Any) -> bool:
    """Whether a profile changes nothing but roundings: there are many of sRGB."""
    line = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(line, line, line), axis=-1).reshape(1, -1, 3)
    moved = np.asarray(_converted(Image.fromarray(grid), source, srgb))
    return int(np.abs(moved.astype(int) - grid).max()) <= 1


def _converted(picture: Image.Image, source: Any, srgb: Any) -> Image.Image:
    made = ImageCms.profileToProfile(picture, source, srgb, outputMode="RGB")
    if made is None:
        raise ValueError("no conversion")
    return made


def _too_many(name: str, most: int) -> InputError:
    return InputError(
        f"{name} has more than {most} pixels in all its frames; scale it down, or take some frames"
    )


def _unreadable(name: str, error: Exception) -> InputError:
    return InputError(
        f"{name} can't be read as a picture ({error}); expected PNG, JPEG, WebP or another format "
        "Pillow knows, undamaged"
    )
