"""The world: what is drawn, what is said, and what training must never see."""

import random
import re

import pytest
import torch

from kontext_core.training.world.render import render
from kontext_core.training.world.scene import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    PLACES,
    SHAPES,
    Scene,
    Thing,
)
from kontext_core.training.world.tasks import TASKS, make_sample
from kontext_core.training.world.wording import WORDINGS, vocabulary


def words_of(text):
    return re.findall(r"\w+|[^\w\s]", text)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_a_thing_is_where_and_what_it_says(shape, size):
    for place in PLACES:
        scene = Scene((Thing(shape, "red", "medium", place),), "white", "white")
        picture = render([scene], *size)[0]
        red = (picture[0] - picture[1] > 0.4).float()
        rows, columns = torch.nonzero(red, as_tuple=True)
        assert len(rows) > 20
        row, column = PLACES[place]
        # The centre of mass lies in the place's third of the picture (stars and hearts lean).
        assert int(rows.float().mean() / size[0] * 3) == row
        assert int(columns.float().mean() / size[1] * 3) == column


def test_shapes_differ_from_each_other():
    scenes = [Scene((Thing(s, "red", "big", "middle"),)) for s in SHAPES]
    masks = (render(scenes)[:, 1] < 0.6).float()
    for i in range(len(SHAPES)):
        for j in range(i):
            union = torch.maximum(masks[i], masks[j]).sum()
            # Closest pair: square and circle, measured 0.83.
            assert float((masks[i] * masks[j]).sum() / union) < 0.88


def test_background_runs_from_top_to_bottom():
    picture = render([Scene((), "blue", "yellow")])[0]
    assert torch.allclose(picture[:, 0, 0], torch.tensor(BACKGROUNDS["blue"]), atol=0.02)
    assert torch.allclose(picture[:, -1, 0], torch.tensor(BACKGROUNDS["yellow"]), atol=0.02)


def test_looks():
    scene = Scene((Thing("star", "red", "big", "middle"),), "white", "blue")
    plain, grey, inverted, night = render(
        [
            Scene(scene.things, "white", "blue", look)
            for look in ("plain", "grey", "inverted", "night")
        ]
    )
    assert torch.allclose(inverted, 1 - plain)
    assert float((grey[0] - grey[2]).abs().max()) == 0
    assert float(night.mean()) < 0.6 * float(plain.mean())


@pytest.mark.parametrize("task", TASKS)
def test_training_never_sees_what_is_held_out(task):
    rng = random.Random(5)
    training = {text for wordings, _ in WORDINGS.values() for text in wordings}
    held = {text for _, wordings in WORDINGS.values() for text in wordings}
    assert not training & held
    for _ in range(150):
        sample = make_sample(rng, task=task)
        for scene in (*sample.references, sample.target):
            assert not any((t.shape, t.colour) in HELD_OUT for t in scene.things)


@pytest.mark.parametrize("task", [t for t in TASKS if t != "add"])
def test_held_out_cases_show_a_held_out_pair(task):
    rng = random.Random(6)
    for _ in range(40):
        sample = make_sample(rng, task=task, held_out=True)
        assert any(scene.held_out for scene in (*sample.references, sample.target))


def test_every_training_word_is_in_the_vocabulary():
    rng = random.Random(7)
    known = set(vocabulary())
    for _ in range(600):
        prompt = make_sample(rng).prompt
        assert set(words_of(prompt)) <= known, prompt


def test_no_braces_are_left_in_a_sentence():
    rng = random.Random(8)
    for task in TASKS:
        for held_out in (False, True):
            for _ in range(40):
                assert "{" not in make_sample(rng, task=task, held_out=held_out).prompt


def test_a_quarter_of_all_samples_needs_the_word_order():
    rng = random.Random(9)
    ordered = sum(make_sample(rng, references=i % 3).ordered for i in range(600))
    assert ordered / 600 > 0.25  # measured 0.65


def test_swapped_answers_exchange_the_roles():
    rng = random.Random(10)
    seen = 0
    for _ in range(100):
        sample = make_sample(rng, task="compose")
        if sample.swapped is None:
            continue
        seen += 1
        i = 0 if sample.target.things == sample.references[0].things else 1
        thing_from, ground_from = sample.references[1 - i], sample.references[i]
        assert sample.swapped.things == thing_from.things
        assert (sample.swapped.top, sample.swapped.bottom) == (ground_from.top, ground_from.bottom)
    assert seen > 30


def test_colours_can_be_told_apart():
    for table in (COLOURS, BACKGROUNDS):
        values = torch.tensor(list(table.values()))
        distance = torch.cdist(values, values) + torch.eye(len(values)) * 9
        # Closest pair: orange and yellow, measured 0.32, as backgrounds 0.17.
        assert float(distance.min()) > 0.12
