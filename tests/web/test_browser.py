"""The whole way through in a real browser: template, Run, the picture in the node, drag and drop."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from editor import FIRST_WITH_NODES_2, Editor
from host_client import Client
from hosts import Server
from playwright.sync_api import Browser
from templates import TITLES, editor_format

TEMPLATE = TITLES["two_references"]

# What every frontend says on a fresh host, real ComfyUI included: optional files of the user,
# a favicon, and one error that 1.27.10 throws in its own settings code while it boots.
NOT_OURS = (
    "/user.css",
    "/favicon.ico",
    "/userdata?dir=",
    "/userdata/comfy.templates.json",
    "Cannot read properties of undefined (reading 'id')",
)


def our_errors(editor: Editor, server: Server) -> list[str]:
    """On standalone every error counts; on a ComfyUI, whose frontend may be much younger or older
    than itself, those that name the pack."""
    if server.host.is_comfyui:
        return [error for error in editor.errors if "kontext" in error.lower()]
    return [error for error in editor.errors if not any(text in error for text in NOT_OURS)]


def pack_of(server: Server) -> str:
    """The name under which the host lists our templates."""
    templates: dict[str, list[str]] = Client(server.url).get("/workflow_templates")
    [pack] = [name for name, found in templates.items() if TEMPLATE in found]
    return pack


def summary(graph: list[dict[str, Any]]) -> list[str]:
    """What a restored graph must have in common with the one that was saved."""
    nodes = [(n["type"], n["title"], sorted(n["linked"]), _kept(n["widgets"])) for n in graph]
    return sorted(json.dumps(node, sort_keys=True) for node in nodes)


def _kept(widgets: dict[str, Any]) -> dict[str, Any]:
    # Previews and upload buttons are drawn, not saved.
    return {k: v for k, v in widgets.items() if not k.startswith("$$") and k != "upload"}


@pytest.mark.slow
def test_template_run_and_drop(editor: Editor, server: Server) -> None:
    editor.screenshot("booted")
    assert not our_errors(editor, server)

    editor.load_template(pack_of(server), TEMPLATE)
    editor.fit()
    editor.screenshot("loaded")
    loaded = editor.graph()
    pictures = [node["widgets"]["image"] for node in loaded if node["type"] == "LoadImage"]
    assert len(pictures) == len(set(pictures)) == 2
    assert len(editor.node("CLIPTextEncode")["widgets"]["text"]) > 10

    editor.queue()
    save = editor.node("SaveImage")["id"]
    shown = editor.wait_for_picture(save)
    editor.screenshot("finished")
    assert "type=output" in shown["src"]
    # The stitch node draws the target and both references.
    editor.near("KontextStitch")
    boxes = "() => document.querySelectorAll('.kontext-layout svg rect').length === 3"
    editor.page.wait_for_function(boxes)
    with urllib.request.urlopen(shown["src"]) as answer:
        saved = answer.read()
    assert not our_errors(editor, server)

    editor.clear()
    assert editor.graph() == []
    editor.drop_file("saved.png", saved)
    editor.page.wait_for_function(f"() => app.graph._nodes.length === {len(loaded)}")
    editor.fit()
    editor.screenshot("restored")
    assert summary(editor.graph()) == summary(loaded)
    assert not our_errors(editor, server)


@pytest.mark.slow
def test_nodes_2_render_the_same_graph(browser: Browser, server: Server, tmp_path: Path) -> None:
    editor = Editor.open(browser, server.url, tmp_path, vue_nodes=True)
    try:
        if editor.version() < FIRST_WITH_NODES_2:
            pytest.skip("this frontend has canvas nodes only")
        editor.load_template(pack_of(server), TEMPLATE)
        editor.fit()
        editor.screenshot("vue")
        for node in editor.graph():
            assert editor.page.locator(f'[data-node-id="{node["id"]}"]').count() == 1, node["type"]
        assert not our_errors(editor, server)
    finally:
        editor.close()


@pytest.mark.slow
def test_an_error_is_shown_and_the_page_lives(editor: Editor) -> None:
    editor.close_dialog()
    editor.load(editor_format("two_references"))
    editor.fit()
    editor.set_widget("KontextSampler", "steps", 0)
    editor.queue()
    told = editor.wait_for_node_errors()
    editor.screenshot("refused")
    sampler = editor.node("KontextSampler")["id"]
    assert [error["type"] for error in told[sampler]["errors"]] == ["value_smaller_than_min"]


@pytest.mark.slow
def test_notes_of_a_run_stand_in_the_node(editor: Editor) -> None:
    editor.clear()
    editor.page.evaluate(
        """() => {
          const node = LiteGraph.createNode("KontextLoadLora");
          app.graph.add(node);
          node.onExecuted({ kontext_notes: ["12 layers", "2 keys matched nothing"] });
        }"""
    )
    editor.fit()
    view = editor.page.locator(".kontext-notes")
    view.wait_for()
    assert view.inner_text() == "12 layers\n2 keys matched nothing"
    editor.screenshot("notes")
    # A view only: not in the prompt, not in the saved graph.
    prompt = editor.page.evaluate("async () => (await app.graphToPrompt()).output")
    [node] = prompt.values()
    assert set(node["inputs"]) <= {"lora_file", "strength", "mode"}
