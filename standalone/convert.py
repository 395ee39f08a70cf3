"""Workflow files as prompts: the editor's own format becomes API format, as its Queue button does.

What exists only in the editor disappears here: notes, reroutes, primitives, muted and bypassed
nodes, and subgraphs, whose inner nodes get ids 'outer:inner'.
"""

from __future__ import annotations

from typing import Any

from .comfy_api.nodes import ComfyNode
from .errors import WorkflowError
from .graph import SKIPPED, Graph, Source
from .prompt import InputSpec, Prompt, inputs_of

__all__ = ["NOTES", "is_editor_format", "to_prompt"]

NOTES = ("Note", "MarkdownNote")
CONTROLS = ("fixed", "increment", "decrement", "randomize")
SEED_NAMES = ("seed", "noise_seed")
# The hidden button beside a picture's name is saved as a value of its own.
UPLOAD_BUTTON = "image"


def is_editor_format(data: Any) -> bool:
    """Whether a workflow file's content is the editor's format (else it should be API format)."""
    return isinstance(data, dict) and isinstance(data.get("nodes"), list)


def to_prompt(data: Any, nodes: dict[str, type[ComfyNode]]) -> Prompt:
    """A workflow of either format as a prompt in API format; `data` is not changed.

    Raises:
        WorkflowError: it is neither format, a node is of an unknown type, or a link is cut.
    """
    if not isinstance(data, dict):
        raise WorkflowError(
            f"a workflow is a JSON object, this is a {type(data).__name__}; save it anew with the "
            "editor's Save or Export (API)"
        )
    if is_editor_format(data):
        return _from_editor(data, nodes)
    if isinstance(data.get("prompt"), dict) and "class_type" not in data["prompt"]:
        data = data["prompt"]
    if not data or not all(isinstance(node, dict) for node in data.values()):
        raise WorkflowError(
            "this JSON is no workflow: it has neither the editor's 'nodes' nor nodes by id as in "
            "API format; save it anew with the editor's Save or Export (API)"
        )
    return {
        str(key): {**node, "inputs": dict(node.get("inputs") or {})} for key, node in data.items()
    }


def _from_editor(data: dict[str, Any], nodes: dict[str, type[ComfyNode]]) -> Prompt:
    prompt: Prompt = {}
    for graph in Graph.top(data).all():
        for node in graph.nodes.values():
            if node["type"] in NOTES or node.get("mode") in SKIPPED or graph.is_virtual(node):
                continue
            cls = nodes.get(node["type"])
            if cls is None:
                title = node.get("title") or node["type"]
                raise WorkflowError(
                    f"node {graph.full_id(node)} ('{title}') is of the type {node['type']!r}, which "
                    "is unknown here; install the pack it belongs to in ComfyUI, or remove it"
                )
            prompt[graph.full_id(node)] = _node(graph, node, cls)
    if not prompt:
        raise WorkflowError("the workflow has no nodes that could run; unmute or add some")
    return prompt


def _node(graph: Graph, node: dict[str, Any], cls: type[ComfyNode]) -> dict[str, Any]:
    specs = inputs_of(cls)
    values = widget_values(node, specs)
    inputs: dict[str, Any] = {}
    slots = {slot["name"]: slot for slot in node.get("inputs") or []}
    for name, spec in specs.items():
        if name in values:
            value = values[name]
            # A list would be taken for a link.
            inputs[name] = {"__value__": value} if isinstance(value, list) else value
        link = (slots.get(name) or {}).get("link")
        source = None if link is None else graph.resolve(link)
        if isinstance(source, Source):
            inputs[name] = [source.node_id, source.slot]
        elif source is not None and spec.is_widget:
            inputs[name] = source.value
    title = node.get("title") or cls.GET_SCHEMA().display_name or node["type"]
    return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}


def widget_values(node: dict[str, Any], specs: dict[str, InputSpec]) -> dict[str, Any]:
    """The values of a node's widgets by input name.

    `widgets_values` is a list in widget order. After a seed stands what happens to it after a
    run, and after the required inputs of a node with an upload button stands that button.
    """
    stored = node.get("widgets_values") or []
    widgets = [spec for spec in specs.values() if spec.is_widget]
    if isinstance(stored, dict):
        return {spec.name: stored[spec.name] for spec in widgets if spec.name in stored}
    rest = list(stored)
    result: dict[str, Any] = {}
    has_upload = any(spec.options.get("image_upload") for spec in widgets)
    for index, spec in enumerate(widgets):
        if rest:
            result[spec.name] = rest.pop(0)
        elif "default" in spec.options:
            result[spec.name] = spec.options["default"]
        elif spec.choices:
            result[spec.name] = spec.choices[0]
        controlled = spec.options.get("control_after_generate") or spec.name in SEED_NAMES
        if controlled and rest and rest[0] in CONTROLS:
            rest.pop(0)
        ends_required = spec.required and not any(s.required for s in widgets[index + 1 :])
        if has_upload and ends_required and rest and rest[0] == UPLOAD_BUTTON:
            rest.pop(0)
    return result
