"""Every shipped workflow fits the nodes as they are now, in both of its forms."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import embedded_host  # noqa: F401  makes `standalone` importable
import pytest
from PIL import Image
from templates import HOST_NODES, NAMES, TITLES, editor_format, needs_comfyui, needs_files

from standalone.loader import load_pack
from standalone.plain import PLAIN_NODES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "workflows"
WIDGETS = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "COMBO": str}
# Live in the graph editor only.
UI_ONLY = ("MarkdownNote", "Note", "PrimitiveNode", "Reroute")
# Nodes whose sockets web/js/growing.js shows one by one.
GROWING = ("KontextReferences", "KontextArrange")
NUMBERED = re.compile(r"(image|mask)_[1-8]")
MODEL_FILE = re.compile(r"\.(safetensors|sft|gguf)$")
# Below models/, for the widgets that name a file.
DIRECTORIES = {
    ("KontextLoadModel", "model_name"): "diffusion_models",
    ("KontextLoadTextEncoders", "t5_name"): "text_encoders",
    ("KontextLoadTextEncoders", "clip_l_name"): "text_encoders",
    ("KontextLoadVAE", "model_name"): "vae",
    ("KontextLoadLora", "lora_file"): "loras",
    ("KontextQuantize", "model_name"): "diffusion_models",
    ("UNETLoader", "unet_name"): "diffusion_models",
    ("DualCLIPLoader", "clip_name1"): "text_encoders",
    ("DualCLIPLoader", "clip_name2"): "text_encoders",
    ("VAELoader", "vae_name"): "vae",
}


@pytest.fixture(scope="session")
def schemas() -> dict[str, dict[str, Any]]:
    """object_info of the pack, of the plain nodes and of ComfyUI's own."""
    nodes = {**PLAIN_NODES, **load_pack(ROOT).nodes}
    own = json.loads(HOST_NODES.read_text(encoding="utf-8"))
    return own | {node_id: node.GET_NODE_INFO_V1() for node_id, node in nodes.items()}


def twin_of(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))


def specs_of(schema: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Inputs of a node in order: name to (type, options); choices count as COMBO."""
    inputs = {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}
    found = {}
    for name, spec in inputs.items():
        options = dict(spec[1]) if len(spec) > 1 else {}
        if isinstance(spec[0], (list, tuple)):
            options["options"] = list(spec[0])
        found[name] = ("COMBO" if isinstance(spec[0], (list, tuple)) else str(spec[0]), options)
    return found


def widgets_of(schema: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """What `widgets_values` holds, in order: (name, type, options)."""
    slots = []
    for name, (kind, options) in specs_of(schema).items():
        if kind not in WIDGETS:
            continue
        slots.append((name, kind, options))
        if options.get("control_after_generate"):
            slots.append(("control_after_generate", "CONTROL", {}))
    if any(options.get("image_upload") for _, _, options in slots):
        # The button beside a picture's name stands behind the other widgets.
        slots.append(("upload", "UPLOAD", {}))
    return slots


def values_of(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Widget values of a UI node by name."""
    slots = widgets_of(schema)
    values = node["widgets_values"]
    assert len(values) == len(slots), (node["id"], node["type"], [slot[0] for slot in slots])
    return {name: value for (name, _, _), value in zip(slots, values, strict=True)}


def check_value(where: str, kind: str, options: dict[str, Any], value: Any) -> None:
    if kind == "CONTROL":
        assert value in ("fixed", "randomize", "increment", "decrement"), where
        return
    if kind == "UPLOAD":
        assert value == "image", where
        return
    assert isinstance(value, WIDGETS[kind]), (where, value)
    if kind in ("INT", "FLOAT"):
        assert not isinstance(value, bool), (where, value)
        assert options.get("min", value) <= value <= options.get("max", value), (where, value)
    if kind == "COMBO" and not options.get("image_upload") and not MODEL_FILE.search(value):
        # The choices of ComfyUI's own nodes are not in the snapshot.
        assert value, where
        assert value in options.get("options", [value]), (where, value)


def test_the_promised_workflows_are_there() -> None:
    assert {"text_to_image", "one_reference_edit", "two_references"} <= set(NAMES)


def test_every_node_of_ours_is_in_a_template(schemas: dict[str, Any]) -> None:
    shown = {node["class_type"] for name in NAMES for node in twin_of(name).values()}
    assert {node_id for node_id in schemas if node_id.startswith("Kontext")} - shown == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_file_can_be_had(name: str, schemas: dict[str, Any]) -> None:
    """`models` is what ComfyUI's dialog of missing models reads, and it takes safetensors only;
    `downloads` is for web/js/missing.js."""
    for node in editor_format(name)["nodes"]:
        if node["type"] in UI_ONLY:
            continue
        properties = node["properties"]
        listed = {
            (key, entry["name"]): entry
            for key in ("models", "downloads")
            for entry in properties.get(key, [])
        }
        needed = {}
        for widget, value in values_of(node, schemas[node["type"]]).items():
            if isinstance(value, str) and MODEL_FILE.search(value):
                key = "downloads" if value.endswith(".gguf") else "models"
                needed[key, value] = DIRECTORIES[node["type"], widget]
        assert set(listed) == set(needed), node["type"]
        for (_, file), directory in needed.items():
            entry = next(one for (_, found), one in listed.items() if found == file)
            assert entry["directory"] == directory
            assert entry["url"].startswith("https://huggingface.co/")
            assert entry["url"].endswith(f"/resolve/main/{file}") or "/split_files/" in entry["url"]
            assert entry["url"].endswith(f"/{file}")


def test_templates_as_the_tool_writes_them() -> None:
    """tools/templates.py gives what lies here, for all that it knows."""
    before = {path: path.read_bytes() for path in sorted(FOLDER.rglob("*.json"))}
    written = _write_templates()
    assert sorted(written) == NAMES
    for name, (editor, prompt) in written.items():
        assert json.loads(before[FOLDER / f"{TITLES[name]}.json"]) == editor, name
        assert json.loads(before[FOLDER / "api" / f"{name}.json"]) == prompt, name


def _write_templates() -> dict[str, tuple[Any, Any]]:
    """What the tool would write, made in a process of its own, since it changes the path."""
    script = (
        "import json, sys\n"
        "import templates\n"
        "from graphs import TEMPLATES\n"
        "known = templates.schemas()\n"
        "print(json.dumps({name: templates.Drawing(name, graph, known).draw()\n"
        "                  for name, graph in TEMPLATES.items()}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / "tools", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_some_run_anywhere_some_need_files_some_need_comfyui() -> None:
    """The three kinds that the tests on hosts tell apart."""
    assert len([n for n in NAMES if not needs_files(n) and not needs_comfyui(n)]) >= 6
    assert {n for n in NAMES if needs_files(n)} >= {"gguf_edit", "fp8_with_lora", "quantize"}
    assert not needs_files("ksampler_with_our_loaders")
    assert needs_comfyui("ksampler_with_our_loaders")


@pytest.mark.parametrize("name", NAMES)
def test_node_types_and_widgets_fit_the_schemas(name: str, schemas: dict[str, Any]) -> None:
    workflow = editor_format(name)
    assert workflow["version"] == 0.4
    ids = [node["id"] for node in workflow["nodes"]]
    assert len(ids) == len(set(ids))
    assert max(ids) == workflow["last_node_id"]
    for node in workflow["nodes"]:
        if node["type"] in UI_ONLY:
            continue
        schema = schemas[node["type"]]
        specs = specs_of(schema)
        values = values_of(node, schema)
        for slot, kind, options in widgets_of(schema):
            check_value(f"{name}: {node['type']}.{slot}", kind, options, values[slot])
        assert [o["type"] for o in node["outputs"]] == [str(kind) for kind in schema["output"]]
        for slot in node["inputs"]:
            if slot["name"] != "upload":
                assert slot["type"] == specs[slot["name"]][0], (node["type"], slot)
        # A view of the editor, which has no socket and is not saved.
        views = ("KONTEXT_LAYOUT",)
        sockets = [i for i in specs if specs[i][0] not in (*WIDGETS, *views)]
        there = [i["name"] for i in node["inputs"] if "widget" not in i]
        if node["type"] in GROWING:
            # Numbered ones are there as far as they are wired, and one more.
            linked = [i["name"] for i in node["inputs"] if i.get("link") is not None]
            last = max(int(i[-1]) for i in linked if NUMBERED.fullmatch(i))
            sockets = [
                i for i in sockets if not NUMBERED.fullmatch(i) or int(i[-1]) <= max(2, last + 1)
            ]
        assert there == sockets
        required = [i for i in schema["input"].get("required", {}) if i in sockets]
        linked = [i["name"] for i in node["inputs"] if i.get("link") is not None]
        assert [i for i in required if i not in linked] == []
        assert node["properties"]["Node name for S&R"] == node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_links_resolve_both_ways(name: str) -> None:
    workflow = editor_format(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}
    assert len(links) == len(workflow["links"])
    assert max(links, default=0) == workflow["last_link_id"]
    for link_id, source, out, target, into, kind in workflow["links"]:
        assert link_id in nodes[source]["outputs"][out]["links"]
        assert nodes[source]["outputs"][out]["type"] == kind
        assert nodes[target]["inputs"][into]["link"] == link_id
        assert nodes[target]["inputs"][into]["type"] == kind
    for node in workflow["nodes"]:
        for slot in node["inputs"]:
            assert slot["link"] is None or links[slot["link"]][3] == node["id"]
        for slot in node["outputs"]:
            assert all(links[link][1] == node["id"] for link in slot["links"] or ())


@pytest.mark.parametrize("name", NAMES)
def test_the_api_twin_says_the_same(name: str, schemas: dict[str, Any]) -> None:
    workflow, twin = editor_format(name), twin_of(name)
    links = {link[0]: link for link in workflow["links"]}
    expected = {}
    for node in workflow["nodes"]:
        if node["type"] in UI_ONLY:
            continue
        schema = schemas[node["type"]]
        kept = [slot for slot, kind, _ in widgets_of(schema) if kind in WIDGETS]
        values = values_of(node, schema)
        inputs: dict[str, Any] = {slot: values[slot] for slot in kept}
        for slot in node["inputs"]:
            if slot["link"] is not None:
                _, source, out, *_ = links[slot["link"]]
                inputs[slot["name"]] = [str(source), out]
        title = node.get("title") or schema["display_name"]
        expected[str(node["id"])] = {
            "inputs": inputs,
            "class_type": node["type"],
            "_meta": {"title": title},
        }
    assert twin == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_note_explains_it_and_nothing_overlaps(name: str) -> None:
    workflow = editor_format(name)
    notes = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    assert notes
    assert all(len(note["widgets_values"][0]) > 100 for note in notes)
    assert workflow["groups"]
    # A node's title bar of 30 stands above its position. Nodes 2.0 draw lines of their own below:
    # 60 at most were measured, of a loader whose file is missing.
    boxes = [
        (node["pos"][0], node["pos"][1] - 30, node["pos"][0] + node["size"][0],
         node["pos"][1] + node["size"][1] + 60, node["type"])
        for node in workflow["nodes"]
    ]  # fmt: skip
    groups = [group["bounding"] for group in workflow["groups"]]
    for left, top, right, bottom, kind in boxes:
        assert kind == "MarkdownNote" or any(
            x <= left and y <= top and right <= x + width and bottom <= y + height
            for x, y, width, height in groups
        ), (kind, left, top, right, bottom)
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, (a, b)


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_a_machine_is_in_it(name: str) -> None:
    for path in (FOLDER / f"{TITLES[name]}.json", FOLDER / "api" / f"{name}.json"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'"(/|[A-Za-z]:\\\\|~/|file:)', text), path.name


@pytest.mark.parametrize("name", NAMES)
def test_pictures_it_names_are_shipped(name: str) -> None:
    loaders = [n for n in twin_of(name).values() if n["class_type"].startswith("LoadImage")]
    for node in loaders:
        with Image.open(FOLDER / "input" / node["inputs"]["image"]) as picture:
            assert picture.mode == "RGB"
            assert min(picture.size) >= 64


@pytest.mark.parametrize("name", NAMES)
def test_the_thumbnail_is_a_small_jpeg(name: str) -> None:
    path = FOLDER / f"{TITLES[name]}.jpg"
    assert path.stat().st_size <= 300_000
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        assert min(picture.size) >= 200


def test_twins_and_workflows_are_in_pairs() -> None:
    assert sorted(path.stem for path in (FOLDER / "api").glob("*.json")) == NAMES
    assert sorted(path.stem for path in FOLDER.glob("*.jpg")) == sorted(TITLES.values())


def test_titles_are_words_with_the_easiest_first() -> None:
    titles = sorted(TITLES.values())
    assert [title[:3] for title in titles] == [f"{at:02d} " for at in range(1, len(titles) + 1)]
    # They are part of addresses, too.
    assert all(re.fullmatch(r"[A-Za-z0-9 ]+", title) for title in titles)
    runs = [not needs_files(name) for name in sorted(TITLES, key=TITLES.__getitem__)]
    assert runs == sorted(runs, reverse=True)


def test_no_shipped_picture_is_left_over() -> None:
    named = {
        node["inputs"]["image"]
        for name in NAMES
        for node in twin_of(name).values()
        if node["class_type"].startswith("LoadImage")
    }
    named |= {
        node["inputs"]["dataset"]
        for name in NAMES
        for node in twin_of(name).values()
        if node["class_type"] == "KontextTrainLora"
    }
    assert {path.name for path in (FOLDER / "input").iterdir()} == named
