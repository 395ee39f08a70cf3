"""The websockets: who is connected, and how messages and previews reach them.

Binary frames: big-endian event number; 1 = preview (format number, picture), 4 = preview with
metadata (JSON length, JSON, picture). Clients say in their first message whether they know the
second. Those that say nothing, scripts mostly, get no previews: some take any binary frame for
the result.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from aiohttp import WSMsgType, web
from PIL import Image

from ..bodies import ClientMessage, read_json_text
from ..errors import BodyError
from .answers import to_json

log = logging.getLogger(__name__)
PREVIEW_SIDE = 512
# Bytes of a client's own message.
MAX_HEARD = 64 * 1024
FEATURES = {
    "supports_preview_metadata": True,
    "max_upload_size": 100 * 1024 * 1024,
    "extension": {},
    "assets": False,
    "node_replacements": False,
}


# A client that has this much unread is not reading: it is let go, and may come back.
MAX_MESSAGES = 2000
MAX_BYTES = 16 * 1024 * 1024
# Seconds between two questions whether a client is still there.
HEARTBEAT = 20


class _Client:
    """One websocket and what is still to be sent to it. Used on the loop only."""

    def __init__(self, socket: web.WebSocketResponse, transport: Any) -> None:
        self.socket, self._transport = socket, transport
        self.features: dict[str, Any] | None = None
        self._outbox: deque[str | bytes] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._sender = asyncio.create_task(self._send_all())

    def put(self, message: str | tuple[bytes, bytes]) -> None:
        """Queues a text, or a preview in two formats; lets a client go that does not read."""
        if isinstance(message, str):
            chosen: str | bytes = message
        elif self.features is None:
            return
        else:
            chosen = message[1 if self.features.get("supports_preview_metadata") else 0]
        self._outbox.append(chosen)
        self._bytes += len(chosen)
        self._filled.set()
        if len(self._outbox) > MAX_MESSAGES or self._bytes > MAX_BYTES:
            log.warning("a client that does not read its messages is let go")
            self.drop()

    def drop(self) -> None:
        """Ends the connection without waiting for anybody."""
        self._sender.cancel()
        self._outbox.clear()
        self._bytes = 0
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        self._sender.cancel()
        try:
            # A client that does not read doesn't say goodbye either.
            await asyncio.wait_for(self.socket.close(), 1)
        except (asyncio.TimeoutError, ConnectionError, RuntimeError):
            self.drop()
        if self._transport is not None and self._transport.get_write_buffer_size():
            # Nobody takes what is left: closed politely, the connection would stay for ever.
            self.drop()

    async def _send_all(self) -> None:
        try:
            while True:
                await self._filled.wait()
                while self._outbox:
                    message = self._outbox.popleft()
                    self._bytes -= len(message)
                    if isinstance(message, str):
                        await self.socket.send_str(message)
                    else:
                        await self.socket.send_bytes(message)
                self._filled.clear()
        except (ConnectionError, RuntimeError) as error:
            log.debug("a client went away while it was sent something: %s", error)


class Hub:
    """All connected clients. Only `post` and `post_preview` may be called from other threads."""

    def __init__(self, queue_status: Callable[[], dict[str, Any]]) -> None:
        self.queue_status = queue_status
        self.clients: dict[str, _Client] = {}
        self.current: dict[str, str] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        self._loop = None
        await asyncio.gather(*(client.close() for client in list(self.clients.values())))

    def post(self, event: str, data: dict[str, Any], client_id: str | None = None) -> None:
        """Sends a message to one client, or to all."""
        if event == "executing" and client_id is not None:
            if data.get("node") is None:
                self.current.pop(client_id, None)
            else:
                self.current[client_id] = data["node"]
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
        meta = to_json(node | {"image_type": "image/jpeg"})
        plain = struct.pack(">II", 1, 1) + picture
        rich = struct.pack(">II", 4, len(meta)) + meta + picture
        self._put(client_id, (plain, rich))

    def post_status(self) -> None:
        """Tells everyone how many jobs there are."""
        self.post("status", {"status": self.queue_status()})

    def _put(self, client_id: str | None, message: str | tuple[bytes, bytes]) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._hand_out, client_id, message)
        except RuntimeError:
            log.debug("the server is closing, a message was dropped")

    def _hand_out(self, client_id: str | None, message: str | tuple[bytes, bytes]) -> None:
        wanted = list(self.clients) if client_id is None else [client_id]
        for name in wanted:
            client = self.clients.get(name)
            if client is not None:
                client.put(message)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """GET /ws: one client, from its first frame to its last."""
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=MAX_HEARD)
        await socket.prepare(request)
        client_id = request.query.get("clientId", "")[:255] or uuid.uuid4().hex
        client = _Client(socket, request.transport)
        self.clients[client_id] = client
        try:
            status = {"status": self.queue_status(), "sid": client_id}
            client.put(to_json({"type": "status", "data": status}).decode())
            running = self.current.get(client_id)
            if running is not None:
                client.put(to_json({"type": "executing", "data": {"node": running}}).decode())
            async for frame in socket:
                if frame.type is WSMsgType.TEXT:
                    self._hear(client, frame.data)
        finally:
            # A reconnect under the same id may already have taken the place.
            if self.clients.get(client_id) is client:
                del self.clients[client_id]
            await client.close()
        return socket

    def _hear(self, client: _Client, text: str) -> None:
        try:
            message = read_json_text(text, ClientMessage)
        except BodyError as error:
            log.warning("a client's message is left unread: %s", error)
            return
        if message.type == "feature_flags":
            client.features = message.data if isinstance(message.data, dict) else {}
            client.put(to_json({"type": "feature_flags", "data": FEATURES}).decode())


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
