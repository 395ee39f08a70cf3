"""How a graph is drawn: into the editor's format with places, slots and links, and into API format."""

from __future__ import annotations

import json
import re
import sys
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
ROW, WIDGET, TITLE, NOTE = 20, 24, 30, 370
# Fitted into a window of 1600 x 1000, of which the editor fills three quarters, at 60 %: far below
# that it leaves out the text of widgets.
WIDEST, HIGHEST = 1990, 1110
# Of ComfyUI's Compare Images, as web/js/templates.js makes it.
COMPARE = (300, 300)
# Nodes 2.0 draw lines of their own below the widgets: the pack's name, advanced inputs, and a
# warning under each loader whose file is missing, 60 pixels in all.
GAP = 72
# What App mode offers of each node, in this order, and which nodes' results it shows.
APP_INPUTS = (
    ("LoadImage", ("image",)),
    ("LoadImageMask", ("image",)),
    ("CLIPTextEncode", ("text",)),
    ("KontextNames", ("text",)),
    ("KontextBatch", ("lines", "seed")),
    ("KontextArrange", ("layout", "places")),
    ("KontextEdit", ("prompt", "seed")),
    ("KontextSessionStart", ("name",)),
    ("KontextSessionTurn", ("prompt", "seed")),
    ("EmptySD3LatentImage", ("width", "height")),
    ("KontextSampler", ("seed",)),
    ("KSampler", ("seed",)),
)
APP_OUTPUTS = ("SaveImage",)
# Nodes with many sockets of a kind, of which the editor shows those that are wired and one more, two at
# least, as web/js/growing.js does.
GROWING = ("KontextReferences", "KontextArrange")
# Ids of a saved workflow must stay the same when it is written again.
NAMESPACE = uuid.UUID("6f5c3d3e-0d7f-4f5e-9a55-2f4f3b8a9c10")


def schemas() -> dict[str, dict[str, Any]]:
    """object_info of the pack, of the embedded host's plain nodes, and of ComfyUI's own."""
    sys.path.insert(0, str(ROOT))
    from standalone.loader import load_pack
    from standalone.plain import PLAIN_NODES

    host = json.loads((ROOT / "tools/host_nodes.json").read_text(encoding="utf-8"))
    nodes = {**PLAIN_NODES, **load_pack(ROOT).nodes}
    return host | {node_id: node.GET_NODE_INFO_V1() for node_id, node in nodes.items()}


def specs_of(schema: dict[str, Any]) -> dict[str, tuple[str, bool, dict[str, Any]]]:
    """Inputs in order: name to (type, whether optional, options); choices count as COMBO."""
    found = {}
    for kind in ("required", "optional"):
        for name, spec in schema["input"].get(kind, {}).items():
            options = dict(spec[1]) if len(spec) > 1 else {}
            if options.get("socketless"):
                # A view of ours, which is not saved.
                continue
            if isinstance(spec[0], (list, tuple)):
                options["options"] = list(spec[0])
            label = "COMBO" if isinstance(spec[0], (list, tuple)) else str(spec[0])
            found[name] = (label, kind == "optional", options)
    return found


def default_of(kind: str, options: dict[str, Any]) -> Any:
    if options.get("default") is not None:
        return options["default"]
    if kind == "COMBO":
        return (options.get("options") or [""])[0]
    return {"STRING": "", "BOOLEAN": False}.get(kind, options.get("min", 0))


def hidden(name: str, values: dict[str, Any]) -> bool:
    """Whether a socket such as "image_5" is not there yet, as so few are wired."""
    found = re.fullmatch(r"(?:image|mask)_(\d+)", name)
    wired = [
        int(key.rpartition("_")[2]) for key in values if re.fullmatch(r"(?:image|mask)_\d+", key)
    ]
    return found is not None and int(found[1]) > max(2, max(wired, default=0) + 1)


def is_link(value: Any, kind: str, keys: set[str]) -> bool:
    """Whether a value of graphs/ is "key.output"; sockets always are."""
    if kind not in WIDGETS:
        return True
    return isinstance(value, str) and value.rpartition(".")[0] in keys


class Drawing:
    """One graph on its way to both formats."""

    def __init__(self, name: str, graph: Any, known: dict[str, dict[str, Any]]) -> None:
        self.name, self.graph, self.known = name, graph, known
        self.nodes = [node for column in graph.columns for node in column.nodes]
        self.ids = {node.key: node.number or at for at, node in enumerate(self.nodes, 1)}
        self.links: list[list[Any]] = []
        self.drawn: dict[str, dict[str, Any]] = {}

    def draw(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(the editor's format, API format)."""
        groups: list[dict[str, Any]] = []
        x = 0
        for number, column in enumerate(self.graph.columns, 1):
            y = 0
            for node in column.nodes:
                self.drawn[node.key] = self._node(node, x + 15, y, column.width - 30)
                y += self.drawn[node.key]["size"][1] + TITLE + GAP
            box = [x, -80, column.width, y + 40]
            group = {"id": number, "title": column.title, "bounding": box, "color": column.color}
            groups.append({**group, "font_size": 24, "flags": {}})
            x += column.width + 20
        for node in self.nodes:
            self._connect(node)
        note, compare = self._note(NOTE), [x + 15, 0]
        boxes = [group["bounding"] for group in groups]
        beside = COMPARE[0] + 15 if self.graph.compare else 0
        if NOTE + 40 + x + beside > WIDEST:
            # Too wide with the note before the columns and the comparison behind them.
            note = self._note(groups[0]["bounding"][2] - 30)
            note["pos"] = self._below(boxes, boxes, *note["size"])
            if self.graph.compare:
                taken = [*boxes, [*note["pos"], *note["size"]]]
                compare = self._below(boxes[::-1], taken, *COMPARE)
        nodes = [note, *self.drawn.values()]
        for order, node in enumerate(nodes):
            node["order"] = order
        editor = {
            "id": str(uuid.uuid5(NAMESPACE, self.name)),
            "revision": 0,
            "last_node_id": max(node["id"] for node in nodes),
            "last_link_id": len(self.links),
            "nodes": nodes,
            "links": self.links,
            "groups": groups,
            "config": {},
            "extra": self._extra(compare),
            "version": 0.4,
        }
        return editor, {str(self.ids[node.key]): self._prompt(node) for node in self.nodes}

    def _below(
        self, groups: list[list[int]], taken: list[list[int]], width: int, height: int
    ) -> list[int]:
        """A place that begins below one of these groups, the first that leaves the graph low enough,
        and is clear of all boxes (left, top, width, height) that are taken."""
        for left, *_ in groups:
            begin, end = left + 15, left + 15 + width
            low = max(box[1] + box[3] for box in taken if box[0] < end and begin < box[0] + box[2])
            top = low + 20 + TITLE
            if top + height + 80 <= HIGHEST:
                return [begin, top]
        raise ValueError(f"{self.name}: no column has room for {width} x {height} below it")

    def _extra(self, compare: list[int]) -> dict[str, Any]:
        """Where to look first, the older name, what App mode offers, and for web/js/templates.js what
        to compare on hosts that have a node for it, and where."""
        extra: dict[str, Any] = {
            "ds": {"scale": 0.6, "offset": [NOTE + 80, 140]},
            "kontext_template": self.name,
        }
        inputs = [
            [self.ids[node.key], widget]
            for kind, widgets in APP_INPUTS
            for node in self.nodes
            if node.type == kind
            for widget in widgets
            if not is_link(node.values.get(widget), "STRING", set(self.ids))
        ]
        outputs = [self.ids[node.key] for node in self.nodes if node.type in APP_OUTPUTS]
        if outputs:
            extra["linearData"] = {"inputs": inputs, "outputs": outputs}
        if self.graph.compare:
            before, after = (
                [self.ids[key], int(output)]
                for key, _, output in (link.rpartition(".") for link in self.graph.compare)
            )
            extra["kontext_compare"] = {"before": before, "after": after, "pos": compare}
        return extra

    def _node(self, node: Any, x: int, y: int, width: int) -> dict[str, Any]:
        schema = self.known[node.type]
        specs = specs_of(schema)
        unknown = [name for name in node.values if name not in specs]
        if unknown:
            raise KeyError(f"{self.name}: {node.type} has no input {unknown}")
        sockets, widgets, values, upload = [], [], [], False
        for name, (kind, optional, options) in specs.items():
            if kind not in WIDGETS:
                if node.type in GROWING and hidden(name, node.values):
                    continue
                shape = {"shape": 7} if optional else {}
                sockets.append({"name": name, "type": kind, **shape, "link": None})
                continue
            widgets.append({"name": name, "type": kind, "widget": {"name": name}, "link": None})
            given = node.values.get(name)
            linked = name in node.values and is_link(given, kind, set(self.ids))
            values.append(default_of(kind, options) if linked or given is None else given)
            if options.get("control_after_generate"):
                values.append("fixed")
            upload = upload or bool(options.get("image_upload"))
        if upload:
            # The button is a widget too, and stands last.
            button = {"name": "upload", "type": "IMAGEUPLOAD", "widget": {"name": "upload"}}
            widgets.append({**button, "link": None})
            values.append("image")
        names = schema.get("output_name") or schema["output"]
        outputs = [
            {"name": label, "type": str(kind), "links": None}
            for label, kind in zip(names, schema["output"], strict=True)
        ]
        # The upload button is a line of its own, the seed's control has no slot.
        lines = max(len(sockets), len(outputs)) * ROW + len(values) * WIDGET + 14 + node.more
        return {
            "id": self.ids[node.key],
            "type": node.type,
            "pos": [x, y],
            "size": [width, lines],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [*sockets, *widgets],
            "outputs": outputs,
            **({"title": node.title} if node.title else {}),
            "properties": {"Node name for S&R": node.type, **files_of(values)},
            "widgets_values": values,
        }

    def _connect(self, node: Any) -> None:
        target = self.drawn[node.key]
        specs = specs_of(self.known[node.type])
        for place, slot in enumerate(target["inputs"]):
            value = node.values.get(slot["name"])
            if value is None or not is_link(value, specs[slot["name"]][0], set(self.ids)):
                continue
            key, _, output = value.rpartition(".")
            source = self.drawn[key]["outputs"][int(output)]
            number = len(self.links) + 1
            link = [number, self.ids[key], int(output), target["id"], place, source["type"]]
            self.links.append(link)
            slot["link"] = number
            source["links"] = [*(source["links"] or []), number]

    def _note(self, width: int) -> dict[str, Any]:
        # What is read, without the addresses of links; about 52 characters fit a line of 370.
        words = len(re.sub(r"\]\([^)]*\)", "", self.graph.note))
        lines = self.graph.note.count("\n")
        return {
            "id": min(set(range(1, len(self.nodes) + 2)) - set(self.ids.values())),
            "type": "MarkdownNote",
            "pos": [-NOTE - 40, 0],
            "size": [width, 70 + lines * 10 + words * 15 * NOTE // (52 * width)],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "title": "About this workflow",
            "properties": {},
            "widgets_values": [self.graph.note],
            "color": "#432",
            "bgcolor": "#653",
        }

    def _prompt(self, node: Any) -> dict[str, Any]:
        schema = self.known[node.type]
        inputs: dict[str, Any] = {}
        for name, (kind, _, options) in specs_of(schema).items():
            value = node.values.get(name)
            if value is not None and is_link(value, kind, set(self.ids)):
                key, _, output = value.rpartition(".")
                inputs[name] = [str(self.ids[key]), int(output)]
            elif kind in WIDGETS:
                inputs[name] = default_of(kind, options) if value is None else value
        title = node.title or schema["display_name"]
        return {"inputs": inputs, "class_type": node.type, "_meta": {"title": title}}


def files_of(values: list[Any]) -> dict[str, Any]:
    """Where a node's files can be had: `models` is what ComfyUI's dialog of missing models reads,
    `downloads` what web/js/missing.js reads, for files that the dialog does not take."""
    from .files import FILES

    found: dict[str, list[dict[str, str]]] = {}
    for name in dict.fromkeys(value for value in values if isinstance(value, str)):
        if name in FILES:
            folder, directory = FILES[name]
            entry = {"name": name, "url": f"{folder}/{name}", "directory": directory}
            found.setdefault("downloads" if name.endswith(".gguf") else "models", []).append(entry)
    return found
