"""Students for few steps: the timesteps they meet, what they answer, and what they should.

A student's step from any timestep t is a guess of the picture, x = z_t - t v: the sampler goes a part
of the way there, or all of it in the last step. The schedule of four steps holds those of two and of
one, so one student serves all three. Shapes: b batch, n tokens, h and w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kontext_core.errors import InputError
from kontext_core.latents import unpack
from kontext_core.models.flux import Flux
from kontext_core.schedule import make_timesteps

from .batch import Group
from .objective import latent_velocity

STEPS = 4
# How often each of the four timesteps is met, noisiest first (LADD, arXiv 2403.12015, section 3.2;
# there for the timesteps 1, 3/4, 1/2, 1/4, after a warm-up at the last two, which a student that
# begins as its teacher has nothing to learn at).
SHARES = (0.7, 0.1, 0.1, 0.1)


def student_timesteps(
    count: int, tokens: int, shares: Sequence[float], generator: torch.Generator
) -> Tensor:
    """[count] timesteps out of the sampler's schedule of `len(shares)` steps, each as often as its
    share says.

    Raises:
        InputError: shares that are negative or sum to nothing.
    """
    weights = torch.tensor(shares, dtype=torch.float32)
    if len(shares) == 0 or bool((weights < 0).any()) or float(weights.sum()) <= 0:
        raise InputError(f"shares are {tuple(shares)}; expected weights from 0 on, not all 0")
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
    return make_timesteps(len(shares), tokens)[chosen]


def guess(z: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """The picture that a velocity leads to: z - t v, [b, 16, h, w].

    Args:
        z: [b, 16, h, w] at timesteps t [b]. velocity: [b, n, 64].
    """
    return z - t.view(-1, 1, 1, 1) * unpack(velocity.float(), *z.shape[2:])


@torch.no_grad()
def euler(
    flux: Flux, txt: Tensor, vec: Tensor, noise: Tensor, guidance: Tensor,
    references: list[Tensor], steps: int,
) -> Tensor:  # fmt: skip
    """The model's answers [b, 16, h, w] from this noise, by Euler steps of the sampler's schedule.

    Args:
        txt, vec, guidance, references: as for `latent_velocity`.
    """
    x = noise
    times = make_timesteps(steps, x.shape[2] * x.shape[3] // 4).tolist()
    for now, then in zip(times, times[1:], strict=False):
        t = torch.full((len(x),), now, device=x.device)
        velocity = latent_velocity(flux, txt, vec, x, t, guidance, references).float()
        x = x + (then - now) * unpack(velocity, *x.shape[2:])
    return x


def imitation_loss(
    flux: Flux, txt: Tensor, vec: Tensor, group: Group, z: Tensor, velocity: Tensor, t: Tensor,
    u: Tensor, guidance: Tensor,
) -> Tensor:  # fmt: skip
    """Squared distance [b] of a student's velocity to the teacher's on the student's own way.

    pi-Flow's imitation (arXiv 2510.14974, section 3) with the simplest policy there is: the student
    keeps to one velocity from t on. The teacher looks at the point that this leads to at u, and says
    where it would have gone from there. No gradient goes through the point or the teacher.

    Args:
        flux: the teacher.
        z: [b, 16, h, w] at t [b]. velocity: [b, n, 64], the student's. u: [b], below t.
    """
    with torch.no_grad():
        there = z + (u - t).view(-1, 1, 1, 1) * unpack(velocity.detach().float(), *z.shape[2:])
        right = latent_velocity(flux, txt, vec, there, u, guidance, group.references).float()
    return (velocity.float() - right).square().flatten(1).mean(1)
