"""Routes of the user's own files: settings, saved workflows, and the rest of the user folder.

There is one user, 'default'; everything lies below `user/default`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web

from kontext_core.errors import InputError
from kontext_core.partial import is_partial
from kontext_core.small_files import read_small_text

from ..bodies import read_json_text
from ..errors import BodyError
from ..folders import Folders, inside
from .answers import json_body, json_response
from .store import write_whole

log = logging.getLogger(__name__)
# The first visit shows the templates on an empty canvas. True would show ComfyUI's own first graph,
# whose nodes are not here.
FIRST_SETTINGS = {"Comfy.TutorialCompleted": False}


class UserRoutes:
    """Settings and user files."""

    def __init__(self, folders: Folders) -> None:
        self.root = folders.user / "default"
        self.settings_file = self.root / "comfy.settings.json"
        # A damaged file is told at the start, not when somebody misses a setting.
        self._settings()

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
            stored = msgspec.json.decode(read_small_text(self.settings_file), type=dict[str, Any])
        except FileNotFoundError:
            stored = {}
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            stored = self._salvaged(error)
        return FIRST_SETTINGS | stored

    def _salvaged(self, error: Exception) -> dict[str, Any]:
        """What can still be used of a damaged file, which is kept beside the one written next."""
        kept = self.settings_file.with_name(self.settings_file.name + ".damaged")
        found: Any = None
        try:
            # Python's own reader takes NaN, which no browser does.
            found = json.loads(read_small_text(self.settings_file))
            os.replace(self.settings_file, kept)
        except (OSError, ValueError, RecursionError):
            with contextlib.suppress(OSError):
                os.replace(self.settings_file, kept)
        usable = {}
        for key, value in (found if isinstance(found, dict) else {}).items():
            with contextlib.suppress(BodyError):
                usable[key] = read_json_text(json.dumps(value), object)
        log.warning(
            "%s is damaged (%s): %d settings are kept, the others start anew; the old file is now %s",
            self.settings_file, error, len(usable), kept.name,
        )  # fmt: skip
        if usable:
            self._store(usable)
        return usable

    def _store(self, settings: dict[str, Any]) -> None:
        write_whole(self.settings_file, json.dumps(settings, indent=4, allow_nan=False).encode())

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
        wanted = {
            key: request.query.get(key, "").lower() == "true"
            for key in ("recurse", "full_info", "split")
        }
        return json_response(await asyncio.to_thread(self._listed, self._path(name), **wanted))

    def _listed(self, folder: Path, recurse: bool, full_info: bool, split: bool) -> list[Any]:
        if not folder.is_dir():
            # The editor asks for folders that only come to be when something is saved.
            return []
        found = sorted(
            p
            for p in (folder.rglob("*") if recurse else folder.glob("*"))
            if p.is_file() and not is_partial(p.name)
        )
        if full_info:
            return [self._info(path, folder) for path in found]
        names = [path.relative_to(folder).as_posix() for path in found]
        return [[name, *name.split("/")] for name in names] if split else names

    async def list_entries(self, request: web.Request) -> web.Response:
        folder = self._path(request.query.get("path", ""))
        if not folder.is_dir():
            return json_response([], status=200 if folder == self.root.resolve() else 404)
        return json_response(await asyncio.to_thread(self._entries, folder))

    def _entries(self, folder: Path) -> list[dict[str, Any]]:
        entries = []
        found = [path for path in folder.rglob("*") if not is_partial(path.name)]
        for path in sorted(found, key=lambda p: (p.is_file(), p.name.lower())):
            entry: dict[str, Any] = {
                "name": path.name,
                "path": path.relative_to(self.root.resolve()).as_posix(),
                "type": "file" if path.is_file() else "directory",
            }
            if path.is_file():
                entry |= {"size": path.stat().st_size, "modified": path.stat().st_mtime}
            entries.append(entry)
        return entries

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
        content = await request.read()
        await asyncio.to_thread(_save, path, content)
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
        if target.is_dir():
            raise BodyError("cannot_write", f"{target.name[:80]} is a folder; use another name")
        if request.query.get("overwrite") == "false" and target.exists():
            return web.Response(status=409, text="File already exists")
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
        return self._answer(request, target)


def _save(path: Path, content: bytes) -> None:
    """Writes a user's file; one that is called JSON has to be some, or the editor can't read it."""
    if path.suffix.lower() == ".json":
        try:
            msgspec.json.decode(content)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BodyError("invalid_json", f"{path.name[:80]} is no JSON: {error}") from error
    write_whole(path, content)
