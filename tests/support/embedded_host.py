"""Makes `standalone` importable without the checkout on the path, and small nodes to try it on."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def _load() -> None:
    """Registers the package by its file: the root must not be on the path (docs/adr/0004)."""
    if "standalone" in sys.modules:
        return
    folder = ROOT / "standalone"
    spec = importlib.util.spec_from_file_location(
        "standalone", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["standalone"] = module
    spec.loader.exec_module(module)


_load()

from standalone import runtime  # noqa: E402
from standalone.comfy_api import nodes as n  # noqa: E402
from standalone.comfy_api import sockets as io  # noqa: E402
from standalone.engine import Engine, Job, Outcome  # noqa: E402
from standalone.folders import Folders  # noqa: E402
from standalone.loader import Registry  # noqa: E402
from standalone.plain import PLAIN_NODES  # noqa: E402
from standalone.validation import validate  # noqa: E402


class Number(n.ComfyNode):
    """A constant."""

    calls: list[int] = []

    @classmethod
    def define_schema(cls) -> n.Schema:
        number = io.Int.Input("number", default=1, min=0, max=100)
        return n.Schema(node_id="Number", inputs=[number], outputs=[io.Int.Output("value")])

    @classmethod
    def execute(cls, number: int) -> n.NodeOutput:
        Number.calls.append(number)
        return n.NodeOutput(number)


class Add(n.ComfyNode):
    """a + b, in a coroutine."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        inputs = [io.Int.Input("a", default=0), io.Int.Input("b", default=0, optional=True)]
        return n.Schema(node_id="Add", inputs=inputs, outputs=[io.Int.Output("sum")])

    @classmethod
    async def execute(cls, a: int, b: int = 0) -> n.NodeOutput:
        await asyncio.sleep(0)
        return n.NodeOutput(a + b)


class Choose(n.ComfyNode):
    """One of two lazy inputs."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        return n.Schema(
            node_id="Choose",
            inputs=[
                io.Boolean.Input("second", default=False),
                io.Int.Input("one", lazy=True),
                io.Int.Input("two", lazy=True),
            ],
            outputs=[io.Int.Output("chosen")],
        )

    @classmethod
    def check_lazy_status(cls, second: bool, one: Any = None, two: Any = None) -> list[str]:
        return ["two" if second else "one"]

    @classmethod
    def execute(cls, second: bool, one: Any = None, two: Any = None) -> n.NodeOutput:
        return n.NodeOutput(two if second else one)


class Spread(n.ComfyNode):
    """0 .. count-1 as a list, so that what follows runs once per item."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        output = io.Int.Output("items", is_output_list=True)
        return n.Schema(node_id="Spread", inputs=[io.Int.Input("count")], outputs=[output])

    @classmethod
    def execute(cls, count: int) -> n.NodeOutput:
        return n.NodeOutput(list(range(count)))


class Total(n.ComfyNode):
    """The sum of a list, seen as a whole."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        inputs = [io.Int.Input("items")]
        outputs = [io.Int.Output("sum")]
        return n.Schema(node_id="Total", inputs=inputs, outputs=outputs, is_input_list=True)

    @classmethod
    def execute(cls, items: list[int]) -> n.NodeOutput:
        return n.NodeOutput(sum(items))


class Show(n.ComfyNode):
    """Shows a number; the graph's output."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        inputs = [io.MultiType.Input("value", [io.Int, io.String])]
        return n.Schema(node_id="Show", display_name="Show It", inputs=inputs, is_output_node=True)

    @classmethod
    def execute(cls, value: Any) -> n.NodeOutput:
        return n.NodeOutput(ui={"text": [str(value)]})


class Peek(n.ComfyNode):
    """Shows what it passes on."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        return n.Schema(
            node_id="Peek", inputs=[io.Int.Input("value")], outputs=[io.Int.Output("same")]
        )

    @classmethod
    def execute(cls, value: int) -> n.NodeOutput:
        return n.NodeOutput(value, ui={"text": [f"peek {value}"]})


class Words(n.ComfyNode):
    """Every kind of widget."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        return n.Schema(
            node_id="Words",
            inputs=[
                io.String.Input("text", multiline=True, default="hello"),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
                io.Combo.Input("mood", options=["calm", "loud"]),
                io.Float.Input("strength", default=0.5, min=0.0, max=1.0, step=0.1),
            ],
            outputs=[io.String.Output("words")],
        )

    @classmethod
    def execute(cls, text: str, seed: int, mood: str, strength: float) -> n.NodeOutput:
        return n.NodeOutput(f"{text} {seed} {mood} {strength}")


class Steps(n.ComfyNode):
    """Works step by step until it is told to stop; `reached` is set at the first step."""

    reached = threading.Event()
    go_on = threading.Event()

    @classmethod
    def define_schema(cls) -> n.Schema:
        inputs = [io.Int.Input("count", default=3, min=1)]
        return n.Schema(node_id="Steps", inputs=inputs, outputs=[io.Int.Output("value")])

    @classmethod
    def execute(cls, count: int) -> n.NodeOutput:
        from PIL import Image

        progress = runtime.current().progress(count)
        for step in range(1, count + 1):
            Steps.reached.set()
            if not Steps.go_on.wait(60):
                raise TimeoutError("nobody let the node go on")
            progress.update(step, Image.new("RGB", (1024, 8), (step, 0, 0)))
        return n.NodeOutput(count)


class Fail(n.ComfyNode):
    """Raises."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        inputs = [io.Int.Input("value")]
        return n.Schema(node_id="Fail", inputs=inputs, outputs=[io.Int.Output("never")])

    @classmethod
    def execute(cls, value: int) -> n.NodeOutput:
        raise ValueError(f"{value} is no good")


class Picky(n.ComfyNode):
    """Checks its own input, and is run anew when `mark` changes."""

    mark: Any = "a"

    @classmethod
    def define_schema(cls) -> n.Schema:
        inputs = [io.Int.Input("value", max=3)]
        return n.Schema(node_id="Picky", inputs=inputs, outputs=[io.Int.Output("same")])

    @classmethod
    def validate_inputs(cls, value: int | None = None) -> bool | str:
        return True if value is None or value < 10 else f"{value} is too much"

    @classmethod
    def fingerprint_inputs(cls, value: int | None = None) -> Any:
        return Picky.mark

    @classmethod
    def execute(cls, value: int) -> n.NodeOutput:
        Number.calls.append(value)
        return n.NodeOutput(value)


class Who(n.ComfyNode):
    """Its own id, and whether it was given the workflow."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        hidden = [n.Hidden.unique_id, n.Hidden.extra_pnginfo]
        outputs = [io.String.Output("name")]
        return n.Schema(node_id="Who", hidden=hidden, outputs=outputs)

    @classmethod
    def execute(cls) -> n.NodeOutput:
        return n.NodeOutput(f"{cls.hidden.unique_id} {cls.hidden.extra_pnginfo}")


FAKES = (Number, Add, Choose, Spread, Total, Show, Peek, Words, Steps, Fail, Picky, Who)


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
def live(bench: Bench, packs: list[Any] | None = None) -> Iterator[SimpleNamespace]:
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
        runner = web.AppRunner(build_app(registry, bench.runtime, frontend), shutdown_timeout=1)
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
