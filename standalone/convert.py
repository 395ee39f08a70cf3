"""Workflow files as prompts: the editor's own format becomes API format, as its Run button does.

What exists only in the editor disappears here: notes, reroutes, primitives, muted and bypassed
nodes, and subgraphs, whose inner nodes get ids 'outer:inner'. What nodes look like is told by
`object_info`, so that it serves nodes of this process and of any server alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kontext_core.small_files import read_small_text

from .comfy_api.nodes import ComfyNode
from .errors import WorkflowError
from .graph import SKIPPED, Graph, Source
from .prompt import SEEDS, InputSpec, NodeInfo, Prompt, specs_of
from .templates import with_older_name

NOTES = ("Note", "MarkdownNote")
CONTROLS = ("fixed", "increment", "decrement", "randomize")
# The hidden button beside a picture's name is saved as a value of its own.
UPLOAD_BUTTON = "image"
# What the editor starts a widget with whose node names no default.
EMPTY = {"INT": 0, "FLOAT": 0, "STRING": "", "BOOLEAN": False}


def read_workflow(path: Path) -> Any:
    """The content of a workflow file, of either format or of none: `to_prompt` judges that.
    Templates are also found by the names that they once had.

    Raises:
        WorkflowError: it is not there, or not JSON.
    """
    try:
        text = read_small_text(with_older_name(path))
    except (OSError, ValueError) as error:
        raise WorkflowError(
            f"the workflow {path} can't be read ({error}); check the path"
        ) from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WorkflowError(
            f"{path} is not JSON ({error}); save the workflow anew with the editor's Save or "
            "Export (API)"
        ) from error


def is_editor_format(data: Any) -> bool:
    """Whether a workflow file's content is the editor's format (else it should be API format)."""
    return isinstance(data, dict) and isinstance(data.get("nodes"), list)


def info_of(nodes: Mapping[str, type[ComfyNode]]) -> Callable[[str], NodeInfo | None]:
    """`node_info` for nodes of this process."""

    def ask(kind: str) -> NodeInfo | None:
        return nodes[kind].GET_NODE_INFO_V1() if kind in nodes else None

    return ask


def to_prompt(data: Any, node_info: Callable[[str], NodeInfo | None]) -> Prompt:
    """A workflow of either format as a prompt in API format; `data` is not changed.

    Args:
        node_info: a node type's entry of `object_info`, None for a type that is not there. It is
            asked once for each type, and not at all where `data` is in API format.

    Raises:
        WorkflowError: it is neither format, a node is of an unknown type, or a link is cut.
    """
    if not isinstance(data, dict):
        raise WorkflowError(
            f"a workflow is a JSON object, this is a {type(data).__name__}; save it anew with the "
            "editor's Save or Export (API)"
        )
    if is_editor_format(data):
        return _from_editor(data, node_info)
    if isinstance(data.get("prompt"), dict) and "class_type" not in data["prompt"]:
        data = data["prompt"]
    if not data or not all(_is_node(node) for node in data.values()):
        raise WorkflowError(
            "this JSON is not a workflow: it has neither the editor's 'nodes' nor nodes by id as "
            "in API format; save it anew with the editor's Save or Export (API)"
        )
    return {
        str(key): {**node, "inputs": dict(node.get("inputs", {}))} for key, node in data.items()
    }


def _is_node(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("class_type"), str)
        and isinstance(value.get("inputs", {}), dict)
    )


def _from_editor(data: dict[str, Any], node_info: Callable[[str], NodeInfo | None]) -> Prompt:
    prompt: Prompt = {}
    known: dict[str, NodeInfo | None] = {}
    for graph in Graph.top(data).all():
        for node in graph.nodes.values():
            kind = node["type"]
            if kind in NOTES or node.get("mode") in SKIPPED or graph.is_virtual(node):
                continue
            if kind not in known:
                known[kind] = node_info(kind)
            info = known[kind]
            if info is None:
                title = node.get("title") or kind
                raise WorkflowError(
                    f"node {graph.full_id(node)} ('{title}') is of the type {kind!r}, which is "
                    "unknown here; install the pack it belongs to, or remove it"
                )
            prompt[graph.full_id(node)] = _node(graph, node, info)
    if not prompt:
        raise WorkflowError("the workflow has no nodes that could run; unmute or add some")
    return prompt


def _node(graph: Graph, node: dict[str, Any], info: NodeInfo) -> dict[str, Any]:
    specs = specs_of(info["input"])
    values = _widget_values(node, specs)
    inputs: dict[str, Any] = {}
    slots = {slot["name"]: slot for slot in node.get("inputs") or []}
    for name in specs:
        if name in values:
            outside = graph.promoted(node, name)
            value = values[name] if outside is None else outside.value
            # A list would be taken for a link.
            inputs[name] = {"__value__": value} if isinstance(value, list) else value
        link = (slots.get(name) or {}).get("link")
        source = None if link is None else graph.resolve(link)
        if isinstance(source, Source):
            inputs[name] = [source.node_id, source.slot]
        elif source is not None and name in values:
            inputs[name] = source.value
    title = node.get("title") or info.get("display_name") or node["type"]
    return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}


def _widget_values(node: dict[str, Any], specs: dict[str, InputSpec]) -> dict[str, Any]:
    """The values of a node's widgets by input name.

    `widgets_values` is a list in widget order. After a seed stands what happens to it after a
    run, and somewhere behind the picture of a node with an upload button stands that button. A
    widget that the file does not know yet has the value that the editor would give it.
    """
    stored = node.get("widgets_values") or []
    # Newer editors list every widget among the inputs, those of types that are unknown here too.
    listed = {slot["name"] for slot in node.get("inputs") or [] if slot.get("widget")}
    widgets = [spec for spec in specs.values() if spec.is_widget or spec.name in listed]
    if isinstance(stored, dict):
        return {spec.name: stored.get(spec.name, _default(spec)) for spec in widgets}
    rest = list(stored)
    result: dict[str, Any] = {}
    has_upload = any(spec.options.get("image_upload") for spec in widgets)
    for index, spec in enumerate(widgets):
        result[spec.name] = rest.pop(0) if rest else _default(spec)
        controlled = spec.options.get("control_after_generate") or spec.name in SEEDS
        if controlled and rest and rest[0] in CONTROLS:
            rest.pop(0)
        left = widgets[index + 1 :]
        # Which of the two depends on the editor's version.
        here = (spec.required and not any(s.required for s in left)) or len(rest) > len(left)
        if has_upload and here and rest and rest[0] == UPLOAD_BUTTON:
            rest.pop(0)
    return result


def _default(spec: InputSpec) -> Any:
    if "default" in spec.options:
        return spec.options["default"]
    if spec.choices:
        return spec.choices[0]
    return EMPTY.get(spec.type) if isinstance(spec.type, str) else None
