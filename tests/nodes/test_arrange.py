"""Kontext: Arrange: one canvas out of several pictures, from lines, boxes and masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

PLAIN = {
    "layout": "row", "gap": 0, "columns": 0, "background": "white", "width": 0, "height": 0, "places": "",
}  # fmt: skip


def test_a_row_says_where_things_stand(pack: Any, image: Any) -> None:
    one, other = image(1, 32, 64), image(2, 32, 32)
    made = pack.run("KontextArrange", **PLAIN, image_1=one, image_2=other)
    canvas, covered = made.args
    assert torch.equal(canvas, torch.cat([one, other], 2))
    assert covered.shape == (1, 32, 96) and bool(covered.all())
    assert made.ui["kontext_notes"] == ["canvas 96 x 32: 64 x 32 at 0, 0; 32 x 32 at 64, 0"]


def test_an_open_input_moves_the_others_up_and_it_is_said(pack: Any, image: Any) -> None:
    made = pack.run("KontextArrange", **PLAIN, image_2=image(1, 32, 32))
    assert any("image_2 is image 1" in note for note in made.ui["kontext_notes"])


def test_boxes_of_the_host_put_things_on_a_scene(pack: Any, image: Any) -> None:
    scene, thing = image(1, 64, 64), image(2, 32, 32)
    values = {**PLAIN, "layout": "places"}
    box = {"x": 16, "y": 8, "width": 32, "height": 32, "metadata": {}}
    for boxes in (box, [box], [[box]]):
        canvas, _ = pack.run(
            "KontextArrange", **values, image_1=scene, image_2=thing, boxes=boxes
        ).args
        assert torch.equal(canvas[:, 8:40, 16:48], thing)
    lines, _ = pack.run(
        "KontextArrange",
        **{**values, "places": "\n0.25 0.125 0.5 0.5"},
        image_1=scene,
        image_2=thing,
    ).args
    assert torch.equal(canvas, lines)
    with pytest.raises(pack.error("InputError"), match="3 boxes for 1 picture"):
        pack.run("KontextArrange", **values, image_1=scene, boxes=[box] * 3)
    row = pack.run("KontextArrange", **PLAIN, image_1=scene, boxes=box)
    assert "boxes have no effect" in row.ui["kontext_notes"][-1]


def test_lines_belong_to_inputs_not_to_the_order(pack: Any, image: Any) -> None:
    scene, thing = image(1, 64, 64), image(2, 32, 32)
    values = {**PLAIN, "layout": "places", "places": "\n\n0.5 0.5 0.5 0.5"}
    canvas, _ = pack.run("KontextArrange", **values, image_1=scene, image_3=thing).args
    assert torch.equal(canvas[:, 32:, 32:], thing)


def test_a_mask_and_the_cover_for_a_reference(pack: Any, image: Any, vae: Any) -> None:
    one = image(1, 64, 64)
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1
    canvas, covered = pack.run("KontextArrange", **PLAIN, image_1=one, mask_1=mask).args
    assert torch.equal(canvas[:, :32], one[:, :32]) and bool((canvas[:, 32:] == 1).all())
    chain = pack.run("KontextReference", image=canvas, vae=vae, mask=covered)[0]
    made = pack.run("KontextStitch", conditioning=[[torch.zeros(1, 16, 40), {}]], references=chain)
    # Half of its tokens: the white below is left out.
    assert made.ui["kontext_layout"][1]["tokens"] == 8


def test_nothing_to_arrange_is_refused(pack: Any) -> None:
    with pytest.raises(pack.error("InputError"), match="got no picture"):
        pack.run("KontextArrange", **PLAIN)
    check = pack.nodes["KontextArrange"].validate_inputs
    assert check(places="0 0 1 1") is True and check(places=None) is True
    assert "line 1" in check(places="what")


def test_layers_of_the_host_stand_where_they_say(pack: Any, image: Any) -> None:
    scene, thing = image(1, 64, 64), image(2, 16, 16)
    values = {**PLAIN, "layout": "places"}
    low = {"image": thing, "type": "raster", "x": 32, "y": 8, "z_index": 0}
    beyond = {**low, "image": thing.flip(-2), "x": -8, "flip_h": True, "z_index": 1}
    flat = torch.full((1, 16, 16, 3), 0.25)
    larger = {**low, "image": flat, "x": 32, "y": 32, "w": 24, "h": 24, "z_index": 1}
    stack = {"version": 1, "layers": [beyond, larger, low, {**low, "x": 0, "visible": False}]}
    canvas, covered = pack.run("KontextArrange", **values, image_1=scene, layers=stack).args
    expected = scene.clone()
    expected[:, 8:24, 32:48] = thing
    # Its left half lies beyond the edge.
    expected[:, 8:24, :8] = thing[:, :, 8:]
    expected[:, 32:56, 32:56] = 0.25
    # Only what was resized is rounded: measured 0.
    assert torch.allclose(canvas, expected, atol=1e-6) and bool(covered.all())
    alone, covered = pack.run("KontextArrange", **values, layers={**stack, "canvas": (48, 40)}).args
    assert alone.shape == (1, 40, 48, 3) and torch.equal(alone[:, 8:24, 32:48], thing)
    assert float(covered[:, :8].max()) == 0
    # Without a canvas, as far as they reach.
    assert pack.run("KontextArrange", **values, layers=stack).args[0].shape == (1, 56, 56, 3)


def test_layers_come_after_the_pictures_and_keep_their_opacity(pack: Any, image: Any) -> None:
    one = image(1, 32, 32)
    batch = image(3, 32, 32).repeat(2, 1, 1, 1)
    hidden = torch.zeros(1, 32, 32)
    hidden[:, :16] = 1
    layers = [{"image": batch, "opacity": 0.5}, {"image": one, "mask": hidden, "flip_v": True}]
    canvas, covered = pack.run(
        "KontextArrange", **PLAIN, image_1=one, layers={"version": 1, "layers": layers}
    ).args
    assert canvas.shape == (1, 32, 128, 3)
    half = 0.5 + 0.5 * batch[:1]
    assert torch.allclose(canvas[:, :, 32:64], half) and torch.allclose(canvas[:, :, 64:96], half)
    # Turned upside down, what was hidden above is hidden below.
    assert torch.equal(canvas[:, :16, 96:], one.flip(1)[:, :16])
    assert float(covered[:, 16:, 96:].max()) == 0
    # Two masks for three pictures leave the third as it is.
    two = {"image": batch, "mask": torch.cat([hidden, hidden, hidden])[:2]}
    three = {**two, "image": torch.cat([batch, batch[:1]])}
    _, covered = pack.run("KontextArrange", **PLAIN, layers={"layers": [three]}).args
    assert [float(covered[:, :16, at].max()) for at in (0, 32, 64)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"version": 2, "layers": []}, "not a stack of layers"),
        ("text", "not a stack of layers"),
        (
            {"layers": [{"image": torch.rand(1, 8, 8, 3), "name": "sun", "rotation": 0.5}]},
            "layer sun",
        ),
        (
            {"layers": [{"image": torch.rand(1, 8, 8, 3), "blend_mode": "screen"}]},
            "layer 1 is turned",
        ),
        ({"layers": []}, "got no picture"),
    ],
)
def test_layers_that_cannot_be_drawn_here(pack: Any, document: Any, words: str) -> None:
    with pytest.raises(pack.error("InputError"), match=words):
        pack.run("KontextArrange", **PLAIN, layers=document)
