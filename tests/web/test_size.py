"""Kontext: Stitch and Kontext: Edit say size and cost before any run, anew when the graph changes."""

from __future__ import annotations

import pytest
from editor import Editor
from templates import editor_format

# The line of the one node in sight, as a person reads it.
_SAID = "() => document.querySelector('.kontext-size')?.innerText ?? ''"


def wait_for(editor: Editor, *parts: str, absent: str = "") -> str:
    """Waits until the line has all these parts, and not that one; the line."""
    waiting = f"""([parts, absent]) => {{
        const text = ({_SAID})();
        return parts.every((part) => text.includes(part)) && !(absent && text.includes(absent));
    }}"""
    try:
        editor.page.wait_for_function(waiting, arg=[list(parts), absent], timeout=40_000)
    except Exception:
        assert editor.page.evaluate(_SAID) == f"{parts} without {absent!r}"
        raise
    return editor.page.evaluate(_SAID)


@pytest.mark.slow
def test_stitch_says_size_and_cost_before_a_run(page: Editor) -> None:
    page.load(editor_format("two_references"))
    page.fit()
    # like_image is 2 in the template; all its pictures are 64 x 64, a token 16 x 16.
    said = wait_for(page, "64 x 64", "16 + 16 + 16")
    assert "trained at" not in said
    page.screenshot("before")
    # The last reference is taken away.
    page.page.evaluate(
        """() => {
          const stitch = app.graph._nodes.find((node) => node.type === 'KontextStitch');
          const [one] = app.graph._nodes.filter((node) => node.type === 'KontextReference');
          one.connect(0, stitch, 'references');
        }"""
    )
    page.set_widget("KontextStitch", "like_image", 1)
    wait_for(page, "64 x 64", "16 + 16", "1.0 x", absent="16 + 16 + 16")
    # A target of its own, far above what the model was trained at: 16 times 64 x 64.
    page.page.evaluate(
        """() => {
          const stitch = app.graph._nodes.find((node) => node.type === 'KontextStitch');
          const size = LiteGraph.createNode('EmptySD3LatentImage');
          app.graph.add(size);
          size.widgets.find((one) => one.name === 'width').value = 256;
          size.widgets.find((one) => one.name === 'height').value = 256;
          size.connect(0, stitch, 'latent');
        }"""
    )
    wait_for(page, "256 x 256", "256 + 16", "16.0 x", "trained at")
    page.screenshot("above")
    page.set_widget("EmptySD3LatentImage", "width", 96)
    page.set_widget("EmptySD3LatentImage", "height", 64)
    wait_for(page, "96 x 64", "24 + 16", absent="trained at")


@pytest.mark.slow
def test_edit_says_it_too(page: Editor) -> None:
    page.load(editor_format("one_node_edit"))
    page.fit()
    wait_for(page, "64 x 64", "16 + 16", "1.0 x", absent="trained at")
    page.set_widget("KontextEdit", "width", 256)
    page.set_widget("KontextEdit", "height", 256)
    # The picture has its shape, and stands on its grid.
    wait_for(page, "256 x 256", "256 + 256", "16.0 x", "trained at")
    page.set_widget("KontextEdit", "height", 128)
    wait_for(page, "256 x 128", "128 + 16", "5.3 x", "trained at")
    page.set_widget("KontextEdit", "width", 0)
    page.set_widget("KontextEdit", "height", 0)
    wait_for(page, "64 x 64", absent="trained at")
    # A picture in another place than the instruction will call it.
    page.page.evaluate(
        """() => {
          const edit = app.graph._nodes.find((node) => node.type === 'KontextEdit');
          const load = app.graph._nodes.find((node) => node.type === 'LoadImage');
          edit.disconnectInput(edit.inputs.findIndex((one) => one.name === 'image1'));
          load.connect(0, edit, 'image2');
        }"""
    )
    wait_for(page, "image2", "image 1")


@pytest.mark.slow
def test_a_canvas_and_a_size_of_ones_own_are_known(page: Editor) -> None:
    """All pictures are 256 x 256; 256 pixels more at the right of one make 512 x 256."""
    page.load(editor_format("extend_picture"))
    page.fit()
    page.set_widget("KontextCanvas", "policy", "exact")
    for side in ("left", "top", "bottom"):
        page.set_widget("KontextCanvas", side, 0)
    page.set_widget("KontextCanvas", "right", 256)
    # Target and reference stand on the same grid: 32 x 16 tokens each.
    wait_for(page, "512 x 256", "512 + 512", "trained at")
    page.set_widget("KontextReference", "strength", 0)
    said = wait_for(page, "512 x 256", absent="512 + 512")
    assert "image 1" not in said
    page.load(editor_format("one_canvas"))
    page.fit()
    page.set_widget("KontextArrange", "layout", "row")
    wait_for(page, "96 x 64", "512 x 256")
    page.set_widget("KontextEdit", "width", 128)
    page.set_widget("KontextEdit", "height", 64)
    # On the grid of the size asked for, which has its shape.
    wait_for(page, "128 x 64", "32 + 32")
