"""Routes that bring pictures in and show them: upload, mask upload, view."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from aiohttp import web
from aiohttp.web_request import FileField
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from kontext_core.errors import CheckpointError, InputError, ModelNotFoundError
from kontext_core.reading import open_picture
from kontext_core.weights.safetensors_header import read_safetensors_header

from ..bodies import PictureReference, read_json_text
from ..errors import BodyError
from ..folders import PICTURE_SUFFIXES, Folders, inside
from .answers import json_response, read_form
from .store import write_whole

T = TypeVar("T")
PREVIEW_FORMATS = ("webp", "jpeg")
# Pictures that are decoded at the same time; each may take the reader's whole limit.
AT_ONCE = 2


class PictureRoutes:
    """Pictures in and out. Names that lead out of a folder are answered with 400 or 403."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self._decoding = asyncio.Semaphore(AT_ONCE)

    async def _decode(self, work: Callable[..., T], *arguments: Any) -> T:
        """Work on pixels, in a thread: nobody else waits for it."""
        async with self._decoding:
            return await asyncio.to_thread(work, *arguments)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/upload/image", self.upload_image),
            web.post("/upload/mask", self.upload_mask),
            web.get("/view", self.view),
            web.get("/view_metadata/{folder}", self.view_metadata),
        ]

    async def upload_image(self, request: web.Request) -> web.Response:
        form = await read_form(request)
        return await asyncio.to_thread(self._store, form, None)

    async def upload_mask(self, request: web.Request) -> web.Response:
        """Stores a copy of a picture with the alpha of the uploaded one (the mask editor)."""
        form = await read_form(request)
        mask = form.get("image")
        reference = read_json_text(str(form.get("original_ref", "")), PictureReference)
        original = self.folders.find(
            reference.filename, reference.type or "output", reference.subfolder or ""
        )
        if original is None or not isinstance(mask, FileField):
            raise BodyError("invalid_form", "there is no such picture, or no mask was sent")
        merged = await self._decode(_with_alpha, original, mask)
        return await asyncio.to_thread(self._store, form, merged)

    def _store(self, form: Any, content: bytes | None) -> web.Response:
        field = form.get("image")
        if not isinstance(field, FileField) or not field.filename:
            raise BodyError("invalid_form", "the form has no file named 'image'")
        kind = str(form.get("type") or "input")
        subfolder = str(form.get("subfolder") or "")
        folder = inside(self.folders.by_kind(kind), subfolder)
        target = inside(folder, field.filename)
        if target.suffix.lower() not in PICTURE_SUFFIXES:
            raise BodyError("invalid_form", f"{target.name[:80]} is not a picture file")
        data = field.file.read() if content is None else content
        if str(form.get("overwrite", "")).lower() not in ("true", "1"):
            target = _free_name(target, data)
        write_whole(target, data)
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
            return await self._decode(
                _converted, path, query.get("preview"), query.get("channel", "rgba")
            )
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        headers = {"X-Content-Type-Options": "nosniff"}
        # Only pictures are shown; anything else could carry a script into the page's origin.
        safe = kind.startswith("image/") and kind != "image/svg+xml"
        headers["Content-Type"] = kind if safe else "application/octet-stream"
        shown = "inline" if safe else "attachment"
        headers["Content-Disposition"] = f"{shown}; {_disposition(path.name)}"
        return web.FileResponse(path, headers=headers)

    async def view_metadata(self, request: web.Request) -> web.Response:
        """The header text of a model file."""
        try:
            path = self.folders.model_path(
                request.match_info["folder"], request.query.get("filename", "")
            )
            metadata = await asyncio.to_thread(_metadata, path)
        except (CheckpointError, ModelNotFoundError, OSError) as error:
            return web.Response(status=404, text=str(error))
        except InputError as error:
            return web.Response(status=403, text=str(error))
        return json_response(metadata) if metadata else web.Response(status=404)


def _metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself; a GGUF file has no such text."""
    with path.open("rb") as file:
        return read_safetensors_header(path, file, path.stat().st_size)[0]


def _disposition(name: str) -> str:
    """A file's name as a header takes it, with the whole of it beside where letters are lost."""
    plain = re.sub(r'[^ -~]|["\\]', "_", name)
    if plain == name:
        return f'filename="{name}"'
    whole = quote(name.encode(errors="replace"))
    return f"filename=\"{plain}\"; filename*=UTF-8''{whole}"


def _free_name(target: Path, data: bytes) -> Path:
    """`target`, or 'name (1).png' and on where another picture has the name."""
    wanted = hashlib.sha256(data).digest()
    candidate, number = target, 0
    while candidate.exists():
        if candidate.is_file() and candidate.stat().st_size == len(data):
            if hashlib.sha256(candidate.read_bytes()).digest() == wanted:
                break
        number += 1
        candidate = inside(target.parent, f"{target.stem} ({number}){target.suffix}")
    return candidate


def _with_alpha(original: Path, mask: FileField) -> bytes:
    """The picture of a file with the alpha of an uploaded one, as PNG."""
    try:
        with (
            open_picture(original, original.name) as picture,
            open_picture(mask.file, "the mask") as alpha,  # type: ignore[arg-type]
        ):
            info = PngInfo()
            for key, value in getattr(picture, "text", {}).items():
                info.add_text(key, value)
            merged = picture.convert("RGBA")
            merged.putalpha(alpha.convert("RGBA").getchannel("A"))
    except (OSError, SyntaxError, ValueError) as error:
        raise BodyError("invalid_form", f"picture and mask don't fit: {error}") from error
    buffer = BytesIO()
    merged.save(buffer, "PNG", compress_level=4, pnginfo=info)
    return buffer.getvalue()


def _converted(path: Path, preview: str | None, channel: str) -> web.Response:
    """The picture smaller in bytes, without alpha, or its alpha alone."""
    format_name, _, quality = (preview or "png").partition(";")
    if preview is not None and (format_name not in PREVIEW_FORMATS or "a" in channel):
        format_name = "webp"
    try:
        with open_picture(path, path.name) as picture:
            if channel == "a" and preview is None:
                alpha = picture.convert("RGBA").getchannel("A")
                result = Image.new("RGBA", picture.size)
                result.putalpha(alpha)
            elif channel == "rgb" or format_name == "jpeg":
                result = picture.convert("RGB")
            else:
                result = picture.convert("RGBA")
        buffer = BytesIO()
        result.save(buffer, format_name, quality=_quality(quality))
    except (OSError, SyntaxError, ValueError) as error:
        text = f"{path.name} can't be shown as a picture: {error}"
        return web.Response(status=415, text=text)
    return web.Response(body=buffer.getvalue(), content_type=f"image/{format_name}")


def _quality(text: str) -> int:
    """1 to 100; 90 where there is not a number."""
    whole = text.isascii() and text.isdecimal() and len(text) < 10
    return min(max(int(text), 1), 100) if whole else 90
