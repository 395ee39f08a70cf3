"""What a task makes: an instruction, the pictures it speaks about, and the one right picture."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kontext_core.errors import InputError

from .names import STYLES
from .scene import random_scene, random_thing
from .thing import Scene, Thing
from .wording import SLOTS, Phrase, say


class Retry(Exception):  # noqa: N818  (a signal between the tasks and `make_sample`, no error)
    """What was drawn doesn't make a sample of this task; draw again."""


@dataclass(frozen=True)
class Sample:
    """One training or test case.

    Attributes:
        task: name in `TASKS`.
        prompt: the instruction.
        references: scenes of image 1, image 2, ...
        target: the right answer.
        ordered: whether the same words in another order mean something else.
        swapped: the right answer when the two references, or their names in the words, change
            places; None where there is none.
        meaning: what the words say, a value of `SLOT_VALUES` for every slot.
    """

    task: str
    prompt: str
    references: tuple[Scene, ...]
    target: Scene
    ordered: bool = False
    swapped: Scene | None = None
    meaning: dict[str, str] = field(default_factory=dict)


@dataclass
class Ask:
    """What a task is asked for.

    Attributes:
        held: whether scene and words shall be held out from training.
        wordings: sentences to use instead of this package's own.
        given: the scene to edit, in a chain of edits.
        unnamed: how often a thing of a scene to be edited has a colour without a name.
        jitter: largest shift of a scene's things off their places, as a share of the shorter side.
    """

    rng: random.Random
    held: bool = False
    wordings: Mapping[str, Sequence[str]] | None = None
    given: Scene | None = None
    jitter: float = 0.0
    unnamed: float = 0.0

    def scene(
        self, counts: tuple[int, ...] = (1, 2, 2, 3), *, kinds: tuple[str, ...] | None = None,
        textures: float = 0.3, varied: bool = True,
    ) -> Scene:  # fmt: skip
        """The scene to edit: the given one, or a new one of so many things.

        Args:
            varied: now and then in another style, or at night or sunset.
        """
        if self.given is not None:
            if len(self.given.things) < min(counts):
                raise Retry
            return self.given
        rng = self.rng
        look = style = "plain"
        if varied:
            drawn = rng.random()
            if drawn < 0.06:
                style = rng.choice(STYLES[1:])
            elif drawn < 0.1:
                look = rng.choice(("night", "sunset"))
        scene = random_scene(
            rng, rng.choice(counts), held_out=self.held, jitter=self.jitter, kinds=kinds,
            textures=textures, unnamed=self.unnamed,
        )  # fmt: skip
        if look == style == "plain":
            return scene
        return replace(scene, look=look, style=style)

    def thing(self, others: tuple[Thing, ...] = (), **options: Any) -> Thing:
        """`random_thing`; Retry where none is left."""
        try:
            return random_thing(self.rng, others, **options)
        except InputError:
            raise Retry from None

    def sample(
        self, task: str, key: str, references: tuple[Scene, ...], target: Scene, *,
        ordered: bool = False, swapped: Scene | None = None, said: Mapping[str, str] = {},  # noqa: B006
        **phrases: Phrase | None,
    ) -> Sample:  # fmt: skip
        """Say it and put it together. A phrase of None means that words failed: Retry.

        Args:
            said: slots that every wording of the key fills.
        """
        if None in phrases.values():
            raise Retry
        prompt, meaning = say(
            self.rng, key, phrases, held_out=self.held, wordings=self.wordings  # type: ignore[arg-type]
        )  # fmt: skip
        full = {**dict.fromkeys(SLOTS, "none"), **said, **meaning, "task": task}
        return Sample(task, prompt, references, target, ordered, swapped, full)
