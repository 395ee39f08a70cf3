"""Kontext: Box: where its outline and its mask are, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def test_outline_and_inside(pack: Any, image: Any) -> None:
    picture = image(1, 64, 128, batch=2)
    boxed, inside = pack.run(
        "KontextBox", image=picture, left=0.25, top=0.25, width=0.5, height=0.5, line=2 / 64
    ).args
    assert inside.shape == (1, 64, 128) and int(inside.sum()) == 64 * 32
    magenta = (boxed - torch.tensor([1.0, 0.0, 0.86])).abs().amax(-1) < 1e-6
    assert magenta[:, 16:48, 32:34].all() and magenta[:, 16:48, 94:96].all()
    assert magenta[:, 16:18, 32:96].all() and magenta[:, 46:48, 32:96].all()
    untouched = torch.ones(64, 128, dtype=torch.bool)
    untouched[16:48, 32:96] = False
    untouched[18:46, 34:94] = True
    assert torch.equal(boxed[:, untouched], picture[:, untouched])


def test_around_a_mask_of_another_size(pack: Any, image: Any) -> None:
    mask = torch.zeros(1, 100, 100)
    mask[:, 40:60, 20:30] = 1
    _, inside = pack.run("KontextBox", image=image(1, 200, 200), mask=mask).args
    rows, columns = inside[0].any(1).nonzero().flatten(), inside[0].any(0).nonzero().flatten()
    # With a margin of a twentieth.
    assert (int(rows[0]), int(rows[-1]) + 1) == (70, 130)
    assert (int(columns[0]), int(columns[-1]) + 1) == (30, 70)


def test_it_draws_what_the_embedded_model_was_trained_on(pack: Any) -> None:
    from kontext_lab.world.render import render
    from kontext_lab.world.scene import Scene, Thing

    thing = Thing("circle", "red", "medium", "middle")
    scene = Scene((thing,), "green", "green")
    boxed = render([Scene((thing,), "green", "green", box=thing)], 64, 64)[0].movedim(0, -1)[None]
    plain = render([scene], 64, 64)[0].movedim(0, -1)[None]
    changed = (boxed != plain).any(-1)
    made, _ = pack.run("KontextBox", image=plain, mask=changed.float()).args
    # Its own box stands a margin further out; colour and thickness are the same.
    around = (made != plain).any(-1)
    assert torch.equal(made[around].unique(dim=0), boxed[changed].unique(dim=0))
    assert int(around[0].any(0).sum()) == int(changed[0].any(0).sum()) + 6


def test_at_the_edge_it_is_cut_off(pack: Any, image: Any) -> None:
    made, inside = pack.run(
        "KontextBox", image=image(1, 64, 64), left=0.9, top=1.0, width=1.0, height=0.5
    ).args
    assert made.shape == (1, 64, 64, 3)
    assert int(inside.sum()) == 6


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"mask": torch.zeros(1, 8, 8)}, "all black"), ({"left": float("nan")}, "left"), ({"width": 0.0}, "width")],
)  # fmt: skip
def test_what_is_no_box_is_refused(pack: Any, image: Any, changes: Any, says: str) -> None:
    with pytest.raises(pack.error("InputError"), match=says):
        pack.run("KontextBox", image=image(1, 64, 64), **changes)


def test_boxes_of_other_nodes_are_drawn(pack: Any, image: Any) -> None:
    """As ComfyUI's BOUNDING_BOX sockets carry them: one, a list, or a list for each picture."""
    one = {"x": 16, "y": 8, "width": 32, "height": 24}
    other = {"x": 40, "y": 20, "width": 100, "height": 30, "metadata": {"name": "cut off"}}
    picture = image(1, 64, 64)
    expected = torch.zeros(1, 64, 64)
    expected[:, 8:32, 16:48] = 1
    for boxes in (one, [one], [[one], [other]]):
        boxed, inside = pack.run("KontextBox", image=picture, boxes=boxes).args
        assert torch.equal(inside, expected)
    expected[:, 20:50, 40:] = 1
    boxed, inside = pack.run("KontextBox", image=picture, boxes=[one, other], line=1 / 64).args
    assert torch.equal(inside, expected)
    magenta = (boxed - torch.tensor([1.0, 0.0, 0.86])).abs().amax(-1) < 1e-6
    # The second one's edge goes through the first.
    assert magenta[0, 20, 40:].all() and magenta[0, 8, 16:48].all()


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ([], "at least one box"),
        ("text", "at least one box"),
        ([{"x": 1, "y": 2, "width": 0, "height": 4}], "box 1"),
        ([{"x": 1, "y": float("nan"), "width": 3, "height": 4}], "box 1"),
        ({"x": 64, "y": 0, "width": 3, "height": 4}, "outside of the picture, which is 64 x 64"),
    ],
)
def test_boxes_that_are_none_are_refused(pack: Any, image: Any, boxes: Any, says: str) -> None:
    with pytest.raises(pack.error("InputError"), match=says):
        pack.run("KontextBox", image=image(1, 64, 64), boxes=boxes)
