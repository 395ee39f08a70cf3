"""HTTP requests that end by a moment, however slowly a server answers.

A socket's own time limit starts anew with every byte, so a server that sends one now and then, even of its
headers, is waited for without end. Here a timer shuts the connection.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class _Connections(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens connections as urllib does, and knows their sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[socket.socket] = []

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._known(http.client.HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._known(http.client.HTTPSConnection), req)

    def _known(self, kind: Any) -> Any:
        sockets = self.sockets

        class Known(kind):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        return Known

    def shut(self) -> None:
        for each in self.sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def opened(request: urllib.request.Request, seconds: float) -> Iterator[http.client.HTTPResponse]:
    """The answer to a request, to be read inside; all of it within `seconds`.

    Raises:
        TimeoutError: it took longer.
        OSError, http.client.HTTPException: as `urllib.request.urlopen`, and `read` of its answer.
    """
    handler, end = _Connections(), time.monotonic() + seconds
    timer = threading.Timer(seconds, handler.shut)
    timer.daemon = True
    timer.start()
    try:
        with urllib.request.build_opener(handler).open(request, timeout=seconds) as answer:
            yield answer
            if time.monotonic() >= end:
                raise TimeoutError
    except (OSError, http.client.HTTPException) as error:
        # What was shut looks like a server that went away.
        if time.monotonic() >= end:
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
