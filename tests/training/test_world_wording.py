"""The world's language: wordings, vocabulary, names of images, and what a sentence means."""

import itertools
import random
import re

import pytest

from kontext_core.errors import InputError
from kontext_lab.world.describing import (
    background_phrase,
    point_at,
    thing_phrase,
    to_phrase,
)
from kontext_lab.world.scene import KINDS, PLACES, Scene, Thing
from kontext_lab.world.tasks import TASKS
from kontext_lab.world.wording import (
    SLOT_VALUES,
    SLOTS,
    TASK_NAMES,
    WORDINGS,
    Phrase,
    article,
    say,
    swap_images,
    vocabulary,
)
from kontext_lab.world.words import VERBS

# Braces that every wording of a key needs; of a group in brackets, one.
NEEDED = {
    "scene": ("things", "on"),
    "recolour": ("old", "new"),
    "recolour_all": ("old", "new", "old2", "new2"),
    "replace": ("old", "new"),
    "add": ("thing", "place"),
    "remove": ("old",),
    "move": ("old", ("place", "to")),
    "bigger": ("old",),
    "smaller": ("old",),
    "background": (("new", "a new", "on"),),
    "gradient": ("top", "bottom"),
    **dict.fromkeys(("night", "grey", "inverted", "sunset", "box_remove"), ()),
    "character": ("who", "place", "on"),
    "style": ("thing", "place", "on"),
    "text": ("old", "new"),
    "box_recolour": ("new",),
    "box_replace": ("new",),
    "box_add": ("thing",),
    "compose": (("o", "i"), ("b", "j")),
    "transfer": (("o", "i"), ("c", "j")),
    "combine": ("o", "place", "o2", "place2", "on"),
}


def expanded(wording):
    parts = re.split(r"\[([^\]]*)\]", wording)
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return {" ".join("".join(words).split()) for words in itertools.product(*choices)}


def pieces(text):
    return re.findall(r"\w+|[^\w\s]", text.lower())


@pytest.mark.parametrize("key", WORDINGS)
def test_every_key_has_many_wordings_and_some_held_out(key):
    train, held = WORDINGS[key]
    assert len(set(train)) == len(train) >= 30
    assert len(set(held)) == len(held) >= 5
    said = set().union(*map(expanded, train))
    assert not said & set().union(*map(expanded, held))


def test_every_wording_fills_in_what_its_key_is_about():
    assert set(NEEDED) == set(WORDINGS)
    for key, (train, held) in WORDINGS.items():
        for wording in train + held:
            braces = re.findall(r"\{([^}]*)\}", wording)
            assert len(set(braces)) == len(braces), wording
            for need in NEEDED[key]:
                options = (need,) if isinstance(need, str) else need
                assert sum(option in braces for option in options) >= 1, wording
            known = {
                name
                for need in NEEDED[key]
                for name in ((need,) if isinstance(need, str) else need)
            }
            assert set(braces) <= known, wording
            assert not re.search(r"\[[^\]]*\{", wording), f"brace among words to draw: {wording}"


def test_the_words_of_held_out_wordings_are_mostly_known():
    known = set(vocabulary())
    words = {
        word
        for _, held in WORDINGS.values()
        for wording in held
        for word in pieces(re.sub(r"\{[^}]*\}|[\[\]|]", " ", wording))
    }
    assert len(words - known) < 0.1 * len(words)  # measured 0.07


def test_vocabulary_is_lower_case_and_without_doubles():
    words = vocabulary()
    assert len(set(words)) == len(words)
    assert words == sorted(words) == [word.lower() for word in words]
    assert all(pieces(word) == [word] for word in words)
    assert {kind.lower() for kind in KINDS} <= set(words)


def test_slots_start_with_none_and_know_every_task():
    assert tuple(SLOT_VALUES) == SLOTS
    assert all(values[0] == "none" and len(set(values)) == len(values)
               for values in SLOT_VALUES.values())  # fmt: skip
    assert set(SLOT_VALUES["task"][1:]) == set(TASK_NAMES) == set(TASKS)


def test_articles():
    words = ("red star", "orange star", "A", "T", "X", "5", "upper edge", "heart", "H")
    assert [article(word).split()[0] for word in words] == [
        "a", "an", "an", "a", "an", "a", "an", "a", "an"
    ]  # fmt: skip


def test_given_wordings_are_said_as_they_are():
    rng = random.Random(1)
    phrases = {"old": Phrase("red star", {"kind": "star"}), "new": Phrase("orange", {})}
    given = {"recolour": ["Give the {old} a {new} hat!"]}
    for _ in range(20):
        text, meaning = say(rng, "recolour", phrases, wordings=given)
        assert text == "Give the red star an orange hat!"
        assert meaning == {"kind": "star"}


def test_a_brace_left_out_says_nothing():
    phrases = {
        "old": Phrase("red star", {"kind": "star"}),
        "new": Phrase("blue", {"new_kind": "T"}),
    }
    _, meaning = say(random.Random(1), "x", phrases, wordings={"x": ["the {old} please"]})
    assert meaning == {"kind": "star"}


@pytest.mark.parametrize(
    ("wording", "right"),
    [
        ("change the {old} to {new}", r"change the letter T to (an A|the A)$|an A$"),
        ("change {old} to {new}", r"change the letter T to "),
        ("replace the letter {old} by the letter {new}", r"the letter T by the letter A$"),
        ("I want an {new}, not a {old}", r"an A, not a letter T$"),
        ("the {new} instead of this {old}", r"the A instead of this letter T$"),
    ],
)
def test_glyphs_get_the_article_that_a_wording_lacks(wording, right):
    phrases = {"old": Phrase("letter T"), "new": Phrase("A")}
    for seed in range(10):
        text, _ = say(random.Random(seed), "text", phrases, wordings={"text": [wording]})
        assert re.search(right, text), text
        # Lower-cased, "a" alone would be an article.
        assert not re.search(r"(?<!an )(?<!the )(?<!letter )\bA\b", text), text


def test_unknown_braces_and_missing_keys_are_refused():
    rng = random.Random(1)
    with pytest.raises(InputError, match="brace 'what'"):
        say(rng, "remove", {"old": Phrase("star")}, wordings={"remove": ["remove {what}"]})
    with pytest.raises(InputError, match="no wording for 'remove'"):
        say(rng, "remove", {"old": Phrase("star")}, wordings={"add": ["add it"]})


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("the star of image 1 on image 2's background", "the star of image 2 on image 1's background"),
        ("the first picture like the second one", "the second picture like the first one"),
        ("photo one, then photo two", "photo two, then photo one"),
        ("image #1 and image number 2", "image #2 and image number 1"),
        ("the 1st image as the 2nd", "the 2nd image as the 1st"),
        ("the red one of pic 1", "the red one of pic 2"),
    ],
)  # fmt: skip
def test_swapping_the_names_of_images(text, right):
    assert swap_images(text) == right
    assert swap_images(right) == text


def test_pointing_fits_one_thing_only():
    rng = random.Random(2)
    things = (
        Thing("star", "red", "small", "top"),
        Thing("star", "blue", "small", "left"),
        Thing("cat", "blue", "medium", "right"),
        Thing("5", "pink", "medium", "bottom"),
    )
    scene = Scene(things)
    for _ in range(400):
        assert point_at(rng, scene, 0).text not in ("star", "shape")
        assert point_at(rng, scene, 1).text not in ("star", "shape", "blue thing", "blue one")
        cat = point_at(rng, scene, 2)
        assert cat.text not in ("blue thing", "blue one", "thing")
        assert (cat.meaning.get("kind", "cat"), cat.meaning.get("colour", "blue")) == (
            "cat",
            "blue",
        )
    assert {"character", "cat", "blue cat"} <= {point_at(rng, scene, 2).text for _ in range(200)}
    twins = Scene((things[0], Thing("star", "red", "big", "bottom")))
    assert point_at(rng, twins, 0) is None


def test_words_never_need_a_colour_without_a_name():
    rng = random.Random(5)
    one, two = Thing("star", "#20b0c0", "small", "top"), Thing("star", "blue", "small", "left")
    cat = Thing("cat", "#104060", "medium", "right")
    assert {point_at(rng, Scene((one, cat)), 0, full=True).text for _ in range(50)} == {"star"}
    for scene in (Scene((one, cat)), Scene((one, two, cat))):
        said = [point_at(rng, scene, len(scene.things) - 1) for _ in range(200)]
        assert {phrase.text for phrase in said} >= {"cat", "character"}
        assert not any(slot == "colour" for phrase in said for slot in phrase.meaning)
    # Nothing tells it from the other star.
    said = [point_at(rng, Scene((one, two)), 0) for _ in range(50)]
    assert said == [None] * 50
    for _ in range(20):
        what = thing_phrase(rng, cat)
        assert "#" not in what.text and "colour" not in what.meaning


def test_a_thing_is_described_with_what_is_not_usual():
    rng = random.Random(3)
    for _ in range(200):
        what = thing_phrase(rng, Thing("heart", "red", "small", "top"), "2")
        assert what.meaning == {
            "kind2": "heart", "colour2": "red", "size2": "small"
        }  # fmt: skip
        assert re.match(r"a (small|tiny|little) .*red heart", what.text)


def test_places_and_backgrounds_mean_what_they_say():
    rng = random.Random(4)
    for place in PLACES:
        for _ in range(20):
            to = to_phrase(rng, place)
            assert to.text.startswith("to the ") and to.meaning == {"place": place}
    for _ in range(200):
        on = background_phrase(rng, "red", "blue", "checked")
        assert on.meaning == {"top": "red", "bottom": "blue", "texture": "checked"}
        assert on.text.index("red") < on.text.index("blue") and "check" in on.text.replace(
            "chequer", "check"
        )


def test_polite_words_go_with_requests_only():
    verbs = {word for train, _ in WORDINGS.values() for text in train for full in expanded(text)
             for word in [full.split()[0]]}  # fmt: skip
    # Most sentence structures are requests; the others start with something else.
    assert len(verbs & VERBS) > 80
    assert not verbs & VERBS & {"the", "a", "can", "what", "how", "I", "it"}
