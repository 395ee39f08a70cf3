"""Is this picture the right answer? Analysis by synthesis: draw right and wrong ones and compare.

Every attribute has a right rendition and others in which it alone differs. The picture has it
right where, in the pixels that tell the two apart, its error to the right rendition is clearly
the smaller. The judge sees the question and the picture, never the model that drew it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kontext_core.errors import ShapeError

from ..world.names import LOOKS, PLACES, STYLES
from ..world.render import render
from ..world.sample import Sample
from ..world.styles import apply_looks
from ..world.tasks import TASKS
from ..world.thing import Scene, Thing
from .background import background_doubt, profiles, texture_doubt
from .compare import (
    blur,
    fitted_blur,
    grown,
    misfit,
    shifted,
    smooth,
    strangeness,
    untouched_psnr,
    wrongness,
)
from .doubts import EDITS, Doubt, alone, doubts, free_place, grounds, textures
from .fit import candidates, choose, settle

# How far from right (0) to wrong (1) an attribute may be.
LIMIT = 0.36
# Of fine detail an autoencoder loses some, as a blur does, so that may be a bit nearer.
LIMITS = {"sharpness": 0.47}
# How far a thing may be off in what makes it none of the wrong ones (see `misfit`).
GARBLED = 0.4
# Largest local deviation from the right background (see `strangeness`), of 1; less where the light
# or the style leaves less of every difference.
STRANGE = 0.06
DIM = {"night": 0.45, "sunset": 0.75, "grey": 0.6, "outline": 0.6}
# What an edit may not touch keeps at least this PSNR, in dB.
UNTOUCHED = 20.0
# How far a thing may stand off its place, in pixels of a 64-pixel picture.
REACH = 2


@dataclass(frozen=True)
class Verdict:
    """What the judge found.

    Attributes:
        right: nothing failed.
        failed: names of the attributes that are wrong.
        details: per attribute how far it is from right (0) to wrong (1), at its worst;
            "form": the worst thing's error over what the thing adds; "nothing_else": the
            background's largest local deviation; "untouched_psnr" in dB, for edits.
    """

    right: bool
    failed: tuple[str, ...]
    details: dict[str, float] = field(default_factory=dict)


def judge(sample: Sample, picture: Tensor, references: Sequence[Tensor] = ()) -> Verdict:
    """Judge one picture [3, h, w] in 0..1; see `judge_all`."""
    if picture.ndim != 3:
        raise ShapeError(f"picture has shape {tuple(picture.shape)}; expected [3, h, w]")
    return judge_all([sample], picture[None], [references])[0]


@torch.no_grad()
def judge_all(
    samples: Sequence[Sample],
    pictures: Tensor,
    references: Sequence[Sequence[Tensor]] | None = None,
) -> list[Verdict]:
    """Judge answers, one to each sample.

    Args:
        pictures: [n, 3, h, w] in 0..1.
        references: what each question showed, [3, h, w] each; drawn from the samples if None or
            empty. Only the untouched area is compared with them.

    Raises:
        ShapeError: the pictures are not [n, 3, h, w] with one per sample, or an edit's reference
            has another size.
    """
    if pictures.ndim != 4 or pictures.shape[1] != 3 or len(pictures) != len(samples):
        raise ShapeError(
            f"pictures have shape {tuple(pictures.shape)} for {len(samples)} samples; expected "
            "[samples, 3, h, w]"
        )
    shown = references if references is not None else [()] * len(samples)
    verdicts: list[Verdict] = []
    # A few cases at a time: enough for the renderer, few enough for the memory.
    for start in range(0, len(samples), 4):
        part = slice(start, start + 4)
        verdicts += _judge_some(samples[part], pictures[part].float(), shown[part])
    return verdicts


class _Drawings:
    """Scenes by their smooth renditions; draws what it does not have yet, all at once."""

    def __init__(self, height: int, width: int) -> None:
        self.size = (height, width)
        self.known: dict[Scene, Tensor] = {}

    def draw(self, scenes: Sequence[Scene]) -> None:
        new = list(dict.fromkeys(scene for scene in scenes if scene not in self.known))
        # In parts that stay in the processor's cache.
        for start in range(0, len(new), 32):
            part = new[start : start + 32]
            self.known.update(zip(part, smooth(render(part, *self.size)), strict=True))

    def __getitem__(self, scene: Scene) -> Tensor:
        return self.known[scene]

    def stack(self, scenes: Sequence[Scene]) -> Tensor:
        return torch.stack([self.known[scene] for scene in scenes])


def _judge_some(
    samples: Sequence[Sample], pictures: Tensor, shown: Sequence[Sequence[Tensor]]
) -> list[Verdict]:
    drawings = _Drawings(*pictures.shape[-2:])
    smoothed = smooth(pictures)
    first: list[Scene] = []
    for sample in samples:
        first += [sample.target, alone(sample.target)]
        first += [alone(sample.target, i) for i in range(len(sample.target.things))]
        for i, scenes in candidates(sample):
            first += [alone(scene, i) for scene in scenes]
    drawings.draw(first)
    fits = [_fitted(s, x, drawings) for s, x in zip(samples, smoothed, strict=True)]
    rights = [right for right, _ in fits]
    asked = [
        doubts(sample, right, drawings.size) for sample, right in zip(samples, rights, strict=True)
    ]
    second: list[Scene] = []
    for sample, right, mine in zip(samples, rights, asked, strict=True):
        second += [right, replace(right, look="plain"), *sample.references]
        second += textures(right).values()
        second += [replace(right, style=style) for style in STYLES]
        for doubt in mine:
            second += [doubt.scene] if doubt.base is None else [doubt.scene, doubt.base]
    drawings.draw(second)
    return [
        _verdict(sample, fit, mine, x, list(images), drawings)
        for sample, fit, mine, x, images in zip(samples, fits, asked, smoothed, shown, strict=True)
    ]


# The right scene, and how far its things still have to be moved (see `settle`).
FittedScene = tuple[Scene, list[tuple[int, int]]]


def _fitted(sample: Sample, x: Tensor, drawings: _Drawings) -> FittedScene:
    """The right answer with its things where, and as large as, the picture has them."""
    right = sample.target
    drawn, empty = drawings[right], drawings[alone(right)]
    reach = max(1, round(REACH * min(x.shape[-2:]) / 64))
    best = {}
    for i, scenes in candidates(sample):
        without = drawn - (drawings[alone(right, i)] - empty)
        layers = drawings.stack([alone(scene, i) for scene in scenes]) - empty
        best[i] = scenes[choose(x, without, layers)]
    settled = []
    for i in range(len(right.things)):
        without = drawn - (drawings[alone(right, i)] - empty)
        layer = drawings[alone(best.get(i, right), i)] - empty
        thing = best.get(i, right).things[i]
        settled.append(settle(x - without, layer, thing, reach * (1 + free_place(sample, i))))
    return replace(right, things=tuple(thing for thing, _ in settled)), [m for _, m in settled]


def _verdict(
    sample: Sample, fit: FittedScene, asked: list[Doubt], x: Tensor, images: list[Tensor],
    drawings: _Drawings,
) -> Verdict:  # fmt: skip
    right, moves = fit
    drawn = drawings[right]
    layers = []
    for i, move in enumerate(moves):
        layer = drawings[alone(right, i)] - drawings[alone(right)]
        layers.append(shifted(layer, *move))
        drawn = drawn + layers[-1] - layer
    names = [doubt.name for doubt in asked]
    wrong = [_wrong_picture(doubt, drawn, moves, drawings) for doubt in asked]
    others = [look for look in LOOKS if look != right.look]
    seen = drawings[replace(right, look="plain")].repeat(len(others), 1, 1, 1)
    apply_looks(seen, [replace(right, look=look) for look in others])
    names += ["look"] * len(others)
    # A soft picture is compared with soft renditions; how soft it may be is another question.
    soft, sigma = fitted_blur(x, drawn)
    styles = [replace(right, style=style) for style in STYLES if style != right.style]
    stack = torch.cat([*(x[None] for x in wrong), seen, drawings.stack(styles)])
    heavy = blur(drawn[None], 4.0 * min(x.shape[-2:]) / 64)
    names += ["style"] * len(styles) + ["sharpness"]
    position, visible = wrongness(x, drawn, torch.cat([stack, heavy]))
    if sigma:
        softened, _ = wrongness(x, soft, blur(stack, sigma))
        position = torch.cat([softened, position[-1:]])
    details: dict[str, float] = {}
    for name, value in zip(names, (position * visible).tolist(), strict=True):
        details[name] = max(details.get(name, 0.0), value)

    if details.get("presence", 0) > LIMIT:
        absent = [d.base for d, v in zip(asked, position.tolist(), strict=False)
                  if d.name == "presence" and d.base and v > LIMIT]  # fmt: skip
        if all(_elsewhere(x, right, base.things[0], drawings) for base in absent):
            details["place"] = details.pop("presence")

    empties = {name: drawings[scene] for name, scene in textures(right).items()}
    area = 1 - grown((drawn - empties[right.texture]).abs().amax(0) > 0.01, 2)
    details["background"] = background_doubt(x, area, profiles(grounds(right), x.shape[-2]))
    details["texture"] = texture_doubt(x, right.texture, empties, area)
    failed = [name for name, value in details.items() if value > LIMITS.get(name, LIMIT)]
    details["form"] = max((misfit(x, soft, layer) for layer in layers), default=0.0)
    # A thing that is another one is off as well; that needs no saying.
    if details["form"] > GARBLED and not failed:
        failed.append("form")
    details["nothing_else"] = strangeness(x, drawn, area)
    if details["nothing_else"] > STRANGE * DIM.get(right.look, 1) * DIM.get(right.style, 1):
        failed.append("nothing_else")
    if TASKS[sample.task].category in EDITS:
        before = drawings[sample.references[0]]
        if images:
            if images[0].shape != x.shape:
                raise ShapeError(
                    f"the reference has shape {tuple(images[0].shape)}, its edit {tuple(x.shape)}; "
                    "an edit keeps its reference's size"
                )
            before = smooth(images[0].float())
        change = (drawings[sample.target] - drawings[sample.references[0]]).abs().amax(0) > 0.01
        details["untouched_psnr"] = untouched_psnr(x, before, 1 - grown(change, 3))
        if details["untouched_psnr"] < UNTOUCHED:
            failed.append("untouched")
    return Verdict(not failed, tuple(failed), details)


def _elsewhere(x: Tensor, right: Scene, thing: Thing, drawings: _Drawings) -> bool:
    """Whether a thing that isn't where it should be stands at another place."""
    empty, mine = alone(right), replace(alone(right), things=(thing,))
    places = [replace(thing, place=p, dx=0.0, dy=0.0) for p in PLACES if p != thing.place]
    scenes = [replace(empty, things=(moved,)) for moved in places]
    drawings.draw(scenes)
    without = drawings[right] + drawings[empty] - drawings[mine]
    position, _ = wrongness(x, without, without + drawings.stack(scenes) - drawings[empty])
    return bool(position.max() > 1 - LIMIT)


def _wrong_picture(
    doubt: Doubt, drawn: Tensor, moves: list[tuple[int, int]], drawings: _Drawings
) -> Tensor:
    if doubt.base is None:
        return drawings[doubt.scene]
    return drawn + shifted(drawings[doubt.scene] - drawings[doubt.base], *moves[doubt.thing])
