"""What the nodes show is true of the graph as it is now: which image is which, and the last layout,
through everything that a person does to a graph."""

from __future__ import annotations

import json
from typing import Any

import pytest
from editor import Editor
from templates import editor_format

MUTE, BYPASS = 2, 4
STAR, SUNSET = "kontext_star.png", "kontext_sunset.png"
_READY = "() => window.app?.canvas?.graph && app.graph._nodes.length"
# Every Reference by the picture it looks at, with what its title says after the name.
_SHOWN = """() => {
    const found = {};
    const walk = (graph) => graph._nodes.forEach((node) => {
        if (node.subgraph) walk(node.subgraph);
        if (node.type !== 'KontextReference') return;
        const key = node.properties.picture ?? String(node.id);
        found[key] = node.title.replace(/^.*? · |^[^·]*$/, '');
    });
    walk(app.graph);
    return found;
}"""
# Marks each Reference with its picture's name, so that tests can speak of it.
_MARK = """() => {
    for (const node of app.graph._nodes.filter((one) => one.type === 'KontextReference')) {
        const slot = node.inputs.findIndex((input) => input.name === 'image');
        const from = app.graph.getNodeById(node.getInputLink(slot).origin_id);
        node.properties.picture = from.widgets[0].value;
    }
}"""
# The pictures in the order of the chain that the Run button would send.
_SENT = """async () => {
    const { output } = await app.graphToPrompt();
    const stitch = Object.values(output).find((node) => node.class_type === 'KontextStitch');
    const names = [];
    for (let at = stitch?.inputs.references; at; at = output[at[0]].inputs.references) {
        const { image } = output[at[0]].inputs;
        if (image) names.unshift(output[image[0]].inputs.image);
    }
    return names;
}"""
_EXCHANGE = """() => {
    const [one, two] = app.graph._nodes.filter((node) => node.type === 'KontextReference');
    const stitch = app.graph._nodes.find((node) => node.type === 'KontextStitch');
    two.connect(0, one, 'references');
    one.connect(0, stitch, 'references');
    two.disconnectInput(0);
    app.graph.afterChange();
}"""
# A picture whose size only a run can tell.
_FROM_A_BATCH = """() => {
    const [one] = app.graph._nodes.filter((node) => node.type === 'KontextReference');
    const batch = LiteGraph.createNode('KontextBatch');
    app.graph.add(batch);
    batch.connect(0, one, 'image');
    app.graph.afterChange();
}"""
_EXCHANGE_BACK = """() => {
    const [one, two] = app.graph._nodes.filter((node) => node.type === 'KontextReference');
    const stitch = app.graph._nodes.find((node) => node.type === 'KontextStitch');
    one.disconnectInput(0);
    one.connect(0, two, 'references');
    two.connect(0, stitch, 'references');
    app.graph.afterChange();
}"""
_MODE = """([picture, type, mode]) => {
    const node = app.graph._nodes.find((one) => one.type === type
        && (one.properties.picture ?? one.widgets[0].value) === picture);
    node.mode = mode;
}"""
_ADD = """() => {
    const stitch = app.graph._nodes.find((node) => node.type === 'KontextStitch');
    const last = app.graph._nodes.filter((node) => node.type === 'KontextReference').at(-1);
    const image = app.graph._nodes.find((node) => node.type === 'LoadImage');
    const made = LiteGraph.createNode('KontextReference');
    app.graph.add(made);
    made.properties.picture = 'new';
    last.connect(0, made, 'references');
    made.connect(0, stitch, 'references');
    image.connect(0, made, 'image');
}"""
_REROUTE = """() => {
    const stitch = app.graph._nodes.find((node) => node.type === 'KontextStitch');
    const [one, two] = app.graph._nodes.filter((node) => node.type === 'KontextReference');
    for (const [from, to] of [[one, two], [two, stitch]]) {
        const made = LiteGraph.createNode('Reroute');
        app.graph.add(made);
        from.connect(0, made, 0);
        made.connect(0, to, 'references');
    }
}"""
_INTO_SUBGRAPH = """() => {
    const [one] = app.graph._nodes.filter((node) => node.type === 'KontextReference');
    app.graph.convertToSubgraph(new Set([one]));
}"""


def open_two(editor: Editor, name: str, steps: int = 2) -> None:
    """The template as a workflow of its own, quick to run."""
    graph = editor_format("two_references")
    graph["id"] = f"00000000-0000-4000-8000-{abs(hash(name)) % 10**12:012d}"
    for node in graph["nodes"]:
        if node["type"] == "KontextSampler":
            # seed, its control, steps
            node["widgets_values"][2] = steps
    editor.load(graph)
    editor.page.evaluate(_MARK)
    editor.fit()


def shown(editor: Editor, expected: dict[str, str]) -> None:
    """Waits until the titles say this."""
    waiting = f"(expected) => JSON.stringify(({_SHOWN})()) === expected"
    wanted = json.dumps(expected, separators=(",", ":"))
    try:
        editor.page.wait_for_function(waiting, arg=wanted, timeout=40_000)
    except Exception:
        assert editor.page.evaluate(_SHOWN) == expected
        raise


@pytest.mark.slow
def test_each_reference_says_which_image_it_is(page: Editor) -> None:
    open_two(page, "numbers")
    shown(page, {STAR: "image 1", SUNSET: "image 2"})
    page.screenshot("numbers")
    page.page.evaluate(_EXCHANGE)
    shown(page, {STAR: "image 2", SUNSET: "image 1"})
    assert page.page.evaluate(_SENT) == [SUNSET, STAR]
    page.page.evaluate(_MODE, [SUNSET, "KontextReference", BYPASS])
    shown(page, {STAR: "image 1", SUNSET: ""})
    assert page.page.evaluate(_SENT) == [STAR]
    page.page.evaluate(_MODE, [SUNSET, "KontextReference", MUTE])
    shown(page, {STAR: "image 1", SUNSET: ""})
    page.page.evaluate(_MODE, [SUNSET, "KontextReference", 0])
    shown(page, {STAR: "image 2", SUNSET: "image 1"})
    page.page.evaluate(_MODE, [SUNSET, "LoadImage", MUTE])
    shown(page, {STAR: "image 1", SUNSET: "no picture"})
    assert page.page.evaluate(_SENT) == [STAR]
    page.page.evaluate(_MODE, [SUNSET, "LoadImage", 0])
    page.page.evaluate(_ADD)
    page.page.wait_for_timeout(500)


@pytest.mark.slow
def test_a_new_one_reroutes_and_subgraphs(page: Editor) -> None:
    open_two(page, "more")
    page.page.evaluate(_ADD)
    shown(page, {STAR: "image 1", SUNSET: "image 2", "new": "image 3"})
    open_two(page, "reroutes")
    page.page.evaluate(_REROUTE)
    shown(page, {STAR: "image 1", SUNSET: "image 2"})
    assert page.page.evaluate(_SENT) == [STAR, SUNSET]
    open_two(page, "subgraph")
    page.page.evaluate(_INTO_SUBGRAPH)
    shown(page, {SUNSET: "image 2", STAR: "image 1"})
    assert page.page.evaluate(_SENT) == [STAR, SUNSET]
    page.screenshot("subgraph")


@pytest.mark.slow
def test_a_name_given_by_a_person_stays_and_is_what_is_saved(page: Editor) -> None:
    open_two(page, "names")
    page.page.evaluate(
        """() => {
          const [one] = app.graph._nodes.filter((node) => node.type === 'KontextReference');
          one.title = 'the star';
        }"""
    )
    shown(page, {STAR: "image 1", SUNSET: "image 2"})
    page.page.evaluate(_EXCHANGE)
    shown(page, {STAR: "image 2", SUNSET: "image 1"})
    titles = page.page.evaluate(
        """() => app.graph.serialize().nodes.filter((node) => node.type === 'KontextReference')
            .map((node) => node.title ?? '')"""
    )
    assert titles == ["the star", ""]
    # What earlier templates wrote is a number of ours too, and was false after any change.
    page.page.evaluate(
        """() => {
          const [one] = app.graph._nodes.filter((node) => node.type === 'KontextReference');
          one.title = 'Reference: image 1';
        }"""
    )
    page.page.wait_for_function(
        "() => app.graph._nodes.some((node) => node.title === 'Kontext: Reference · image 2')"
    )


def layout(editor: Editor) -> dict[str, Any]:
    """What the one layout in sight shows."""
    return editor.page.evaluate(
        """() => {
          const view = document.querySelector('.kontext-layout');
          return {
            boxes: view.querySelectorAll('svg rect').length,
            pictures: view.querySelectorAll('svg image').length,
            grey: /grayscale/.test(view.firstElementChild.style.filter),
            words: view.querySelector('.kontext-layout-words').innerText,
          };
        }"""
    )


DRAWN = {"boxes": 3, "pictures": 2, "grey": False, "words": ""}
OUTDATED = {**DRAWN, "grey": True, "words": "The graph has changed since this was drawn."}


def wait_for_layout(editor: Editor, expected: dict[str, Any], patience: int = 160_000) -> None:
    grey = str(expected["grey"]).lower()
    waiting = f"""() => {{
        const view = document.querySelector('.kontext-layout');
        return view?.querySelectorAll('svg rect').length === {expected["boxes"]}
            && /grayscale/.test(view.firstElementChild.style.filter) === {grey};
    }}"""
    editor.page.wait_for_function(waiting, timeout=patience)
    assert layout(editor) == expected


@pytest.mark.slow
def test_the_layout_lives_as_long_as_the_picture(page: Editor) -> None:
    open_two(page, f"layout{page.url}")
    page.queue()
    save = page.node("SaveImage")["id"]
    page.wait_for_picture(save)
    wait_for_layout(page, DRAWN)
    page.screenshot("drawn")
    # An empty place: a click there, and the editor looks for changes to undo.
    page.page.mouse.click(800, 120)
    page.page.wait_for_timeout(500)
    page.page.evaluate(_FROM_A_BATCH)
    wait_for_layout(page, OUTDATED, 40_000)
    page.screenshot("outdated")
    page.page.mouse.click(800, 120)
    page.page.wait_for_timeout(500)
    page.page.keyboard.press("Control+z")
    wait_for_layout(page, DRAWN, 40_000)
    # What can be told without a run is drawn anew.
    page.page.evaluate(_EXCHANGE)
    shown(page, {STAR: "image 2", SUNSET: "image 1"})
    page.page.wait_for_timeout(1000)
    wait_for_layout(page, DRAWN, 40_000)
    page.page.evaluate(_EXCHANGE_BACK)
    shown(page, {STAR: "image 1", SUNSET: "image 2"})
    wait_for_layout(page, DRAWN, 40_000)
    run = "(command) => app.extensionManager.command.execute(command)"
    page.page.evaluate(run, "Comfy.NewBlankWorkflow")
    page.page.wait_for_function("() => !document.querySelector('.kontext-layout svg')")
    page.page.evaluate(run, "Workspace.PreviousOpenedWorkflow")
    page.page.wait_for_function(_READY)
    page.near("KontextStitch")
    wait_for_layout(page, DRAWN, 40_000)
    page.page.reload()
    page.page.wait_for_function(_READY)
    page.near("KontextStitch")
    wait_for_layout(page, DRAWN, 60_000)
    # Nothing is left to do: all comes from the cache.
    page.queue()
    page.page.wait_for_timeout(3000)
    wait_for_layout(page, DRAWN, 40_000)
    page.screenshot("cached")


@pytest.mark.slow
def test_a_cancelled_run_leaves_its_layout(page: Editor) -> None:
    open_two(page, f"cancel{page.url}", steps=200)
    page.queue()
    wait_for_layout(page, DRAWN)
    page.page.evaluate("async () => { await app.api.interrupt() }")
    page.page.wait_for_timeout(2000)
    page.page.reload()
    page.page.wait_for_function(_READY)
    page.near("KontextStitch")
    wait_for_layout(page, DRAWN, 60_000)
