"""How good the judge is: the share of right pictures it accepts and of wrong ones it rejects.

Right pictures are the answer itself, and the answer a little blurred, noisy, shifted or passed
through an autoencoder. Wrong ones have one thing wrong each. A change that nobody can see, such
as another colour in a grey picture, is not counted as wrong; `Tally.unseen` says how many.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kontext_core.errors import InputError

from ..training.patch_pca import fit_patch_pca
from ..world.names import (
    BACKGROUNDS,
    COLOURS,
    CREATURES,
    GLYPHS,
    LOOKS,
    PLACES,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
)
from ..world.render import render
from ..world.sample import Sample
from ..world.scene import fits, random_thing
from ..world.tasks import CATEGORIES, TASKS, make_sample
from ..world.thing import Scene, placed
from .compare import blur, shifted, smooth, wrongness
from .doubts import free_place, free_size
from .verdict import judge_all


@dataclass
class Tally:
    """One kind of picture in one category."""

    category: str
    kind: str
    right: bool
    count: int = 0
    judged_well: int = 0
    unseen: int = 0

    @property
    def share(self) -> float:
        """Of right pictures accepted, or of wrong ones rejected."""
        return self.judged_well / max(1, self.count)


def pca_round_trip(pictures: Tensor) -> Callable[[Tensor], Tensor]:
    """A stand-in for an autoencoder: 16 linear components of 8x8 patches, fitted on `pictures`."""
    pca = fit_patch_pca(pictures * 2 - 1)
    return lambda x: (pca.decode(pca.encode(x * 2 - 1)) / 2 + 0.5).clamp(0, 1)


def accuracy(
    cases: int = 40,
    *,
    seed: int = 5,
    size: tuple[int, int] = (64, 64),
    tasks: Sequence[str] = tuple(TASKS),
    round_trips: dict[str, Callable[[Tensor], Tensor]] | None = None,
) -> list[Tally]:
    """Judge made pictures, right and wrong ones.

    Args:
        cases: per task.
        size: (height, width).
        round_trips: more things that a right picture survives, pictures [n, 3, h, w] in 0..1.
    """
    rows: dict[tuple[str, str], Tally] = {}
    for task in tasks:
        rng = random.Random(f"{seed}/{task}")
        samples = [make_sample(rng, task=task) for _ in range(cases)]
        answers = render([sample.target for sample in samples], *size)
        for kind, pictures in _right(answers, rng, round_trips or {}).items():
            _count(rows, kind, True, samples, pictures)
        for kind, make in WRONG.items():
            made = [make(sample, rng) for sample in samples]
            _wrong(rows, kind, samples, made, answers, size)
        faults = [WRONG[rng.choice(_SINGLE)](sample, rng) for sample in samples]
        _wrong(rows, "half-way to one fault", samples, faults, answers, size, share=0.5)
        _count(rows, "another sample's answer", False, samples, answers.roll(1, 0))
        blurred = blur(answers, 4 * min(size) / 64)
        shown = [i for i in range(cases) if _differ(blurred[i], answers[i], faint=False)]
        _count(rows, "heavy blur", False, [samples[i] for i in shown], blurred[shown])
        if samples[0].references:
            mixed = answers.lerp(render([sample.references[0] for sample in samples], *size), 0.5)
            _count(rows, "half-way to the reference", False, samples, mixed)
    return sorted(rows.values(), key=lambda row: (not row.right, CATEGORIES.index(row.category)))


def _count(
    rows: dict[tuple[str, str], Tally], kind: str, right: bool, samples: Sequence[Sample],
    pictures: Tensor,
) -> None:  # fmt: skip
    for sample, verdict in zip(samples, judge_all(samples, pictures), strict=True):
        category = TASKS[sample.task].category
        row = rows.setdefault((category, kind), Tally(category, kind, right))
        row.count += 1
        row.judged_well += verdict.right is right


def _wrong(
    rows: dict[tuple[str, str], Tally], kind: str, samples: Sequence[Sample],
    made: Sequence[Scene | None], answers: Tensor, size: tuple[int, int], share: float = 1.0,
) -> None:  # fmt: skip
    at = [i for i, scene in enumerate(made) if scene is not None]
    if not at:
        return
    pictures = render([scene for scene in made if scene is not None], *size)
    seen = []
    for k, i in enumerate(at):
        if _differ(pictures[k], answers[i], faint=kind == "another texture"):
            seen.append(k)
        else:
            category = TASKS[samples[i].task].category
            rows.setdefault((category, kind), Tally(category, kind, False)).unseen += 1
    if seen:
        mixed = answers[[at[k] for k in seen]].lerp(pictures[seen], share)
        _count(rows, kind, False, [samples[at[k]] for k in seen], mixed)


def _differ(one: Tensor, other: Tensor, *, faint: bool) -> bool:
    """Whether people could tell two pictures apart; of textures less is enough."""
    if faint:
        return float((one - other).square().mean().sqrt()) > 0.02
    return bool(wrongness(smooth(one), smooth(other), smooth(one[None]))[1])


def _right(
    answers: Tensor, rng: random.Random, round_trips: dict[str, Callable[[Tensor], Tensor]]
) -> dict[str, Tensor]:
    noise = torch.randn(answers.shape, generator=torch.Generator().manual_seed(rng.randrange(999)))
    steps = [(-1, 0), (1, 0), (0, -1), (0, 1), (1, 1), (-1, -1)]
    return {
        "the answer": answers,
        "blurred, sigma 0.7": blur(answers, 0.7),
        "noise, sigma 0.04": (answers + 0.04 * noise).clamp(0, 1),
        "shifted by 1 px": torch.stack([shifted(x, *rng.choice(steps)) for x in answers]),
        **{name: trip(answers) for name, trip in round_trips.items()},
    }


# Each makes one kind of wrong picture, or None where the kind makes no sense.
Maker = Callable[[Sample, random.Random], "Scene | None"]


def _other(rng: random.Random, values: Sequence[str], *but: str) -> str:
    return rng.choice([value for value in values if value not in but])


def _changed(slot: str) -> Maker:
    def make(sample: Sample, rng: random.Random) -> Scene | None:
        scene = sample.target
        if not scene.things:
            return None
        i = rng.randrange(len(scene.things))
        thing = scene.things[i]
        if slot == "kind":
            family = rng.choice((SHAPES, CREATURES, GLYPHS))
            return scene.with_thing(i, kind=_other(rng, family, thing.kind))
        if slot == "like kind":
            family = next(f for f in (SHAPES, CREATURES, GLYPHS) if thing.kind in f)
            return scene.with_thing(i, kind=_other(rng, family, thing.kind))
        if slot == "colour":
            return scene.with_thing(i, colour=_other(rng, tuple(COLOURS), thing.colour))
        if slot == "size":
            if free_size(sample, i):
                return None
            return scene.with_thing(i, size=_other(rng, tuple(SIZES), thing.size))
        if free_place(sample, i):
            return None
        if slot == "offset":
            return _pushed(scene, i, rng)
        places = [
            place for place in PLACES
            if place != thing.place and fits(scene.with_thing(i, place=place, dx=0, dy=0).things)
        ]  # fmt: skip
        return scene.with_thing(i, place=rng.choice(places), dx=0.0, dy=0.0) if places else None

    return make


def _pushed(scene: Scene, index: int, rng: random.Random) -> Scene | None:
    """The thing 6 px of 64 from its place, where the others and the edge leave room."""
    thing = scene.things[index]
    ways = [(0.094, 0.0), (-0.094, 0.0), (0.0, 0.094), (0.0, -0.094)]
    rng.shuffle(ways)
    x, y, _ = placed(thing)
    for dx, dy in ways:
        made = scene.with_thing(index, dx=thing.dx + dx, dy=thing.dy + dy)
        to_x, to_y, _ = placed(made.things[index])
        if abs(to_x - x) + abs(to_y - y) > 0.09 and fits(made.things):
            return made
    return None


def _missing(sample: Sample, rng: random.Random) -> Scene | None:
    count = len(sample.target.things)
    return sample.target.without(rng.randrange(count)) if count else None


def _extra(sample: Sample, rng: random.Random) -> Scene | None:
    scene = sample.target
    ground = (scene.top, scene.bottom)
    try:
        thing = random_thing(rng, scene.things, backgrounds=ground, sizes=("small", "medium"))
    except InputError:
        return None  # the picture is full
    return replace(scene, things=(*scene.things, thing))


def _background(sample: Sample, rng: random.Random) -> Scene:
    scene = sample.target
    names = tuple(BACKGROUNDS)
    if scene.top == scene.bottom:
        new = _other(rng, names, scene.top)
        return replace(scene, top=new, bottom=new)
    if rng.random() < 0.5:
        return replace(scene, top=_other(rng, names, scene.top))
    return replace(scene, bottom=_other(rng, names, scene.bottom))


def _boxed(sample: Sample, rng: random.Random) -> Scene | None:
    boxes = [scene.box for scene in sample.references if scene.box]
    return replace(sample.target, box=boxes[0]) if boxes else None


def _unedited(sample: Sample, rng: random.Random) -> Scene | None:
    return rng.choice(sample.references) if sample.references else None


def _whole(slot: str, values: Sequence[str]) -> Maker:
    def make(sample: Sample, rng: random.Random) -> Scene:
        now = getattr(sample.target, slot)
        return replace(sample.target, **{slot: _other(rng, values, now)})

    return make


WRONG: dict[str, Maker] = {
    "another kind": _changed("kind"),
    "another kind of its family": _changed("like kind"),
    "another colour": _changed("colour"),
    "another size": _changed("size"),
    "another place": _changed("place"),
    "6 px off its place": _changed("offset"),
    "a thing missing": _missing,
    "a thing too many": _extra,
    "another background": _background,
    "another texture": _whole("texture", TEXTURES),
    "another look": _whole("look", LOOKS),
    "another style": _whole("style", STYLES),
    "box still there": _boxed,
    "reference, unedited": _unedited,
    "answer of exchanged images": lambda sample, rng: sample.swapped,
}


_SINGLE = (
    "another kind", "another colour", "another place", "a thing missing", "another background",
    "another look", "another style",
)  # fmt: skip


def table(rows: Sequence[Tally]) -> str:
    """Markdown: kinds of pictures down, categories across, shares in per cent."""
    categories = [c for c in CATEGORIES if any(row.category == c for row in rows)]
    lines = [
        "| picture | " + " | ".join(c.replace("_", " ") for c in categories) + " |",
        "|---|" + "---|" * len(categories),
    ]
    for right in (True, False):
        title = "right pictures accepted" if right else "wrong pictures rejected"
        lines.append(f"| **{title}, %** |" + " |" * len(categories))
        for kind in dict.fromkeys(row.kind for row in rows if row.right is right):
            cells = []
            for category in categories:
                match = [r for r in rows if (r.category, r.kind) == (category, kind) and r.count]
                cells.append(f"{100 * match[0].share:.0f} ({match[0].count})" if match else "")
            lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
