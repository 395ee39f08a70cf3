"""What a person meets in the editor: their language, help with pictures, files that are missing, and
nodes switched off."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from editor import Editor
from hosts import ROOT, Server
from playwright.sync_api import Browser
from templates import RUNNABLE, editor_format, needs_comfyui

LANGUAGES = ("zh", "ja", "ko")
MUTE, BYPASS = 2, 4
# Frontends before this one show missing models in a dialog of their own, later ones in a panel.
OLD_DIALOGS = (1, 40)
_LOAD = "(graph) => app.loadGraphData(graph)"
_SPOKEN = """(type) => {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    return {
        title: node.title,
        inputs: Object.fromEntries((node.inputs ?? []).map((slot) =>
            [slot.name, slot.label ?? slot.localized_name])),
        widgets: Object.fromEntries((node.widgets ?? []).map((widget) =>
            [widget.name, widget.label])),
        outputs: node.outputs.map((slot) => slot.label ?? slot.localized_name),
        description: node.constructor.nodeData?.description,
    };
}"""
_OFF = """async ([id, mode]) => {
    const node = app.graph._nodes.find((one) => String(one.id) === id);
    const before = node.mode;
    node.mode = mode;
    const { workflow, output } = await app.graphToPrompt();
    node.mode = before;
    return JSON.parse(JSON.stringify({ workflow, output }));
}"""


def set_language(server: Server, language: str) -> None:
    body = json.dumps(language).encode()
    url = f"{server.url}/settings/Comfy.Locale"
    kind = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url, body, kind, method="POST")).close()


@pytest.fixture(params=LANGUAGES)
def spoken(
    request: pytest.FixtureRequest, browser: Browser, server: Server, tmp_path: Path
) -> Iterator[tuple[Editor, str]]:
    """The editor in a language, and which."""
    set_language(server, request.param)
    editor = Editor.open(browser, server.url, tmp_path)
    yield editor, request.param
    editor.close()
    set_language(server, "en")


def open_help(editor: Editor, node_type: str) -> None:
    """Clicks the i of a selected node, and waits for the page's picture."""
    editor.fit()
    editor.page.evaluate(
        """(type) => {
          const node = app.graph._nodes.find((one) => one.type === type);
          app.canvas.selectNode(node);
          app.canvas.setDirty(true, true);
        }""",
        node_type,
    )
    editor.page.locator('[data-testid="info-button"]').first.click()
    picture = f'img[src$="images/{node_type}.png"]'
    editor.page.locator(picture).first.wait_for()
    loaded = "(picture) => document.querySelector(picture).naturalWidth > 100"
    editor.page.wait_for_function(loaded, arg=picture)


def words(language: str, part: str = "nodeDefs") -> dict[str, Any]:
    path = ROOT / "locales" / language / f"{part}.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_nodes_and_panels_speak_the_editors_language(spoken: tuple[Editor, str]) -> None:
    editor, language = spoken
    editor.close_dialog()
    texts = words(language)
    for node_id in ("KontextStitch", "KontextReference", "KontextSampler"):
        said = editor.page.evaluate(_SPOKEN, node_id)
        expected = texts[node_id]
        assert said["title"] == expected["display_name"]
        # A slot whose name is its type's takes the type's word, which is the frontend's own.
        named = {**said["inputs"], **{k: v for k, v in said["widgets"].items() if v}}
        for name, entry in expected["inputs"].items():
            if name in named and named[name] is not None:
                assert named[name] == entry["name"], (node_id, name)
    assert (
        editor.page.locator(".kontext-layout").first.inner_text().strip()
        == (words(language, "main")["kontext"]["layout_empty"])
    )
    editor.clear()
    editor.page.evaluate(_LOAD, editor_format("gguf_edit"))
    panel = editor.page.locator(".kontext-missing")
    panel.wait_for()
    assert words(language, "main")["kontext"]["gguf_title"] in panel.inner_text()
    editor.screenshot(f"gguf-{language}")
    if editor.version() < OLD_DIALOGS:
        # Its own dialog, of the safetensors that are missing, lies over everything.
        editor.page.locator(".comfy-missing-models").wait_for()
        editor.page.keyboard.press("Escape")
        editor.page.locator(".comfy-missing-models").wait_for(state="hidden")
    editor.page.evaluate(_LOAD, editor_format("one_node_edit"))
    open_help(editor, "KontextEdit")
    heading = editor.page.get_by_role("heading", name=texts["KontextEdit"]["display_name"])
    heading.first.wait_for()
    point = words(language, "help")["KontextEdit"][0].replace("*", "")
    editor.page.get_by_text(point).first.wait_for()
    editor.screenshot(f"help-{language}")


@pytest.mark.slow
def test_missing_gguf_files_are_named_with_their_folder(editor: Editor) -> None:
    editor.close_dialog()
    editor.page.evaluate(_LOAD, editor_format("gguf_edit"))
    panel = editor.page.locator(".kontext-missing")
    panel.wait_for()
    editor.screenshot("gguf")
    text = panel.inner_text()
    assert "flux1-kontext-dev-Q4_K_M.gguf → models/diffusion_models" in text
    assert "t5-v1_1-xxl-encoder-Q5_K_M.gguf → models/text_encoders" in text
    links = panel.locator("a").evaluate_all("(all) => all.map((one) => one.href)")
    assert len(links) == 2
    assert all(link.startswith("https://huggingface.co/") for link in links)
    panel.locator("button").click()
    panel.wait_for(state="detached")
    # Nothing is said of a node that is off, or of a graph that needs no such file.
    graph = editor_format("gguf_edit")
    for node in graph["nodes"]:
        if node["type"].startswith("KontextLoad"):
            node["mode"] = BYPASS
    editor.page.evaluate(_LOAD, graph)
    editor.page.evaluate(_LOAD, editor_format("one_node_edit"))
    assert panel.count() == 0


@pytest.mark.slow
def test_links_of_a_strangers_workflow_are_web_addresses(editor: Editor) -> None:
    editor.close_dialog()
    graph = editor_format("gguf_edit")
    for node in graph["nodes"]:
        for entry in node["properties"].get("downloads", []):
            entry["url"] = "javascript:alert(1)"
    editor.page.evaluate(_LOAD, graph)
    panel = editor.page.locator(".kontext-missing")
    panel.wait_for()
    assert panel.locator("a").count() == 0
    assert "<" not in panel.inner_text()


@pytest.mark.slow
def test_the_editor_says_which_safetensors_are_missing(editor: Editor) -> None:
    """ComfyUI's own dialog, or the panel of errors of newer frontends."""
    editor.close_dialog()
    editor.page.evaluate(_LOAD, editor_format("fp8_with_lora"))
    if editor.version() < OLD_DIALOGS:
        shown = editor.page.locator(".comfy-missing-models")
        shown.wait_for()
    else:
        editor.page.get_by_role("button", name="View details").first.click()
        shown = editor.page.locator("body")
        shown.get_by_text("flux1-dev-kontext_fp8_scaled.safetensors").first.wait_for()
    editor.screenshot("missing")
    text = shown.inner_text()
    for name in ("flux1-dev-kontext_fp8_scaled", "t5xxl_fp8_e4m3fn_scaled", "clip_l", "ae"):
        assert f"{name}.safetensors" in text
    assert "Hyper-FLUX.1-dev-8steps-lora.safetensors" in text
    assert editor.page.locator(".kontext-missing").count() == 0


@pytest.mark.slow
def test_help_shows_the_picture(editor: Editor) -> None:
    editor.close_dialog()
    editor.page.evaluate(_LOAD, editor_format("one_node_edit"))
    open_help(editor, "KontextEdit")
    editor.screenshot("help")


@pytest.mark.slow
def test_nodes_switched_off_leave_the_prompt_that_our_converter_makes(
    editor: Editor, tmp_path: Path
) -> None:
    """tests/api/test_conformance_bypass.py runs these prompts; here the editor makes them."""
    from embedded_host import Bench

    from standalone.convert import info_of, to_prompt
    from standalone.loader import load_pack

    # In a thread: playwright's driver has taken this one's event loop.
    with ThreadPoolExecutor(1) as thread:
        pack = thread.submit(load_pack, ROOT).result().nodes
    nodes = Bench(tmp_path, ROOT / "workflows/input").nodes | pack
    editor.close_dialog()
    seen = 0
    for name in RUNNABLE:
        if needs_comfyui(name):
            continue
        editor.page.evaluate(_LOAD, editor_format(name))
        ours = [n for n in editor_format(name)["nodes"] if n["type"].startswith("Kontext")]
        for node in ours:
            for mode in (MUTE, BYPASS):
                made = editor.page.evaluate(_OFF, [str(node["id"]), mode])
                output = {key: entry["inputs"] for key, entry in made["output"].items()}
                assert str(node["id"]) not in output
                for inputs in output.values():
                    links = [v for v in inputs.values() if isinstance(v, list)]
                    assert all(link[0] in output for link in links), (name, node["type"], mode)
                expected = {
                    key: entry["inputs"]
                    for key, entry in to_prompt(made["workflow"], info_of(nodes)).items()
                }
                assert _links(output) == _links(expected), (name, node["type"], mode)
                seen += 1
    assert seen > 60


def _links(prompt: dict[str, dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    return {
        key: {name: value for name, value in inputs.items() if isinstance(value, list)}
        for key, inputs in prompt.items()
    }


@pytest.mark.slow
def test_a_node_without_notes_gets_a_place_for_its_first(editor: Editor) -> None:
    """Kontext: Stitch has something to say only when a native model can't do what was asked."""
    editor.close_dialog()
    editor.clear()
    editor.page.evaluate(
        """() => {
          const node = LiteGraph.createNode("KontextStitch");
          app.graph.add(node);
          node.onExecuted({ kontext_layout: [] });
          window.kontextHeight = node.size[1];
        }"""
    )
    assert editor.page.locator(".kontext-notes").count() == 0
    editor.page.evaluate(
        """() => app.graph._nodes[0].onExecuted({ kontext_notes: ["image 1: strength 0.5"] })"""
    )
    editor.fit()
    view = editor.page.locator(".kontext-notes")
    view.wait_for()
    assert view.inner_text() == "image 1: strength 0.5"
    assert editor.page.evaluate("() => app.graph._nodes[0].size[1] > window.kontextHeight")
    editor.screenshot("first-note")
    editor.page.evaluate("() => app.graph._nodes[0].onExecuted({ kontext_notes: [] })")
    assert view.inner_text() == ""


@pytest.mark.slow
def test_files_that_arrive_leave_the_list(editor: Editor, server: Server) -> None:
    editor.close_dialog()
    editor.page.evaluate(_LOAD, editor_format("gguf_edit"))
    panel = editor.page.locator(".kontext-missing")
    panel.wait_for()
    arrived = [
        server.base / "models/diffusion_models/flux1-kontext-dev-Q4_K_M.gguf",
        server.base / "models/text_encoders/t5-v1_1-xxl-encoder-Q5_K_M.gguf",
    ]
    refresh = "() => app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')"
    try:
        for number, path in enumerate(arrived, 1):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            editor.page.evaluate(refresh)
            left = "(count) => document.querySelectorAll('.kontext-missing li').length === count"
            editor.page.wait_for_function(left, arg=len(arrived) - number)
        assert panel.count() == 0
    finally:
        for path in arrived:
            path.unlink(missing_ok=True)
