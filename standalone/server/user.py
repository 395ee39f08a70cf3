"""Routes of the user's own files: settings, saved workflows, and the rest of the user folder.

There is one user, 'default'; everything lies below `user/default`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from kontext_core.errors import InputError

from ..folders import Folders, inside
from .answers import json_body, json_response

__all__ = ["UserRoutes"]

log = logging.getLogger(__name__)
# The first visit shows the templates on an empty canvas. True would show ComfyUI's own first graph,
# whose nodes are not here.
FIRST_SETTINGS = {"Comfy.TutorialCompleted": False}


def _write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


class UserRoutes:
    """Settings and user files."""

    def __init__(self, folders: Folders) -> None:
        self.root = folders.user / "default"
        self.settings_file = self.root / "comfy.settings.json"

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/users", self.get_users),
            web.get("/settings", self.get_settings),
            web.post("/settings", self.post_settings),
            web.get("/settings/{id}", self.get_setting),
            web.post("/settings/{id}", self.post_setting),
            web.get("/userdata", self.list_files),
            web.get("/v2/userdata", self.list_entries),
            web.get("/userdata/{file}", self.get_file),
            web.post("/userdata/{file}", self.post_file),
            web.delete("/userdata/{file}", self.delete_file),
            web.post("/userdata/{file}/move/{dest}", self.move_file),
        ]

    # Settings

    def _settings(self) -> dict[str, Any]:
        try:
            stored = json.loads(self.settings_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            stored = {}
        except (OSError, ValueError) as error:
            log.warning("%s can't be read, settings start anew: %s", self.settings_file, error)
            stored = {}
        return FIRST_SETTINGS | (stored if isinstance(stored, dict) else {})

    def _store(self, settings: dict[str, Any]) -> None:
        _write(self.settings_file, json.dumps(settings, indent=4).encode())

    async def get_users(self, request: web.Request) -> web.Response:
        return json_response({"storage": "server", "migrated": True})

    async def get_settings(self, request: web.Request) -> web.Response:
        return json_response(self._settings())

    async def post_settings(self, request: web.Request) -> web.Response:
        self._store(self._settings() | await json_body(request, dict[str, Any]))
        return web.Response()

    async def get_setting(self, request: web.Request) -> web.Response:
        return json_response(self._settings().get(request.match_info["id"]))

    async def post_setting(self, request: web.Request) -> web.Response:
        value = await json_body(request, object)
        self._store(self._settings() | {request.match_info["id"]: value})
        return web.Response()

    # Files

    def _path(self, name: str) -> Path:
        """The path of a user file.

        Raises:
            web.HTTPForbidden: the name leads out of the user's folder.
        """
        try:
            return inside(self.root, unquote(name))
        except InputError as error:
            raise web.HTTPForbidden(text=str(error)) from error

    def _info(self, path: Path, base: Path) -> dict[str, Any]:
        stat = path.stat()
        return {
            "path": path.relative_to(base.resolve()).as_posix(),
            "size": stat.st_size,
            "modified": int(stat.st_mtime * 1000),
            "created": int(stat.st_ctime * 1000),
        }

    async def list_files(self, request: web.Request) -> web.Response:
        name = request.query.get("dir", "")
        if not name:
            return web.Response(status=400, text="Directory not provided")
        folder = self._path(name)
        if not folder.is_dir():
            # The editor asks for folders that only come to be when something is saved.
            return json_response([])
        recurse = request.query.get("recurse", "").lower() == "true"
        found = sorted(
            p for p in (folder.rglob("*") if recurse else folder.glob("*")) if p.is_file()
        )
        if request.query.get("full_info", "").lower() == "true":
            return json_response([self._info(path, folder) for path in found])
        names = [path.relative_to(folder).as_posix() for path in found]
        if request.query.get("split", "").lower() == "true":
            return json_response([[name, *name.split("/")] for name in names])
        return json_response(names)

    async def list_entries(self, request: web.Request) -> web.Response:
        folder = self._path(request.query.get("path", ""))
        if not folder.is_dir():
            return json_response([], status=200 if folder == self.root.resolve() else 404)
        entries = []
        for path in sorted(folder.rglob("*"), key=lambda p: (p.is_file(), p.name.lower())):
            entry: dict[str, Any] = {
                "name": path.name,
                "path": path.relative_to(self.root.resolve()).as_posix(),
                "type": "file" if path.is_file() else "directory",
            }
            if path.is_file():
                entry |= {"size": path.stat().st_size, "modified": path.stat().st_mtime}
            entries.append(entry)
        return json_response(entries)

    async def get_file(self, request: web.Request) -> web.StreamResponse:
        path = self._path(request.match_info["file"])
        if not path.is_file():
            return web.Response(status=404)
        is_css = path == inside(self.root, "user.css")
        # User files are data: as pages they could carry a script into the editor's origin.
        headers = {
            "Content-Type": "text/css" if is_css else "application/octet-stream",
            "X-Content-Type-Options": "nosniff",
            "Content-Disposition": "inline" if is_css else "attachment",
        }
        if path.suffix == ".json":
            headers["Content-Type"] = "application/json"
        return web.FileResponse(path, headers=headers)

    def _answer(self, request: web.Request, path: Path) -> web.Response:
        info = self._info(path, self.root)
        full = request.query.get("full_info", "").lower() == "true"
        return json_response(info if full else info["path"])

    async def post_file(self, request: web.Request) -> web.Response:
        path = self._path(request.match_info["file"])
        if request.query.get("overwrite") == "false" and path.exists():
            return web.Response(status=409, text="File already exists")
        try:
            _write(path, await request.read())
        except OSError as error:
            return web.Response(status=400, text=f"the file can't be saved: {error}")
        return self._answer(request, path)

    async def delete_file(self, request: web.Request) -> web.Response:
        path = self._path(request.match_info["file"])
        if not path.is_file():
            return web.Response(status=404)
        path.unlink()
        return web.Response(status=204)

    async def move_file(self, request: web.Request) -> web.Response:
        source = self._path(request.match_info["file"])
        target = self._path(request.match_info["dest"])
        if not source.is_file():
            return web.Response(status=404)
        if request.query.get("overwrite") == "false" and target.exists():
            return web.Response(status=409, text="File already exists")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
        return self._answer(request, target)
