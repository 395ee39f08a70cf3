"""Nodes whose sockets grow as they are wired: by mouse, saved and opened again, in the prompt and the layout."""

from __future__ import annotations

from typing import Any

import pytest
from editor import Editor
from templates import editor_format

_SOCKETS = """(type) => app.graph._nodes.find((node) => node.type === type).inputs
    .filter((input) => /^(image|mask)_/.test(input.name)).map((input) => input.name)"""
# Every link still ends where it says that it does.
_STRAY = """() => app.graph._nodes.flatMap((node) => (node.inputs ?? []).flatMap((input, slot) => {
    const link = input.link == null ? null : app.graph.links.get?.(input.link) ?? app.graph.links[input.link];
    return link && link.target_slot !== slot ? [[node.type, input.name, slot, link.target_slot]] : [];
}))"""


def wait_for_sockets(editor: Editor, node_type: str, *names: str) -> None:
    waiting = f"([type, names]) => String(({_SOCKETS})(type)) === String(names)"
    try:
        editor.page.wait_for_function(waiting, arg=[node_type, list(names)], timeout=20_000)
    except Exception:
        assert editor.page.evaluate(_SOCKETS, node_type) == list(names)
        raise


def connect(editor: Editor, source: int, node_type: str, name: str) -> None:
    """From the first output of the Load Image with this place among them."""
    editor.page.evaluate(
        """([source, type, name]) => {
          const from = app.graph._nodes.filter((node) => node.type === 'LoadImage')[source];
          const to = app.graph._nodes.find((node) => node.type === type);
          from.connect(0, to, to.inputs.findIndex((input) => input.name === name));
        }""",
        [source, node_type, name],
    )


@pytest.mark.slow
def test_one_open_socket_more_than_are_wired(page: Editor) -> None:
    page.load(editor_format("several_in_one_node"))
    page.fit()
    wait_for_sockets(page, "KontextReferences", "image_1", "image_2", "image_3")
    connect(page, 0, "KontextReferences", "image_3")
    wait_for_sockets(page, "KontextReferences", "image_1", "image_2", "image_3", "image_4")
    page.screenshot("grown")
    assert page.page.evaluate(_STRAY) == []
    [sent] = [n for n in page.prompt().values() if n["class_type"] == "KontextReferences"]
    wired = {name for name, value in sent["inputs"].items() if isinstance(value, list)}
    assert wired == {"vae", "image_1", "image_2", "image_3"}
    # Saved, and opened again.
    saved: dict[str, Any] = page.page.evaluate(
        "() => JSON.parse(JSON.stringify(app.graph.serialize()))"
    )
    page.load(saved)
    page.fit()
    wait_for_sockets(page, "KontextReferences", "image_1", "image_2", "image_3", "image_4")
    assert page.page.evaluate(_STRAY) == []
    [again] = [n for n in page.prompt().values() if n["class_type"] == "KontextReferences"]
    assert again["inputs"] == sent["inputs"]
    # Taken away in the middle: the others stay where they are.
    page.page.evaluate(
        """() => {
          const node = app.graph._nodes.find((one) => one.type === 'KontextReferences');
          for (const name of ['image_2', 'image_3']) {
            node.disconnectInput(node.inputs.findIndex((one) => one.name === name));
          }
        }"""
    )
    wait_for_sockets(page, "KontextReferences", "image_1", "image_2")
    assert page.page.evaluate(_STRAY) == []
    assert not [error for error in page.errors if "kontext" in error.lower()]


@pytest.mark.slow
def test_its_pictures_are_numbered_laid_out_and_moved(page: Editor) -> None:
    page.load(editor_format("several_in_one_node"))
    page.fit()
    title = "() => app.graph._nodes.find((node) => node.type === 'KontextReferences').title"
    page.page.wait_for_function(f"() => ({title})().endsWith('image 1–2')", timeout=20_000)
    page.set_widget("KontextReferences", "names", "the star\nthe sky")
    page.near("KontextStitch")
    page.page.wait_for_function(
        "() => document.querySelectorAll('.kontext-layout g[data-index]').length === 3",
        timeout=20_000,
    )
    page.page.evaluate(
        "() => document.querySelector('.kontext-layout g[data-index=\"2\"]').focus()"
    )
    page.page.keyboard.press("ArrowDown")
    positions = """() => app.graph._nodes.find((node) => node.type === 'KontextReferences')
        .widgets.find((widget) => widget.name === 'positions').value"""
    page.page.wait_for_function(f"() => ({positions})().split('\\n').length === 2", timeout=20_000)
    page.screenshot("moved")
    assert page.page.evaluate(positions).split("\n")[1].split(", ")[0] == "1"
    page.page.keyboard.press("Delete")
    page.page.wait_for_function(f"() => ({positions})() === ''", timeout=20_000)


@pytest.mark.slow
def test_pairs_of_picture_and_mask_grow_together(page: Editor) -> None:
    page.load(editor_format("one_canvas"))
    page.fit()
    pairs = [f"{name}_{number}" for number in (1, 2, 3) for name in ("image", "mask")]
    wait_for_sockets(page, "KontextArrange", *pairs)
    page.queue()
    save = str(page.node("SaveImage")["id"])
    page.wait_for_picture(save)
    page.page.wait_for_timeout(1000)
    page.screenshot("canvas")
    assert not [error for error in page.errors if "kontext" in error.lower()]
