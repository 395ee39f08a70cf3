"""Several pictures on one canvas: where they stand, shapes kept, opacity, and what is refused."""

from __future__ import annotations

import pytest
import torch

from kontext_core.arrange import arrange, arrange_sizes, placed_size, read_places
from kontext_core.errors import InputError, ShapeError


def flat(width: int, height: int, *colour: float) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.float32).expand(1, height, width, len(colour)).clone()


RED, GREEN, BLUE = flat(64, 32, 1, 0, 0), flat(32, 64, 0, 1, 0), flat(64, 64, 0, 0, 1)
SIZES = [(64, 32), (32, 64), (64, 64)]


def test_a_row_is_as_high_as_the_first() -> None:
    plan = arrange_sizes(SIZES, "row", gap=4)
    assert plan.size == (64 + 4 + 16 + 4 + 32, 32)
    assert plan.boxes == ((0, 0, 64, 32), (68, 0, 16, 32), (88, 0, 32, 32))


def test_a_column_is_as_wide_as_the_first() -> None:
    plan = arrange_sizes(SIZES, "column")
    assert plan.size == (64, 32 + 128 + 64)
    assert plan.boxes == ((0, 0, 64, 32), (0, 32, 64, 128), (0, 160, 64, 64))


def test_a_grid_has_cells_of_the_first_ones_size() -> None:
    plan = arrange_sizes(SIZES, "grid", gap=2)
    assert plan.size == (130, 66)
    assert plan.boxes == ((0, 0, 64, 32), (90, 0, 16, 32), (16, 34, 32, 32))
    assert arrange_sizes(SIZES, "grid", columns=3).size == (192, 32)


def test_a_size_asked_for_is_filled_as_far_as_shapes_allow() -> None:
    plan = arrange_sizes(SIZES, "row", size=(224, 0))
    assert plan.size == (224, 64)
    plan = arrange_sizes([(64, 32)], "row", size=(100, 100))
    assert plan.size == (100, 100)
    assert plan.boxes == ((0, 25, 100, 50),)


def test_places_keep_shapes_in_their_boxes() -> None:
    places = read_places("\n0.5, 0.25, 0.5, 0.5\n0 0 .25 .5")
    plan = arrange_sizes([(128, 64), (32, 64), (64, 64)], "places", places=places)
    assert plan.size == (128, 64)
    assert plan.boxes == ((0, 0, 128, 64), (88, 16, 16, 32), (0, 0, 32, 32))
    assert placed_size((128, 64), (0, 128)) == (256, 128)


def test_pictures_stand_in_their_boxes_and_cover_them() -> None:
    plan = arrange_sizes(SIZES, "row", gap=4)
    canvas, covered = arrange([RED, GREEN, BLUE], plan, background="black")
    assert canvas.shape == (1, 32, 120, 3)
    assert torch.equal(canvas[:, :, :64], RED)
    # A flat picture stays flat when resized: measured 0 to 1e-7.
    assert (canvas[:, :, 68:84] - torch.tensor([0.0, 1, 0])).abs().max() < 1e-5
    assert not canvas[:, :, 64:68].any() and not covered[:, :, 64:68].any()
    assert covered[:, :, 68:84].min() > 1 - 1e-5


def test_what_is_transparent_shows_what_is_below() -> None:
    glass = flat(64, 64, 1, 0, 0, 0.25)
    scene = flat(64, 64, 0, 0, 1)
    plan = arrange_sizes([(64, 64)] * 2, "places", places=[None, (0.0, 0.0, 1.0, 1.0)])
    canvas, covered = arrange([scene, glass], plan)
    assert torch.allclose(canvas, torch.tensor([0.25, 0, 0.75]).expand_as(canvas))
    assert torch.equal(covered, torch.ones(1, 64, 64))
    # A mask at another size, the right half, times the picture's own opacity.
    mask = torch.zeros(16, 16)
    mask[:, 8:] = 1
    canvas, _ = arrange([scene, glass], plan, masks=[None, mask])
    assert torch.equal(canvas[:, :, :24], scene[:, :, :24])
    assert torch.allclose(canvas[:, :, 40:], torch.tensor([0.25, 0, 0.75]).expand(1, 64, 24, 3))


def test_invisible_colours_do_not_bleed_into_edges() -> None:
    """A white thing on transparent black, shrunk: its edge is white, not grey."""
    thing = torch.zeros(1, 64, 64, 4)
    thing[:, 16:48, 16:48] = 1
    scene = flat(64, 64, 1, 1, 1)
    plan = arrange_sizes([(64, 64)] * 2, "places", places=[None, (0.1, 0.1, 0.37, 0.37)])
    canvas, _ = arrange([scene, thing], plan)
    # Bicubic overshoots are cut off: measured 6e-8.
    assert (canvas - 1).abs().max() < 1e-5


def test_batches() -> None:
    plan = arrange_sizes([(64, 32)] * 2, "row")
    canvas, covered = arrange([RED, RED.repeat(3, 1, 1, 1)], plan)
    assert canvas.shape[0] == covered.shape[0] == 3
    with pytest.raises(ShapeError, match="picture 1 is a batch of 2, another one of 3"):
        arrange([RED.repeat(2, 1, 1, 1), RED.repeat(3, 1, 1, 1)], plan)


def test_what_reaches_beyond_the_canvas_is_cut_off() -> None:
    plan = arrange_sizes([(64, 64)] * 2, "places", places=[None, (0.75, 0.75, 1.0, 1.0)])
    canvas, _ = arrange([BLUE, flat(64, 64, 1, 0, 0)], plan)
    assert torch.equal(canvas[0, 48:, 48:], flat(16, 16, 1, 0, 0)[0])
    assert torch.equal(canvas[0, :48], BLUE[0, :48])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: arrange_sizes([], "row"), "no picture"),
        (lambda: arrange_sizes(SIZES, "heap"), "unknown layout"),
        (lambda: arrange_sizes(SIZES, "row", gap=-1), "gap"),
        (lambda: arrange_sizes(SIZES, "places"), "picture 2 has no place"),
        (lambda: arrange_sizes([(9000, 16)] * 2, "row"), "18000 x 16"),
        (lambda: read_places("0.5, 0.5, 0.5"), "line 1 of places"),
        (lambda: read_places("\n1.5 0 1 1"), "line 2 of places"),
        (lambda: read_places("nan 0 1 1"), "line 1 of places"),
    ],
)
def test_what_is_refused(call, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()


def test_a_mask_of_another_shape_is_refused() -> None:
    plan = arrange_sizes([(64, 32)], "row")
    with pytest.raises(ShapeError, match="the mask of picture 1"):
        arrange([RED], plan, masks=[torch.ones(64, 64)])
