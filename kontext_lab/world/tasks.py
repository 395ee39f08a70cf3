"""Tasks: an instruction, the pictures it speaks about, and the one picture that is right.

Where the instruction has an order that matters, the sample says so; where exchanging the two
references has one right answer, the sample carries it, for the probes of the benchmark.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kontext_core.errors import InputError

from . import tasks_box, tasks_global, tasks_local, tasks_two
from .sample import Ask, Retry, Sample


@dataclass(frozen=True)
class Task:
    """A kind of sample.

    Attributes:
        category: one of `CATEGORIES`.
        share: among the tasks with as many references.
        make: draws one, or raises Retry.
        free_canvas: whether the answer may have another size than the references.
        references: how many it has.
    """

    category: str
    share: float
    make: Callable[[Ask], Sample]
    free_canvas: bool = False
    references: int = 1


# What a model finds hard is drawn more often.
TASKS: dict[str, Task] = {
    "text_to_image": Task("text_to_image", 1.0, tasks_global.text_to_image, True, 0),
    "recolour": Task("local", 0.05, tasks_local.recolour),
    "recolour_all": Task("local", 0.13, tasks_local.recolour_all),
    "replace": Task("local", 0.05, tasks_local.replace_thing),
    "add": Task("local", 0.025, tasks_local.add),
    "remove": Task("local", 0.05, tasks_local.remove),
    "move": Task("local", 0.06, tasks_local.move),
    "resize": Task("local", 0.085, tasks_local.resize),
    "background": Task("global", 0.06, tasks_global.background),
    "look": Task("global", 0.22, tasks_global.look),
    "character": Task("character", 0.015, tasks_global.character, True),
    "style": Task("style", 0.14, tasks_global.style, True),
    "text": Task("text", 0.04, tasks_local.text),
    "box_remove": Task("box", 0.01, tasks_box.box_remove),
    "box_recolour": Task("box", 0.025, tasks_box.box_recolour),
    "box_replace": Task("box", 0.02, tasks_box.box_replace),
    "box_add": Task("box", 0.02, tasks_box.box_add),
    "compose": Task("two_references", 0.19, tasks_two.compose, True, 2),
    "transfer": Task("two_references", 0.26, tasks_two.transfer, True, 2),
    "combine": Task("two_references", 0.55, tasks_two.combine, True, 2),
}

CATEGORIES = (
    "text_to_image", "local", "global", "character", "style", "text", "box", "two_references",
)  # fmt: skip

# Largest shift off the grid, as a share of the shorter side: 6 px of 64.
_OFF_GRID = 0.09

_CHAIN = tuple(name for name, task in TASKS.items() if task.category in ("local", "global"))


def _names(references: int | None, free_canvas: bool | None) -> tuple[list[str], list[float]]:
    names = [
        name
        for name, task in TASKS.items()
        if task.references == references and (not free_canvas or task.free_canvas)
    ]
    return names, [TASKS[name].share for name in names]


_NAMES = {(count, free): _names(count, free) for count in range(3) for free in (None, False, True)}


def make_sample(
    rng: random.Random, *, references: int | None = None, task: str | None = None,
    held_out: bool = False, free_canvas: bool | None = None,
    wordings: Mapping[str, Sequence[str]] | None = None, off_grid: bool = False,
    unnamed: float = 0.0,
) -> Sample:  # fmt: skip
    """One sample of a task, or of any task with so many references (0, 1 or 2).

    Args:
        references: None draws the number as well, each as often.
        held_out: a case that training never makes: a held-out wording, and a held-out pair of
            kind and colour in one of the scenes.
        free_canvas: True draws only tasks whose answer may have another size than its references.
        wordings: sentences to use instead of this package's, by key of `WORDINGS`, with the same
            braces.
        off_grid: shift the things of scenes to be edited, and their boxes, off their places.
        unnamed: how often a thing of those scenes has a colour that no sentence can name.

    Raises InputError on an unknown task or number of references.
    """
    chosen = task
    if chosen is None:
        count = rng.randrange(3) if references is None else references
        if (count, free_canvas) not in _NAMES:
            raise InputError(f"references is {references}; use 0, 1 or 2")
        chosen = rng.choices(*_NAMES[count, free_canvas])[0]
    elif chosen not in TASKS:
        raise InputError(f"no task {chosen!r}; use one of {', '.join(TASKS)}")
    make, jitter = TASKS[chosen].make, _OFF_GRID if off_grid else 0.0
    while True:
        try:
            sample = make(Ask(rng, held_out, wordings, jitter=jitter, unnamed=unnamed))
        except Retry:
            continue
        scenes = (*sample.references, sample.target)
        if any(scene.held_out for scene in scenes) == held_out:
            return sample


def make_chain(
    rng: random.Random, turns: int, held_out: bool = False, *,
    wordings: Mapping[str, Sequence[str]] | None = None,
) -> list[Sample]:  # fmt: skip
    """Edits one after the other; each one's reference is the target of the one before.

    Only local and global edits. Looks that hide the colours come last, if at all.

    Args:
        turns: how many, at least 1.
        held_out: wordings and the first picture's things as in `make_sample`.

    Raises InputError on fewer than one turn.
    """
    if turns < 1:
        raise InputError(f"turns is {turns}; a chain has at least one")
    chain: list[Sample] = []
    failures = 0
    while len(chain) < turns:
        given = chain[-1].target if chain else None
        name = rng.choices(_CHAIN, [TASKS[name].share for name in _CHAIN])[0]
        try:
            sample = TASKS[name].make(Ask(rng, held_out, wordings, given))
        except (Retry, InputError) as error:
            if isinstance(error, InputError) and wordings is not None:
                raise
            failures += 1
        else:
            hidden = sample.target.look in ("grey", "inverted")
            allowed = held_out or not sample.target.held_out
            if allowed and not (hidden and len(chain) + 1 < turns):
                chain.append(sample)
                continue
            failures += 1
        if failures > 60:
            # Rarely nothing fits any more, say no free place; start again.
            chain, failures = [], 0
    return chain
