"""What clients may send, as schemas: one class a body. Unknown fields are left alone, as in ComfyUI.

JSON is read strictly: NaN, infinite numbers and halves of surrogate pairs are not JSON, and what is
nested deeper than 200 levels is refused, so that whatever came in can be written out again.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from .errors import BodyError

MAX_DEPTH = 200
T = TypeVar("T")
ClientId = Annotated[str, Meta(max_length=255)]
# Keys of a PNG's text chunks.
PngKey = Annotated[str, Meta(pattern="^[ -~]{1,79}$")]


class PromptBody(Struct):
    """POST /prompt."""

    prompt: Any = UNSET
    client_id: ClientId | None = None
    prompt_id: str | None = None
    extra_data: dict[str, Any] | None = None
    number: float | None = None
    front: bool | None = None
    partial_execution_targets: list[str] | None = None


class _Workflow(Struct):
    id: str | int | None = None


class _PngInfo(Struct):
    workflow: _Workflow | None = None


class _ExtraData(Struct):
    extra_pnginfo: dict[PngKey, Any] | None = None


class PromptNode(Struct):
    """One node of a prompt. Whether the class exists is the validation's question."""

    class_type: str | None = None
    inputs: dict[str, Any] | UnsetType = UNSET
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")


class ListBody(Struct):
    """POST /queue and POST /history."""

    clear: bool | None = None
    delete: list[str] | None = None


class InterruptBody(Struct):
    """POST /interrupt; without an id, whatever runs."""

    prompt_id: str | None = None


class FreeBody(Struct):
    """POST /free."""

    unload_models: bool | None = None
    free_memory: bool | None = None


class CancelBody(Struct):
    """POST /jobs/cancel."""

    job_ids: list[str]


class PictureReference(Struct):
    """`original_ref` of POST /upload/mask."""

    filename: str
    type: str | None = None
    subfolder: str | None = None


class ClientMessage(Struct):
    """What a client says over the websocket."""

    type: str = ""
    data: Any = None


def read_json_text(text: bytes | str, kind: type[T]) -> T:
    """Strict JSON as `kind`; no text at all counts as an empty object.

    Raises:
        BodyError: no JSON, nested too deeply, or a field of another type; says which.
    """
    if not text.strip():
        text = b"{}"
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BodyError(
            "invalid_json", f"the body must be JSON, but {error}; NaN and Infinity are not JSON"
        ) from error
    if _depth_above(value, MAX_DEPTH):
        raise BodyError(
            "invalid_json", f"the body is nested deeper than {MAX_DEPTH} levels; send it flatter"
        )
    result = _converted(value, kind, "the body")
    if isinstance(result, PromptBody) and result.extra_data is not None:
        check_shape(result.extra_data, _ExtraData, "extra_data")
        check_shape(result.extra_data.get("extra_pnginfo") or {}, _PngInfo, "extra_pnginfo")
    return result


def check_shape(value: Any, kind: type[T], name: str) -> T:
    """`value`, decoded JSON, as `kind`.

    Raises:
        BodyError: a field is of another type; says which, and what was expected.
    """
    return _converted(value, kind, name)


def _converted(value: Any, kind: type[T], name: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise BodyError("invalid_field", f"{name} is not as it should be: {error}") from error


def _depth_above(value: Any, limit: int) -> bool:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True
