"""Writes the templates of graphs/: workflows/TITLE.json for the editor, workflows/api/NAME.json.

    python tools/templates.py [NAME ...]

Nodes get their slots and widgets from the schemas; those of ComfyUI's own nodes that the embedded
host lacks stand in host_nodes.json.
"""

from __future__ import annotations

import json
import sys

from graphs.drawing import ROOT, Drawing, schemas

WORKFLOWS = ROOT / "workflows"


def main(names: list[str]) -> int:
    from graphs import TEMPLATES, TITLES

    known = schemas()
    for name in names or TEMPLATES:
        editor, prompt = Drawing(name, TEMPLATES[name], known).draw()
        for path, data in ((f"{TITLES[name]}.json", editor), (f"api/{name}.json", prompt)):
            text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
            (WORKFLOWS / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
