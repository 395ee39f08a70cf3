"""The pack loads in a folder of any name, lightly, and describes itself completely."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from contract import CONTRACT, contract_of, promised

ROOT = Path(__file__).resolve().parents[2]
NODE_IDS = sorted(promised())


def test_the_contract_is_kept(pack: Any) -> None:
    """Workflow identity is for ever: only appended widgets and new nodes may change this file.

    To accept an intended change run the test with UPDATE_CONTRACT=1 and read the diff.
    """
    now = {
        node_id: contract_of(node.GET_NODE_INFO_V1())
        for node_id, node in sorted(pack.nodes.items())
    }
    if os.environ.get("UPDATE_CONTRACT"):
        CONTRACT.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
    assert now == promised()


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_node_explains_itself(pack: Any, node_id: str) -> None:
    node = pack.nodes[node_id]
    schema = node.GET_SCHEMA()
    assert schema.display_name.startswith("Kontext: ")
    assert schema.description
    assert "kontext" in schema.search_aliases
    without = [socket.id for socket in (*schema.inputs, *schema.outputs) if not socket.tooltip]
    assert not without
    # Without one, ComfyUI 0.3.64 shows the type in capitals of its own choosing.
    assert all(output.display_name for output in schema.outputs)
    # The same demand as 0.3.64's: there an input must not share an id with an output.
    ids = [socket.id for socket in (*schema.inputs, *schema.outputs)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_node_has_a_help_page_that_names_its_inputs(pack: Any, node_id: str) -> None:
    page = (ROOT / "web/docs" / f"{node_id}.md").read_text(encoding="utf-8")
    schema = pack.nodes[node_id].GET_SCHEMA()
    assert page.startswith(f"# {schema.display_name}\n")
    assert "## Typical graph" in page
    named = page.partition("## Typical graph")[0]
    assert [socket.id for socket in schema.inputs if socket.id not in named] == []


def test_errors_name_no_folder(pack: Any) -> None:
    """The editor shows type and sentence; the pack's modules are called after where it lies."""
    kinds = [
        getattr(pack.module("kontext_core.errors"), name) for name in ("InputError", "ShapeError")
    ]
    kinds.append(pack.module("nodes.native").NotNativeError)
    assert [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds] == [
        "kontext_core.InputError",
        "kontext_core.ShapeError",
        "kontext_core.NotNativeError",
    ]


def test_there_is_no_help_page_too_many() -> None:
    assert sorted(path.stem for path in (ROOT / "web/docs").glob("*.md")) == NODE_IDS


@pytest.mark.parametrize(
    "node_id",
    ["KontextReference", "KontextReferences", "KontextArrange", "KontextStitch", "KontextLoadLora"],
)
def test_bypass_passes_every_output_from_the_input_in_the_same_place(
    pack: Any, node_id: str
) -> None:
    info = pack.nodes[node_id].GET_NODE_INFO_V1()
    specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    widgets = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
    sockets = [str(spec[0]) for spec in specs.values() if str(spec[0]) not in widgets]
    assert sockets[: len(info["output"])] == [str(kind) for kind in info["output"]]


def test_bypass_of_canvas_passes_the_picture_and_the_mask(pack: Any) -> None:
    """LATENT has no input of its kind: what it went to falls back on the trained size."""
    info = pack.nodes["KontextCanvas"].GET_NODE_INFO_V1()
    kinds = [str(spec[0]) for part in info["input"].values() for spec in part.values()]
    assert kinds[0] == info["output"][0] == "IMAGE"
    assert kinds.count("MASK") == 1
    assert "LATENT" not in kinds


def test_unknown_schema_fields_are_dropped(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = pack.module("nodes.schema")
    made = schema.make(node_id="X", inputs=[], outputs=[], no_host_has_this=1)
    assert made.node_id == "X"
    assert not hasattr(made, "no_host_has_this")
    widget = schema.widget(schema.io.Float, "f", default=1.0, no_host_has_this=1)
    assert widget.id == "f"


def test_no_schema_is_made_past_the_helper() -> None:
    """Else a field that an older ComfyUI lacks would keep the whole pack from loading there."""
    past = [
        path.name
        for path in sorted((ROOT / "nodes").rglob("*.py"))
        if "io.Schema(" in path.read_text(encoding="utf-8") and path.name != "schema.py"
    ]
    assert not past


def test_loading_the_pack_brings_in_nothing_heavy(tmp_path: Path) -> None:
    """Networks, weights and the host's modules come in when a node runs, not when it is listed."""
    folder = tmp_path / "a-b.c"
    folder.symlink_to(ROOT, target_is_directory=True)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from standalone.loader import load_pack\n"
        "import numpy, PIL.Image, torch, einops\n"
        "before = set(sys.modules)\n"
        f"load_pack(Path({str(folder)!r}))\n"
        "new = {name.partition('_x_c.')[2] or name for name in set(sys.modules) - before}\n"
        "print('\\n'.join(sorted(new)))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    new = found.stdout.split()
    assert "nodes.sampler" in new
    heavy = ("models", "weights", "pipeline", "sampling", "comfy", "folder_paths", "server")
    bad = [n for n in new if n.removeprefix("kontext_core.").split(".")[0] in heavy]
    assert not bad
    assert not any(n.startswith(("safetensors", "aiohttp", "diffusers")) for n in new)
