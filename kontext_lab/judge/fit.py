"""Moves the things of a right answer to where the picture has them, as far as that is allowed.

A thing a pixel or two off its place is right, and so is any place or size that was left open.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from ..world.names import PLACES, SHAPES, SIZES
from ..world.sample import Sample
from ..world.thing import Scene, Thing, centre, placed
from .doubts import free_place, free_size


def candidates(sample: Sample) -> list[tuple[int, list[Scene]]]:
    """Per thing with an open size or place: the scenes that would be right as well."""
    found = []
    for i, thing in enumerate(sample.target.things):
        sizes: list[str] = [thing.size]
        places: list[str] = [thing.place]
        if free_size(sample, i):
            sizes = [size for size in SIZES if size != "small" or thing.kind in SHAPES]
        if free_place(sample, i):
            places = list(PLACES)
        if len(sizes) * len(places) > 1:
            scenes = [
                sample.target.with_thing(i, size=size, place=place)
                for place in places
                for size in sizes
            ]
            found.append((i, scenes))
    return found


def choose(picture: Tensor, without: Tensor, layers: Tensor) -> int:
    """Which layer [k, 3, h, w] explains most of what the picture has beyond `without`.

    Shifts of a pixel or two are not searched here: they change every candidate's score alike.
    """
    beyond = picture - without
    gain = beyond.square().mean(0) - (beyond - layers).square().mean(1)
    return int(gain.sum((1, 2)).argmax())


def settle(
    beyond: Tensor, layer: Tensor, thing: Thing, reach: int
) -> tuple[Thing, tuple[int, int]]:
    """The thing, moved by up to `reach` px to where the picture shows it best.

    Args:
        beyond: what the picture has more than the scene without the thing, [3, h, w].
        layer: what the thing adds to the scene.

    Returns:
        The thing, and (right, down) in whole pixels: what it still has to be moved, since no
        scene has a thing closer to the edge.
    """
    h, w = layer.shape[-2:]
    rows, columns = (layer.abs().amax(0) > 0.02).nonzero(as_tuple=True)
    if not len(rows):
        return thing, (0, 0)
    top, bottom = max(int(rows.min()) - reach, 0), min(int(rows.max()) + reach + 1, h)
    left, right = max(int(columns.min()) - reach, 0), min(int(columns.max()) + reach + 1, w)
    padded = F.pad(layer, (reach, reach, reach, reach))
    windows = padded[:, top : bottom + 2 * reach, left : right + 2 * reach]
    windows = windows.unfold(1, bottom - top, 1).unfold(2, right - left, 1)
    # windows[:, i, j] is the layer moved by (reach - j, reach - i).
    wanted = beyond[:, None, None, top:bottom, left:right]
    error = (windows - wanted).square().mean((0, 3, 4))
    i, j = divmod(int(error.argmin()), 2 * reach + 1)
    dx = reach - j - _parabola(error[i], j)
    dy = reach - i - _parabola(error[:, j], i)
    if abs(dx) < 0.2 and abs(dy) < 0.2:
        return thing, (0, 0)
    x, y, _ = placed(thing, h, w)
    home_x, home_y = centre(thing.place, h, w)
    short = min(h, w)
    there = replace(thing, dx=(x + dx - home_x) / short, dy=(y + dy - home_y) / short)
    to_x, to_y, _ = placed(there, h, w)
    return there, (round(x + dx - to_x), round(y + dy - to_y))


def _parabola(errors: Tensor, at: int) -> float:
    """Where between its neighbours the least error really lies, in -0.5..0.5."""
    if not 0 < at < len(errors) - 1:
        return 0.0
    before, here, after = (float(errors[k]) for k in (at - 1, at, at + 1))
    bend = before + after - 2 * here
    return 0.0 if bend <= 1e-12 else max(-0.5, min(0.5, 0.5 * (before - after) / bend))
