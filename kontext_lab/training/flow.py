"""Rectified flow: noising, the velocity to learn, the loss, and the density of timesteps.

z_t = (1 - t) x + t eps, and the model learns v = eps - x (arXiv 2506.15742, section 3; the sign of
the published sampler). Timesteps are logit-normal, shifted towards noise with the resolution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kontext_core.errors import InputError
from kontext_core.schedule import mu_for


def sample_timesteps(
    count: int, tokens: int, *, extra: float = 0.75, std: float = 1.2,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """[count] timesteps in (0, 1): sigmoid(N(mu(tokens) + extra, std)).

    A time shift by mu adds mu to the logit, so this is a logit-normal density under the
    resolution's shift. `extra` favours noise further, which small pictures need: they have
    little else to hide global structure in.

    Raises:
        InputError: std not above 0.
    """
    if std <= 0:
        raise InputError(f"std of the timestep density is {std}; expected above 0")
    normal = torch.randn(count, generator=generator)
    return torch.sigmoid(mu_for(tokens) + extra + std * normal)


def noised(x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """(1 - t) x + t eps for x, eps [b, ...] and t [b]."""
    t = t.view(-1, *[1] * (x.ndim - 1))
    return (1 - t) * x + t * eps


def velocity_target(x: Tensor, eps: Tensor) -> Tensor:
    """d z_t / d t = eps - x."""
    return eps - x


def flow_loss(velocity: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """Mean squared error per sample [b] between a predicted velocity and eps - x."""
    return (velocity - velocity_target(x, eps)).square().flatten(1).mean(1)
