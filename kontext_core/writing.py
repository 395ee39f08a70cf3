"""Picture files written whole or not at all, in sRGB, with the words and numbers they were made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin
from torch import Tensor

from .checks import check_whole
from .errors import InputError
from .images import to_pil
from .partial import open_partial, whole_file
from .reading import open_picture, srgb_profile
from .safety.provenance import Provenance

# Formats that take a quality, and those that carry metadata as EXIF.
LOSSY = ("JPEG", "WEBP", "AVIF")
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
# How EXIF says that a comment is ASCII; JSON escapes whatever is not.
ASCII = b"ASCII\x00\x00\x00"
QUALITY = 95


def save_image(
    image: Tensor,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    quality: int | None = None,
    provenance: Provenance | None = None,
) -> Path:
    """Write one [1, h, w, 3] or [h, w, 3] picture with 8 bits a channel and sRGB's profile.

    The file appears whole or not at all.

    Args:
        metadata: PNG keeps it as text chunks; JPEG, WebP and AVIF as JSON in EXIF's UserComment.
        quality: 1..100 of JPEG, WebP or AVIF; None is 95.
        provenance: that a model made it, as EXIF and XMP; PNG, JPEG, WebP and AVIF only.

    Raises:
        InputError: an unknown file ending, a quality for a format that has none, or a folder that
            can't be written to.
    """
    path = Path(path)
    options = _options(path, metadata or {}, quality)
    if provenance is not None:
        _mark(options, path, provenance)
    picture = to_pil(image)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"can't write into {path.parent} ({error}); choose another folder"
        ) from error
    try:
        with whole_file(path) as file:
            picture.save(file, **options)
    except OSError as error:
        raise InputError(
            f"can't write {path} ({error}); free some space or choose another folder"
        ) from error
    return path


def check_target(path: str | Path, quality: int | None = None) -> None:
    """Refuse, before anything is computed, what `save_image` would refuse for its name or folder.

    Raises:
        InputError: an unknown file ending, a quality for a format that has none, a folder in the
            place of the picture, or a folder that can't be written to.
    """
    path = Path(path)
    _options(path, {}, quality)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a picture in it")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Refuse, before anything is computed, a folder that results can't be written into.

    Raises:
        InputError: it, or where it would have to be made, can't be written to.
    """
    # Folders that are missing are made for the result; the one that is there must allow it.
    there = next(place for place in (folder.absolute() / "_").parents if place.exists())
    try:
        file, trial = open_partial(there)
        file.close()
        trial.unlink()
    except OSError as error:
        raise InputError(f"can't write into {folder} ({error}); choose another folder") from error


def _options(path: Path, metadata: Mapping[str, str], quality: int | None) -> dict[str, Any]:
    """What Pillow's `save` takes for a file of this ending."""
    Image.init()
    kind = Image.EXTENSION.get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise InputError(f"can't write pictures as {path.suffix or 'a file without ending'!r}; "
                         f"use .png, .jpg or .webp ({path})")  # fmt: skip
    options: dict[str, Any] = {"format": kind}
    if quality is not None and kind not in LOSSY:
        raise InputError(f"quality is {quality!r}, but {kind} has none; use .jpg or .webp ({path})")
    if kind in LOSSY:
        options["quality"] = check_whole(QUALITY if quality is None else quality, "quality", 1, 100)
        if metadata:
            exif = Image.Exif()
            text = json.dumps(dict(metadata)).encode("ascii")
            exif.get_ifd(EXIF_IFD)[USER_COMMENT] = ASCII + text
            options["exif"] = exif
    elif kind == "PNG":
        info = PngImagePlugin.PngInfo()
        for key, value in metadata.items():
            info.add_text(key, value)
        options["pnginfo"] = info
    if kind in (*LOSSY, "PNG", "TIFF"):
        options["icc_profile"] = srgb_profile()
    return options


def _mark(options: dict[str, Any], path: Path, provenance: Provenance) -> None:
    """Add a picture's provenance to what Pillow's `save` takes."""
    kind = options["format"]
    if kind not in (*LOSSY, "PNG"):
        raise InputError(f"{kind} holds no provenance; use .png, .jpg or .webp ({path})")
    exif = options.setdefault("exif", Image.Exif())
    provenance.exif(exif)
    if kind == "PNG":
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", provenance.xmp())
    elif kind == "JPEG":
        # Older Pillows take no `xmp` for JPEG.
        options["extra"] = provenance.jpeg_segment()
    else:
        options["xmp"] = provenance.xmp().encode()


def read_metadata(path: str | Path) -> dict[str, str]:
    """What `save_image` was given as metadata; nothing where a picture has none.

    Raises:
        InputError: no picture there.
    """
    with open_picture(path) as picture:
        if picture.format == "PNG":
            # Text may stand behind the pixels too.
            picture.load()
            found = dict(getattr(picture, "text", {}))
            found.pop("XML:com.adobe.xmp", None)
            return found
        comment = picture.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
    if not isinstance(comment, bytes) or not comment.startswith(ASCII):
        return {}
    try:
        found = json.loads(comment[len(ASCII) :])
    except ValueError:
        # A comment in somebody else's words.
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}
