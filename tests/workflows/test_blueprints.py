"""Subgraphs: what their template does, as one node; written by tools/blueprints.py and up to date."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import embedded_host  # noqa: F401  makes `standalone` importable
import pytest
from templates import api_format

from standalone.convert import to_prompt
from standalone.loader import load_pack
from standalone.plain import PLAIN_NODES

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "subgraphs").glob("*.json"))


# What a subgraph leaves to the graph around it.
OUTSIDE = ("LoadImage", "LoadImageMask", "SaveImage")


def test_the_files_are_what_the_tool_writes(tmp_path: Path) -> None:
    tool = str(ROOT / "tools/blueprints.py")
    subprocess.run([sys.executable, tool, str(tmp_path)], check=True, cwd=ROOT)
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    found = {path.name: path.read_text(encoding="utf-8") for path in FILES}
    assert made == found, "run tools/blueprints.py"
    assert len(found) == 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_inside_it_is_the_template(path: Path) -> None:
    """Of the template's prompt, what is neither loaded nor saved, with the same links and values."""
    nodes = {**PLAIN_NODES, **load_pack(ROOT).nodes}
    info = {name: node.GET_NODE_INFO_V1() for name, node in nodes.items()}
    workflow = json.loads(path.read_text(encoding="utf-8"))
    [outer] = workflow["nodes"]
    made = to_prompt(workflow, info.get)
    wanted = {
        f"{outer['id']}:{number}": node
        for number, node in api_format(workflow["extra"]["kontext_template"]).items()
        if node["class_type"] not in OUTSIDE
    }
    assert made.keys() == wanted.keys()
    for number, node in wanted.items():
        assert made[number]["class_type"] == node["class_type"]
        inside = {}
        for name, value in node["inputs"].items():
            source = f"{outer['id']}:{value[0]}" if isinstance(value, list) else None
            if source is None or source in wanted:
                inside[name] = value if source is None else [source, value[1]]
        assert made[number]["inputs"] == inside, number


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_link_is_known_at_both_ends(path: Path) -> None:
    [subgraph] = json.loads(path.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    for link in subgraph["links"]:
        if link["origin_id"] == -10:
            assert link["id"] in subgraph["inputs"][link["origin_slot"]]["linkIds"]
        else:
            slot = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
            assert link["id"] in slot["links"] and slot["type"] == link["type"]
        if link["target_id"] == -20:
            assert link["id"] in subgraph["outputs"][link["target_slot"]]["linkIds"]
        else:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
    known = {link["id"] for link in subgraph["links"]}
    there = [n for node in nodes.values() for each in node["outputs"] for n in each["links"] or []]
    there += [each["link"] for node in nodes.values() for each in node["inputs"] if each["link"]]
    assert set(there) <= known
