"""One server's HTTP interface: the calls a batch needs, with the standard library alone."""

from __future__ import annotations

import base64
import http.client
import json
import mimetypes
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping
from typing import Any

from kontext_core.errors import InputError, KontextError

# Of an answer without files; a server that loads a model may be slow to answer anything.
TIMEOUT_SECONDS = 30.0
# Of a picture on its way.
TRANSFER_SECONDS = 300.0
MAX_FILE_BYTES = 1 << 30
# What a gateway says for a server that is away.
AWAY = (502, 503, 504)


class Unreachable(KontextError):
    """No answer. `refused`: nobody listens there at all, so waiting is of little use."""

    def __init__(self, message: str, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Client:
    """A ComfyUI or embedded host at a URL. Threads may share it."""

    def __init__(self, url: str) -> None:
        """
        Raises:
            InputError: it is not an http or https URL.
        """
        if "://" not in url:
            url = f"http://{url}"
        try:
            parts = urllib.parse.urlsplit(url)
            port = f":{parts.port}" if parts.port is not None else ""
        except ValueError as error:
            raise InputError(
                f"{url!r} is not a URL ({error}); expected http://host:8188"
            ) from error
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not host:
            raise InputError(
                f"{url!r} is not a server's URL; expected such as http://127.0.0.1:8188"
            )
        shown = f"[{host}]" if ":" in host else host
        # A name and password go into a header, and nowhere else.
        self.url = f"{parts.scheme}://{shown}{port}{parts.path.rstrip('/')}"
        self._headers: dict[str, str] = {}
        if parts.username:
            pair = ":".join(urllib.parse.unquote(p or "") for p in (parts.username, parts.password))
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        local = host == "localhost" or host.startswith("127.") or host == "::1"
        handlers = [urllib.request.ProxyHandler({})] if local else []
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str) -> Any:
        """The JSON answer.

        Raises:
            Unreachable: no answer, or none of ComfyUI's.
        """
        status, body = self._call(path)
        return self._json(path, status, body)

    def node(self, kind: str) -> dict[str, Any] | None:
        """What the server says about a node type; None when it has none of that name."""
        found = self.get(f"/object_info/{urllib.parse.quote(kind, safe='')}")
        return found.get(kind) if isinstance(found, dict) else None

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """How a run ended; None before it has."""
        found = self.get(f"/history/{prompt_id}")
        return found.get(prompt_id) if isinstance(found, dict) else None

    def is_queued(self, prompt_id: str) -> bool:
        """Whether a run waits or goes on."""
        found = self.get("/queue")
        tasks = [*found.get("queue_running", []), *found.get("queue_pending", [])]
        return any(len(task) > 1 and task[1] == prompt_id for task in tasks)

    def submit(self, prompt: Mapping[str, Any], prompt_id: str) -> str:
        """Queue a run under an id of ours. The server's reason when it does not take it, else ""."""
        payload = {"prompt": prompt, "prompt_id": prompt_id, "client_id": uuid.uuid4().hex}
        status, body = self._call("/prompt", json.dumps(payload).encode())
        if status == 400:
            return refusal(body)
        self._json("/prompt", status, body)
        return ""

    def withdraw(self, prompt_id: str) -> None:
        """Take a run out of the queue if it still waits."""
        self._call("/queue", json.dumps({"delete": [prompt_id]}).encode())

    def upload(self, name: str, content: bytes, subfolder: str) -> str:
        """Bring a picture into the input folder; what a Load Image node calls it.

        Raises:
            InputError: the server does not take it.
        """
        boundary = uuid.uuid4().hex
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        fields = {"type": "input", "subfolder": subfolder, "overwrite": "true"}
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in fields.items()
        )
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            f"Content-Type: {kind}\r\n\r\n"
        )
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        form = f"multipart/form-data; boundary={boundary}"
        status, answer = self._call("/upload/image", body, form, TRANSFER_SECONDS)
        if 400 <= status < 500:
            raise InputError(
                f"{self.url} does not take the picture {name} ({len(content)} bytes): {status} "
                f"{answer[:200].decode('utf-8', 'replace')}"
            )
        found = self._json("/upload/image", status, answer)
        return "/".join(part for part in (found.get("subfolder"), found["name"]) if part)

    def download(self, entry: Mapping[str, Any]) -> bytes | None:
        """The file behind an entry of a run's outputs; None when the server no longer has it."""
        keys = ("filename", "subfolder", "type")
        query = urllib.parse.urlencode({key: entry.get(key, "") for key in keys})
        status, body = self._call(f"/view?{query}", timeout=TRANSFER_SECONDS)
        if status in AWAY or status >= 500:
            raise Unreachable(f"{self.url} answered {status} for a result")
        return body if status == 200 else None

    def _json(self, path: str, status: int, body: bytes) -> Any:
        if status == 200:
            try:
                return json.loads(body) if body.strip() else {}
            except ValueError:
                pass
        raise Unreachable(
            f"{self.url}{path} answered {status} {body[:200].decode('utf-8', 'replace')!r}; "
            "is this ComfyUI?"
        )

    def _call(
        self,
        path: str,
        body: bytes | None = None,
        kind: str = "application/json",
        timeout: float = TIMEOUT_SECONDS,
    ) -> tuple[int, bytes]:
        """Status and answer. GET without a body, POST with one."""
        headers = self._headers | ({"Content-Type": kind} if body is not None else {})
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        try:
            with self._opener.open(request, timeout=timeout) as answer:
                content = answer.read(MAX_FILE_BYTES + 1)
                status = answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _rest(error)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            refused = isinstance(reason, ConnectionRefusedError)
            raise Unreachable(f"{self.url} does not answer ({reason})", refused) from error
        if len(content) > MAX_FILE_BYTES:
            raise Unreachable(f"{self.url}{path} sends more than {MAX_FILE_BYTES} bytes")
        return status, content


def _rest(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read(1 << 20)
    except (OSError, http.client.HTTPException):
        return b""


def refusal(body: bytes) -> str:
    """The text of what `POST /prompt` answers with status 400."""
    try:
        found = json.loads(body)
        parts = [
            f"node {key} ({node.get('class_type', '?')}): {reason.get('message', '')}: "
            f"{reason.get('details', '')}".rstrip(": ")
            for key, node in (found.get("node_errors") or {}).items()
            for reason in node.get("errors", [])
        ]
        error = found.get("error") or {}
        whole = (
            error if isinstance(error, str) else f"{error.get('message')} {error.get('details')}"
        )
        return "; ".join(parts) or whole.strip()
    except (ValueError, AttributeError, TypeError):
        return body[:500].decode("utf-8", "replace") or "no reason given"
