"""Which nodes need not run again: outputs kept under a signature of all that led to them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import uuid
from dataclasses import dataclass, field
from typing import Any

from .calls import call_over_lists, overrides
from .comfy_api.nodes import ComfyNode, Hidden
from .prompt import Prompt, inputs_of, is_link

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cached:
    """What a node gave: one list per output, and what it shows in the editor."""

    outputs: list[list[Any]]
    ui: dict[str, Any]


@dataclass
class OutputCache:
    """Outputs of the last run only: what a new prompt doesn't use is dropped before it starts."""

    entries: dict[str, Cached] = field(default_factory=dict)

    def keep(self, wanted: set[str]) -> None:
        self.entries = {key: value for key, value in self.entries.items() if key in wanted}

    def clear(self) -> None:
        self.entries = {}


async def signatures(prompt: Prompt, nodes: dict[str, type[ComfyNode]]) -> dict[str, str]:
    """A signature per node: its class, its constants, its fingerprint, and those of its sources.

    Two equal signatures mean equal outputs. A node whose fingerprint is NaN, or that fails to
    give one, gets a signature that never comes back.
    """
    result: dict[str, str] = {}
    for start in prompt:
        # Sources first, without recursion: a long chain must not exhaust the stack.
        waiting, found = [start], {start}
        while waiting:
            node_id = waiting[-1]
            if node_id in result:
                waiting.pop()
                continue
            sources = [v[0] for v in prompt[node_id]["inputs"].values() if is_link(v)]
            missing = [s for s in sources if s in prompt and s not in result and s not in found]
            if missing:
                waiting += missing
                found.update(missing)
                continue
            result[node_id] = await _signature(node_id, prompt, nodes, result)
            waiting.pop()
    return result


async def _signature(
    node_id: str, prompt: Prompt, nodes: dict[str, type[ComfyNode]], known: dict[str, str]
) -> str:
    node = prompt[node_id]
    cls = nodes[node["class_type"]]
    schema = cls.GET_SCHEMA()
    inputs = {
        name: ["link", known.get(value[0], ""), value[1]] if is_link(value) else ["value", value]
        for name, value in node["inputs"].items()
    }
    parts: list[Any] = [node["class_type"], inputs, await _fingerprint(cls, node)]
    if schema.not_idempotent or Hidden.unique_id in schema.hidden:
        parts.append(node_id)
    text = json.dumps(parts, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


async def _fingerprint(cls: type[ComfyNode], node: dict[str, Any]) -> Any:
    """The node's own fingerprint of its constants; linked inputs are None to it."""
    if not overrides(cls, "fingerprint_inputs"):
        return None
    given = {
        name: [None if is_link(value) else value]
        for name, value in node["inputs"].items()
        if name in inputs_of(cls)
    }
    try:
        results = await call_over_lists(cls, "fingerprint_inputs", given)
    except Exception as error:  # ComfyUI too runs such a node each time, with a warning
        log.warning("fingerprint_inputs of %s failed", node["class_type"], exc_info=error)
        return uuid.uuid4().hex
    if any(isinstance(value, float) and math.isnan(value) for value in results):
        return uuid.uuid4().hex
    return results
