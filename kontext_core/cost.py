"""What a run will cost before it runs: its size, its tokens, and how it compares with a plain edit.

Every block of FLUX multiplies each of L tokens by 12 d^2 weights and compares it with all L in
2 L d products, so a step costs L (6 d + L) up to a factor (d: hidden size; modulation and final
layer, which don't grow with L or hardly, are left out).

Memory beside the weights is what a block holds at once: 17.1 to 18.2 numbers for each token and hidden
unit, measured in float32 and bfloat16 at hidden sizes of 1024 and 2048.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .latents import token_grid
from .resolutions import nearest_resolution

FLUX_HIDDEN = 3072
# From so many times the trained area on a picture counts as far above it.
ROOM = 1.5
# Numbers a forward holds at once for each token and hidden unit, without a mask or bias in attention.
HELD = 17.7


@dataclass(frozen=True)
class Cost:
    """A run's size and price.

    Attributes:
        width, height: of the result in pixels.
        target, text: tokens.
        references: tokens of each reference.
        relative: cost of a step in steps of a plain edit: one reference and a target of the trained
            size, the same text. None without a trained size.
        alone: cost of a step in steps of the same run without references.
        memory: bytes that a step takes beside the weights, see `working_memory`.
    """

    width: int
    height: int
    target: int
    references: tuple[int, ...]
    text: int
    relative: float | None
    alone: float = 1.0
    memory: int = 0

    @property
    def total(self) -> int:
        """All tokens of a step."""
        return self.text + self.target + sum(self.references)


def tokens_of(width: int, height: int) -> int:
    """Tokens of a picture of so many pixels: one for 16 x 16, begun ones counted."""
    return math.prod(token_grid(math.ceil(height / 8), math.ceil(width / 8)))


def step_cost(tokens: int, hidden_size: int = FLUX_HIDDEN) -> int:
    """Cost of a sequence of so many tokens, text and references included, in units of its own."""
    return part_cost(tokens, tokens, hidden_size)


def part_cost(computed: int, seen: int, hidden_size: int = FLUX_HIDDEN) -> int:
    """As `step_cost`, of a step that computes some tokens and has these and others, whose keys and
    values are kept, to attend to."""
    return computed * (6 * hidden_size + seen)


def working_memory(tokens: int, hidden_size: int = FLUX_HIDDEN) -> int:
    """Bytes that a forward of so many tokens takes beside its weights. FLUX.1's hidden size is taken
    to run in two bytes a number, a smaller one in four."""
    size = 2 if hidden_size >= FLUX_HIDDEN else 4
    return math.floor(HELD * tokens * hidden_size * size)


def estimate(
    size: tuple[int, int],
    references: Sequence[int] = (),
    *,
    text: int,
    hidden_size: int = FLUX_HIDDEN,
    trained: tuple[int, int] | None,
) -> Cost:
    """The cost of a run.

    Args:
        size: (width, height) of the result in pixels.
        references: tokens of each reference that is there, see `tokens_of`.
        text: tokens of the instruction.
        hidden_size: of the transformer.
        trained: (width, height) of a plain edit, see `plain_size`; None leaves `relative` out.
    """
    target = tokens_of(*size)
    total = text + target + sum(references)
    relative = None
    if trained is not None:
        plain = text + 2 * tokens_of(*trained)
        relative = step_cost(total, hidden_size) / step_cost(plain, hidden_size)
    alone = step_cost(total, hidden_size) / step_cost(text + target, hidden_size)
    memory = working_memory(total, hidden_size)
    return Cost(*size, target, tuple(references), text, relative, alone, memory)


def beyond_trained(size: tuple[int, int], trained: tuple[int, int] | None) -> float | None:
    """How many times the trained area a size has, if that is far above it; else None."""
    times = math.prod(size) / math.prod(trained) if trained else 0.0
    return times if times > ROOM else None


def plain_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(width, height) of a plain edit: the squarest of the sizes a model was trained at."""
    return nearest_resolution(1, 1, sizes)
