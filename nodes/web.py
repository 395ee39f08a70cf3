"""The pack's scripts, help pages and templates in folders whose names a URL has to quote.

ComfyUI opens a static route for each pack's files, but aiohttp compares its quoted prefix with the
unquoted path of the request: below a name with a space or a letter beyond ASCII nothing is found.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from aiohttp import web

ROOT = Path(__file__).parent.parent
# What ComfyUI serves below a pack's name, and from which of its folders.
SERVED = {"/extensions": ROOT / "web", "/workflow_templates": ROOT / "workflows"}


def needs_routes(name: str) -> bool:
    """Whether ComfyUI's own route fails for a folder of that name."""
    return quote(name, safe="!$&'()*+,;=:@~") != name


def serve_files(name: str = ROOT.name) -> bool:
    """Open routes for the pack's files where ComfyUI's own don't work; True when it did.

    Routes are the one thing the pack adds to the host's server, and only in such a folder.
    """
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    instance = getattr(server, "instance", None)
    if instance is None or not needs_routes(name) or set(name) & set("{}"):
        return False
    # Within a variable part the name is compared as it is; older versions compare it quoted.
    either = f"(?:{re.escape(name)}|{re.escape(quote(name))})"
    for prefix, folder in SERVED.items():
        instance.routes.get(f"{prefix}/{{pack:{either}}}/{{path:.+}}")(_sender(folder))
    return True


def _sender(folder: Path) -> Any:
    async def send(request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        top = folder.resolve()
        found = (top / request.match_info["path"]).resolve()
        if not found.is_relative_to(top) or not found.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(found)

    return send
