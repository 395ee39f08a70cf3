"""Helpers for prompts in API format: {node id: {"class_type": ..., "inputs": {...}}}."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Prompt = dict[str, dict[str, Any]]
# A node type's entry of `object_info`.
NodeInfo = dict[str, Any]

# What samplers call the number their noise starts from.
SEEDS = ("seed", "noise_seed")


@dataclass(frozen=True)
class InputSpec:
    """One input of a node class, out of `INPUT_TYPES()`."""

    name: str
    type: Any
    options: dict[str, Any]
    required: bool

    @property
    def choices(self) -> list[Any] | None:
        """The values of a combo, of either notation; None for other types."""
        if isinstance(self.type, list):
            return self.type
        return list(self.options.get("options") or []) if self.type == "COMBO" else None

    @property
    def is_widget(self) -> bool:
        """Whether the editor shows it as a widget, so that its value lies in widgets_values."""
        if self.options.get("forceInput") or self.options.get("rawLink"):
            return False
        return self.choices is not None or self.type in ("INT", "FLOAT", "STRING", "BOOLEAN")

    def as_config(self) -> list[Any]:
        return [self.type, self.options]


def inputs_of(node: type[Any]) -> dict[str, InputSpec]:
    """The inputs of a node class in widget order (required, then optional)."""
    return specs_of(node.INPUT_TYPES())


def specs_of(types: dict[str, dict[str, Any]]) -> dict[str, InputSpec]:
    """The same out of what `INPUT_TYPES()` gives, and `object_info` under "input"."""
    result = {}
    for kind in ("required", "optional"):
        for name, entry in (types.get(kind) or {}).items():
            options = entry[1] if len(entry) > 1 else {}
            result[name] = InputSpec(name, entry[0], options, kind == "required")
    return result


def is_link(value: Any) -> bool:
    """Whether an input's value is a link [node id, output slot]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def links(node: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """(input name, source node, source slot) of all linked inputs of a node."""
    for name, value in node["inputs"].items():
        if is_link(value):
            yield name, value[0], value[1]


def seeds_of(prompt: Prompt) -> int | dict[str, int] | None:
    """The seeds of a filled workflow: one number if all are equal, else by input; None if none."""
    found = {
        f"{key}.{name}": node["inputs"][name]
        for key, node in prompt.items()
        for name in SEEDS
        if isinstance(node["inputs"].get(name), int)
    }
    return next(iter(found.values()), None) if len(set(found.values())) < 2 else found
