"""The world's tasks: what is asked, what is right, and what training must never see."""

import random
import re
import time
from dataclasses import replace

import pytest

from kontext_core.errors import InputError
from kontext_lab.world.scene import (
    CREATURES,
    GLYPHS,
    HELD_OUT,
    SIZES,
    fits,
)
from kontext_lab.world.tasks import CATEGORIES, TASKS, make_chain, make_sample
from kontext_lab.world.wording import (
    SLOT_VALUES,
    SLOTS,
    WORDINGS,
    swap_images,
    vocabulary,
)

EDITS = [name for name, task in TASKS.items() if task.category in ("local", "global", "text")]
BOXES = [name for name in TASKS if name.startswith("box_")]


def samples(task, count=150, seed=5, **options):
    rng = random.Random(f"{seed}/{task}")
    return [make_sample(rng, task=task, **options) for _ in range(count)]


def scenes_of(sample):
    return [scene for scene in (*sample.references, sample.target, sample.swapped) if scene]


def the_thing(sample, reference=None):
    """The one thing of the reference that the meaning fits, if the words suffice."""
    found = [
        i
        for i, thing in enumerate((reference or sample.references[0]).things)
        if all(
            sample.meaning[slot] in ("none", getattr(thing, slot)) for slot in ("kind", "colour")
        )
    ]
    return found[0] if len(found) == 1 else None


def changed(one, other):
    """Indices of the things that differ; the scenes have as many."""
    return [i for i, (a, b) in enumerate(zip(one.things, other.things, strict=True)) if a != b]


@pytest.mark.parametrize("task", TASKS)
def test_training_never_sees_what_is_held_out(task):
    for sample in samples(task, 300):
        for scene in scenes_of(sample):
            assert not any((t.kind, t.colour) in HELD_OUT for t in scene.things)


@pytest.mark.parametrize("task", TASKS)
def test_held_out_cases_show_a_held_out_pair(task):
    for sample in samples(task, 60, held_out=True):
        assert any(scene.held_out for scene in scenes_of(sample))


@pytest.mark.parametrize("task", TASKS)
def test_every_sentence_is_filled_known_and_has_a_meaning(task):
    known = set(vocabulary())
    for held_out in (False, True):
        for sample in samples(task, 200, held_out=held_out):
            assert not re.search(r"[{}\[\]|]|  | ,|\bthe the", sample.prompt), sample.prompt
            assert tuple(sample.meaning) == SLOTS or set(sample.meaning) == set(SLOTS)
            assert all(value in SLOT_VALUES[slot] for slot, value in sample.meaning.items())
            assert sample.meaning["task"] == sample.task == task
            if not held_out:
                words = set(re.findall(r"\w+|[^\w\s]", sample.prompt.lower()))
                assert words <= known, sample.prompt


@pytest.mark.parametrize("task", TASKS)
def test_things_fit_and_answers_have_no_box(task):
    for sample in samples(task):
        assert len(sample.references) == TASKS[task].references
        assert TASKS[task].category in CATEGORIES
        assert sample.target.box is None
        for scene in (*sample.references, sample.target):
            assert fits(scene.things)
            assert not {t.colour for t in scene.things} & {scene.top, scene.bottom}
            assert all(
                thing.size != "small" for thing in scene.things if thing.kind in CREATURES + GLYPHS
            )
        if sample.references:
            assert replace(sample.references[0], box=None) != sample.target


def test_recolour_changes_the_colour_of_the_thing_it_names():
    for sample in samples("recolour"):
        (reference,) = sample.references
        (index,) = changed(reference, sample.target)
        new = sample.meaning["new_colour"]
        assert sample.target == reference.with_thing(index, colour=new)
        assert the_thing(sample) in (index, None)
        others = [thing.colour for thing in reference.without(index).things]
        assert sample.ordered == (new in others)


def test_recolour_all_changes_two():
    crossed = 0
    for sample in samples("recolour_all"):
        (reference,) = sample.references
        changes = changed(reference, sample.target)
        assert len(changes) == 2
        assert {sample.target.things[i].colour for i in changes} == {
            sample.meaning["new_colour"], sample.meaning["new_colour2"]
        }  # fmt: skip
        first = the_thing(sample)
        if first is not None:
            assert sample.target.things[first].colour == sample.meaning["new_colour"]
        before = {reference.things[i].colour for i in changes}
        crossed += before == {sample.target.things[i].colour for i in changes}
    assert crossed > 20  # measured 48 of 150


@pytest.mark.parametrize("task", ["replace", "text"])
def test_replace_changes_the_kind_of_the_thing_it_names(task):
    ordered = 0
    for sample in samples(task):
        (reference,) = sample.references
        (index,) = changed(reference, sample.target)
        new = sample.meaning["new_kind"]
        assert sample.target == reference.with_thing(index, kind=new)
        assert the_thing(sample) in (index, None)
        assert sample.ordered == (new in {t.kind for t in reference.without(index).things})
        ordered += sample.ordered
        if task == "text":
            assert new in GLYPHS and sample.meaning["kind"] == reference.things[index].kind
    assert ordered > 25


@pytest.mark.parametrize("task", ["add", "box_add"])
def test_add_adds_the_thing_it_describes(task):
    for sample in samples(task):
        (reference,) = sample.references
        assert sample.target.things[:-1] == reference.things
        thing, said = sample.target.things[-1], sample.meaning
        assert (thing.kind, thing.colour) == (said["kind"], said["colour"])
        assert said["size"] in (thing.size, "none")
        if task == "add":
            assert said["place"] == thing.place
            assert thing.size == "medium" or said["size"] == thing.size


@pytest.mark.parametrize("task", ["remove", "box_remove"])
def test_remove_removes_one(task):
    for sample in samples(task):
        reference = replace(sample.references[0], box=None)
        gone = [i for i in range(len(reference.things)) if reference.without(i) == sample.target]
        assert len(gone) == 1
        if task == "remove":
            assert the_thing(sample) in (gone[0], None)


def test_move_moves_to_the_named_place():
    for sample in samples("move"):
        (reference,) = sample.references
        (index,) = changed(reference, sample.target)
        thing = sample.target.things[index]
        assert thing.place == sample.meaning["place"] != reference.things[index].place
        assert sample.target == reference.with_thing(index, place=thing.place, dx=0.0, dy=0.0)


def test_resize_goes_one_size_up_or_down():
    names = list(SIZES)
    for sample in samples("resize"):
        (reference,) = sample.references
        (index,) = changed(reference, sample.target)
        step = {"bigger": 1, "smaller": -1}[sample.meaning["size"]]
        size = names[names.index(reference.things[index].size) + step]
        assert sample.target == reference.with_thing(index, size=size)


def test_background_leaves_the_things_alone():
    seen = set()
    for sample in samples("background", 300):
        (reference,) = sample.references
        target, said = sample.target, sample.meaning
        assert replace(target, top=reference.top, bottom=reference.bottom,
                       texture=reference.texture) == reference  # fmt: skip
        if said["top"] == "none":
            assert (target.top, target.bottom) == (reference.top, reference.bottom)
        else:
            assert (target.top, target.bottom) == (said["top"], said["bottom"])
        # A texture goes unsaid only where there is none before and after.
        assert said["texture"] == target.texture or {
            reference.texture, target.texture, said["texture"]
        } == {"plain", "none"}  # fmt: skip
        seen.add((said["top"] == "none", said["top"] == said["bottom"], said["texture"] == "none"))
    assert len(seen) >= 4


def test_looks_change_the_look_only():
    for sample in samples("look"):
        assert sample.target == replace(sample.references[0], look=sample.meaning["look"])


def test_text_to_image_says_everything_that_it_shows():
    places = 0
    for sample in samples("text_to_image", 300):
        said, scene = sample.meaning, sample.target
        for thing, number in zip(scene.things, ("", "2", "3"), strict=False):
            assert said[f"kind{number}"] == thing.kind
            assert said[f"colour{number}"] == thing.colour
            assert said[f"size{number}"] == thing.size or thing.size == "medium"
            assert said[f"place{number}"] in (thing.place, "none")
            places += said[f"place{number}"] == "none"
        assert (said["top"], said["bottom"]) == (scene.top, scene.bottom)
        for name in ("texture", "look", "style"):
            assert said[name] == getattr(scene, name) or getattr(scene, name) == "plain"
    assert 0 < places < 60


def test_a_character_stays_who_it_is():
    beside = 0
    for sample in samples("character", 300):
        (old,) = (t for t in sample.references[0].things if t.kind in CREATURES)
        new, said = sample.target.things[0], sample.meaning
        assert (new.kind, new.colour) == (old.kind, old.colour)
        assert new.place == said["place"] != old.place
        assert new.size == (old.size if said["size"] == "none" else said["size"])
        assert said["colour"] == "none"
        assert said["kind"] in ("none", old.kind)
        assert (said["top"], said["bottom"]) == (sample.target.top, sample.target.bottom)
        assert old.colour not in sample.prompt.split(" background")[0].split()[:2]
        if len(sample.target.things) > 1:
            other = sample.target.things[1]
            assert (said["kind2"], said["colour2"], said["place2"]) == (
                other.kind, other.colour, other.place
            )  # fmt: skip
            beside += 1
    assert beside > 30


def test_style_is_that_of_the_reference_and_goes_unsaid():
    for sample in samples("style"):
        (reference,) = sample.references
        assert sample.target.style == reference.style != "plain"
        assert sample.meaning["style"] == "none"
        (thing,) = sample.target.things
        assert thing.kind not in {t.kind for t in reference.things}
        assert (sample.meaning["kind"], sample.meaning["place"]) == (thing.kind, thing.place)


@pytest.mark.parametrize("task", BOXES)
def test_the_box_points_and_the_words_do_not(task):
    for sample in samples(task):
        (reference,) = sample.references
        assert reference.box in (*reference.things, *sample.target.things)
        if task in ("box_recolour", "box_replace"):
            reference = replace(reference, box=None)
            (index,) = changed(reference, sample.target)
            pointed, said = reference.things[index], sample.meaning
            name = "kind" if task == "box_replace" else "colour"
            assert getattr(sample.target.things[index], name) == said[f"new_{name}"]
            assert pointed.kind not in re.findall(r"\w+", sample.prompt.replace("letter", ""))
        if task != "box_add":
            assert sample.meaning["kind"] == sample.meaning["colour"] == "none"


@pytest.mark.parametrize("task", ["compose", "transfer", "combine"])
def test_two_references_play_the_roles_that_the_words_give(task):
    seen, first = 0, 0
    for sample in samples(task, 300):
        i = int(sample.meaning["source"]) - 1
        a, b = sample.references[i], sample.references[1 - i]
        first += i == 0
        for scene, (one, other) in ((sample.target, (a, b)), (sample.swapped, (b, a))):
            if scene is None:
                continue
            if task == "compose":
                assert scene.things == one.things
                assert (scene.top, scene.bottom, scene.texture) == (
                    other.top, other.bottom, other.texture
                )  # fmt: skip
            elif task == "transfer":
                assert scene == one.with_thing(0, colour=other.things[0].colour)
            else:
                assert [t.kind for t in scene.things] == [one.things[0].kind, other.things[0].kind]
                assert [t.place for t in scene.things] == [
                    sample.meaning["place"], sample.meaning["place2"]
                ]  # fmt: skip
        assert sample.ordered
        if sample.swapped is not None:
            seen += 1
            assert sample.swapped != sample.target
            assert swap_images(sample.prompt) != sample.prompt
            assert sample.meaning["kind"] == sample.meaning["kind2"] == "none"
        else:
            # Words name what only one of the pictures has.
            words = set(re.findall(r"\w+", sample.prompt))
            assert sample.meaning["kind"] != "none" or sample.meaning["kind2"] != "none" or words & {
                "shape", "character", "creature", "figure", "letter", "number", "digit"
            }  # fmt: skip
    assert seen > 100 and 100 < first < 200


def test_an_image_is_named_in_many_ways():
    text = " ".join(sample.prompt for sample in samples("compose", 600))
    names = ("image 1", "picture 2", "the first image", "the second photo", "image one", "input 2",
             "reference 1", "image #2", "the 2nd image")  # fmt: skip
    assert all(name in text for name in names)


@pytest.mark.parametrize("task", TASKS)
def test_off_the_grid_things_of_given_pictures_are_shifted(task):
    shifts = [
        max(abs(thing.dx), abs(thing.dy))
        for sample in samples(task, 60, off_grid=True)
        for scene in sample.references
        for thing in scene.things
    ]
    assert max(shifts, default=0.09) <= 0.09
    # Beside others one might not find another spot; measured 1.0.
    assert sum(shift > 0 for shift in shifts) >= 0.98 * len(shifts)
    for sample in samples(task, 60):
        assert not any(t.dx or t.dy for scene in scenes_of(sample) for t in scene.things)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("held_out", [False, True])
def test_no_sentence_needs_the_name_of_an_unnamed_colour(task, held_out):
    found = samples(task, 100, unnamed=0.5, held_out=held_out)
    shown = [thing for sample in found for scene in sample.references for thing in scene.things]
    # Measured 0.39 to 0.5; less where the one thing shown is held out.
    unnamed = sum(not thing.named for thing in shown)
    assert held_out or unnamed > 0.3 * len(shown) or task == "text_to_image"
    for sample in found:
        assert "#" not in sample.prompt.replace("image #", "")
        assert all(value in SLOT_VALUES[slot] for slot, value in sample.meaning.items())
        assert any(scene.held_out for scene in scenes_of(sample)) == held_out
        # What is new and described has a name.
        before = {thing.colour for scene in sample.references for thing in scene.things}
        assert all(thing.named or thing.colour in before for thing in sample.target.things)


def test_free_canvas_and_the_number_of_references():
    rng = random.Random(7)
    for count in range(3):
        for _ in range(60):
            sample = make_sample(rng, references=count, free_canvas=True)
            assert len(sample.references) == count and TASKS[sample.task].free_canvas
    assert {make_sample(rng).task for _ in range(2500)} == set(TASKS)
    with pytest.raises(InputError, match="references is 3"):
        make_sample(rng, references=3)
    with pytest.raises(InputError, match="no task 'paint'"):
        make_sample(rng, task="paint")


def test_chains_link_up():
    rng = random.Random(8)
    for turns in (1, 2, 4, 6):
        for held_out in (False, True):
            for _ in range(30):
                chain = make_chain(rng, turns, held_out)
                assert len(chain) == turns
                for sample, after in zip(chain, chain[1:], strict=False):
                    assert after.references == (sample.target,)
                    assert sample.target.look not in ("grey", "inverted")
                if not held_out:
                    assert not any(s.held_out for sample in chain for s in scenes_of(sample))
                else:
                    assert chain[0].references[0].held_out or chain[0].task == "add"
                assert {sample.task for sample in chain} <= set(EDITS)
    with pytest.raises(InputError, match="turns is 0"):
        make_chain(rng, 0)


def test_given_wordings_replace_all_sentences():
    given = {
        key: ["?" + " ".join(f"{{{name}}}" for name in re.findall(r"\{([^}]*)\}", train[0]))]
        for key, (train, _) in WORDINGS.items()
    }
    for task in TASKS:
        for sample in samples(task, 20, wordings=given, held_out=True):
            assert sample.prompt.startswith("?")


def test_the_same_seed_makes_the_same_samples():
    for task in TASKS:
        assert samples(task, 10) == samples(task, 10)
    assert make_chain(random.Random(3), 4) == make_chain(random.Random(3), 4)


def test_much_needs_the_word_order():
    rng = random.Random(9)
    ordered = sum(make_sample(rng, references=i % 3).ordered for i in range(900))
    assert ordered / 900 > 0.45  # measured 0.61


def test_samples_are_fast_enough_to_train_on():
    rng = random.Random(10)
    began = time.process_time()
    for _ in range(1000):
        make_sample(rng)
    # Measured 0.00015 s each on a busy machine.
    assert (time.process_time() - began) / 1000 < 0.001
