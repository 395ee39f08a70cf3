"""A server with ComfyUI's HTTP protocol that runs nothing: results are the prompts themselves.

What goes wrong on real networks can be asked for: answers that get lost, restarts that forget,
refusals, errors, runs that take as long as the test wants.
"""

from __future__ import annotations

import email.parser
import email.policy
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class FakeComfy:
    """One server. `runs` are the prompts that were started, in order, by id."""

    kinds: tuple[str, ...] = ("LoadImage", "Edit", "SaveImage")
    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: dict[str, dict[str, Any]] = field(default_factory=dict)
    queue: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    authorization: list[str | None] = field(default_factory=list)
    # How often the answer to a path is lost after the server has acted on it.
    lost_answers: dict[str, int] = field(default_factory=dict)
    # Text in a prompt -> what the server makes of it.
    refusals: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    # Text of prompts that never end by themselves, "" for all.
    held: set[str] = field(default_factory=set)
    suffix: str = ".png"
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> FakeComfy:
        fake = self

        class Handler(_Handler):
            owner = fake

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        return self

    def stop(self) -> None:
        """The port is closed, as after a crash."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._server = None

    def forget(self) -> None:
        """What a restart leaves: nothing queued, no history."""
        self.queue.clear()
        self.history.clear()

    def finish(self, prompt_id: str) -> None:
        """Ends a held run."""
        self.queue.remove(prompt_id)
        self._end(prompt_id, self.runs[prompt_id])

    def accept(self, body: dict[str, Any]) -> tuple[int, Any]:
        text, prompt_id = json.dumps(body["prompt"]), body["prompt_id"]
        for words, reason in self.refusals.items():
            if words in text:
                inner = {"errors": [{"message": "Value not in list", "details": reason}]}
                errors = {"5": inner | {"class_type": "LoadImage"}}
                return 400, {"error": {"message": "invalid", "details": ""}, "node_errors": errors}
        if prompt_id in self.runs and prompt_id in (*self.queue, *self.history):
            raise AssertionError(f"the run {prompt_id} was sent twice")
        self.runs[prompt_id] = body["prompt"]
        if any(words in text for words in self.held):
            self.queue.append(prompt_id)
        else:
            self._end(prompt_id, body["prompt"])
        return 200, {"prompt_id": prompt_id, "number": 1, "node_errors": {}}

    def _end(self, prompt_id: str, prompt: dict[str, Any]) -> None:
        text = json.dumps(prompt)
        messages: list[Any] = [["execution_start", {"timestamp": 1000}]]
        outputs: dict[str, Any] = {}
        failure = next((self.errors[words] for words in self.errors if words in text), None)
        if failure is not None:
            data = {
                "node_id": "8", "node_type": "Edit", "exception_type": "torch.OutOfMemoryError",
                "exception_message": failure,
            }  # fmt: skip
            messages.append(["execution_error", data])
        else:
            messages.append(["execution_success", {"timestamp": 3500}])
            name = f"result_{len(self.files):05}{self.suffix}"
            self.files[name] = text.encode()
            # A preview beside the result is not wanted.
            preview = {"filename": "preview.png", "subfolder": "", "type": "temp"}
            saved = {"filename": name, "subfolder": "sub", "type": "output"}
            outputs = {"7": {"images": [preview]}, "9": {"images": [saved], "text": ["x"]}}
        status = "success" if failure is None else "error"
        self.history[prompt_id] = {
            "outputs": outputs,
            "status": {"status_str": status, "completed": failure is None, "messages": messages},
        }


class _Handler(BaseHTTPRequestHandler):
    owner: FakeComfy

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def _answer(self, status: int, content: Any) -> None:
        path = urlsplit(self.path).path
        if self.owner.lost_answers.get(path, 0) > 0:
            self.owner.lost_answers[path] -= 1
            self.close_connection = True
            return
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        fake, parts = self.owner, urlsplit(self.path)
        fake.authorization.append(self.headers.get("Authorization"))
        where, _, last = parts.path.rpartition("/")
        if parts.path == "/queue":
            tasks = [[number, key, fake.runs[key], {}, []] for number, key in enumerate(fake.queue)]
            self._answer(200, {"queue_running": tasks[:1], "queue_pending": tasks[1:]})
        elif where == "/history":
            self._answer(200, {last: fake.history[last]} if last in fake.history else {})
        elif where == "/object_info":
            kind = unquote(last)
            self._answer(200, {kind: {"input": {}}} if kind in fake.kinds else {})
        elif parts.path == "/view":
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            found = fake.files.get(query["filename"])
            self._answer(*((404, b"") if found is None else (200, found)))
        else:
            self._answer(404, b"")

    def do_POST(self) -> None:
        fake = self.owner
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/prompt":
            self._answer(*fake.accept(json.loads(body)))
        elif self.path == "/queue":
            for key in json.loads(body)["delete"]:
                fake.withdrawn.append(key)
                # The first in the queue runs; it can't be taken out.
                if key in fake.queue[1:]:
                    fake.queue.remove(key)
            self._answer(200, {})
        elif self.path == "/upload/image":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            form = email.parser.BytesParser(policy=email.policy.default).parsebytes(head + body)
            parts = {part.get_param("name", header="content-disposition"): part
                     for part in form.iter_parts()}  # fmt: skip
            name, sub = parts["image"].get_filename(), parts["subfolder"].get_content().strip()
            fake.files[f"{sub}/{name}"] = parts["image"].get_payload(decode=True)
            self._answer(200, {"name": name, "subfolder": sub, "type": "input"})
        else:
            self._answer(404, b"")


def wait_for(condition: Any, what: str, seconds: float = 60.0) -> None:
    """Returns once a condition holds. Raises TimeoutError, generously late."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.01)
