"""Pictures of scenes: where things are, what tells them apart, labels that agree with the paint."""

import random
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from kontext_core.errors import InputError
from kontext_lab.world.names import BOUNDS, LOOKS, STYLES
from kontext_lab.world.render import (
    coverage,
    label_maps,
    render,
    render_with_labels,
)
from kontext_lab.world.scene import (
    BACKGROUNDS,
    COLOURS,
    CREATURES,
    GLYPHS,
    KINDS,
    PLACES,
    REACH,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    random_scene,
)
from kontext_lab.world.shapes import RANGE, silhouettes
from kontext_lab.world.thing import box_around


def scenes(seed, count, **options):
    rng = random.Random(seed)
    return [random_scene(rng, rng.choice((1, 2, 3)), jitter=0.09, **options) for _ in range(count)]


def difference(one, other):
    return float((one - other).abs().amax(0).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_a_thing_is_where_it_says_and_wears_its_colour(kind, size):
    for place in PLACES:
        scene = Scene((Thing(kind, "red", "medium", place),))
        rows, columns = torch.nonzero(coverage(scene, *size)[0] > 0.5, as_tuple=True)
        row, column = PLACES[place]
        # The centre of mass lies in the place's third of the picture (stars and hearts lean).
        assert int(rows.float().mean() / size[0] * 3) == row
        assert int(columns.float().mean() / size[1] * 3) == column
        picture = render([scene], *size)[0]
        red = (picture[0] - picture[1] > 0.4).sum()
        # Measured at least 0.67: the rest is soft edge, or a face.
        assert red > 0.5 * len(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_things_keep_their_shape_on_every_canvas(kind):
    thing = Thing(kind, "red", "medium", "middle")
    square = coverage(Scene((thing,)), 64, 64)[0]
    for height, width in ((64, 128), (160, 64)):
        whole = coverage(Scene((thing,)), height, width)[0]
        top, left = (height - 64) // 2, (width - 64) // 2
        assert torch.allclose(whole[top : top + 64, left : left + 64], square, atol=1e-4)
        assert float(whole.sum()) == pytest.approx(float(square.sum()), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_are_those_of_the_drawing(kind):
    side, index = 400, KINDS.index(kind)
    table = silhouettes(side)[0, 0, index * side : (index + 1) * side]
    axis = torch.linspace(-RANGE, RANGE, side)
    rows, columns = torch.nonzero(table < 0, as_tuple=True)
    found = [axis[v] for v in (columns.min(), rows.min(), columns.max(), rows.max())]
    assert [float(v) for v in found] == pytest.approx(BOUNDS[kind], abs=0.03)
    assert float(torch.hypot(axis[rows], axis[columns]).max()) < REACH


@pytest.mark.parametrize(
    ("kinds", "size", "limit"),
    # Closest, measured: square and circle 0.80; cat and bear 0.79; O and C 0.68.
    [(SHAPES, "big", 0.85), (CREATURES, "medium", 0.84), (GLYPHS, "medium", 0.75)],
)
def test_silhouettes_differ(kinds, size, limit):
    masks = torch.cat([coverage(Scene((Thing(k, "red", size, "middle"),))) for k in kinds])
    for i in range(len(kinds)):
        for j in range(i):
            shared = torch.minimum(masks[i], masks[j]).sum()
            assert float(shared / torch.maximum(masks[i], masks[j]).sum()) < limit


@pytest.mark.parametrize("kind", CREATURES)
@pytest.mark.parametrize("colour", ["red", "white", "yellow", "purple"])
def test_creatures_have_a_dark_face(kind, colour):
    scene = Scene((Thing(kind, colour, "medium", "middle"),), "grey", "grey")
    inside = coverage(scene)[0] > 0.95
    dark = (render([scene])[0].amax(0) < 0.33) & inside
    assert int(dark.sum()) >= 6  # measured at least 8


def field_values():
    for texture in TEXTURES[1:]:
        yield "texture", texture
    for look in LOOKS[1:]:
        yield "look", look
    for style in STYLES[1:]:
        yield "style", style


@pytest.mark.parametrize(("name", "value"), list(field_values()))
def test_textures_looks_and_styles_show(name, value):
    for scene in scenes(1, 16, textures=0):
        others = [v for f, v in field_values() if f == name and v != value]
        changed = [replace(scene, **{name: v}) for v in ("plain", value, *others)]
        plain, picture, *rest = render(changed)
        # Of the mean difference over pixels, measured at least 0.0055 (one small thing).
        for other in (plain, *rest):
            assert difference(picture, other) > 0.004


def test_background_runs_from_top_to_bottom():
    picture = render([Scene((), "blue", "yellow")])[0]
    assert torch.allclose(picture[:, 0, 0], torch.tensor(BACKGROUNDS["blue"]), atol=0.02)
    assert torch.allclose(picture[:, -1, 0], torch.tensor(BACKGROUNDS["yellow"]), atol=0.02)


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_are_soft_and_repeat_with_the_patches(texture):
    picture = render([Scene((), "green", "green", texture)])[0]
    away = picture - torch.tensor(BACKGROUNDS["green"])[:, None, None]
    assert float(away.abs().max()) < 0.1
    assert float(away.mean().abs()) < 0.04
    assert torch.equal(picture[:, :56, :56], picture[:, 8:, 8:])


def test_looks():
    scene = Scene((Thing("star", "red", "big", "middle"),), "white", "blue")
    plain, night, grey, inverted, sunset = render([replace(scene, look=look) for look in LOOKS])
    assert torch.allclose(inverted, 1 - plain, atol=1e-6)
    assert float((grey[0] - grey[2]).abs().max()) == 0
    assert float(night.mean()) < 0.6 * float(plain.mean())
    assert float(sunset[0].mean() - sunset[2].mean()) > 0.3


def test_outline_shows_the_background_inside():
    scene = Scene((Thing("circle", "red", "big", "middle"),), "blue", "blue", style="outline")
    picture = render([scene])[0]
    assert torch.allclose(picture[:, 32, 32], torch.tensor(BACKGROUNDS["blue"]), atol=1e-5)
    edge = coverage(scene)[0] > 0.9
    assert float((picture[0] - picture[2])[edge].max()) > 0.5


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("look", ["plain", "inverted"])
def test_a_box_is_a_magenta_outline_and_nothing_else(size, style, look):
    height, width = size
    for scene in scenes(3, 6):
        scene = replace(scene, style=style, look=look)
        boxed = replace(scene, box=box_around(scene.things[0], height, width))
        pointed = replace(scene, box=scene.things[0])
        without, with_box, around = render([scene, boxed, pointed], height, width)
        assert torch.equal(with_box, around)
        changed = (without - with_box).abs().amax(0) > 0
        left, top, right, bottom = (
            round(share * side) for share, side in zip(boxed.box, (width, height) * 2, strict=True)
        )
        expected = torch.zeros(height, width, dtype=torch.bool)
        expected[top:bottom, left:right] = True
        expected[top + 2 : bottom - 2, left + 2 : right - 2] = False
        assert torch.equal(changed, expected)
        assert torch.allclose(
            with_box[:, expected], torch.tensor([1.0, 0.0, 0.86])[:, None], atol=1e-6
        )


@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_coverage_agrees_with_the_picture(size):
    for scene in scenes(4, 40, textures=0, gradient=0):
        cover = coverage(scene, *size)
        assert cover.shape == (len(scene.things), *size)
        assert 0 <= float(cover.min()) and float(cover.max()) <= 1
        empty, picture = render([replace(scene, things=()), scene], *size)
        painted = (empty - picture).abs().amax(0)
        covered = cover.sum(0)
        assert float(painted[covered == 0].max()) == 0
        # Where it is fully covered, something else is seen; a pale nose may resemble anything.
        assert float((painted[covered > 0.99] > 0.08).float().mean()) > 0.9


def test_later_things_hide_earlier_ones():
    below = Thing("square", "red", "big", "middle")
    above = Thing("circle", "blue", "medium", "middle")
    cover = coverage(Scene((below, above)))
    assert float(cover.sum(0).max()) <= 1 + 1e-6
    assert float(cover[0, 32, 32]) == 0 and float(cover[1, 32, 32]) == 1
    kind, colour = label_maps([Scene((below, above))])
    assert int(kind[0, 4, 4]) == 1 + KINDS.index("circle")
    assert int(colour[0, 4, 4]) == 1 + list(COLOURS).index("blue")


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (100, 70)])
def test_labels_agree_with_coverage(size):
    batch = [*scenes(5, 30), Scene(())]
    batch[0] = replace(batch[0], style="neon", look="inverted")
    kinds, colours = label_maps(batch, *size)
    assert kinds.dtype == colours.dtype == torch.int64
    assert kinds.shape == colours.shape == (len(batch), size[0] // 8, size[1] // 8)
    for scene, kind, colour in zip(batch, kinds, colours, strict=True):
        expected_kind, expected_colour = torch.zeros_like(kind), torch.zeros_like(colour)
        if scene.things:
            share, which = F.avg_pool2d(coverage(scene, *size), 8).max(0)
            codes = torch.tensor([1 + KINDS.index(t.kind) for t in scene.things])
            worn = torch.tensor([1 + list(COLOURS).index(t.colour) for t in scene.things])
            expected_kind = torch.where(share > 0.25, codes[which], 0)
            expected_colour = torch.where(share > 0.25, worn[which], 0)
            # The smallest things on the smallest canvas fill too little of every cell.
            assert bool((kind > 0).any()) or size == (48, 96)
        assert torch.equal(kind, expected_kind)
        assert torch.equal(colour, expected_colour)


def test_an_unnamed_colour_is_painted_and_labelled_as_none():
    scene = Scene((Thing("square", "#20b0c0", "big", "middle"),))
    picture, kind, colour = render_with_labels([scene])
    assert picture[0, :, 32, 32].tolist() == pytest.approx(
        [32 / 255, 176 / 255, 192 / 255], abs=0.01
    )
    assert int(kind[0, 4, 4]) == 1 + KINDS.index("square") and not colour.any()


def test_labels_come_with_the_picture():
    batch = scenes(6, 12)
    picture, kind, colour = render_with_labels(batch)
    assert torch.equal(picture, render(batch))
    assert all(torch.equal(a, b) for a, b in zip((kind, colour), label_maps(batch), strict=True))


def test_a_picture_depends_on_its_scene_alone():
    batch = [
        replace(s, style=STYLES[i % len(STYLES)], look=LOOKS[i % len(LOOKS)])
        for i, s in enumerate(scenes(7, 30))
    ]
    together = render(batch)
    assert torch.equal(together, render(batch))
    for i, scene in enumerate(batch):
        assert torch.allclose(render([scene])[0], together[i], atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (64, 64), (200, 331)])
def test_pictures_of_any_size(size):
    batch = [
        Scene((Thing(k, "red", s, p),), style=style, texture=t, box=(0.1, 0.1, 0.5, 0.6))
        for k, s, p, style, t in zip(
            (*KINDS, "cat"), tuple(SIZES) * 8, tuple(PLACES) * 3, STYLES * 6, TEXTURES * 8,
            strict=False,
        )
    ]  # fmt: skip
    picture = render(batch, *size)
    assert picture.shape == (len(batch), 3, *size) and picture.dtype == torch.float32
    assert 0 <= float(picture.min()) and float(picture.max()) <= 1


def test_no_scenes_and_no_room():
    assert render([], 32, 32).shape == (0, 3, 32, 32)
    assert coverage(Scene(()), 32, 32).shape == (0, 32, 32)
    assert label_maps([Scene(())], 32, 40)[0].shape == (1, 4, 5)
    with pytest.raises(InputError, match="16x16"):
        render([Scene(())], 15, 64)


def test_colours_can_be_told_apart():
    for table in (COLOURS, BACKGROUNDS):
        values = torch.tensor(list(table.values()))
        distance = torch.cdist(values, values) + torch.eye(len(values)) * 9
        # Closest pair: orange and yellow, measured 0.32, as backgrounds 0.17.
        assert float(distance.min()) > 0.12


def test_drawing_is_fast_enough_to_train_on():
    batch = scenes(8, 32)
    render(batch)
    times = []
    for _ in range(5):
        start = time.process_time()
        render(batch)
        times.append(time.process_time() - start)
    # Measured 0.3 ms a picture on one thread; a helper must draw 250 pictures a second.
    assert min(times) / len(batch) < 0.004
