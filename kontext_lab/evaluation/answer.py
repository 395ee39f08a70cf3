"""What a scorer is given and gives: one answer with its question, and figures by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .cases import EditCase


@dataclass(frozen=True, eq=False)
class Answer:
    """What a scorer sees.

    Attributes:
        case: the question.
        images: what the pipeline was shown, [1, h, w, 3] in 0..1 each.
        result: its answer, [1, h, w, 3].
        target: the right answer, where the benchmark has one.
        mask: [1, h, w], 1 where something may change, where the benchmark has one.
    """

    case: EditCase
    images: Sequence[Tensor]
    result: Tensor
    target: Tensor | None = None
    mask: Tensor | None = None


# Figures by name; raises UnscoredError.
Scorer = Callable[[Answer], dict[str, float]]
# (scorer, figure) of which less is better.
LOWER = frozenset({
    ("pixels", "changed"), ("lpips", "input"), ("lpips", "inside"), ("lpips", "outside"), ("lpips", "target"),
})  # fmt: skip
