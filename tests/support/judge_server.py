"""A chat endpoint on the loopback that answers as it is told: well, with rubbish, slowly, or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Given what was asked and how often before, (status, text); None hangs until the server ends.
Reply = Callable[[dict[str, Any], int], "tuple[int, str] | None"]


def chat(text: str) -> str:
    """A chat completion with this text."""
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


class JudgeServer:
    """`asked` keeps every request's body; `drip` sends answers byte by byte, so many seconds apart."""

    def __init__(self, reply: Reply, drip: float = 0.0) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._end = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                count = len(outer.asked)
                outer.asked.append(body)
                outer.headers.append(dict(self.headers))
                said = reply(body, count)
                if said is None:
                    outer._end.wait(30)
                    return
                status, text = said
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                try:
                    if not drip:
                        self.wfile.write(data)
                        return
                    for start in range(len(data)):
                        self.wfile.write(data[start : start + 1])
                        self.wfile.flush()
                        if outer._end.wait(drip):
                            return
                except OSError:
                    # Who asked has gone.
                    return

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> JudgeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        time.sleep(0)
