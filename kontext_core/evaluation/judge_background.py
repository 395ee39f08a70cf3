"""Tells backgrounds apart: their colours by rows, their faint textures wherever things leave room.

Pictures are smooth, [3, h, w] in 0..1; areas [h, w].
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..training.world.render import render
from ..training.world.scene import Scene
from .judge_compare import blur, shifted

__all__ = ["background_doubt", "profiles", "texture_doubt"]

# A background without texture is the same in every column, so a strip of it is enough.
_STRIP = 16

# Backgrounds and textures that differ by less (root mean square) are not told apart; over so
# many pixels little is enough.
FAINT = 0.02


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
    plain, noisy = empties["plain"], empties["noisy"]
    beyond = picture - plain
    forms = {k: t - plain for k, t in empties.items() if k not in ("plain", "noisy")}
    if max(_strength(form, area, 0) for form in forms.values()) < FAINT:
        return 0.0
    # The best of small shifts; several textures add up, so each is asked about by itself.
    shifts = [shifted(beyond, dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    share = {
        k: max(float((moved * area * form).sum()) for moved in shifts)
        / float((form.square() * area).sum())
        for k, form in forms.items()
    }
    wrong = max(value for k, value in share.items() if k != name)
    if name in share:
        wrong = max(wrong, 1 - share[name])
    # Noise has no form of its own; its strength is what can be seen.
    expected = _strength(noisy - plain, area, 1.5)
    if expected < 0.01:
        return wrong
    rest = beyond - sum(max(0.0, share[k]) * form for k, form in forms.items())
    level = _strength(rest, area, 1.5) / expected
    return max(wrong, 1 - level if name == "noisy" else level - 0.3)


def _strength(difference: Tensor, area: Tensor, sigma: float) -> float:
    """Root mean square of the smooth part, without its mean."""
    x = blur(difference[None], sigma)[0] if sigma else difference
    total = area.sum().clamp(min=1)
    x = x - (x * area).sum((1, 2), keepdim=True) / total
    return float(((x.square().mean(0) * area).sum() / total).sqrt())
