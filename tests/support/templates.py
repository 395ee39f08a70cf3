"""The templates of workflows/: which need files or nodes that a host may lack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
HOST_NODES = WORKFLOWS.parent / "tools/host_nodes.json"


def _name_of(path: Path) -> str:
    return json.loads(path.read_text(encoding="utf-8"))["extra"]["kontext_template"]


# Name to title: the editor shows titles, twins in workflows/api have names.
TITLES = {_name_of(path): path.stem for path in sorted(WORKFLOWS.glob("*.json"))}
NAMES = sorted(TITLES)


def editor_format(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{TITLES[name]}.json").read_text(encoding="utf-8"))


def api_format(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def needs_files(name: str) -> bool:
    """Whether it names published files, which no test downloads."""
    return any(
        node["properties"].get(key)
        for node in editor_format(name)["nodes"]
        for key in ("models", "downloads")
    )


def needs_comfyui(name: str) -> bool:
    """Whether it has nodes of ComfyUI's own that the embedded host lacks."""
    host_only = json.loads(HOST_NODES.read_text(encoding="utf-8"))
    return any(node["class_type"] in host_only for node in api_format(name).values())


RUNNABLE = [name for name in NAMES if not needs_files(name)]
