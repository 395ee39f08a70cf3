"""Damaged prompts and requests against the embedded host, seeded: what `python -m tests.attack requests` sends.

Counted are answers of 500 and above, connections that end without an answer, answers that took more
than a second, refusals without a sentence, errors that the server logs as its own, errors of nodes
that are no KontextError, and files left behind. The queue has to work in the end.
"""

from __future__ import annotations

import argparse
import base64
import copy
import http.client
import json
import logging
import os
import random
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from embedded_host import Bench, live, node
from forms import form, png
from host_client import Client

# An answer may take this long before it counts as none.
PATIENCE = 120.0
HANG = 1.0
SUM = {"1": node("Number", number=5), "2": node("Show", value=["1", 0])}
PROMPTS: list[dict[str, Any]] = [
    SUM,
    {
        "1": node("Words", text="a", seed=7, mood="calm", strength=0.5),
        "2": node("Show", value=["1", 0]) | {"_meta": {"title": "Shown"}},
    },
    {
        "1": node("Number", number=1),
        "2": node("Add", a=["1", 0], b=["1", 0]),
        "3": node("Picky", value=2),
        "4": node("Add", a=["2", 0], b=["3", 0]),
        "5": node("Show", value=["4", 0]),
        "6": node("Who"),
        "7": node("Show", value=["6", 0]),
    },
    {"1": node("LoadImage", image="shipped.png"), "2": node("PreviewImage", images=["1", 0])},
    {
        "1": node("LoadImageMask", image="shipped.png", channel="red"),
        "2": node("LoadImage", image="mine.png [input]"),
        "3": node("SaveImage", images=["2", 0], filename_prefix="a/b"),
    },
]
NAMES = ["a", "workflows/a.json", "..", "../x", "/etc/passwd", "a\0b", "a" * 256, "x/" * 2100]
NAMES += ["", ".", "\n", "²", "\udcff", "folder.png", "con", "a b", "%2e%2e", "mine.png", "loras"]
JUNK: list[Any] = [
    None, True, False, 0, -1, 2, 1.5, -0.0, 10**18, 10**30, 2**64, "", "1", "x" * 300, "\0", "é", "²",
    "nan", "Infinity", "-1e999", [], [[]], ["1"], ["1", 0], ["1", 99], ["9", 0], ["2", -1], [1, "0"],
    ["1", True], {}, {"a": {"b": [1]}}, {"__value__": [1]}, {"__value__": {"a": 1}}, [None] * 50,
]  # fmt: skip
HEADERS = {
    "Host": ["", "[", "evil.example", "localhost.", "localhost:99999", "a b", "127.0.0.1\t", "²"],
    "Origin": ["null", "", "http://[", "http://evil.example", "file://", "http://localhost:1"],
    "Content-Type": ["", "text/plain", "x", "application/json; charset=nonsense", 'a/b; c="', "/"],
    "Content-Encoding": ["gzip", "deflate", "br", "identity", "nonsense"],
    "Transfer-Encoding": ["chunked", "gzip", "x"],
    "Content-Length": ["-1", "x", "99999999999999", "1"],
    "Range": ["bytes=0-", "bytes=5-1", "bytes=-1", "x", "bytes=0-0,2-3", "bytes=99999-"],
    "If-Modified-Since": ["x", "Thu, 01 Jan 1970 00:00:00 GMT"],
    "Sec-Fetch-Site": ["cross-site", "none", "x"],
    "Expect": ["100-continue", "x"],
    "Connection": ["Upgrade", "x"],
    "Comfy-User": ["x", "../x"],
}
READ = [
    "/prompt", "/queue", "/history", "/jobs", "/settings", "/users", "/userdata", "/v2/userdata",
    "/object_info", "/extensions", "/i18n", "/system_stats", "/features", "/embeddings", "/models",
    "/workflow_templates", "/experiment/models", "/internal/logs/raw", "/view", "/ws", "/",
]  # fmt: skip
NAMED = [
    "/object_info/", "/history/", "/jobs/", "/settings/", "/userdata/", "/models/", "/view_metadata/",
    "/experiment/models/", "/extensions/", "/", "/templates/",
]  # fmt: skip
QUERIES = [
    "max_items", "offset", "limit", "status", "sort_order", "workflow_id", "filename", "type",
    "subfolder", "preview", "channel", "dir", "path", "recurse", "full_info", "split", "clientId",
    "overwrite",
]  # fmt: skip
VALUES = [
    "-1",
    "0",
    "²",
    "9" * 5000,
    "x",
    "input",
    "output",
    "true",
    "mine.png",
    "jpeg;²",
    "webp;-5",
]
VALUES += ["a", "rgb", "shipped.png", "completed,,", "asc"]
BODIES: list[tuple[str, Any]] = [
    ("/queue", {"clear": True, "delete": ["a"]}),
    ("/history", {"clear": False, "delete": ["a"]}),
    ("/interrupt", {"prompt_id": "a"}),
    ("/free", {"unload_models": True, "free_memory": True}),
    ("/jobs/cancel", {"job_ids": ["a", "b"]}),
    ("/settings", {"Comfy.Locale": "en", "a": [1, {"b": 2}]}),
    ("/settings/a", {"a": 1}),
    ("/userdata/workflows%2Fa.json", {"nodes": []}),
]


@dataclass
class Outcome:
    """What came of an attack: how many answers of each status, and what must not be."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    slowest: float = 0.0


class _Errors(logging.Handler):
    """Keeps what the host itself, or its loop, takes for an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # aiohttp's own are its answers to what is no HTTP, and 500s, which are counted as answers.
        if record.name != "aiohttp.server":
            self.found.append(self.format(record)[-1500:])


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, item in items:
        found += _places(item, (*path, key))
    return found


def damaged(value: Any, dice: random.Random) -> Any:
    """A copy of JSON data with one to three places replaced, removed, renamed or doubled."""
    value = copy.deepcopy(value)
    for _ in range(dice.randint(1, 3)):
        places = [p for p in _places(value) if p] if isinstance(value, (dict, list)) else []
        if not places:
            return dice.choice(JUNK)
        *way, last = dice.choice(places)
        parent = value
        for key in way:
            parent = parent[key]
        what = dice.random()
        if what < 0.6:
            parent[last] = copy.deepcopy(dice.choice(JUNK))
        elif what < 0.8:
            del parent[last]
        elif isinstance(parent, dict):
            key = dice.choice(["", "x", "1", "inputs", "class_type", "\0", "é"])
            parent[key] = copy.deepcopy(parent[last])
        else:
            parent.append(copy.deepcopy(parent[last]))
    return value


def _scratched(data: bytes, dice: random.Random) -> bytes:
    """Bytes with a few of them changed, cut or put in."""
    data = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        what = dice.random()
        if what < 0.4 and at < len(data):
            data[at] = dice.randrange(256)
        elif what < 0.6:
            del data[at : at + dice.randint(1, 20)]
        elif what < 0.7:
            del data[at:]
        else:
            data[at:at] = dice.choice(
                [b"NaN", b"1e999", b"\\ud800", b"[" * 600, b"\xff", b"\0", b'"', b"9" * 5000]
            )
    return bytes(data)


Request = tuple[str, str, bytes, dict[str, str]]


def _prompt(dice: random.Random) -> Request:
    body: dict[str, Any] = {
        "prompt": damaged(dice.choice(PROMPTS), dice),
        "client_id": "attacker",
        "extra_data": {"extra_pnginfo": {"workflow": {"id": "a", "nodes": []}}},
    }
    if dice.random() < 0.3:
        body |= {"number": 1, "front": True, "partial_execution_targets": ["2"]}
        body = damaged(body, dice)
    return "POST", "/prompt", _encoded(body, dice), {}


def _body(dice: random.Random) -> Request:
    path, body = dice.choice(BODIES)
    return "POST", path, _encoded(damaged(body, dice), dice), {}


def _encoded(body: Any, dice: random.Random) -> bytes:
    data = json.dumps(body).encode()
    return _scratched(data, dice) if dice.random() < 0.25 else data


def _name(dice: random.Random) -> str:
    name = dice.choice(NAMES)
    if dice.random() < 0.3:
        name = "".join(chr(dice.choice([0, 10, 37, 46, 47, 92, 97, 233, 0x202E])) for _ in range(9))
    return quote(name.encode(errors="surrogateescape"), safe="" if dice.random() < 0.8 else "/")


def _address(dice: random.Random) -> Request:
    path = dice.choice(READ) if dice.random() < 0.4 else dice.choice(NAMED) + _name(dice)
    if dice.random() < 0.6:
        pairs = [
            f"{dice.choice(QUERIES)}={quote(dice.choice(VALUES)) if dice.random() < 0.6 else _name(dice)}"
            for _ in range(dice.randint(1, 4))
        ]
        path += "?" + "&".join(pairs)
    if dice.random() < 0.3:
        path = "/api" + path
    method = dice.choice(["GET", "GET", "GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS", "PATCH"])
    return method, path, b"", {}


def _move(dice: random.Random) -> Request:
    return "POST", f"/userdata/{_name(dice)}/move/{_name(dice)}", b"", {}


def _form(dice: random.Random) -> Request:
    fields = {
        key: dice.choice([*VALUES, "../x", "{}", '{"filename": "shipped.png", "type": "input"}'])
        for key in ("type", "subfolder", "overwrite", "original_ref")
        if dice.random() < 0.6
    }
    name = dice.choice(
        ["a.png", "../a.png", "a.html", "a" * 252 + ".png", "folder.png", ".png", ""]
    )
    content = png() if dice.random() < 0.5 else _scratched(png(), dice)
    body, kind = form(fields, name, content)
    if dice.random() < 0.5:
        body = _scratched(body, dice)
    return "POST", dice.choice(["/upload/image", "/upload/mask"]), body, {"Content-Type": kind}


def _headers(dice: random.Random) -> Request:
    method, path, body, headers = dice.choice([_prompt, _body, _address, _form])(dice)
    for key in dice.sample(sorted(HEADERS), dice.randint(1, 3)):
        headers = headers | {key: dice.choice(HEADERS[key])}
    return method, path, body, headers


KINDS: list[Callable[[random.Random], Request]] = [
    _prompt, _prompt, _prompt, _body, _body, _address, _address, _move, _form, _headers,
]  # fmt: skip


def _ask(port: int, request: Request) -> tuple[int, bytes]:
    """Status and body of the answer. Raises OSError or HTTPException where there is none."""
    method, path, body, headers = request
    kind = {"Content-Type": "application/json"} if body else {}
    length = {"Content-Length": str(len(body))}
    sent = {"Host": f"127.0.0.1:{port}", "Connection": "close"} | kind | length | headers
    text = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in sent.items())
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as channel:
        channel.sendall(text.encode() + b"\r\n" + body)
        if _is_unfinished(request):
            channel.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(channel, method=method)
        answer.begin()
        return answer.status, b"" if answer.status == 101 else answer.read()


def _is_unfinished(request: Request) -> bool:
    """Whether the head announces more than comes, so that nobody owes an answer."""
    return not request[3].keys().isdisjoint(("Content-Length", "Transfer-Encoding", "Expect"))


def _socket(port: int, dice: random.Random) -> None:
    """A websocket that says nonsense and goes."""
    key = base64.b64encode(os.urandom(16)).decode()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as channel:
        channel.sendall(
            f"GET /ws?clientId={_name(dice)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        channel.recv(200)
        data = _encoded(damaged({"type": "feature_flags", "data": {"a": 1}}, dice), dice)[:120]
        frame = bytes([0x81, 0x80 | len(data)]) + b"\0\0\0\0" + data
        channel.sendall(_scratched(frame, dice) if dice.random() < 0.5 else frame)


def _judge(outcome: Outcome, request: Request, status: int, body: bytes) -> None:
    outcome.statuses[status] += 1
    shown = f"{request[0]} {request[1][:150]} {request[3]} {request[2][:300]!r}"
    if status >= 500:
        outcome.failures.append(f"{status} {body[:300]!r} to {shown}")
    if status in (400, 403, 409, 415) and request[0] != "HEAD" and not body.strip():
        outcome.failures.append(f"{status} without a sentence, {body!r}, to {shown}")


def attack(seed: int, count: int, folder: Path, say: Callable[[str], None] = str) -> Outcome:
    """Sends `count` requests to a server of its own below `folder`."""
    from PIL import Image

    dice, outcome, errors = random.Random(seed), Outcome(), _Errors()
    logging.getLogger().addHandler(errors)
    samples = folder / "samples"
    samples.mkdir()
    Image.new("RGB", (8, 6), (200, 10, 10)).save(samples / "shipped.png")
    bench = Bench(folder / "base", samples)
    (bench.folders.input / "folder.png").mkdir()
    (bench.folders.input / "mine.png").write_bytes(png())
    try:
        with live(bench) as server:
            for number in range(count):
                if number % 50 == 49:
                    _socket(server.port, dice)
                _one(outcome, server.port, dice.choice(KINDS)(dice))
                if number % 1000 == 999:
                    say(f"{number + 1} requests, {len(outcome.failures)} failures")
            client = Client(server.url)
            # Whatever the attack left in the queue first, then a run of our own.
            if not client.run(SUM).ok:
                outcome.failures.append("the queue no longer works")
            _judge_history(outcome, client)
    finally:
        logging.getLogger().removeHandler(errors)
    outcome.failures += [f"logged: {text}" for text in errors.found]
    outcome.failures += [f"left behind: {path}" for path in (folder / "base").rglob("*.part")]
    return outcome


def _one(outcome: Outcome, port: int, request: Request) -> None:
    start = time.monotonic()
    try:
        status, body = _ask(port, request)
    except (OSError, http.client.HTTPException) as error:
        if _is_unfinished(request):
            return
        outcome.failures.append(f"no answer ({error!r}) to {request}"[:800])
        return
    took = time.monotonic() - start
    outcome.slowest = max(outcome.slowest, took)
    if took > HANG:
        outcome.hangs.append(f"{took:.1f} s for {request[0]} {request[1][:100]}")
    _judge(outcome, request, status, body)


def _judge_history(outcome: Outcome, client: Client) -> None:
    def constant(text: str) -> None:
        outcome.failures.append(f"{text} in the history")

    status, body = client.call("/history")
    history = json.loads(body, parse_constant=constant) if status == 200 else {}
    if not history:
        outcome.failures.append(f"no history: {status}")
    for item in history.values():
        for event, data in item["status"]["messages"]:
            kind = data.get("exception_type", "")
            if event == "execution_error" and not kind.startswith(("kontext_core", "standalone")):
                told = {
                    key: data[key] for key in ("node_type", "exception_type", "exception_message")
                }
                outcome.failures.append(
                    f"an untyped error of a node: {told}, {item['prompt'][2]}"[:900]
                )


def main(arguments: list[str]) -> int:
    """The command: 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack requests")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.getLogger("standalone").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        outcome = attack(options.seed, options.count, Path(folder), print)
    print(f"seed {options.seed}: answers by status {dict(sorted(outcome.statuses.items()))}")
    print(f"slowest answer {outcome.slowest:.2f} s, {len(outcome.hangs)} over {HANG:.0f} s")
    for text in (*outcome.hangs[:10], *outcome.failures[:30]):
        print("-", text)
    print(f"{len(outcome.failures)} failures in {options.count} requests")
    return 1 if outcome.failures or outcome.hangs else 0
