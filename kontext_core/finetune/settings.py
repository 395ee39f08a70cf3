"""What a LoRA's training depends on, checked as a whole before anything starts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..checks import check_choice, check_number, check_whole
from ..stitcher import METHODS

# Learning rate after the warm-up: held, or a half cosine down to zero at the last step.
SCHEDULES = ("constant", "cosine")
MOST_STEPS = 10_000_000


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training; two runs that share them, the model and the examples are the same run.

    Attributes:
        steps: updates of the LoRA's weights, 1 and more.
        rank: 1..1024, of every pair of matrices.
        alpha: what the product is scaled by, as alpha / rank; None is the rank (1).
        targets: a name of `targets.TARGETS`, or patterns of layers.
        learning_rate: of AdamW, 0..1; 1e-4 suits FLUX.1, the embedded model takes ten times as much.
        schedule: one of `SCHEDULES`.
        warmup: steps in which the rate grows from zero.
        weight_decay: of AdamW, 0..1.
        batch: examples of a step, 1..1024.
        seed: of the first weights, the order, noise, timesteps and dropout; 0 .. 2^63 - 1.
        caption_dropout: share of examples that are shown without their instruction, 0..1.
        reference_dropout: share that is shown without its references, 0..1.
        guidance: the value fed to a guidance-distilled model, 0..100. At 1 the model's own guidance
            stays out of the way, which is how [dev] LoRAs are commonly trained.
        spread: standard deviation of the timesteps' logits; 1 as in the paper.
        shift: mean of the timesteps' logits; None is mu of the target's resolution.
        method: how references are placed, one of `stitcher.METHODS`.
        megapixels: None brings pictures to the model's trained sizes; a number to about that area, in
            units of 1024 x 1024 pixels, in their own shape (0.25 is 512 x 512).
        checkpointing: forget what a block computed and compute it again for the gradients: less
            memory for a third more time.

    Raises:
        InputError: a value out of its range.
    """

    steps: int = 1000
    rank: int = 16
    alpha: float | None = None
    targets: str = "blocks"
    learning_rate: float = 1e-4
    schedule: str = SCHEDULES[0]
    warmup: int = 20
    weight_decay: float = 0.01
    batch: int = 1
    seed: int = 0
    caption_dropout: float = 0.05
    reference_dropout: float = 0.0
    guidance: float | None = 1.0
    spread: float = 1.0
    shift: float | None = None
    method: str = METHODS[0]
    megapixels: float | None = None
    checkpointing: bool = True

    def __post_init__(self) -> None:
        check_whole(self.steps, "steps", 1, MOST_STEPS)
        check_whole(self.rank, "rank", 1, 1024)
        check_whole(self.warmup, "warmup", 0, MOST_STEPS)
        check_whole(self.batch, "batch", 1, 1024)
        check_whole(self.seed, "seed", 0, 2**63 - 1)
        check_choice(self.schedule, "schedule", SCHEDULES)
        check_choice(self.method, "placement method", METHODS)
        for name, low, high in (
            ("learning_rate", 0, 1), ("weight_decay", 0, 1), ("caption_dropout", 0, 1),
            ("reference_dropout", 0, 1), ("spread", 0, 10),
        ):  # fmt: skip
            check_number(getattr(self, name), name, low, high)
        if self.alpha is not None:
            check_number(self.alpha, "alpha", 1e-6, 1e6, "usually the rank")
        if self.guidance is not None:
            check_number(self.guidance, "guidance", 0, 100, "1 is usual for training")
        if self.shift is not None:
            check_number(self.shift, "shift", -20, 20, "the resolution's own is about 0.5 to 1.15")
        if self.megapixels is not None:
            check_number(self.megapixels, "megapixels", 0.003, 16, "1 is 1024 x 1024 pixels")

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        share = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "cosine":
            share *= 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * share

    def must_match(self) -> dict[str, Any]:
        """What a run that goes on has to share with its beginning."""
        values = asdict(self)
        # Costs or saves memory; the numbers are the same.
        del values["checkpointing"]
        if self.schedule == "constant":
            # More steps are the same run, only longer.
            del values["steps"]
        return values
