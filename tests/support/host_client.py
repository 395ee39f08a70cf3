"""A small client of ComfyUI's HTTP and websocket protocol: what any third party would write."""

from __future__ import annotations

import io
import json
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket
from PIL import Image

# How long one message or answer may take: 2 cores that also train a model need minutes.
PATIENCE = 600.0


@dataclass(frozen=True)
class Preview:
    """One preview frame: which node it came from (None in the old format), and the picture."""

    node: str | None
    image: Image.Image


@dataclass
class Run:
    """Everything one prompt sent over the websocket, in order."""

    prompt_id: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)

    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]

    def data(self, kind: str) -> list[dict[str, Any]]:
        return [message["data"] for message in self.messages if message["type"] == kind]

    @property
    def ok(self) -> bool:
        return "execution_success" in self.types()

    @property
    def error(self) -> str:
        """The exception's type and message, empty when the run had none."""
        found = self.data("execution_error")
        return f"{found[0]['exception_type']}: {found[0]['exception_message']}" if found else ""

    def files(self) -> list[dict[str, str]]:
        """The pictures of all output nodes: [{filename, subfolder, type}]."""
        outputs = [data["output"] or {} for data in self.data("executed")]
        return [entry for output in outputs for entry in output.get("images", [])]


class Client:
    """One client of one server; every call blocks."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(
        self, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        """GET without a body, POST with one. Returns status and answer, also for 4xx and 5xx.
        Spaces in the path are quoted here, as a browser does."""
        request = urllib.request.Request(self.url + path.replace(" ", "%20"), data=body)
        if body is not None:
            request.add_header("Content-Type", content_type)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def get(self, path: str) -> Any:
        """The JSON answer of a GET that must succeed."""
        status, body = self.call(path)
        if status != 200:
            raise RuntimeError(f"GET {path}: {status} {body[:500]!r}, expected 200")
        return json.loads(body)

    def post(self, path: str, payload: Any) -> tuple[int, Any]:
        """Status and JSON answer (None when empty) of a POST."""
        status, body = self.call(path, json.dumps(payload).encode())
        return status, json.loads(body) if body.strip() else None

    def upload(self, name: str, content: bytes) -> str:
        """Puts a file into the input folder; returns the name that a Load Image node takes."""
        boundary = uuid.uuid4().hex
        head = (
            f"--{boundary}\r\nContent-Disposition: form-data; "
            f'name="image"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
        )
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        status, answer = self.call("/upload/image", body, kind)
        if status != 200:
            raise RuntimeError(f"upload of {name}: {status} {answer[:500]!r}, expected 200")
        return str(json.loads(answer)["name"])

    def view(self, entry: dict[str, str]) -> Image.Image:
        """The picture behind an entry of `Run.files`, with its PNG text chunks in `.info`."""
        query = urllib.parse.urlencode({k: entry[k] for k in ("filename", "subfolder", "type")})
        status, body = self.call(f"/view?{query}")
        if status != 200:
            raise RuntimeError(f"view of {entry}: {status} {body[:500]!r}, expected 200")
        image = Image.open(io.BytesIO(body))
        image.load()
        return image

    def wait_for_history(self, prompt_id: str) -> dict[str, Any]:
        """The history entry of a prompt, once it has ended. Raises TimeoutError."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = self.get(f"/history/{prompt_id}")
            if prompt_id in found:
                return found[prompt_id]
            time.sleep(0.2)
        raise TimeoutError(f"prompt {prompt_id} did not end within {PATIENCE:.0f} s")

    def run(
        self,
        prompt: dict[str, Any],
        *,
        workflow: dict[str, Any] | None = None,
        on_message: Callable[[dict[str, Any]], None] | None = None,
    ) -> Run:
        """Queues a prompt that must be accepted and follows it to its end, however it ends."""
        client_id = uuid.uuid4().hex
        address = self.url.replace("http", "ws", 1) + f"/ws?clientId={client_id}"
        channel = websocket.create_connection(address, timeout=PATIENCE)
        try:
            hello = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
            channel.send(json.dumps(hello))
            extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
            payload = {"prompt": prompt, "client_id": client_id, "extra_data": extra}
            status, answer = self.post("/prompt", payload)
            if status != 200:
                raise RuntimeError(f"POST /prompt: {status} {answer}, expected 200")
            return self._follow(channel, Run(answer["prompt_id"]), on_message)
        finally:
            channel.close()

    def _follow(
        self,
        channel: websocket.WebSocket,
        run: Run,
        on_message: Callable[[dict[str, Any]], None] | None,
    ) -> Run:
        while True:
            received = channel.recv()
            if isinstance(received, bytes):
                preview = _preview(received)
                if preview is not None:
                    run.previews.append(preview)
                continue
            message = json.loads(received)
            data = message.get("data") or {}
            if data.get("prompt_id", run.prompt_id) != run.prompt_id:
                continue
            run.messages.append(message)
            if on_message is not None:
                on_message(message)
            if message["type"] == "executing" and data.get("node") is None:
                return run


def _preview(frame: bytes) -> Preview | None:
    """Decodes binary event 1 (format, picture) and 4 (metadata, picture); None for others."""
    (kind,) = struct.unpack_from(">I", frame)
    if kind == 1:
        return Preview(None, _picture(frame[8:]))
    if kind == 4:
        (length,) = struct.unpack_from(">I", frame, 4)
        metadata = json.loads(frame[8 : 8 + length])
        return Preview(str(metadata["node_id"]), _picture(frame[8 + length :]))
    return None


def _picture(encoded: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(encoded))
    image.load()
    return image


def load_prompt(path: Path) -> dict[str, Any]:
    """An API workflow as a dict {node id: {class_type, inputs, _meta}}."""
    return json.loads(path.read_text(encoding="utf-8"))


def node_of(prompt: dict[str, Any], class_type: str) -> str:
    """The id of the first node of a class in a prompt. Raises KeyError when there is none."""
    for node_id, node in prompt.items():
        if node["class_type"] == class_type:
            return node_id
    raise KeyError(
        f"no {class_type} in the prompt, it has {[n['class_type'] for n in prompt.values()]}"
    )
