"""A discriminator on the features of a frozen teacher, as latent adversarial distillation has it.

Both the student's answer and the teacher's are noised again, the teacher looks at them beside text and
references, and a small head behind each of its blocks says of every target token which of the two it
belongs to (LADD, arXiv 2403.12015, section 3). How much noise there is chooses what is compared:
layout at much noise, detail at little. Shapes: b batch, n target tokens, c channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext_core.errors import InputError
from kontext_core.models.flux import Flux
from kontext_core.models.layers import timestep_embedding

from .objective import latent_velocity


def renoising_timesteps(
    count: int, generator: torch.Generator, mean: float = 1.0, std: float = 1.0
) -> Tensor:
    """[count] timesteps of the discriminator: sigmoid(N(mean, std)), the paper's m and s.

    The paper has m = s = 1, for pictures of 1024 px. At so much noise heads can tell nothing of
    pictures of 64 px: see docs/embedded-model.md.
    """
    return torch.sigmoid(mean + std * torch.randn(count, generator=generator))


class _Listener:
    """Calls blocks and keeps the target tokens of some of their results."""

    def __init__(self, blocks: Sequence[int], text: int, target: int) -> None:
        self.blocks, self.text, self.target = frozenset(blocks), text, target
        self.count = 0
        self.features: list[Tensor] = []

    def __call__(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = block(*args, **kwargs)
        if self.count in self.blocks:
            if isinstance(result, tuple):
                seen = result[0][:, : self.target]
            elif kwargs.get("keep") is not None:
                seen = result
            else:
                seen = result[:, self.text : self.text + self.target]
            self.features.append(seen)
        self.count += 1
        return result


def block_features(
    flux: Flux, blocks: Sequence[int], txt: Tensor, vec: Tensor, z: Tensor, t: Tensor,
    guidance: Tensor, references: list[Tensor],
) -> list[Tensor]:  # fmt: skip
    """The target's tokens [b, n, c] behind some blocks of a model that looks at z [b, 16, h, w].

    Args:
        blocks: their numbers, double-stream blocks first.
        txt, vec, t, guidance, references: as for `latent_velocity`.

    Raises:
        InputError: a block that the model does not have.
    """
    count = len(flux.double_blocks) + len(flux.single_blocks)
    if not blocks or not set(blocks) <= set(range(count)):
        raise InputError(f"blocks are {list(blocks)}; expected some of 0 to {count - 1}")
    listener = _Listener(blocks, txt.shape[1], z.shape[2] * z.shape[3] // 4)
    latent_velocity(flux, txt, vec, z, t, guidance, references, listener)
    return listener.features


class FeatureHead(nn.Module):
    """Tokens of one block to one value each: above 0 looks like the teacher's answer, below like the
    student's.

    Convolutions see a token's neighbours in the picture; timestep and pooled text are compared with
    what they found (a projection discriminator, arXiv 1802.05637).

    Args:
        channels: of the tokens. vec: of the pooled text. width: inside.
    """

    def __init__(self, channels: int, vec: int, width: int = 64) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, 1, 1)
        self.about = nn.Sequential(nn.Linear(256 + vec, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, t: Tensor, vec: Tensor, rows: int) -> Tensor:
        """Values [b, n] of tokens x [b, n, c] that stand in `rows` rows; t [b], vec [b, v]."""
        grid = self.norm(x).transpose(1, 2).unflatten(2, (rows, -1))
        found = F.leaky_relu(self.first(grid), 0.2)
        found = found + F.leaky_relu(self.second(found), 0.2)
        about = self.about(torch.cat([timestep_embedding(t), vec], dim=1).to(found.dtype))
        match = torch.einsum("bchw,bc->bhw", found, about) / found.shape[1] ** 0.5
        return (self.out(found)[:, 0] + match).flatten(1)


class FeatureHeads(nn.Module):
    """One head for each of some blocks."""

    def __init__(self, count: int, channels: int, vec: int, width: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(FeatureHead(channels, vec, width) for _ in range(count))

    def forward(self, features: Sequence[Tensor], t: Tensor, vec: Tensor, rows: int) -> Tensor:
        """Values [b, heads, n] of each block's tokens."""
        pairs = zip(self.heads, features, strict=True)
        return torch.stack([head(x, t, vec, rows) for head, x in pairs], 1).float()


def hinge(right: Tensor, made: Tensor) -> Tensor:
    """The discriminator's loss [b] from the values of the teacher's answers and of the student's,
    each [b, ...]: relu(1 - right) + relu(1 + made), means."""
    return (F.relu(1 - right) + F.relu(1 + made)).flatten(1).mean(1)


def deceiving(made: Tensor) -> Tensor:
    """The student's loss [b]: -made, means."""
    return -made.flatten(1).mean(1)
