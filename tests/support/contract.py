"""What saved workflows and API clients rely on, out of a node's description; texts may change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONTRACT = Path(__file__).resolve().parents[1] / "nodes/contract.json"
KEPT = ("default", "min", "max", "step", "options", "control_after_generate", "multiline")


def promised() -> dict[str, dict[str, Any]]:
    """The contract: {node id: what `contract_of` gave when the node was added}."""
    return json.loads(CONTRACT.read_text(encoding="utf-8"))


def contract_of(info: dict[str, Any]) -> dict[str, Any]:
    """Ids, types, order, defaults and limits of one node.

    Args:
        info: an entry of /object_info, or what GET_NODE_INFO_V1 gives.
    """
    inputs = []
    for kind in ("required", "optional"):
        for name, spec in info["input"].get(kind, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            of_type = spec[0]
            if isinstance(of_type, list):
                # The older way to write a choice.
                options, of_type = {**options, "options": of_type}, "COMBO"
            kept = {key: options[key] for key in KEPT if options.get(key) is not None}
            inputs.append(
                {"name": name, "type": str(of_type), "optional": kind == "optional", **kept}
            )
    return {
        "inputs": inputs,
        "outputs": [str(kind) for kind in info["output"]],
        "output_names": info["output_name"],
        "category": info["category"],
    }
