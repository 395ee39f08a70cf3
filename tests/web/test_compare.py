"""Kontext: Compare in the editor: the slider by mouse and keyboard, the heat map, candidates, undo."""

from __future__ import annotations

from typing import Any

import pytest
from editor import Editor

GRAPH: dict[str, Any] = {
    "id": "6d1cdb4e-8a0b-4b62-9a7c-0d4c6f6f2f11",
    "version": 0.4,
    "last_node_id": 3,
    "last_link_id": 3,
    "nodes": [
        {
            "id": 1, "type": "LoadImage", "pos": [40, 80], "size": [270, 320], "mode": 0, "flags": {},
            "order": 0, "inputs": [], "properties": {"Node name for S&R": "LoadImage"},
            "outputs": [
                {"name": "IMAGE", "type": "IMAGE", "links": [1, 2], "slot_index": 0},
                {"name": "MASK", "type": "MASK", "links": None},
            ],
            "widgets_values": ["kontext_shapes.png", "image"],
        },
        {
            "id": 2, "type": "KontextEdit", "pos": [340, 80], "size": [340, 480], "mode": 0,
            "flags": {}, "order": 1, "properties": {"Node name for S&R": "KontextEdit"},
            "inputs": [{"name": "image1", "type": "IMAGE", "link": 1}],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [3], "slot_index": 0}],
            "widgets_values": ["make the background blue", 0, "fixed", 2, 2.5, 0, 0, 1],
        },
        {
            "id": 3, "type": "KontextCompare", "pos": [720, 80], "size": [360, 460], "mode": 0,
            "flags": {}, "order": 2, "properties": {"Node name for S&R": "KontextCompare"},
            "inputs": [
                {"name": "before", "type": "IMAGE", "link": 2},
                {"name": "after", "type": "IMAGE", "link": 3},
                {"name": "mask", "type": "MASK", "link": None},
            ],
            "outputs": [], "widgets_values": [0.25],
        },
    ],
    "links": [
        [1, 1, 0, 2, 0, "IMAGE"], [2, 1, 0, 3, 0, "IMAGE"], [3, 2, 0, 3, 1, "IMAGE"],
    ],
    "groups": [], "config": {}, "extra": {},
}  # fmt: skip
SHOWN = """() => {
    const view = app.graph.getNodeById(3).kontextCompare;
    const seen = (part) => part.style.display !== 'none';
    return {
        words: view.words.textContent, at: view.range.value, clip: view.before.style.clipPath,
        loaded: [view.before, view.after, view.heat].map((one) => one.complete && one.naturalWidth > 0),
        seen: {before: seen(view.before), heat: seen(view.heat), grid: seen(view.grid)},
        modes: [...view.bar.children].map((one) => one.textContent),
        tiles: view.grid.children.length, connected: view.root.isConnected,
    };
}"""


@pytest.mark.slow
def test_before_and_after(page: Editor) -> None:
    page.load(GRAPH)
    page.fit()
    page.queue()
    page.page.wait_for_function(
        "() => app.graph.getNodeById(3).kontextCompare.pairs.length === 1", timeout=120_000
    )
    page.page.wait_for_function(
        "() => app.graph.getNodeById(3).kontextCompare.after.naturalWidth > 0", timeout=30_000
    )
    page.page.wait_for_timeout(500)
    page.screenshot("slider")
    shown = page.page.evaluate(SHOWN)
    assert shown["words"].startswith("whole: PSNR")
    assert shown["modes"] == ["Slider", "Difference"]
    assert shown["seen"] == {"before": True, "heat": False, "grid": False}
    # By keyboard.
    slider = page.page.locator(".kontext-compare input[type=range]").first
    slider.focus()
    page.page.keyboard.press("Home")
    assert page.page.evaluate(SHOWN)["clip"].startswith("inset(0px 100%")
    page.page.keyboard.press("ArrowRight")
    assert page.page.evaluate(SHOWN)["at"] == "1"
    # By mouse, three quarters to the right.
    box = page.page.locator(".kontext-compare").first.locator("img").first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.page.mouse.move(box["x"] + box["width"] / 4, y)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 3 * box["width"] / 4, y, steps=4)
    page.page.mouse.up()
    assert 70 <= int(page.page.evaluate(SHOWN)["at"]) <= 80
    # The node did not move with it.
    assert page.page.evaluate("() => app.graph.getNodeById(3).pos[0]") == 720
    page.page.locator(".kontext-compare button", has_text="Difference").first.click()
    page.page.wait_for_timeout(300)
    page.screenshot("difference")
    shown = page.page.evaluate(SHOWN)
    assert shown["seen"] == {"before": False, "heat": True, "grid": False}
    assert shown["loaded"] == [True, True, True]


@pytest.mark.slow
def test_candidates_and_a_reload(page: Editor) -> None:
    """After the test above: the same graph opened anew shows the last run; several are a grid."""
    page.load(GRAPH)
    page.fit()
    page.page.wait_for_function(
        "() => app.graph.getNodeById(3).kontextCompare.pairs.length === 1", timeout=30_000
    )
    page.page.evaluate(
        """() => {
            const view = app.graph.getNodeById(3).kontextCompare;
            view.show([...view.pairs, ...view.pairs, ...view.pairs]);
        }"""
    )
    page.page.locator(".kontext-compare button", has_text="Candidates").first.click()
    shown = page.page.evaluate(SHOWN)
    assert shown["seen"]["grid"] and shown["tiles"] == 3
    page.page.wait_for_timeout(300)
    page.screenshot("candidates")
    tile = page.page.locator(".kontext-compare button[aria-label^='candidate 2']").first
    tile.focus()
    page.page.keyboard.press("Enter")
    shown = page.page.evaluate(SHOWN)
    assert shown["words"].startswith("2 / 3  whole: PSNR")
    assert shown["seen"] == {"before": True, "heat": False, "grid": False}
    assert not [error for error in page.errors if "kontext" in error.lower()]
