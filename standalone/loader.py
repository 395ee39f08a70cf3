"""Loads the node pack around this folder the way ComfyUI loads a folder in custom_nodes."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from .comfy_api.install import install
from .comfy_api.nodes import ComfyNode
from .errors import PackError, know_errors

log = logging.getLogger(__name__)


def pack_root() -> Path:
    """The folder of the pack this host is part of; its name does not matter."""
    return Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Pack:
    """A loaded node pack. `name` is its folder's name, under which the editor asks for files."""

    name: str
    root: Path
    module: ModuleType
    nodes: dict[str, type[ComfyNode]]
    web: Path | None


@dataclass
class Registry:
    """All node classes by id, and the packs they came from."""

    nodes: dict[str, type[ComfyNode]] = field(default_factory=dict)
    packs: list[Pack] = field(default_factory=list)

    def add(self, pack: Pack) -> None:
        self.packs.append(pack)
        self.nodes.update(pack.nodes)


def load_pack(root: Path, name: str | None = None) -> Pack:
    """Imports a pack's root `__init__.py` under a name made of its path, and collects its nodes.

    The module's name is ComfyUI's, dots replaced, so relative imports work in a folder of any name.

    Args:
        name: what the editor calls the pack; ComfyUI takes the folder's name, as does None.

    Raises:
        PackError: no pack there, it fails to import, or its entry point is not as expected.
    """
    init = root / "__init__.py"
    if not init.is_file():
        raise PackError(f"no node pack in {root}: it has no __init__.py")
    install()
    key = str(root).replace(".", "_x_")
    module = sys.modules.get(key)
    if module is None:
        spec = importlib.util.spec_from_file_location(key, init)
        if spec is None or spec.loader is None:
            raise PackError(f"{init} can't be imported as a Python module")
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[key]
            raise PackError(
                f"the node pack in {root} fails to import: {type(error).__name__}: {error}"
            ) from error
    if (root / "kontext_core" / "errors.py").is_file():
        know_errors(importlib.import_module(f"{key}.kontext_core.errors"))
    web = getattr(module, "WEB_DIRECTORY", None)
    name = name or root.name
    return Pack(
        name=name,
        root=root,
        module=module,
        nodes=_nodes(module, name),
        web=(root / web).resolve() if web else None,
    )


def _nodes(module: ModuleType, name: str) -> dict[str, type[ComfyNode]]:
    entry: Any = getattr(module, "comfy_entrypoint", None)
    if not callable(entry):
        raise PackError(f"the node pack {name} has no comfy_entrypoint() function")

    async def collect() -> list[type[ComfyNode]]:
        extension: Any = entry()
        if inspect.isawaitable(extension):
            extension = await extension
        await extension.on_load()
        return await extension.get_node_list()

    nodes = {}
    for node in asyncio.run(collect()):
        node.RELATIVE_PYTHON_MODULE = f"custom_nodes.{name}"
        nodes[node.GET_SCHEMA().node_id] = node
    log.debug("loaded %d nodes of %s", len(nodes), name)
    return nodes


def install_host(pack: Pack, host: Any) -> None:
    """Hands the host object to the pack's `nodes/host.py`, if it has one."""
    module = sys.modules.get(f"{pack.module.__name__}.nodes.host")
    if module is None:
        if not (pack.root / "nodes" / "host.py").is_file():
            return
        module = importlib.import_module(f"{pack.module.__name__}.nodes.host")
    module.set_host(host)
