"""Puts the server together: routes under `/x` and `/api/x`, static files, start and stop."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import logging
import mimetypes
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from kontext_core.errors import InputError

from ..engine import Engine
from ..errors import BodyError, FrontendNotFoundError, ListenError, PortInUseError
from ..loader import Registry
from ..runtime import Runtime
from ..tasks import TaskQueue
from .answers import BROKEN, refusal
from .hub import FEATURES, Hub
from .origin import ANYWHERE, Gate, add_headers
from .pages import PageRoutes
from .pictures import PictureRoutes
from .runs import RunRoutes
from .user import UserRoutes

log = logging.getLogger(__name__)


def find_frontend(folder: Path | None = None) -> Path:
    """The graph editor's files: `folder`, or those of the installed comfyui-frontend-package.

    Raises:
        FrontendNotFoundError: no index.html there, or the package is not installed.
    """
    if folder is None:
        spec = importlib.util.find_spec("comfyui_frontend_package")
        if spec is None or spec.origin is None:
            raise FrontendNotFoundError(
                "there is no graph editor: the package comfyui-frontend-package is missing; "
                "install it with pip, or name a folder with --front-end-root"
            )
        folder = Path(spec.origin).parent / "static"
    if not (folder / "index.html").is_file():
        raise FrontendNotFoundError(
            f"there is no graph editor in {folder}: no index.html; choose another --front-end-root"
        )
    return folder.resolve()


@web.middleware
async def _cache_and_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Scripts and pages are asked for anew each time; a bad name is the client's error."""
    try:
        response = await handler(request)
    except BodyError as error:
        return refusal(error)
    except InputError as error:
        return refusal(BodyError("invalid_request", str(error)))
    except (*BROKEN, OSError) as error:
        if isinstance(error, ConnectionError):
            raise
        # A full disk, a name that the file system refuses, a body that breaks off.
        log.warning("%s %s was refused by the system", request.method, request.path, exc_info=error)
        text = getattr(error, "strerror", None) or str(error)
        return refusal(BodyError("system_refused", f"the system refused this: {text}"))
    if request.path == "/" or request.path.endswith((".js", ".css", ".json")):
        response.headers.setdefault("Cache-Control", "no-cache")
    return response


def build_app(
    registry: Registry, runtime: Runtime, frontend: Path, gate: Gate | None = None
) -> web.Application:
    """The whole server as an aiohttp application; its queue starts and stops with it.

    Args:
        gate: the names it answers to; None for this machine's own.
    """
    # The system's table may know nothing of modules, and browsers refuse them then.
    for suffix in (".js", ".mjs"):
        mimetypes.add_type("text/javascript", suffix)
    hub = Hub(lambda: {"exec_info": {"queue_remaining": tasks.remaining()}})
    tasks = TaskQueue(Engine(registry.nodes, runtime), hub.post_status)
    pages = PageRoutes(registry, runtime.folders, frontend)
    app = web.Application(
        middlewares=[(gate or Gate()).middleware(), _cache_and_errors],
        client_max_size=FEATURES["max_upload_size"],
    )
    routes = [
        web.get("/ws", hub.handle),
        *RunRoutes(registry.nodes, tasks, hub).routes(),
        *PictureRoutes(runtime.folders).routes(),
        *UserRoutes(runtime.folders).routes(),
        *pages.routes(),
    ]
    app.add_routes([web.route(r.method, "/api" + r.path, r.handler) for r in routes])
    app.add_routes(routes)
    app.add_routes(pages.statics())

    async def index(request: web.Request) -> web.FileResponse:
        page = frontend / "index.html"
        return web.FileResponse(page)

    app.add_routes([web.get("/", index), web.static("/", frontend)])

    async def life(_: web.Application):
        await hub.start()
        tasks.start()
        # Large folders take a while to look through; requests need not wait for it.
        clearing = asyncio.create_task(asyncio.to_thread(runtime.folders.clear_unfinished))
        yield
        await clearing
        await hub.close()
        await asyncio.to_thread(tasks.close)

    app.cleanup_ctx.append(life)
    app.on_response_prepare.append(add_headers)
    return app


def open_port(address: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; port 0 takes a free one.

    Bound before anything is loaded, so that a port in use is told at once.

    Raises:
        PortInUseError: another program has the port.
        ListenError: no such address here, or the port is not for this user.
    """
    opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        if os.name == "posix":
            # Elsewhere this option would let two programs share the port.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address, port))
    except (OSError, OverflowError) as error:
        opened.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise _in_use(address, port) from error
        raise ListenError(
            f"the server can't listen on {address}, port {port} ({error}); choose others with "
            "--listen and --port"
        ) from error
    return opened


def _in_use(address: str, port: int) -> PortInUseError:
    return PortInUseError(
        f"port {port} on {address} is in use by another program; stop that one, or choose another "
        "with --port"
    )


async def serve(
    app: web.Application, opened: socket.socket, on_ready: Callable[[str, str | None], None]
) -> None:
    """Serves on a socket of `open_port` until SIGINT or SIGTERM; closes it in the end.

    Args:
        on_ready: gets, once requests are answered, the URL for this machine, and that for others
            where the server listens on all addresses and has one.

    Raises:
        PortInUseError: another program took the port since it was bound.
    """
    address, port = opened.getsockname()[:2]
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.SockSite(runner, opened).start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise _in_use(address, port) from error
        on_ready(*_addresses(address, port))
        await _stop_signal()
    finally:
        await runner.cleanup()
        opened.close()


def _addresses(address: str, port: int) -> tuple[str, str | None]:
    """URLs that work: the address of all addresses is none that a browser could open."""
    if address not in ANYWHERE:
        return _url(address, port), None
    is_six = ":" in address
    own = "::1" if is_six else "127.0.0.1"
    # Sends nothing: it only asks which address a packet would leave from. 192.0.2.0/24 and
    # 2001:db8::/32 are kept for examples.
    with socket.socket(socket.AF_INET6 if is_six else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("2001:db8::1" if is_six else "192.0.2.1", 9))
            outside = probe.getsockname()[0]
        except OSError:
            outside = own
    return _url(own, port), None if outside == own else _url(outside, port)


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


async def _stop_signal() -> None:
    """Waits for Ctrl-C or a polite kill."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, stop.set)
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    except (NotImplementedError, RuntimeError):
        log.debug("signals can't be caught here; Ctrl-C raises KeyboardInterrupt instead")
    await stop.wait()
