"""The websockets: who is connected, and how messages and previews reach them.

Binary frames: big-endian event number; 1 = preview (format number, picture), 4 = preview with
metadata (JSON length, JSON, picture). Clients say in their first message whether they know the
second. Those that say nothing, scripts mostly, get no previews: some take any binary frame for
the result.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from aiohttp import WSMsgType, web
from PIL import Image

from ..bodies import ClientMessage, read_json_text
from ..errors import BodyError
from .answers import to_json

__all__ = ["ClientListener", "Hub"]

log = logging.getLogger(__name__)
PREVIEW_SIDE = 512
FEATURES = {
    "supports_preview_metadata": True,
    "max_upload_size": 100 * 1024 * 1024,
    "extension": {},
    "assets": False,
    "node_replacements": False,
}


@dataclass
class _Client:
    socket: web.WebSocketResponse
    features: dict[str, Any] | None = None


class Hub:
    """All connected clients. Only `post` and `post_preview` may be called from other threads."""

    def __init__(self, queue_status: Callable[[], dict[str, Any]]) -> None:
        self.queue_status = queue_status
        self.clients: dict[str, _Client] = {}
        self.current: dict[str, str | None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outbox: asyncio.Queue[tuple[str | None, Any]] = asyncio.Queue()
        self._sender: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sender = asyncio.create_task(self._send_all())

    async def close(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
        self._loop = None
        for client in list(self.clients.values()):
            await client.socket.close()

    def post(self, event: str, data: dict[str, Any], client_id: str | None = None) -> None:
        """Sends a message to one client, or to all."""
        if event == "executing" and client_id is not None:
            self.current[client_id] = data.get("node")
        self._put(client_id, to_json({"type": event, "data": data}).decode())

    def post_preview(
        self, image: Image.Image, node: dict[str, Any], client_id: str | None = None
    ) -> None:
        """Sends a picture of work in progress, at most 512 pixels a side."""
        small = image.convert("RGB")
        small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.BILINEAR)
        buffer = BytesIO()
        small.save(buffer, "JPEG", quality=95)
        picture = buffer.getvalue()
        meta = json.dumps(node | {"image_type": "image/jpeg"}).encode()
        plain = struct.pack(">II", 1, 1) + picture
        rich = struct.pack(">II", 4, len(meta)) + meta + picture
        self._put(client_id, (plain, rich))

    def post_status(self) -> None:
        """Tells everyone how many jobs there are."""
        self.post("status", {"status": self.queue_status()})

    def _put(self, client_id: str | None, message: Any) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._outbox.put_nowait, (client_id, message))
        except RuntimeError:
            log.debug("the server is closing, a message was dropped")

    async def _send_all(self) -> None:
        while True:
            client_id, message = await self._outbox.get()
            wanted = list(self.clients) if client_id is None else [client_id]
            for name in wanted:
                client = self.clients.get(name)
                if client is not None:
                    await self._send(client, message)

    async def _send(self, client: _Client, message: Any) -> None:
        try:
            if isinstance(message, str):
                await client.socket.send_str(message)
            elif client.features is not None:
                plain, rich = message
                knows = client.features.get("supports_preview_metadata")
                await client.socket.send_bytes(rich if knows else plain)
        except (ConnectionError, RuntimeError) as error:
            log.debug("a client went away while it was sent something: %s", error)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """GET /ws: one client, from its first frame to its last."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        client = self.clients[client_id] = _Client(socket)
        try:
            status = {"status": self.queue_status(), "sid": client_id}
            await self._send(client, json.dumps({"type": "status", "data": status}))
            running = self.current.get(client_id)
            if running is not None:
                data = {"node": running}
                await self._send(client, json.dumps({"type": "executing", "data": data}))
            async for frame in socket:
                if frame.type is WSMsgType.TEXT:
                    await self._hear(client, frame.data)
        finally:
            # A reconnect under the same id may already have taken the place.
            if self.clients.get(client_id) is client:
                del self.clients[client_id]
        return socket

    async def _hear(self, client: _Client, text: str) -> None:
        try:
            message = read_json_text(text, ClientMessage)
        except BodyError as error:
            log.warning("a client's message is left unread: %s", error)
            return
        if message.type == "feature_flags":
            client.features = message.data if isinstance(message.data, dict) else {}
            answer = {"type": "feature_flags", "data": FEATURES}
            await self._send(client, json.dumps(answer))


@dataclass(frozen=True)
class ClientListener:
    """Hears a run on behalf of one client; without an id nobody hears it."""

    hub: Hub
    client_id: str | None

    def send(self, event: str, data: dict[str, Any]) -> None:
        if self.client_id is not None:
            self.hub.post(event, data, self.client_id)

    def preview(self, image: Image.Image, node: dict[str, Any]) -> None:
        if self.client_id is not None:
            self.hub.post_preview(image, node, self.client_id)
