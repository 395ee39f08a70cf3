"""Routes that describe the host: nodes, packs, translations, templates, models, system."""

from __future__ import annotations

import json
import logging
import platform
import sys
import uuid
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from ..convert import NOTES
from ..folders import MODEL_FOLDERS, Folders
from ..loader import Pack, Registry
from ..templates import with_older_name
from .answers import json_response
from .hub import FEATURES

log = logging.getLogger(__name__)
# The version of ComfyUI whose protocol this host speaks; clients ask for it.
SPEAKS = "0.33.0"
LOCALE_PARTS = ("nodeDefs", "commands", "settings")


class PageRoutes:
    """What the editor asks about the host."""

    def __init__(self, registry: Registry, folders: Folders, frontend: Path) -> None:
        self.registry, self.folders, self.frontend = registry, folders, frontend

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/object_info", self.object_info),
            web.get("/object_info/{name}", self.one_object_info),
            web.get("/extensions", self.extensions),
            web.get("/i18n", self.i18n),
            web.get("/workflow_templates", self.templates),
            # Before the folders themselves, for links with the names that templates once had. The
            # pack's name stands in the path: the router tries the longest fixed beginning first.
            *(
                web.get(
                    f"/workflow_templates/{quote(pack.name)}/{{file:[a-z_0-9]+\\.(json|jpg)}}",
                    partial(self.template, pack.root),
                )
                for pack in self.registry.packs
            ),
            web.get("/features", self.features),
            web.get("/system_stats", self.system_stats),
            # The frontend's own gallery, whose graphs need nodes that are not here.
            web.get(r"/templates/index{language:(\.[\w-]+)?}.json", self.empty_list),
            web.get("/templates/index_logo.json", self.empty_object),
            web.get("/embeddings", self.empty_list),
            web.get("/models", self.models),
            web.get("/models/{folder}", self.model_files),
            web.get("/experiment/models", self.model_folders),
            web.get("/experiment/models/{folder}", self.model_entries),
            web.get("/global_subgraphs", self.subgraphs),
            web.get("/global_subgraphs/{id}", self.subgraph),
            web.get("/node_replacements", self.empty_object),
            web.get("/internal/folder_paths", self.folder_paths),
            web.get("/internal/logs", self.empty_logs),
            web.get("/internal/logs/raw", self.empty_logs),
            web.patch("/internal/logs/subscribe", self.accept),
        ]

    def statics(self) -> list[web.StaticDef]:
        """Folders served as they are: scripts and help pages, templates, the editor (last)."""
        found = []
        for pack in self.registry.packs:
            if pack.web is not None and pack.web.is_dir():
                found.append(web.static(f"/extensions/{pack.name}", pack.web))
            workflows = pack.root / "workflows"
            if workflows.is_dir():
                found += [
                    web.static(f"{prefix}/workflow_templates/{pack.name}", workflows)
                    for prefix in ("/api", "")
                ]
        return found

    async def object_info(self, request: web.Request) -> web.Response:
        return json_response(
            {name: node.GET_NODE_INFO_V1() for name, node in self.registry.nodes.items()}
        )

    async def one_object_info(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        node = self.registry.nodes.get(name)
        return json_response({} if node is None else {name: node.GET_NODE_INFO_V1()})

    async def extensions(self, request: web.Request) -> web.Response:
        core = self.frontend / "extensions"
        urls = [f"/extensions/{p.relative_to(core).as_posix()}" for p in sorted(core.rglob("*.js"))]
        for pack in self.registry.packs:
            if pack.web is not None:
                urls += [
                    f"/extensions/{quote(pack.name)}/{path.relative_to(pack.web).as_posix()}"
                    for path in sorted(pack.web.rglob("*.js"))
                ]
        return json_response(urls)

    async def i18n(self, request: web.Request) -> web.Response:
        return json_response(translations(self.registry.packs))

    async def templates(self, request: web.Request) -> web.Response:
        found = {
            pack.name: sorted(
                path.stem
                for path in (pack.root / "workflows").glob("*.json")
                if self._can_show(_read_object(path))
            )
            for pack in self.registry.packs
        }
        return json_response({name: names for name, names in found.items() if names})

    async def template(self, root: Path, request: web.Request) -> web.StreamResponse:
        path = with_older_name(root / "workflows" / request.match_info["file"])
        if not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path)

    def _can_show(self, workflow: dict[str, Any]) -> bool:
        """Whether every node of a template is here: some are made for ComfyUI's own nodes."""
        types = {node.get("type") for node in workflow.get("nodes", [])}
        return types <= self.registry.nodes.keys() | set(NOTES)

    def _subgraphs(self) -> dict[str, tuple[dict[str, Any], Path]]:
        """Subgraphs that packs bring, as ComfyUI lists them: entry and file by an id."""
        return {
            uuid.uuid5(uuid.NAMESPACE_URL, f"{pack.name}/{path.name}").hex: (
                {
                    "source": "custom_node",
                    "name": path.stem,
                    "info": {"node_pack": f"custom_nodes.{pack.name}"},
                },
                path,
            )
            for pack in self.registry.packs
            for path in sorted((pack.root / "subgraphs").glob("*.json"))
        }

    async def subgraphs(self, request: web.Request) -> web.Response:
        return json_response({name: entry for name, (entry, _) in self._subgraphs().items()})

    async def subgraph(self, request: web.Request) -> web.Response:
        entry, path = self._subgraphs().get(request.match_info["id"], (None, None))
        if entry is None or path is None:
            raise web.HTTPNotFound
        return json_response({**entry, "data": path.read_text(encoding="utf-8")})

    async def features(self, request: web.Request) -> web.Response:
        return json_response(FEATURES)

    async def system_stats(self, request: web.Request) -> web.Response:
        total, free = _memory()
        system = {
            "os": sys.platform,
            "ram_total": total,
            "ram_free": free,
            "comfyui_version": SPEAKS,
            "python_version": sys.version,
            "pytorch_version": _torch_version(),
            "embedded_python": False,
            # The frontend asks the internet for release notes unless it finds this flag.
            "argv": ["standalone", "--disable-api-nodes"],
        }
        device = {
            "name": platform.processor() or "cpu",
            "type": "cpu",
            "index": None,
            "vram_total": total,
            "vram_free": free,
            "torch_vram_total": total,
            "torch_vram_free": free,
        }
        return json_response({"system": system, "devices": [device]})

    async def models(self, request: web.Request) -> web.Response:
        return json_response(list(MODEL_FOLDERS))

    async def model_files(self, request: web.Request) -> web.Response:
        folder = request.match_info["folder"]
        if folder not in MODEL_FOLDERS:
            return web.Response(status=404)
        return json_response(self.folders.model_files(folder))

    async def model_folders(self, request: web.Request) -> web.Response:
        return json_response(
            [{"name": name, "folders": list(names)} for name, names in MODEL_FOLDERS.items()]
        )

    async def model_entries(self, request: web.Request) -> web.Response:
        folder = request.match_info["folder"]
        if folder not in MODEL_FOLDERS:
            return web.Response(status=404)
        names = self.folders.model_files(folder)
        return json_response([{"name": name, "pathIndex": 0} for name in names])

    async def folder_paths(self, request: web.Request) -> web.Response:
        models = self.folders.models
        return json_response(
            {kind: [str(models / n) for n in names] for kind, names in MODEL_FOLDERS.items()}
        )

    async def empty_list(self, request: web.Request) -> web.Response:
        return json_response([])

    async def empty_object(self, request: web.Request) -> web.Response:
        return json_response({})

    async def empty_logs(self, request: web.Request) -> web.Response:
        return json_response({"entries": [], "size": {"cols": 80, "rows": 24}})

    async def accept(self, request: web.Request) -> web.Response:
        return web.Response()


def translations(packs: list[Pack]) -> dict[str, dict[str, Any]]:
    """Names and tooltips of all packs by language: {"fr": {"nodeDefs": {...}, ...}}.

    A language's main.json gives top-level keys; nodeDefs.json, commands.json and settings.json
    give the key they are named after.
    """
    merged: dict[str, dict[str, Any]] = {}
    for pack in packs:
        for folder in sorted((pack.root / "locales").glob("*/")):
            texts = _read_object(folder / "main.json")
            for part in LOCALE_PARTS:
                content = _read_object(folder / f"{part}.json")
                if content:
                    texts[part] = content
            if texts:
                language = merged.setdefault(folder.name, {})
                merged[folder.name] = _merge(language, texts)
    return merged


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in extra.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _merge(old, value)
        result[key] = value
    return result


def _read_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s can't be read: %s", path, error)
        return {}
    return data if isinstance(data, dict) else {}


def _memory() -> tuple[int, int]:
    """Total and free memory in bytes; zeros where the system doesn't tell."""
    values = {}
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            key, _, rest = line.partition(":")
            values[key] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return 0, 0
    return values.get("MemTotal", 0), values.get("MemAvailable", 0)


def _torch_version() -> str:
    # Reading the version out of the package's metadata spares importing torch at start.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"
