"""Routes that bring pictures in and show them: upload, mask upload, view."""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
from io import BytesIO
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.web_request import FileField
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from kontext_core.errors import InputError

from ..folders import PICTURE_SUFFIXES, Folders, inside
from .answers import json_response

__all__ = ["PictureRoutes"]

PREVIEW_FORMATS = ("webp", "jpeg")


class PictureRoutes:
    """Pictures in and out. Names that lead out of a folder are answered with 400 or 403."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/upload/image", self.upload_image),
            web.post("/upload/mask", self.upload_mask),
            web.get("/view", self.view),
            web.get("/view_metadata/{folder}", self.view_metadata),
        ]

    async def upload_image(self, request: web.Request) -> web.Response:
        form = await request.post()
        return self._store(form, None)

    async def upload_mask(self, request: web.Request) -> web.Response:
        """Stores a copy of a picture with the alpha of the uploaded one (the mask editor)."""
        form = await request.post()
        mask = form.get("image")
        try:
            reference = json.loads(str(form.get("original_ref", "")))
            name = reference["filename"]
            original = self.folders.find(
                name, reference.get("type") or "output", reference.get("subfolder") or ""
            )
        except (ValueError, KeyError, TypeError) as error:
            return web.Response(status=400, text=f"original_ref names no picture: {error}")
        if original is None or not isinstance(mask, FileField):
            return web.Response(status=400, text="there is no such picture, or no mask was sent")
        try:
            with Image.open(original) as picture, Image.open(mask.file) as alpha:
                info = PngInfo()
                for key, value in getattr(picture, "text", {}).items():
                    info.add_text(key, value)
                merged = picture.convert("RGBA")
                merged.putalpha(alpha.convert("RGBA").getchannel("A"))
        except (UnidentifiedImageError, OSError, ValueError) as error:
            return web.Response(status=400, text=f"picture and mask don't fit: {error}")
        buffer = BytesIO()
        merged.save(buffer, "PNG", compress_level=4, pnginfo=info)
        return self._store(form, buffer.getvalue())

    def _store(self, form: Any, content: bytes | None) -> web.Response:
        field = form.get("image")
        if not isinstance(field, FileField) or not field.filename:
            return web.Response(status=400, text="the form has no file named 'image'")
        kind = str(form.get("type") or "input")
        subfolder = str(form.get("subfolder") or "")
        try:
            folder = inside(self.folders.by_kind(kind), subfolder)
            target = inside(folder, field.filename)
        except InputError as error:
            return web.Response(status=400, text=str(error))
        if target.suffix.lower() not in PICTURE_SUFFIXES:
            return web.Response(status=400, text=f"{target.name} is no picture file")
        data = field.file.read() if content is None else content
        if str(form.get("overwrite", "")).lower() not in ("true", "1"):
            target = _free_name(target, data)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        try:
            part.write_bytes(data)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        return json_response({"name": target.name, "subfolder": subfolder, "type": kind})

    async def view(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if not query.get("filename"):
            return web.Response(status=404)
        try:
            path = self.folders.find(
                query["filename"], query.get("type") or "output", query.get("subfolder", "")
            )
        except InputError as error:
            return web.Response(status=403, text=str(error))
        if path is None:
            return web.Response(status=404)
        if "preview" in query or query.get("channel") in ("rgb", "a"):
            return _converted(path, query.get("preview"), query.get("channel", "rgba"))
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        headers = {"X-Content-Type-Options": "nosniff"}
        # Only pictures are shown; anything else could carry a script into the page's origin.
        safe = kind.startswith("image/") and kind != "image/svg+xml"
        name = path.name.replace("\\", "_").replace('"', "_")
        headers["Content-Type"] = kind if safe else "application/octet-stream"
        headers["Content-Disposition"] = f'{"inline" if safe else "attachment"}; filename="{name}"'
        return web.FileResponse(path, headers=headers)

    async def view_metadata(self, request: web.Request) -> web.Response:
        """The header text of a model file."""
        try:
            path = self.folders.model_path(
                request.match_info["folder"], request.query.get("filename", "")
            )
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length)) if length < 1 << 24 else {}
        except (OSError, ValueError):
            return web.Response(status=404)
        if not isinstance(header, dict) or "__metadata__" not in header:
            return web.Response(status=404)
        return json_response(header["__metadata__"])


def _free_name(target: Path, data: bytes) -> Path:
    """`target`, or 'name (1).png' and on where another picture has the name."""
    wanted = hashlib.sha256(data).digest()
    candidate, number = target, 0
    while candidate.exists():
        if hashlib.sha256(candidate.read_bytes()).digest() == wanted:
            break
        number += 1
        candidate = target.with_name(f"{target.stem} ({number}){target.suffix}")
    return candidate


def _converted(path: Path, preview: str | None, channel: str) -> web.Response:
    """The picture smaller in bytes, without alpha, or its alpha alone."""
    format_name, _, quality = (preview or "png").partition(";")
    if preview is not None and (format_name not in PREVIEW_FORMATS or "a" in channel):
        format_name = "webp"
    try:
        with Image.open(path) as picture:
            if channel == "a" and preview is None:
                alpha = picture.convert("RGBA").getchannel("A")
                result = Image.new("RGBA", picture.size)
                result.putalpha(alpha)
            elif channel == "rgb" or format_name == "jpeg":
                result = picture.convert("RGB")
            else:
                result = picture.convert("RGBA")
    except (UnidentifiedImageError, OSError, ValueError):
        return web.Response(status=415, text=f"{path.name} can't be read as a picture")
    buffer = BytesIO()
    result.save(buffer, format_name, quality=int(quality) if quality.isdigit() else 90)
    return web.Response(body=buffer.getvalue(), content_type=f"image/{format_name}")
