"""The embedded host with small nodes: its engine, and the same behind HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# First: makes `standalone` importable.
from embedded_nodes import FAKES, Number, Picky, Steps

from standalone import runtime
from standalone.comfy_api import nodes as n
from standalone.engine import Engine, Job, Outcome
from standalone.folders import Folders
from standalone.loader import Registry
from standalone.plain import PLAIN_NODES
from standalone.validation import validate


class Recorder:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.previews: list[Any] = []

    def send(self, event: str, data: dict[str, Any]) -> None:
        self.messages.append((event, data))

    def preview(self, image: Any, node: dict[str, Any]) -> None:
        self.previews.append((image, node))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [data for name, data in self.messages if name == event]


class Bench:
    """An engine with the fake and the plain nodes, its folders below `base`."""

    def __init__(self, base: Path, samples: Path | None = None) -> None:
        Number.calls.clear()
        Steps.reached.clear()
        Steps.go_on.set()
        Picky.mark = "a"
        self.folders = Folders.below(base, samples)
        self.folders.input.mkdir(parents=True, exist_ok=True)
        self.runtime = runtime.Runtime(self.folders)
        runtime.install(self.runtime)
        self.nodes: dict[str, type[n.ComfyNode]] = dict(PLAIN_NODES)
        self.nodes |= {fake.__name__: fake for fake in FAKES}
        self.engine = Engine(self.nodes, self.runtime)

    def run(self, prompt: dict[str, Any], **extra: Any) -> tuple[Outcome, Recorder]:
        """Validates and runs a prompt."""
        checked = asyncio.run(validate(prompt, self.nodes))
        recorder = Recorder()
        job = Job("00000000-0000-4000-8000-000000000000", prompt, checked.outputs, extra)
        return self.engine.run(job, recorder), recorder

    def shown(self, prompt: dict[str, Any]) -> list[str]:
        """What the Show nodes of a prompt show, in order."""
        outcome, _ = self.run(prompt)
        assert outcome.status == "success", outcome.error
        return [text for ui in outcome.outputs.values() for text in ui["text"]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """A node of a prompt."""
    return {"class_type": class_type, "inputs": inputs}


@contextlib.contextmanager
def live(
    bench: Bench, packs: list[Any] | None = None, gate: Any = None
) -> Iterator[SimpleNamespace]:
    """The bench behind HTTP on a free port: `.url`, `.port`; a frontend of one page."""
    from aiohttp import web

    from standalone.server.app import build_app

    frontend = bench.folders.user.parent / "frontend"
    (frontend / "extensions/core").mkdir(parents=True, exist_ok=True)
    (frontend / "extensions/core/own.js").write_text("//")
    (frontend / "index.html").write_text("<title>editor</title>")
    registry = Registry(bench.nodes, packs or [])
    loop = asyncio.new_event_loop()
    result = SimpleNamespace()
    started, stopping = threading.Event(), asyncio.Event()

    async def main() -> None:
        runner = web.AppRunner(
            build_app(registry, bench.runtime, frontend, gate), shutdown_timeout=1
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        result.port = runner.addresses[0][1]
        result.url = f"http://127.0.0.1:{result.port}"
        started.set()
        await stopping.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    if not started.wait(30):
        raise RuntimeError("the server did not start within 30 s")
    try:
        yield result
    finally:
        Steps.go_on.set()
        loop.call_soon_threadsafe(stopping.set)
        thread.join(30)
        loop.close()


def fetch(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
    """`.status`, `.body` and `.headers` of an answer, whatever the status."""
    request = urllib.request.Request(url, data=body, method=method)
    if body is not None:
        request.add_header("Content-Type", "application/json")
    for key, value in headers.items():
        request.add_header(key.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return SimpleNamespace(status=answer.status, body=answer.read(), headers=answer.headers)
    except urllib.error.HTTPError as error:
        return SimpleNamespace(status=error.code, body=error.read(), headers=error.headers)


def wait_for(condition: Any) -> None:
    """Returns once the condition holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for 60 s"
        time.sleep(0.01)
