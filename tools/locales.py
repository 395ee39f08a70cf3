"""Writes locales/en/nodeDefs.json from the nodes and says what the other languages lack.

    python tools/locales.py

The English texts live in the nodes; this file repeats them in the form that ComfyUI's /i18n route
serves, so that a changed text shows up in a diff beside the translations it has outdated. Other
languages are written by hand and are only put into the order of the English one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCALES = ROOT / "locales"
LANGUAGES = ("en", "zh", "ja", "ko")


def english_of(node: Any) -> dict[str, Any]:
    """What the frontend looks up for one node: its names and tooltips as the schema has them."""
    schema = node.GET_SCHEMA()
    inputs = {}
    for socket in schema.inputs:
        inputs[socket.id] = {"name": socket.id, "tooltip": socket.tooltip}
        if getattr(socket, "control_after_generate", None):
            inputs["control_after_generate"] = {"name": "control after generate"}
    outputs = {
        str(index): {"name": socket.display_name, "tooltip": socket.tooltip}
        for index, socket in enumerate(schema.outputs)
    }
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": inputs,
        "outputs": outputs,
    }


def read(language: str) -> dict[str, Any]:
    """A language's nodeDefs.json; empty when there is none yet."""
    path = LOCALES / language / "nodeDefs.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write(language: str, texts: dict[str, Any]) -> None:
    path = LOCALES / language / "nodeDefs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def ordered(texts: Any, pattern: Any) -> Any:
    """`texts` with the keys in the order of `pattern`; keys that it lacks are dropped."""
    if not isinstance(pattern, dict) or not isinstance(texts, dict):
        return texts
    return {key: ordered(texts[key], pattern[key]) for key in pattern if key in texts}


def paths(texts: Any, prefix: str = "") -> set[str]:
    """Every leaf as "KontextEdit.inputs.seed.name"."""
    if not isinstance(texts, dict):
        return {prefix}
    return {path for key, value in texts.items() for path in paths(value, f"{prefix}.{key}")}


def at(texts: dict[str, Any], path: str) -> Any:
    """The text at a path of `paths`, None where there is none."""
    found: Any = texts
    for key in path.strip(".").split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def main() -> int:
    # Run by its path, this script sees only its own folder.
    sys.path.insert(0, str(ROOT))
    from standalone.loader import load_pack

    before = read("en")
    nodes = load_pack(ROOT).nodes
    english = {node_id: english_of(node) for node_id, node in nodes.items()}
    write("en", english)
    wanted = paths(english)
    changed = {path for path in wanted & paths(before) if at(before, path) != at(english, path)}
    missing = 0
    for language in LANGUAGES[1:]:
        texts = read(language)
        for path in sorted(wanted - paths(texts)):
            missing += 1
            print(f"{language}: missing{path}: {at(english, path)}")
        for path in sorted(changed):
            print(f"{language}: outdated{path}: {at(english, path)}")
        write(language, ordered(texts, english))
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
