"""How requests are read and answered: JSON in by schema, JSON out that any client can read."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ..bodies import read_json_text
from ..errors import BodyError

T = TypeVar("T")
# What aiohttp raises at bodies that are no HTTP, or not encoded as they say.
BROKEN = (HttpProcessingError, web.RequestPayloadError)
# Bytes of a JSON body; a large workflow has 2 MB.
MAX_JSON = 32 * 1024 * 1024
# From here on parsing is left to a thread.
LARGE = 256 * 1024


async def json_body(request: web.Request, kind: type[T]) -> T:
    """The request's JSON body by its schema in `bodies`; an empty one is an empty object.

    Raises:
        BodyError: it is something else, or says so.
        web.HTTPRequestEntityTooLarge: more than 32 MB.
    """
    if (request.content_length or 0) > MAX_JSON:
        raise web.HTTPRequestEntityTooLarge(MAX_JSON, request.content_length or 0)
    body = await request.read()
    if len(body) > MAX_JSON:
        raise web.HTTPRequestEntityTooLarge(MAX_JSON, len(body))
    if body.strip() and not _may_be_json(request):
        raise BodyError(
            "wrong_content_type",
            f"the body's content type is {request.content_type[:80]!r}; send the header "
            "'Content-Type: application/json'",
            status=415,
        )
    if len(body) > LARGE:
        return await asyncio.to_thread(read_json_text, body, kind)
    return read_json_text(body, kind)


def _may_be_json(request: web.Request) -> bool:
    """Whether the body is what no form or script of another site could send without asking.

    The editor itself sends settings as text, with a header that such scripts may not set either.
    Programs that name no type, or the one that urllib and curl put there unasked, are let through:
    ComfyUI's own examples post that way. Browsers, which always say where a page comes from, are not.
    """
    if "Comfy-User" in request.headers:
        return True
    browser = "Origin" in request.headers or "Sec-Fetch-Site" in request.headers
    kind = request.content_type
    if "Content-Type" not in request.headers or kind == "application/x-www-form-urlencoded":
        return not browser
    return kind == "application/json" or kind.endswith("+json")


async def read_form(request: web.Request) -> Any:
    """The fields of a form, texts and files.

    Raises:
        BodyError: it can't be read as one.
    """
    try:
        return await request.post()
    except (*BROKEN, ValueError, LookupError, AssertionError, RuntimeError, OSError) as error:
        raise BodyError("invalid_form", f"the form can't be read: {error}") from error


def to_json(value: Any) -> bytes:
    """Strict JSON of anything: numbers that JSON lacks are null, unknown objects their text."""
    try:
        return msgspec.json.encode(value, enc_hook=str)
    except (TypeError, ValueError, RecursionError):
        # Keys that are not text, halves of surrogate pairs in file names, numbers without end.
        return json.dumps(_plain(value, 0), allow_nan=False).encode()


def _plain(value: Any, depth: int) -> Any:
    if depth > 200:
        return "..."
    if isinstance(value, dict):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < 10_000 else None
    return str(value)


def json_response(value: Any, status: int = 200) -> web.Response:
    """`value` as the body of an answer."""
    return web.Response(
        body=to_json(value), status=status, content_type="application/json", charset="utf-8"
    )


def json_object(items: Sequence[tuple[str, Any]]) -> web.Response:
    """An object of many values, which are encoded one by one: in a thread, others run in between."""
    body = b",".join(to_json(key) + b":" + to_json(value) for key, value in items)
    return web.Response(body=b"{" + body + b"}", content_type="application/json", charset="utf-8")


def refusal(error: BodyError) -> web.Response:
    """An error in the form of ComfyUI's `POST /prompt`."""
    told = {
        "type": error.kind,
        "message": error.message,
        "details": error.details,
        "extra_info": {},
    }
    return json_response({"error": told, "node_errors": {}}, error.status)
