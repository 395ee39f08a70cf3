"""Makes `standalone` importable without the checkout on the path, and small nodes to try it on."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
from pathlib import Path
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
from standalone.comfy_api import sockets, widgets  # noqa: E402


class Number(n.ComfyNode):
    """A constant."""

    calls: list[int] = []

    @classmethod
    def define_schema(cls) -> n.Schema:
        number = widgets.Int.Input("number", default=1, min=0, max=100)
        return n.Schema(node_id="Number", inputs=[number], outputs=[widgets.Int.Output("value")])

    @classmethod
    def execute(cls, number: int) -> n.NodeOutput:
        Number.calls.append(number)
        return n.NodeOutput(number)


class Add(n.ComfyNode):
    """a + b, in a coroutine."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        inputs = [
            widgets.Int.Input("a", default=0),
            widgets.Int.Input("b", default=0, optional=True),
        ]
        return n.Schema(node_id="Add", inputs=inputs, outputs=[widgets.Int.Output("sum")])

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
                widgets.Boolean.Input("second", default=False),
                widgets.Int.Input("one", lazy=True),
                widgets.Int.Input("two", lazy=True),
            ],
            outputs=[widgets.Int.Output("chosen")],
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
        output = widgets.Int.Output("items", is_output_list=True)
        return n.Schema(node_id="Spread", inputs=[widgets.Int.Input("count")], outputs=[output])

    @classmethod
    def execute(cls, count: int) -> n.NodeOutput:
        return n.NodeOutput(list(range(count)))


class Total(n.ComfyNode):
    """The sum of a list, seen as a whole."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        inputs = [widgets.Int.Input("items")]
        outputs = [widgets.Int.Output("sum")]
        return n.Schema(node_id="Total", inputs=inputs, outputs=outputs, is_input_list=True)

    @classmethod
    def execute(cls, items: list[int]) -> n.NodeOutput:
        return n.NodeOutput(sum(items))


class Show(n.ComfyNode):
    """Shows a number; the graph's output."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        inputs = [sockets.MultiType.Input("value", [widgets.Int, widgets.String])]
        return n.Schema(node_id="Show", display_name="Show It", inputs=inputs, is_output_node=True)

    @classmethod
    def execute(cls, value: Any) -> n.NodeOutput:
        return n.NodeOutput(ui={"text": [str(value)]})


class Peek(n.ComfyNode):
    """Shows what it passes on."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        return n.Schema(
            node_id="Peek",
            inputs=[widgets.Int.Input("value")],
            outputs=[widgets.Int.Output("same")],
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
                widgets.String.Input("text", multiline=True, default="hello"),
                widgets.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True
                ),
                widgets.Combo.Input("mood", options=["calm", "loud"]),
                widgets.Float.Input("strength", default=0.5, min=0.0, max=1.0, step=0.1),
            ],
            outputs=[widgets.String.Output("words")],
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
        inputs = [widgets.Int.Input("count", default=3, min=1)]
        return n.Schema(node_id="Steps", inputs=inputs, outputs=[widgets.Int.Output("value")])

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
        inputs = [widgets.Int.Input("value")]
        return n.Schema(node_id="Fail", inputs=inputs, outputs=[widgets.Int.Output("never")])

    @classmethod
    def execute(cls, value: int) -> n.NodeOutput:
        raise ValueError(f"{value} is wrong")


class Picky(n.ComfyNode):
    """Checks its own input, and is run anew when `mark` changes."""

    mark: Any = "a"

    @classmethod
    def define_schema(cls) -> n.Schema:
        inputs = [widgets.Int.Input("value", max=3)]
        return n.Schema(node_id="Picky", inputs=inputs, outputs=[widgets.Int.Output("same")])

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
        outputs = [widgets.String.Output("name")]
        return n.Schema(node_id="Who", hidden=hidden, outputs=outputs)

    @classmethod
    def execute(cls) -> n.NodeOutput:
        return n.NodeOutput(f"{cls.hidden.unique_id} {cls.hidden.extra_pnginfo}")


FAKES = (Number, Add, Choose, Spread, Total, Show, Peek, Words, Steps, Fail, Picky, Who)
