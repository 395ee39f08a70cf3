"""Keeps other web sites from driving the server through the user's browser.

A page of another site can send requests to any server its reader can reach. Three things stop it:
names (a page that has its own name point here, DNS rebinding, still sends that name as Host),
origins (a browser tells where a page came from), and content types (a form can't send JSON).
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from kontext_core.errors import InputError

log = logging.getLogger(__name__)
# Addresses that stand for every one of the machine.
ANYWHERE = ("", "0.0.0.0", "::")
PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:/@?#\\\s]+)(:(?P<port>[0-9]{1,5}))?")
# The page talks to this server only: a fresh editor would look for its tutorial's models outside.
# The editor needs inline styles and scripts, and compiles its translations with eval.
POLICY = "; ".join(
    (
        "default-src 'self' data: blob:",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)


def is_loopback(name: str) -> bool:
    """Whether a host's name means this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _plain(name: str) -> str:
    """A host's name as it is compared: `localhost.` and `LOCALHOST` are `localhost`."""
    return name.lower().removesuffix(".").strip("[]")


def _parse_host(text: str) -> tuple[str, int | None] | None:
    """Name and port of a Host header; None where it is none."""
    match = _HOST.fullmatch(text.lower())
    if match is None:
        return None
    return _plain(match["name"]), int(match["port"]) if match["port"] else None


def _parse_origin(text: str) -> tuple[str, str, int | None] | None:
    """Scheme, name and port of an Origin header, the port filled in; None for `null` and others."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if not parts.scheme or not parts.hostname or parts.path.strip("/") or parts.username:
        return None
    return parts.scheme, _plain(parts.hostname), port or PORTS.get(parts.scheme)


class Gate:
    """Which names this server answers to, and which pages may talk to it."""

    def __init__(self, listen: str = "127.0.0.1", allowed: Iterable[str] = ()) -> None:
        """
        Args:
            listen: the address or name it listens on. One that stands for all addresses allows
                every Host that is an address: rebinding needs a name.
            allowed: more names, as `studio.lan`; or whole origins, as `https://studio.example`,
                where a proxy in front speaks another scheme or port.

        Raises:
            InputError: an entry of `allowed` is neither.
        """
        self.any_address = listen in ANYWHERE
        self.names = {_plain(listen)}
        self.origins: set[tuple[str, str, int | None]] = set()
        for entry in allowed:
            origin = _parse_origin(entry) if "://" in entry else None
            host = _parse_host(entry)
            if origin is not None:
                self.origins.add(origin)
                self.names.add(origin[1])
            elif host is not None:
                self.names.add(host[0])
            else:
                raise InputError(
                    f"--allow-host {entry!r} is not a name; expected one as studio.lan, or an origin "
                    "as https://studio.example"
                )

    def knows(self, name: str) -> bool:
        """Whether a Host of this name is answered."""
        if is_loopback(name) or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address

    def problem(self, request: web.Request) -> str | None:
        """Why a request is refused; None where it is not."""
        hosts = request.headers.getall("Host", [])
        host = _parse_host(hosts[0]) if len(hosts) == 1 else None
        if host is None:
            return "the request names no host, or more than one"
        name, port = host
        if not self.knows(name):
            return (
                f"this server does not answer to the name {name[:80]!r}; if it is yours, start "
                "the server with --allow-host and that name"
            )
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            return "requests from other sites are refused"
        origins = request.headers.getall("Origin", [])
        if not origins:
            return None
        origin = _parse_origin(origins[0].lower()) if len(origins) == 1 else None
        own = (request.scheme, name, port or PORTS.get(request.scheme))
        if origin == own or (origin in self.origins and origin is not None and origin[1] == name):
            return None
        return "requests from other sites are refused"

    def middleware(self) -> Middleware:
        """Answers 403 to what `problem` finds, websockets included."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            problem = self.problem(request)
            if problem is not None:
                log.warning("refused %s %.200s: %s", request.method, request.path, problem)
                return web.Response(status=403, text=problem)
            if request.method == "OPTIONS":
                return web.Response()
            return await handler(request)

        return guard


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer says what a page may load, and that no other site's page may hold it."""
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers.setdefault("X-Frame-Options", "SAMEORIGIN")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    response.headers.setdefault("Referrer-Policy", "same-origin")
