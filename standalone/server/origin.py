"""Keeps other web sites from driving a server on this machine through the user's browser."""

from __future__ import annotations

import ipaddress
import logging
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

__all__ = ["is_loopback", "same_origin"]

log = logging.getLogger(__name__)


def is_loopback(host: str | None) -> bool:
    """Whether a host name means this machine."""
    if not host:
        return False
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _matches(host: str, origin: str) -> bool:
    """Whether the Origin header names the server that the Host header names.

    A browser leaves out the port where it is the usual one, so it is compared only if both have it.
    """
    try:
        ours, theirs = urlsplit("//" + host.lower()), urlsplit(origin.lower())
        ports = ours.port, theirs.port
    except ValueError:
        return False
    if None in ports:
        return ours.hostname == theirs.hostname
    return ours.netloc == theirs.netloc


@web.middleware
async def same_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers 403 to requests that a page of another site makes.

    A browser sends such requests to 127.0.0.1 without asking; they show in Sec-Fetch-Site, or in an
    Origin header that is not the Host.
    """
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        return web.Response(status=403, text="requests from other sites are refused")
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    loopback = host is not None and is_loopback(urlsplit("//" + host).hostname)
    if host and origin and loopback and not _matches(host, origin):
        log.warning("refused a request to %s that came from %s", host, origin)
        return web.Response(status=403, text="requests from other sites are refused")
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)
