"""Writes subgraphs/*.json: what the templates do as one node each, in ComfyUI's list of subgraphs.

    python tools/blueprints.py [FOLDER]

Made of the templates of graphs/: pictures that they load become inputs, the one that they save becomes
the output, and a few widgets stand on the node. ComfyUI lists such files from 0.3.66 on.
"""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

from graphs.drawing import NAMESPACE, ROOT, Drawing, schemas

FOLDER = ROOT / "subgraphs"
INPUT, OUTPUT = -10, -20
# Of these nodes a subgraph takes the result, and gives its own to these.
LOADERS, SAVERS = ("LoadImage", "LoadImageMask"), ("SaveImage",)
LEFT_OUT = (*LOADERS, *SAVERS, "MarkdownNote")
WIDGETS = (
    ("text", "text"), ("sampler", "seed"), ("model", "model_name"), ("clip", "t5_name"),
    ("clip", "clip_l_name"), ("vae", "model_name"),
)  # fmt: skip
# By template: the blueprint's name, and the widgets that stand on it, by the key of their node.
BLUEPRINTS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "one_reference_edit": (
        "Kontext - Edit a picture",
        WIDGETS,
    ),
    "two_references": (
        "Kontext - Combine two pictures",
        WIDGETS,
    ),
    "inpaint_with_mask": (
        "Kontext - Change what a mask covers",
        WIDGETS,
    ),
}


def identity(*parts: str) -> str:
    """The same for the same file, whenever it is written."""
    return str(uuid.uuid5(NAMESPACE, "/".join(parts)))


def _socket(name: str, kind: str, links: list[int], *parts: str) -> dict[str, Any]:
    return {"id": identity(*parts), "name": name, "type": kind, "linkIds": links, "label": name}


def blueprint(template: str, title: str, widgets: Any, known: dict[str, Any]) -> dict[str, Any]:
    """A workflow of one node, and the subgraph that it stands for."""
    from graphs import TEMPLATES

    drawing = Drawing(template, TEMPLATES[template], known)
    graph, _ = drawing.draw()
    nodes = {node["id"]: node for node in graph["nodes"]}
    inner = [node for node in graph["nodes"] if node["type"] not in LEFT_OUT]
    outside = {number for number, node in nodes.items() if node["type"] in LEFT_OUT}
    links, inputs, outputs = [], {}, {}
    for number, source, output, target, slot, kind in graph["links"]:
        link = {
            "id": number, "origin_id": source, "origin_slot": output, "target_id": target,
            "target_slot": slot, "type": kind,
        }  # fmt: skip
        if source in outside and target in outside:
            continue
        if source in outside:
            inputs.setdefault((source, output), []).append(link)
        elif target in outside:
            outputs.setdefault((source, output), []).append(link)
        links.append(link)
    taken: list[dict[str, Any]] = []
    names: set[str] = set()
    for place, ((source, _), group) in enumerate(inputs.items()):
        kind = group[0]["type"]
        stem = nodes[source].get("title", kind).lower() if kind == "IMAGE" else kind.lower()
        name = stem if stem not in names else f"{stem} {len(names)}"
        names.add(name)
        for link in group:
            link |= {"origin_id": INPUT, "origin_slot": place}
        numbers = [link["id"] for link in group]
        taken.append(_socket(name, kind, numbers, template, "input", name))
    given: list[dict[str, Any]] = []
    for place, group in enumerate(outputs.values()):
        # One socket for whoever asks for it: the first link stands for the others.
        first = group[0] | {"target_id": OUTPUT, "target_slot": place}
        links = [link for link in links if link not in group]
        links.append(first)
        given.append(_socket("image", first["type"], [first["id"]], template, "output", str(place)))
        source_slot = nodes[first["origin_id"]]["outputs"][first["origin_slot"]]
        gone = {link["id"] for link in group} - {first["id"]}
        source_slot["links"] = [n for n in source_slot["links"] if n not in gone]
    right = max(node["pos"][0] + node["size"][0] for node in inner)
    number = graph["last_node_id"] + 1
    own = identity(template, "subgraph")
    subgraph = {
        "id": own,
        "version": 1,
        "state": {
            "lastGroupId": len(graph["groups"]), "lastNodeId": number,
            "lastLinkId": graph["last_link_id"], "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": title,
        "inputNode": {"id": INPUT, "bounding": [-260, 0, 120, 40 + 20 * len(taken)]},
        "outputNode": {"id": OUTPUT, "bounding": [right + 100, 0, 120, 60]},
        "inputs": taken,
        "outputs": given,
        "widgets": [],
        "nodes": inner,
        "groups": [],
        "links": links,
        "extra": {},
    }  # fmt: skip
    node = {
        "id": number,
        "type": own,
        "pos": [0, 0],
        "size": [400, 300],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [
            {"name": each["name"], "label": each["name"], "type": each["type"], "link": None}
            for each in taken
        ],
        "outputs": [
            {"name": each["name"], "label": each["name"], "type": each["type"], "links": []}
            for each in given
        ],
        "properties": {
            "proxyWidgets": [[str(drawing.ids[key]), widget] for key, widget in widgets]
        },
        "widgets_values": [],
        "title": title,
    }
    return {
        "id": identity(template, "blueprint"),
        "revision": 0,
        "last_node_id": number,
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph]},
        "extra": {"kontext_template": template},
    }


def main(folder: Path = FOLDER) -> int:
    known = schemas()
    folder.mkdir(exist_ok=True)
    for template, (title, widgets) in BLUEPRINTS.items():
        made = blueprint(template, title, widgets, known)
        text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
        (folder / f"{title}.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*map(Path, sys.argv[1:])))
