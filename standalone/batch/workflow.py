"""Workflow files in API format: reading one, its links, its seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kontext_core.errors import InputError

__all__ = ["SEEDS", "Prompt", "is_link", "read_workflow", "seeds_of"]

Prompt = dict[str, dict[str, Any]]

# What samplers call the number their noise starts from.
SEEDS = ("seed", "noise_seed")


def read_workflow(path: Path) -> dict[str, Any]:
    """The content of a workflow file, of either format.

    Raises:
        InputError: not there, no JSON, or neither of the two formats.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the workflow {path} can't be read ({error}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is no JSON ({error}); save the workflow with the editor's Export (API)"
        ) from error
    if isinstance(data, dict):
        if isinstance(data.get("nodes"), list):
            return data
        if isinstance(data.get("prompt"), dict) and "class_type" not in data["prompt"]:
            data = data["prompt"]
        if data and all(_is_node(node) for node in data.values()):
            return {str(key): node for key, node in data.items()}
    raise InputError(
        f"{path} is no workflow: it has neither the editor's 'nodes' nor nodes by id; save it "
        "with the editor's Export (API)"
    )


def _is_node(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("class_type"), str)
        and isinstance(value.get("inputs"), dict)
    )


def is_link(value: Any) -> bool:
    """Whether an input's value comes from another node: [node id, output slot]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)


def seeds_of(prompt: Prompt) -> int | dict[str, int] | None:
    """The seeds of a filled workflow: one number if all are equal, else by input; None if none."""
    found = {
        f"{key}.{name}": node["inputs"][name]
        for key, node in prompt.items()
        for name in SEEDS
        if isinstance(node["inputs"].get(name), int)
    }
    return next(iter(found.values()), None) if len(set(found.values())) < 2 else found
