"""One server's HTTP interface: the calls a batch needs."""

from __future__ import annotations

import json
import mimetypes
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

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
        text = url if "://" in url else f"http://{url}"
        try:
            parts = httpx.URL(text)
        except (httpx.InvalidURL, ValueError) as error:
            raise InputError(
                f"{text!r} is not a URL ({error}); expected http://host:8188"
            ) from error
        named = parts.scheme in ("http", "https") and parts.host
        if not named or not 0 < (parts.port or 80) < 1 << 16:
            raise InputError(
                f"{text!r} is not a server's URL; expected such as http://127.0.0.1:8188"
            )
        bare = parts.copy_with(username=None, password=None, query=None, fragment=None)
        # A name and password go into a header, and nowhere else.
        self.url = str(bare).rstrip("/")
        local = parts.host in ("localhost", "::1") or parts.host.startswith("127.")
        self._http = httpx.Client(
            auth=(parts.username, parts.password) if parts.username else None,
            follow_redirects=True,
            # A proxy in the environment knows nothing of this machine's own servers.
            trust_env=not local,
        )

    def get(self, path: str) -> Any:
        """The JSON answer.

        Raises:
            Unreachable: no answer, or none of ComfyUI's.
        """
        status, body = self._call(path)
        return self._json(path, status, body)

    def node(self, kind: str) -> dict[str, Any] | None:
        """What the server says about a node type; None when it has none of that name."""
        found = self.get(f"/object_info/{quote(kind, safe='')}")
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
        status, body = self._call("/prompt", json=payload)
        if status == 400:
            return refusal(body)
        self._json("/prompt", status, body)
        return ""

    def withdraw(self, prompt_id: str) -> None:
        """Take a run out of the queue if it still waits."""
        self._call("/queue", json={"delete": [prompt_id]})

    def upload(self, name: str, content: bytes, subfolder: str) -> str:
        """Bring a picture into the input folder; what a Load Image node calls it.

        Raises:
            InputError: the server does not take it.
        """
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        status, answer = self._call(
            "/upload/image",
            timeout=TRANSFER_SECONDS,
            data={"type": "input", "subfolder": subfolder, "overwrite": "true"},
            files={"image": (name, content, kind)},
        )
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
        wanted = {key: entry.get(key, "") for key in keys}
        status, body = self._call("/view", timeout=TRANSFER_SECONDS, params=wanted)
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

    def _call(self, path: str, timeout: float = TIMEOUT_SECONDS, **sent: Any) -> tuple[int, bytes]:
        """Status and answer. POST where a body is sent (`json`, or `data` and `files`), else GET."""
        method = "GET" if sent.keys() <= {"params"} else "POST"
        content = bytearray()
        try:
            with self._http.stream(method, self.url + path, timeout=timeout, **sent) as answer:
                for part in answer.iter_bytes():
                    content += part
                    if len(content) > MAX_FILE_BYTES:
                        raise Unreachable(
                            f"{self.url}{path} sends more than {MAX_FILE_BYTES} bytes"
                        )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"{self.url} does not answer ({error})", _refused(error)) from error
        return answer.status_code, bytes(content)


def _refused(error: BaseException | None) -> bool:
    """Whether nobody listens at the port, which the library says in the cause of its own error."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return True
        error = error.__cause__ or error.__context__
    return False


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
