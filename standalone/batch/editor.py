"""Workflows in the editor's own format as prompts, for plain graphs.

Whatever only the editor can work out (subgraphs, primitives, nodes of its own) is refused with
the way to save API format instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kontext_core.errors import InputError

from .workflow import SEEDS, Prompt

__all__ = ["is_editor_format", "to_prompt"]

MUTED, BYPASSED = 2, 4
NOTES = ("Note", "MarkdownNote")
REROUTE = "Reroute"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
CONTROLS = ("fixed", "increment", "decrement", "randomize")
# The hidden button beside a picture's name is saved as a value of its own.
UPLOAD_BUTTON = "image"
ADVICE = "save the workflow with the editor's menu: Export (API)"

Info = dict[str, Any]


def is_editor_format(data: dict[str, Any]) -> bool:
    """Whether a workflow file's content is the editor's format."""
    return isinstance(data.get("nodes"), list)


def to_prompt(data: dict[str, Any], node_info: Callable[[str], Info | None]) -> Prompt:
    """The prompt that the editor's Queue button would send.

    Args:
        node_info: a node type's entry of a server's object_info; None if it has none.

    Raises:
        InputError: the graph needs the editor, or is damaged, or a node is unknown.
    """
    try:
        return _Graph(data).prompt(node_info)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the workflow is damaged ({type(error).__name__}: {error}); {ADVICE}"
        ) from error


class _Graph:
    def __init__(self, data: dict[str, Any]) -> None:
        if (data.get("definitions") or {}).get("subgraphs"):
            raise InputError(f"the workflow has subgraphs, which only the editor unpacks; {ADVICE}")
        self.nodes = {str(node["id"]): node for node in data["nodes"]}
        # By id: source node, its output, the link's type.
        self.links = {
            int(link[0]): (str(link[1]), int(link[2]), link[5]) for link in data.get("links") or []
        }

    def prompt(self, node_info: Callable[[str], Info | None]) -> Prompt:
        infos: dict[str, Info] = {}
        prompt: Prompt = {}
        for key, node in self.nodes.items():
            kind = node["type"]
            if kind in NOTES or kind == REROUTE or node.get("mode") in (MUTED, BYPASSED):
                continue
            if kind == "PrimitiveNode":
                raise InputError(
                    f"node {key} is a primitive, which only the editor knows; {ADVICE}"
                )
            if kind not in infos:
                found = node_info(kind)
                if found is None:
                    raise InputError(
                        f"node {key} is of the type {kind!r}, which the server does not know; "
                        "install its pack there"
                    )
                infos[kind] = found
            prompt[key] = self._node(node, infos[kind])
        if not prompt:
            raise InputError("the workflow has no nodes that could run; unmute or add some")
        return prompt

    def _node(self, node: dict[str, Any], info: Info) -> dict[str, Any]:
        specs = _specs(info)
        inputs = _widgets(node, specs)
        for slot in node.get("inputs") or []:
            source = None if slot.get("link") is None else self._source(int(slot["link"]))
            if source is not None and slot["name"] in specs:
                inputs[slot["name"]] = source
        title = node.get("title") or info.get("display_name") or node["type"]
        return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}

    def _source(self, link: int, passed: int = 0) -> list[Any] | None:
        """[node, output] that a link's value comes from; None when it comes from nowhere."""
        origin, slot, kind = self.links[link]
        node = self.nodes[origin]
        if passed > len(self.nodes):
            raise InputError(f"link {link} runs in a circle; {ADVICE}")
        if node["type"] != REROUTE and node.get("mode") not in (MUTED, BYPASSED):
            return [origin, slot]
        if node.get("mode") == MUTED:
            return None
        into = node.get("inputs") or []
        if node["type"] != REROUTE:
            # A bypassed node hands on the input in the same place if it fits, else the first.
            same = [one for one in into if one.get("type") == kind]
            at = [into[slot]] if slot < len(into) and into[slot] in same else []
            into = at or same
        if not into or into[0].get("link") is None:
            return None
        return self._source(int(into[0]["link"]), passed + 1)


def _specs(info: Info) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Inputs in the editor's order: type and options."""
    found = {}
    for kind in ("required", "optional"):
        for name, entry in (info["input"].get(kind) or {}).items():
            found[name] = (entry[0], entry[1] if len(entry) > 1 else {})
    return found


def _widgets(node: dict[str, Any], specs: dict[str, tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    """Values by input name out of `widgets_values`, which is in the order of the widgets."""
    stored = node.get("widgets_values") or []
    names = [
        name
        for name, (kind, options) in specs.items()
        if (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput")
    ]
    if isinstance(stored, dict):
        return {name: stored[name] for name in names if name in stored}
    rest, found = list(stored), {}
    upload = any(specs[name][1].get("image_upload") for name in names)
    for index, name in enumerate(names):
        options = specs[name][1]
        if not rest:
            break
        found[name] = rest.pop(0)
        controlled = options.get("control_after_generate") or name in SEEDS
        if controlled and rest and rest[0] in CONTROLS:
            rest.pop(0)
        # Where the button stands depends on the editor's version.
        if upload and rest and rest[0] == UPLOAD_BUTTON and len(rest) > len(names) - index - 1:
            rest.pop(0)
    return found
