"""Calls a node's functions once per item of its input lists, as ComfyUI does.

Every value between nodes is a list. Most nodes see single items: they are called as often as the
longest list has items, shorter lists repeating their last one. A node with `is_input_list` sees
the lists themselves, in one call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .comfy_api.nodes import ComfyNode, HiddenHolder, NodeOutput
from .errors import WorkflowError


def overrides(cls: type[Any], name: str) -> bool:
    """Whether a node class defines an optional function (the real base class has stubs of all)."""
    return any(
        name in vars(base)
        for base in cls.__mro__
        if base is not object and base.__name__ not in ("ComfyNode", "_ComfyNodeBaseInternal")
    )


async def call_over_lists(
    cls: type[ComfyNode],
    name: str,
    inputs: dict[str, list[Any]],
    hidden: HiddenHolder | None = None,
    before_each: Callable[[], None] | None = None,
) -> list[Any]:
    """The results of all calls, in order. Coroutine functions are awaited."""
    # A class per call keeps the hidden values of one run out of the node class itself.
    bound = type(cls.__name__, (cls,), {"hidden": hidden or HiddenHolder()})
    function = getattr(bound, name)
    if cls.GET_SCHEMA().is_input_list:
        arguments = [dict(inputs)]
    else:
        count = max((len(values) for values in inputs.values()), default=1)
        arguments = (
            [
                {key: values[min(index, len(values) - 1)] for key, values in inputs.items()}
                for index in range(count)
            ]
            if all(inputs.values())
            else []
        )
    results = []
    for kwargs in arguments:
        if before_each is not None:
            before_each()
        result = function(**kwargs)
        results.append(await result if inspect.isawaitable(result) else result)
    return results


def merge_outputs(
    cls: type[ComfyNode], node_id: str, results: list[Any]
) -> tuple[list[list[Any]], dict[str, list[Any]]]:
    """The outputs of all calls as one list per output, and what the node shows, merged.

    Raises:
        WorkflowError: the node returned something else than its schema says.
    """
    schema = cls.GET_SCHEMA()
    merged: list[list[Any]] = [[] for _ in schema.outputs]
    shown: dict[str, list[Any]] = {}
    for result in results:
        values, ui = _unpack(result)
        if len(values) != len(merged) and (values or merged):
            raise WorkflowError(
                f"node {node_id} ({schema.node_id}) returned {len(values)} outputs, its schema "
                f"has {len(merged)}; this is a fault of the node"
            )
        for target, value, socket in zip(merged, values, schema.outputs, strict=True):
            if socket.is_output_list:
                target.extend(value)
            else:
                target.append(value)
        for key, entries in ui.items():
            shown.setdefault(key, []).extend(entries)
    return merged, shown


def _unpack(result: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if result is None:
        return (), {}
    if isinstance(result, tuple):
        return result, {}
    if isinstance(result, dict):
        return tuple(result.get("result") or ()), result.get("ui") or {}
    if isinstance(result, NodeOutput) or hasattr(result, "args"):
        ui = result.ui
        if ui is not None and not isinstance(ui, dict):
            ui = ui.as_dict()
        return tuple(result.args), ui or {}
    raise WorkflowError(
        f"a node returned a {type(result).__name__}; expected io.NodeOutput, a tuple or nothing"
    )
