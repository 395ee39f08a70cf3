"""Tells backgrounds apart: their colours by rows, their faint textures wherever things leave room.

Pictures are smooth, [3, h, w] in 0..1; areas [h, w].
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..world.render import render
from ..world.thing import Scene
from .compare import shifted

# A background without texture is the same in every column, so a strip of it is enough.
_STRIP = 16

# Backgrounds and textures that differ by less (root mean square) are not told apart; over so
# many pixels little is enough.
FAINT = 0.01


@functools.lru_cache(maxsize=8192)
def _profile(scene: Scene, height: int) -> Tensor:
    return render([scene], height, _STRIP)[0, :, :, 0]


def profiles(scenes: Sequence[Scene], height: int) -> Tensor:
    """Colours by row [k, 3, height] of scenes without things and without texture."""
    return torch.stack([_profile(scene, height) for scene in scenes])


def background_doubt(picture: Tensor, area: Tensor, colours: Tensor) -> float:
    """The worst position between the right background (0) and another one (1).

    Args:
        area: where the background is seen.
        colours: [1 + k, 3, h], the right one first.
    """
    seen = area.sum(1)
    if seen.sum() < 0.02 * area.numel():
        return 0.0
    rows = (picture * area).sum(2) / seen.clamp(min=1)
    share = seen / seen.sum()
    difference = (colours[1:] - colours[0]) * share.sqrt()
    energy = difference.square().sum((1, 2)).clamp(min=1e-9)
    step = (rows - colours[0]) * share.sqrt()
    position = (difference * step).sum((1, 2)) / energy
    return float((position * ((energy / 3).sqrt() >= FAINT)).max())


def texture_doubt(picture: Tensor, name: str, empties: Mapping[str, Tensor], area: Tensor) -> float:
    """The worst position between the right texture (0) and another one (1).

    Args:
        name: the right texture.
        empties: the background without things in every texture.
        area: where the background is seen.
    """
    if area.sum() < 0.1 * area.numel():
        return 0.0
    plain = empties["plain"]
    beyond = picture - plain
    # Their mean is the background's colour, which is asked about elsewhere.
    forms = {k: _even(empties[k] - plain, area) for k in empties if k != "plain"}
    # Some styles leave nothing of a texture; then it is as good as plain.
    forms = {k: form for k, form in forms.items() if _strength(form, area) >= FAINT}
    if not forms:
        return 0.0
    shifts = [_even(shifted(beyond, dx, dy), area) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    if name in forms:
        # One shift for all: the one that suits the right texture.
        right = forms[name]
        moved = max(shifts, key=lambda x: float((x * right).sum()))
        others = torch.stack([torch.zeros_like(right), *(forms[k] for k in forms if k != name)])
        step = others - right
        return float(
            ((moved - right) * step).sum((1, 2, 3)).div(step.square().sum((1, 2, 3))).max()
        )
    return max(
        max(float((moved * form).sum()) for moved in shifts) / float(form.square().sum())
        for form in forms.values()
    )


def _even(difference: Tensor, area: Tensor) -> Tensor:
    """Without its mean over the area, and nothing outside."""
    mean = (difference * area).sum((1, 2), keepdim=True) / area.sum()
    return (difference - mean) * area


def _strength(difference: Tensor, area: Tensor) -> float:
    """Root mean square over the area."""
    return float((difference.square().mean(0).sum() / area.sum()).sqrt())
