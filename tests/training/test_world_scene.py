"""Scenes as data: what random ones hold, what fits where, what is refused."""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from kontext_core.errors import InputError
from kontext_lab.world.names import distance
from kontext_lab.world.render import coverage
from kontext_lab.world.scene import (
    BACKGROUNDS,
    COLOURS,
    CREATURES,
    GLYPHS,
    HELD_OUT,
    KINDS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    fits,
    free_places,
    placed,
    random_scene,
    random_thing,
    rgb_of,
)
from kontext_lab.world.thing import box_around, centre


def scenes(seed, count=300, **options):
    rng = random.Random(seed)
    options = {"jitter": 0.09, **options}
    return [random_scene(rng, rng.choice((1, 2, 3)), **options) for _ in range(count)]


def test_every_kind_has_one_held_out_pair():
    assert Counter(kind for kind, _ in HELD_OUT) == dict.fromkeys(KINDS, 1)
    assert {colour for _, colour in HELD_OUT} <= set(COLOURS)


def test_random_scenes_never_hold_a_held_out_pair_unless_asked():
    assert not any(scene.held_out for scene in scenes(1))
    for kinds in (None, SHAPES, CREATURES, GLYPHS):
        assert all(scene.held_out for scene in scenes(2, 60, held_out=True, kinds=kinds))


def test_random_things_differ_from_each_other_and_from_the_background():
    for scene in scenes(3):
        kinds = [thing.kind for thing in scene.things]
        colours = [thing.colour for thing in scene.things]
        assert len(set(kinds)) == len(kinds) and len(set(colours)) == len(colours)
        assert not {scene.top, scene.bottom} & set(colours)


def test_random_scenes_show_everything():
    found = scenes(4, 900)
    things = [thing for scene in found for thing in scene.things]
    assert {thing.kind for thing in things} == set(KINDS)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.size for thing in things} == set(SIZES)
    assert {thing.place for thing in things} == set(PLACES)
    assert {scene.texture for scene in found} == set(TEXTURES)
    assert {scene.top for scene in found} == set(BACKGROUNDS)
    counts = Counter(
        "shape" if t.kind in SHAPES else "creature" if t.kind in CREATURES else "glyph"
        for t in things
    )
    # Meant: 0.6, 0.25, 0.15.
    assert 0.55 < counts["shape"] / len(things) < 0.65
    assert 0.20 < counts["creature"] / len(things) < 0.30


def test_creatures_and_glyphs_are_never_small():
    for scene in scenes(5, sizes=("small", "medium")):
        assert all(thing.kind in SHAPES or thing.size != "small" for thing in scene.things)
    # Not even where nothing else would fit.
    crowd = tuple(Thing("circle", "red", "medium", place) for place in ("top", "bottom"))
    rng = random.Random(5)
    assert free_places(crowd, "medium") == [] != free_places(crowd, "small")
    assert random_thing(rng, crowd, sizes=("medium",)).size == "small"
    with pytest.raises(InputError, match="no place is left"):
        random_thing(rng, crowd, kinds=CREATURES + GLYPHS)


@pytest.mark.parametrize(
    ("size", "xs", "ys"),
    [((64, 64), (16, 32, 48), (16, 32, 48)), ((64, 96), (16, 48, 80), (16, 32, 48)),
     ((96, 64), (16, 32, 48), (16, 48, 80)), ((80, 80), (20, 40, 60), (20, 40, 60))],
)  # fmt: skip
@pytest.mark.parametrize("thing_size", SIZES)
def test_places_are_a_quarter_of_the_shorter_side_from_their_edges(size, xs, ys, thing_size):
    for place, (row, column) in PLACES.items():
        assert centre(place, *size) == (xs[column], ys[row])
        # A big thing still fits there.
        x, y, _ = placed(Thing("square", "red", thing_size, place), *size)
        assert (x, y) == pytest.approx((xs[column], ys[row]))


def test_jitter_takes_things_off_their_places():
    apart = [
        max(abs(thing.dx), abs(thing.dy)) for s in scenes(8, jitter=0.09) for thing in s.things
    ]
    assert 0.08 < max(apart) <= 0.09
    # Beside others one might not find another spot; measured 0.
    assert apart.count(0) / len(apart) < 0.02
    rng = random.Random(8)
    still = [thing for _ in range(50) for thing in random_scene(rng, 2).things]
    assert not any(thing.dx or thing.dy for thing in still)


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 64)])
def test_things_never_overlap(size):
    for scene in scenes(6, 150):
        assert fits(scene.things)
        # As another kind, too: a star may become a triangle where it stands.
        for kind in (None, "square", "triangle", "robot"):
            alone = [
                coverage(Scene((t if kind is None else Thing(kind, "red", t.size, t.place,
                                                             dx=t.dx, dy=t.dy),)), *size)[0]
                for t in scene.things
            ]  # fmt: skip
            # Soft edges may share a pixel.
            assert float((torch.stack(alone).sum(0) - 1).max()) < 0.35


def test_free_places_keep_clear_of_what_is_there():
    thing = Thing("cat", "red", "medium", "middle")
    assert free_places((thing,), "medium") == []
    assert free_places((replace(thing, size="big"),), "small") == []
    corners = ["top left", "top right", "bottom left", "bottom right"]
    assert free_places((thing,), "small") == corners
    assert set(free_places((), "big")) == set(PLACES)


def test_a_thing_never_leaves_the_picture():
    for place in PLACES:
        for dx in (-0.5, 0.5):
            x, y, radius = placed(Thing("cat", "red", "big", place, dx=dx, dy=dx), 64, 96)
            assert radius <= x <= 96 - radius and radius <= y <= 64 - radius


def test_unnamed_colours_are_unlike_all_around_them():
    found = scenes(9, 200, unnamed=0.5)
    things = [thing for scene in found for thing in scene.things]
    codes = {thing.colour for thing in things if not thing.named}
    assert 0.4 < sum(not thing.named for thing in things) / len(things) < 0.6
    assert len(codes) > 150 and not any(thing.held_out for thing in things if not thing.named)
    for scene in found:
        for thing in scene.things:
            rivals = [COLOURS[name] for name in COLOURS if name != thing.colour]
            rivals += [BACKGROUNDS[name] for name in (scene.top, scene.bottom)]
            rivals += [rgb_of(t.colour) for t in scene.things if t is not thing]
            if not thing.named:
                assert min(distance(rgb_of(thing.colour), rgb) for rgb in rivals) >= 0.25
    # What is held out has a name, in unnamed company too.
    rng = random.Random(9)
    assert all(random_thing(rng, held_out=True, unnamed=1.0).held_out for _ in range(20))
    assert all(random_scene(rng, 2, held_out=True, unnamed=1.0).held_out for _ in range(20))


def test_impossible_things_are_refused():
    rng = random.Random(7)
    with pytest.raises(InputError, match="no held-out pair"):
        random_thing(rng, held_out=True, kinds=("cat",), backgrounds=("green",))
    with pytest.raises(InputError, match="no place is left"):
        crowd = tuple(Thing("circle", "red", "medium", place) for place in PLACES)
        random_thing(rng, crowd)
    with pytest.raises(InputError):
        random_scene(rng, 3, kinds=("cat", "bear"))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "dog"},
        {"colour": "teal"},
        {"colour": "#12345G"},
        {"colour": "#123"},
        {"size": "huge"},
        {"place": "north"},
    ],
)
def test_a_thing_refuses_unknown_names(change):
    with pytest.raises(InputError, match=next(iter(change))):
        Thing(**{"kind": "cat", "colour": "red", "size": "big", "place": "top", **change})


@pytest.mark.parametrize(
    "change", [{"texture": "wavy"}, {"look": "day"}, {"style": "oil"}, {"top": "teal"},
               {"box": (0.5, 0, 0.4, 1)}, {"box": (0, 0, 1.2, 1)}],
)  # fmt: skip
def test_a_scene_refuses_what_it_can_not_show(change):
    with pytest.raises(InputError, match=next(iter(change))):
        Scene((), **change)


def test_edits_leave_the_scene_alone():
    scene = Scene((Thing("cat", "red", "big", "top"), Thing("A", "blue", "medium", "bottom")))
    assert scene.with_thing(1, colour="pink").things[1].colour == "pink"
    assert scene.without(0).things == scene.things[1:]
    assert scene.things[1].colour == "blue" and len(scene.things) == 2


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (128, 80)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_box_goes_around_its_thing(kind, size):
    height, width = size
    for place in ("top left", "middle", "right"):
        thing = Thing(kind, "blue", "medium", place)
        left, top, right, bottom = box_around(thing, height, width)
        covered = coverage(Scene((thing,)), height, width)[0] > 0.2
        rows, columns = torch.nonzero(covered, as_tuple=True)
        assert left * width < int(columns.min()) and int(columns.max()) + 1 < right * width
        assert top * height < int(rows.min()) and int(rows.max()) + 1 < bottom * height
        # And isn't much larger: twice the margin and a little.
        assert (right - left) * width < int(columns.max() - columns.min()) + 14
        assert (bottom - top) * height < int(rows.max() - rows.min()) + 14
