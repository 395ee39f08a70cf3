"""Every node on the canvas and as Vue node: drawn, usable, and what was saved earlier opens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from contract import promised
from editor import Editor
from host_client import load_prompt
from hosts import ROOT

NODES = sorted(promised())
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "KONTEXT_LAYOUT")
# Sockets that the editor shows as they are wired: what is there of them at first.
AT_FIRST = re.compile(r"(image|mask)_[12]")
GROWN = re.compile(r"(image|mask)_\d")
GROWING = ("KontextReferences", "KontextArrange")
# Made by frontends beside the inputs of the schema.
EXTRA = {"control_after_generate", "control_filter_list", "upload"}
SAVED = sorted((ROOT / "tests/data/saved").glob("*.api.json"))


@pytest.fixture
def is_vue(page: Editor) -> bool:
    return bool(page.page.evaluate("() => !!window.LiteGraph.vueNodesMode"))


def ours(editor: Editor) -> list[str]:
    """Errors that name the pack or come from its scripts; a host's own are not ours to mend."""
    return [error for error in editor.errors if "kontext" in error.lower()]


@pytest.mark.slow
def test_every_node_is_drawn(page: Editor, is_vue: bool) -> None:
    ids = page.show(NODES)
    page.fit()
    page.screenshot("every_node")
    drawn = {node["type"]: node for node in page.drawn()}
    assert sorted(drawn) == NODES
    for node_id, kind in zip(ids, NODES, strict=True):
        contract, node = promised()[kind], drawn[kind]
        widgets = [name for name, _, _ in node["widgets"] if not name.startswith("$$")]
        asked = [each["name"] for each in contract["inputs"] if each["type"] in WIDGETS]
        assert [name for name in widgets if name in asked] == asked, kind
        sockets = [each["name"] for each in contract["inputs"] if each["type"] not in WIDGETS]
        if kind in GROWING:
            sockets = [
                one for one in sockets if AT_FIRST.fullmatch(one) or not GROWN.fullmatch(one)
            ]
        assert [name for name in node["inputs"] if name not in asked] == sockets, kind
        assert node["outputs"] == contract["outputs"], kind
        assert node["title"].startswith("Kontext: ")
        if is_vue:
            box = page.page.locator(f'[data-node-id="{node_id}"]').bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) > 10, kind
        else:
            below = [y for name, _, y in node["widgets"] if name in asked]
            # Each widget has a place of its own, one below the other, inside the node.
            assert None not in below, kind
            assert below == sorted(set(below)), kind
            assert not below or below[-1] < node["size"][1], kind
    assert not ours(page)


@pytest.mark.slow
def test_a_widget_takes_what_a_person_does(page: Editor, is_vue: bool) -> None:
    [node_id] = page.show(["KontextSampler"])
    page.fit()
    if is_vue:
        node = page.page.locator(f'[data-node-id="{node_id}"]')
        # A field, or the surface above it that is dragged or clicked.
        box = node.locator("input[value='28'], input[aria-valuenow='28']").first.bounding_box()
        assert box is not None
        page.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.page.keyboard.press("Control+a")
        page.page.keyboard.type("29")
        page.page.keyboard.press("Enter")
    else:
        page.add_one_step(node_id, "steps")
    page.page.wait_for_timeout(300)
    page.screenshot("changed")
    [sent] = page.prompt().values()
    assert sent["inputs"]["steps"] == 29
    assert not ours(page)


@pytest.mark.slow
@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.name.removesuffix(".api.json"))
def test_a_workflow_of_an_earlier_state_opens(page: Editor, path: Path) -> None:
    text = path.with_name(path.name.replace(".api", "")).read_text(encoding="utf-8")
    page.load(json.loads(text))
    page.fit()
    page.screenshot(path.stem)
    sent, expected = page.prompt(), load_prompt(path)
    assert sent.keys() == expected.keys()
    for node_id, node in expected.items():
        assert sent[node_id]["class_type"] == node["class_type"]
        there: dict[str, Any] = sent[node_id]["inputs"]
        # Inputs that came later have their defaults; no value has slipped to another input.
        assert {name: there.get(name) for name in node["inputs"]} == node["inputs"], node_id
    assert not ours(page)
