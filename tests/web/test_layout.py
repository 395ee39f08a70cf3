"""Kontext: Stitch shows the layout before any run, anew when the graph changes, and a reference is
moved there by pointer or keyboard."""

from __future__ import annotations

from typing import Any

import pytest
from editor import Editor
from templates import editor_format

BYPASS = 4
STAR, SUNSET = "kontext_star.png", "kontext_sunset.png"
# Every image of the one layout in sight: what it says, and the file it shows.
_SEEN = """() => [...document.querySelectorAll('.kontext-layout [data-index]')].map((one) => ({
    label: one.getAttribute('aria-label'),
    file: new URLSearchParams(one.querySelector('image')?.getAttribute('href').split('?')[1])
        .get('filename'),
    role: one.getAttribute('role'),
}))"""
_PLACES = """() => app.graph._nodes.filter((node) => node.type === 'KontextReference').map((node) =>
    ['placement', 't', 'dh', 'dw'].map((name) =>
        node.widgets.find((widget) => widget.name === name).value))"""
_SET_REFERENCE = """([number, name, value]) => {
    const node = app.graph._nodes.filter((one) => one.type === 'KontextReference')[number - 1];
    node.widgets.find((widget) => widget.name === name).value = value;
}"""
_EXCHANGE = """() => {
    const [one, two] = app.graph._nodes.filter((node) => node.type === 'KontextReference');
    const stitch = app.graph._nodes.find((node) => node.type === 'KontextStitch');
    two.connect(0, one, 'references');
    one.connect(0, stitch, 'references');
    two.disconnectInput(0);
}"""
_MODE = """([type, number, mode]) => {
    app.graph._nodes.filter((one) => one.type === type)[number - 1].mode = mode;
}"""
_TARGET = """([width, height]) => {
    const stitch = app.graph._nodes.find((node) => node.type === 'KontextStitch');
    const size = LiteGraph.createNode('EmptySD3LatentImage');
    app.graph.add(size);
    size.widgets.find((one) => one.name === 'width').value = width;
    size.widgets.find((one) => one.name === 'height').value = height;
    size.connect(0, stitch, 'latent');
}"""
_WORDS = "() => document.querySelector('.kontext-layout-words').innerText"
AUTO = ["auto", 1, 0, 0]


def wait_for(editor: Editor, *labels: str) -> list[dict[str, Any]]:
    """Waits until the images say this, each in its place."""
    waiting = f"""(labels) => {{
        const seen = ({_SEEN})();
        return seen.length === labels.length
            && seen.every((one, index) => one.label.includes(labels[index]));
    }}"""
    try:
        editor.page.wait_for_function(waiting, arg=list(labels), timeout=40_000)
    except Exception:
        assert [one["label"] for one in editor.page.evaluate(_SEEN)] == list(labels)
        raise
    return editor.page.evaluate(_SEEN)


def wait_for_places(editor: Editor, *expected: list[Any]) -> None:
    waiting = f"(expected) => JSON.stringify(({_PLACES})()) === JSON.stringify(expected)"
    try:
        editor.page.wait_for_function(waiting, arg=list(expected), timeout=40_000)
    except Exception:
        assert editor.page.evaluate(_PLACES) == list(expected)
        raise


def open_two(editor: Editor) -> None:
    editor.load(editor_format("two_references"))
    editor.near("KontextStitch")


@pytest.mark.slow
def test_it_is_drawn_before_any_run_and_follows_the_graph(page: Editor) -> None:
    open_two(page)
    first, second = "image 1: t 1, h 0, w 0, 64 x 64 pixels, 16 tokens", "image 2: t 1, h 4, w 0"
    seen = wait_for(page, "target: 64 x 64 pixels, 16 tokens", first, second)
    assert [one["file"] for one in seen] == [None, STAR, SUNSET]
    assert [one["role"] for one in seen] == ["img", "button", "button"]
    whole = page.page.locator(".kontext-layout svg").get_attribute("aria-label")
    assert whole is not None
    assert whole.startswith("Layout: target: 64 x 64")
    page.screenshot("before")
    page.page.evaluate(_EXCHANGE)
    page.page.wait_for_function(
        f"(name) => ({_SEEN})()[1]?.file === name", arg=SUNSET, timeout=40_000
    )
    page.page.evaluate(_MODE, ["KontextReference", 1, BYPASS])
    wait_for(page, "target", "image 1")
    page.page.evaluate(_MODE, ["KontextReference", 1, 0])
    wait_for(page, "target", "image 1", "image 2")
    # A name, fewer tokens, and a target of another shape.
    page.page.evaluate(_SET_REFERENCE, [1, "name", "the star"])
    page.page.evaluate(_SET_REFERENCE, [1, "resolution", 0.5])
    page.page.evaluate(_TARGET, [96, 64])
    named = "image 2 (the star): t 1, h 4, w 0, 32 x 32 pixels, 4 tokens"
    wait_for(page, "target: 96 x 64 pixels, 24 tokens", "image 1", named)
    page.screenshot("named")
    for name, value in (("strength", 0.5), ("end", 0.4)):
        page.page.evaluate(_SET_REFERENCE, [1, name, value])
    wait_for(page, "target", "image 1", "strength 0.5, steps 0% – 40%")
    # Left out altogether, its place stays free.
    page.page.evaluate(_SET_REFERENCE, [1, "strength", 0])
    wait_for(page, "target", "image 1")


@pytest.mark.slow
def test_images_on_each_other_are_warned_of(page: Editor) -> None:
    open_two(page)
    wait_for(page, "target", "image 1", "image 2")
    assert page.page.evaluate(_WORDS) == ""
    page.page.evaluate(_SET_REFERENCE, [2, "placement", "explicit"])
    wait_for(page, "target", "image 1", "image 2: t 1, h 0, w 0")
    page.page.wait_for_function(
        "() => document.querySelector('.kontext-layout-words').innerText.includes('16 places shared')"
    )
    page.screenshot("overlap")


@pytest.mark.slow
def test_a_reference_is_dragged_to_a_place(page: Editor) -> None:
    open_two(page)
    wait_for(page, "target", "image 1", "image 2: t 1, h 4, w 0")
    page.page.mouse.click(800, 120)
    page.page.wait_for_timeout(500)
    at = page.page.evaluate(
        "() => [...app.graph._nodes.find((n) => n.type === 'KontextStitch').pos]"
    )
    first, second = (
        page.page.locator(f'.kontext-layout [data-index="{number}"] rect') for number in (1, 2)
    )
    one, two = first.bounding_box(), second.bounding_box()
    assert one is not None
    assert two is not None
    # To the right of image 1, a little off.
    x, y = two["x"] + two["width"] / 2, two["y"] + two["height"] / 2
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    page.page.mouse.move(x + 5, y - 5)
    page.page.mouse.move(x + one["width"] * 1.06, y - one["height"] * 0.96, steps=4)
    page.screenshot("dragging")
    page.page.mouse.up()
    wait_for_places(page, AUTO, ["explicit", 1, 0, 4])
    wait_for(page, "target", "image 1: t 1, h 0, w 0", "image 2: t 1, h 0, w 4")
    page.screenshot("dragged")
    # The node itself stays where it was, and the run gets what is shown.
    moved = "() => [...app.graph._nodes.find((n) => n.type === 'KontextStitch').pos]"
    assert page.page.evaluate(moved) == at
    sent = [n["inputs"] for n in page.prompt().values() if n["class_type"] == "KontextReference"]
    assert sorted((one["placement"], one["dw"]) for one in sent) == [("auto", 0), ("explicit", 4)]
    # One step back.
    page.page.mouse.click(800, 120)
    page.page.wait_for_timeout(500)
    page.page.keyboard.press("Control+z")
    wait_for_places(page, AUTO, AUTO)
    wait_for(page, "target", "image 1", "image 2: t 1, h 4, w 0")


@pytest.mark.slow
def test_only_what_is_dragged_moves(page: Editor) -> None:
    """Without image 1 in its way, offset would put image 2 at the origin."""
    open_two(page)
    wait_for(page, "target", "image 1", "image 2: t 1, h 4, w 0")
    page.page.locator('.kontext-layout [data-index="1"]').focus()
    page.page.keyboard.press("ArrowRight")
    wait_for_places(page, ["explicit", 1, 0, 1], ["explicit", 1, 4, 0])


@pytest.mark.slow
def test_the_keyboard_does_it_too(page: Editor) -> None:
    open_two(page)
    wait_for(page, "target", "image 1", "image 2: t 1, h 4, w 0")
    count = len(page.graph())
    image = page.page.locator('.kontext-layout [data-index="2"]')
    image.focus()
    assert "arrow keys" in str(image.get_attribute("aria-description"))
    page.page.keyboard.press("ArrowRight")
    wait_for(page, "target", "image 1", "image 2: t 1, h 4, w 1")
    # The focus stays, and the new place is spoken.
    page.page.wait_for_function("() => document.activeElement?.getAttribute('data-index') === '2'")
    spoken = page.page.locator(".kontext-layout [aria-live=polite]").text_content()
    assert spoken is not None
    assert "h 4, w 1" in spoken
    page.page.keyboard.press("Shift+ArrowRight")
    wait_for(page, "target", "image 1", "image 2: t 1, h 4, w 4")
    page.page.keyboard.press("Shift+ArrowUp")
    wait_for(page, "target", "image 1", "image 2: t 1, h 0, w 4")
    page.page.keyboard.press("PageUp")
    wait_for(page, "target", "image 1", "image 2: t 2, h 0, w 4")
    page.screenshot("keyboard")
    page.page.keyboard.press("Delete")
    wait_for(page, "target", "image 1", "image 2: t 1, h 4, w 0")
    assert page.page.evaluate(_PLACES)[1][0] == "auto"
    assert len(page.graph()) == count
