"""The editor's graph: where a link's value really comes from, through everything that is only
drawn there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .errors import WorkflowError

MUTED, BYPASSED = 2, 4
SKIPPED = (MUTED, BYPASSED)
# The ids that stand for a subgraph's own inputs and outputs inside it.
INPUTS_ID, OUTPUTS_ID = -10, -20
MAX_DEPTH = 64
# Reroutes, bypasses and subgraph borders that one link may pass.
MAX_STEPS = 200


@dataclass(frozen=True)
class Source:
    """An output of a node that runs."""

    node_id: str
    slot: int


@dataclass(frozen=True)
class Constant:
    """A value that a primitive or a subgraph's own widget holds."""

    value: Any


@dataclass(frozen=True)
class _Link:
    origin: int
    slot: int
    target: int
    target_slot: int

    @classmethod
    def read(cls, raw: Any) -> tuple[int, _Link]:
        """A link of either notation: a list of six, or an object (inside subgraphs)."""
        if isinstance(raw, dict):
            keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
            values = [raw[key] for key in keys]
        else:
            values = list(raw[:5])
        number, *rest = (int(value) for value in values)
        return number, cls(*rest)


@dataclass
class Graph:
    """One level of a workflow: the top, or the inside of one subgraph node."""

    nodes: dict[int, dict[str, Any]]
    links: dict[int, _Link]
    definitions: dict[str, dict[str, Any]]
    definition: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""
    parent: Graph | None = None
    instance: dict[str, Any] = field(default_factory=dict)
    depth: int = 0

    @classmethod
    def top(cls, data: dict[str, Any]) -> Graph:
        """The top level of a workflow file.

        Raises:
            WorkflowError: nodes or links are not as the editor writes them.
        """
        subgraphs = (data.get("definitions") or {}).get("subgraphs") or []
        return cls._read(data, {str(entry["id"]): entry for entry in subgraphs})

    @classmethod
    def _read(
        cls, data: dict[str, Any], definitions: dict[str, dict[str, Any]], **context: Any
    ) -> Graph:
        try:
            nodes = {int(node["id"]): node for node in data["nodes"] if node["type"]}
            links = dict(_Link.read(raw) for raw in data.get("links") or [] if raw)
        except (KeyError, TypeError, ValueError) as error:
            raise WorkflowError(
                f"a node or link of the workflow is damaged ({type(error).__name__}: {error}); "
                "save it anew with the editor"
            ) from error
        return cls(nodes, links, definitions, data, **context)

    def full_id(self, node: dict[str, Any]) -> str:
        """The node's id in API format: inside a subgraph 'outer:inner'."""
        return f"{self.prefix}{node['id']}"

    def is_virtual(self, node: dict[str, Any]) -> bool:
        """Whether the node never runs itself."""
        return node["type"] in ("Reroute", "PrimitiveNode") or node["type"] in self.definitions

    def all(self) -> Iterator[Graph]:
        """This level and the insides of all subgraph nodes that are switched on."""
        yield self
        for node in self.nodes.values():
            if node["type"] in self.definitions and node.get("mode") not in SKIPPED:
                yield from self.inside(node).all()

    def inside(self, node: dict[str, Any]) -> Graph:
        """The inside of a subgraph node.

        Raises:
            WorkflowError: subgraphs contain each other.
        """
        if self.depth >= MAX_DEPTH:
            raise WorkflowError(
                f"subgraphs lie more than {MAX_DEPTH} deep inside each other at node "
                f"{self.full_id(node)}; one probably contains itself"
            )
        return Graph._read(
            self.definitions[node["type"]],
            self.definitions,
            prefix=f"{self.full_id(node)}:",
            parent=self,
            instance=node,
            depth=self.depth + 1,
        )

    def resolve(self, link_id: int, steps: int = 0) -> Source | Constant | None:
        """Where the value of a link comes from; None when nothing is connected in the end.

        Raises:
            WorkflowError: the link is cut (it, or the node it starts at, is not in the file), or
                it runs in a circle.
        """
        link = self.links.get(link_id)
        if link is None:
            raise WorkflowError(
                f"link {link_id} is cut: a node refers to it, but the workflow doesn't contain it; "
                "connect the input again and save"
            )
        if steps > MAX_STEPS:
            raise WorkflowError(f"link {link_id} runs in a circle; connect the inputs anew")
        if link.origin == INPUTS_ID:
            return self._from_outside(link.slot, steps)
        node = self.nodes.get(link.origin)
        if node is None:
            raise WorkflowError(
                f"link {link_id} is cut: it starts at node {self.prefix}{link.origin}, which is not "
                "in the workflow; connect the input again and save"
            )
        mode = node.get("mode")
        if mode == MUTED:
            return None
        if mode == BYPASSED:
            return self._follow(self._bypass(node, link.slot), steps)
        if node["type"] == "Reroute":
            return self._follow((node.get("inputs") or [{}])[0], steps)
        if node["type"] == "PrimitiveNode":
            values = node.get("widgets_values") or []
            return Constant(values[0]) if values else None
        if node["type"] in self.definitions:
            return self.inside(node)._from_inside(link.slot, steps)
        return Source(self.full_id(node), link.slot)

    def _follow(self, slot: dict[str, Any], steps: int) -> Source | Constant | None:
        link = slot.get("link")
        return None if link is None else self.resolve(link, steps + 1)

    def _bypass(self, node: dict[str, Any], slot: int) -> dict[str, Any]:
        """The input that a bypassed node passes on: same place and type, else first of its type."""
        inputs, outputs = node.get("inputs") or [], node.get("outputs") or []
        kind = outputs[slot]["type"] if slot < len(outputs) else "*"
        if slot < len(inputs) and inputs[slot].get("type") in (kind, "*"):
            return inputs[slot]
        same = [entry for entry in inputs if entry.get("type") == kind]
        anything = [entry for entry in inputs if entry.get("type") == "*"]
        return (same or anything or [{}])[0]

    def promoted(self, node: dict[str, Any], name: str) -> Constant | None:
        """The value of a widget that the subgraph node around this level shows as its own."""
        return self._shown(str(node["id"]), name)

    def _shown(self, inside: str, name: str) -> Constant | None:
        """`inside`: the node's id, "-1" for what comes through an input of the subgraph."""
        if self.parent is None:
            return None
        shown = (self.instance.get("properties") or {}).get("proxyWidgets") or []
        keys = [[str(word) for word in entry[:2]] for entry in shown]
        if [inside, name] not in keys:
            return None
        # Further out it may be shown again.
        outer = self.parent.promoted(self.instance, name)
        index, values = keys.index([inside, name]), self.instance.get("widgets_values")
        if outer is None and isinstance(values, list) and index < len(values):
            return None if values[index] is None else Constant(values[index])
        return outer

    def _from_outside(self, slot: int, steps: int) -> Source | Constant | None:
        """The value of a subgraph's input: what is linked to it, or the node's own widget."""
        names = [entry["name"] for entry in self.definition.get("inputs") or []]
        if self.parent is None or slot >= len(names):
            return None
        inputs = self.instance.get("inputs") or []
        outer = next((entry for entry in inputs if entry["name"] == names[slot]), {})
        if outer.get("link") is not None:
            return self.parent.resolve(outer["link"], steps + 1)
        shown = self._shown("-1", names[slot])
        if shown is not None:
            return shown
        widgets = [entry["name"] for entry in inputs if entry.get("widget")]
        values = self.instance.get("widgets_values")
        if isinstance(values, list) and len(values) == len(widgets) and names[slot] in widgets:
            return Constant(values[widgets.index(names[slot])])
        return None

    def _from_inside(self, slot: int, steps: int) -> Source | Constant | None:
        """The value of this subgraph's output."""
        for link_id, link in self.links.items():
            if link.target == OUTPUTS_ID and link.target_slot == slot:
                return self.resolve(link_id, steps + 1)
        return None
