"""Files of the pack below a folder name that ComfyUI's own static route does not find."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.parse
import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web


def answers(pack: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> dict[str, int]:
    """Status by path, on a server with ComfyUI's static route and ours."""
    ours = pack.module("nodes.web")
    table = web.RouteTableDef()
    server = SimpleNamespace(PromptServer=SimpleNamespace(instance=SimpleNamespace(routes=table)))
    monkeypatch.setitem(ours.sys.modules, "server", server)
    ours.serve_files(name)

    def ask(port: int, path: str) -> int:
        quoted = urllib.parse.quote(name)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path.format(quoted)}") as got:
                return got.status
        except urllib.error.HTTPError as error:
            return error.code

    async def all_answers() -> dict[str, int]:
        app = web.Application()
        app.add_routes(table)
        app.add_routes([web.static(f"/extensions/{name}", ours.ROOT / "web")])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        found = {path: await asyncio.to_thread(ask, port, path) for path in PATHS}
        await runner.cleanup()
        return found

    return asyncio.run(all_answers())


PATHS = {
    "extensions/{}/js/about.js": 200,
    "extensions/{}/docs/KontextEdit.md": 200,
    "extensions/{}/js/no_such.js": 404,
    "extensions/{}/../__init__.py": 404,
    "extensions/{}/%2e%2e/__init__.py": 404,
    "extensions/{}/..%2f__init__.py": 404,
    "extensions/{}//etc/passwd": 404,
}


@pytest.mark.parametrize(
    "name",
    ["kontext-studio", "a b", "Köntext – Stüdio-测试 [v1.0]", "a(b)!", "50%", "a#b?c", "x.+*"],
)
def test_files_are_found_whatever_the_folder_is_called(
    pack: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert answers(pack, monkeypatch, name) == PATHS


@pytest.mark.parametrize("name", ["kontext-studio", "Kontext_Studio.v1", "a(b)!"])
def test_no_route_is_opened_where_the_hosts_own_does(pack: Any, name: str) -> None:
    assert not pack.module("nodes.web").needs_routes(name)


def test_without_a_server_nothing_happens(pack: Any) -> None:
    assert pack.module("nodes.web").serve_files("a b") is False
