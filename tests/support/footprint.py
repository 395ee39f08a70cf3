"""What a node pack leaves behind in its host: everything of the host's modules that was replaced.

A file of the standard library only. Laid into `custom_nodes`, it takes a picture of the host when it
is imported, before the pack is, and tells at /footprint what has changed since.
"""

from __future__ import annotations

import logging
import os
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# ComfyUI takes a file without nodes for a failed one.
NODE_CLASS_MAPPINGS: dict[str, Any] = {}

# Top-level names of the modules that belong to the host or to everybody.
ROOTS = (
    *("api_server", "app", "comfy", "comfy_api", "comfy_config", "comfy_execution"),
    *("comfy_extras", "execution", "folder_paths", "latent_preview", "middleware"),
    *("node_helpers", "nodes", "protocol", "server", "utils"),
    *("aiohttp", "builtins", "einops", "json", "numpy", "PIL", "safetensors", "threading"),
    *("tokenizers", "tqdm", "transformers", "urllib"),
)
# Of torch's two thousand modules those that packs like to patch; the rest change by lazy imports.
TORCH = ("torch", "torch.nn", "torch.nn.functional", "torch.nn.modules", "torch.utils.checkpoint")

# A class's own entries that Python itself changes.
BOOKKEEPING = {"__dict__", "__weakref__", "_abc_impl", "__annotations__"}
BOOKKEEPING |= {"__slotnames__", "__static_attributes__"}


@dataclass(frozen=True)
class Change:
    """`what` happened to `name`: "replaced", "added", "removed" or "content".

    `code` tells functions and classes from data, which a host may change itself.
    """

    name: str
    what: str
    code: bool


@dataclass
class Picture:
    """Everything that was there: name -> value. Values are kept, so that no id is used again."""

    values: dict[str, Any] = field(default_factory=dict)
    # Of lists, dicts and sets of modules and classes, what they held; of functions their insides.
    contents: dict[str, Any] = field(default_factory=dict)
    # Which modules were there: what is imported later has no past to differ from.
    places: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def take(extra: Mapping[str, Any] | None = None, roots: tuple[str, ...] = ROOTS) -> Picture:
    """A picture of all loaded modules below `roots`, and of the objects in `extra` by name."""
    picture = Picture()
    for name, module in sorted(sys.modules.items()):
        if isinstance(module, types.ModuleType) and _watched(name, roots):
            _place(picture, name, vars(module), name)
    for name, value in (extra or {}).items():
        _place(picture, name, vars(value), None)
    return picture


def changes(picture: Picture) -> list[Change]:
    """What differs now. An import adds submodules to packages; these are not changes."""
    found: list[Change] = []
    names: dict[str, set[str]] = {place: set() for place in picture.places}
    for key in picture.values:
        place, _, name = key.rpartition("|")
        names[place].add(name)
    for place, namespace in picture.places.items():
        for name in sorted(names[place] | set(namespace)):
            if name in BOOKKEEPING or (place == "builtins" and name == "_"):
                continue
            found += _compare(picture, place, name, namespace)
    return found


def _compare(picture: Picture, place: str, name: str, namespace: Mapping[str, Any]) -> list[Change]:
    key = f"{place}|{name}"
    shown = f"{place}.{name}"
    if name not in namespace:
        return [Change(shown, "removed", _is_code(picture.values[key]))]
    now = namespace[name]
    if key not in picture.values:
        if isinstance(now, types.ModuleType):
            return []
        return [Change(shown, "added", _is_code(now))]
    before = picture.values[key]
    if now is not before:
        same = type(now) is type(before) and isinstance(now, (str, bytes, int, float, tuple))
        if same and now == before:
            return []
        return [Change(shown, "replaced", _is_code(now) or _is_code(before))]
    if key in picture.contents and _content(now) != picture.contents[key]:
        return [Change(shown, "content", _is_code(now))]
    return []


def _place(picture: Picture, place: str, namespace: Mapping[str, Any], module: str | None) -> None:
    if place in picture.places:
        return
    picture.places[place] = namespace
    for name, value in list(namespace.items()):
        if name in BOOKKEEPING:
            continue
        key = f"{place}|{name}"
        picture.values[key] = value
        content = _content(value)
        if content is not None:
            picture.contents[key] = content
        if isinstance(value, type) and module and value.__module__ == module:
            _place(picture, f"{module}.{value.__qualname__}", vars(value), module)


def _watched(name: str, roots: tuple[str, ...]) -> bool:
    if name in TORCH or name.startswith("torch.nn.modules."):
        return "torch" in roots or roots is ROOTS
    return name.partition(".")[0] in roots


def _is_code(value: object) -> bool:
    return isinstance(value, (type, property, classmethod, staticmethod)) or callable(value)


def _content(value: object) -> Any:
    """What can be compared of a container or a function; None for everything else."""
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if isinstance(value, types.FunctionType):
        return (
            value.__code__,
            value.__defaults__,
            value.__kwdefaults__ and {**value.__kwdefaults__},
        )
    if isinstance(value, property):
        return (value.fget, value.fset)
    if isinstance(value, dict):
        return {key: id(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [id(each) for each in value]
    if isinstance(value, set):
        return frozenset(value)
    return None


def settings() -> dict[str, Any]:
    """Settings of the whole process, as text."""
    import signal

    import torch

    found: dict[str, Any] = {
        "sys.path": [*sys.path],
        "sys.meta_path": [str(each) for each in sys.meta_path],
        "sys.path_hooks": [str(each) for each in sys.path_hooks],
        "sys.excepthook": str(sys.excepthook),
        "sys.stdout": str(sys.stdout),
        "sys.stderr": str(sys.stderr),
        "environment": dict(os.environ),
        "warnings": [str(each) for each in warnings.filters],
        "log level": logging.root.level,
        "log handlers": [str(each) for each in logging.root.handlers],
        "recursion limit": sys.getrecursionlimit(),
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "benchmark": torch.backends.cudnn.benchmark,
    }
    return found


def _difference(before: Any, now: Any) -> Any:
    """[what is gone, what is new] of two lists or dicts; else both values."""
    if isinstance(before, dict):
        before, now = list(before.items()), list(now.items())
    if isinstance(before, list):
        return [[b for b in before if b not in now], [n for n in now if n not in before]]
    return [before, now]


def _watch() -> None:
    """Takes the picture and opens the route; the host's server is there already."""
    from aiohttp import web

    folder_paths, nodes = sys.modules["folder_paths"], sys.modules["nodes"]
    instance = sys.modules["server"].PromptServer.instance
    extra = {"server.PromptServer.instance": instance}
    picture = take(extra)
    process = settings()
    # A host names a pack's module by its path, and the folders above may be called anything.
    early = sorted(m for m in sys.modules if "kontext" in m.rpartition(os.sep)[2].lower())
    registered: dict[str, Callable[[], set[str]]] = {
        "nodes": lambda: set(nodes.NODE_CLASS_MAPPINGS),
        "display names": lambda: set(nodes.NODE_DISPLAY_NAME_MAPPINGS),
        "web": lambda: set(nodes.EXTENSION_WEB_DIRS),
        "folders": lambda: set(folder_paths.folder_names_and_paths),
        "routes": lambda: {getattr(r, "path", "") for r in instance.routes},
        "prompt handlers": lambda: {str(h) for h in instance.on_prompt_handlers},
        "middlewares": lambda: {str(m) for m in instance.app.middlewares},
    }
    before = {name: look() for name, look in registered.items()}

    @instance.routes.get("/footprint")
    async def _tell(_request: web.Request) -> web.Response:
        now = settings()
        answer = {
            "early": early,
            "watched": len(picture.values),
            "changes": [vars(change) for change in changes(picture)],
            "settings": {k: _difference(process[k], v) for k, v in now.items() if v != process[k]},
            "registered": {k: sorted(look() - before[k]) for k, look in registered.items()},
            "modules": sorted(sys.modules),
        }
        return web.json_response(answer)


if hasattr(sys.modules.get("server"), "PromptServer"):
    _watch()
