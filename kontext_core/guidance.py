"""What steers a run: text conditioning with its guidance value, and true classifier-free guidance.

FLUX.1 Kontext [dev] is guidance-distilled: one pass takes the guidance value as an input. True
CFG with a negative prompt is a second pass on top, off at 1. Shapes: b batch, l text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_number
from .errors import ShapeError


@dataclass(frozen=True, eq=False)
class Conditioning:
    """An encoded instruction.

    Attributes:
        txt: [1 or b, l, context_in_dim] token features.
        vec: [1 or b, vec_in_dim] pooled feature.
        guidance: 0..100 for guidance-distilled models (2.5 suits Kontext), or None to leave the
            guidance embedding out.
    """

    txt: Tensor
    vec: Tensor
    guidance: float | None = 2.5

    def __post_init__(self) -> None:
        if self.txt.ndim != 3 or self.vec.ndim != 2 or len(self.txt) != len(self.vec):
            raise ShapeError(
                f"conditioning has shapes {tuple(self.txt.shape)} and {tuple(self.vec.shape)}; "
                "expected [batch, tokens, channels] and [batch, channels]"
            )
        if self.guidance is not None:
            check_number(self.guidance, "guidance", 0, 100, "Kontext's is 2.5")

    def expand(
        self, batch: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(txt, vec, guidance) for a batch, on the model's device and dtype.

        Raises:
            ShapeError: a batch of texts that does not divide the batch of pictures.
        """
        if batch % len(self.txt):
            raise ShapeError(
                f"{len(self.txt)} instructions for a batch of {batch} pictures; give one, or as "
                "many as pictures"
            )
        times = batch // len(self.txt)
        txt = self.txt.to(device, dtype).repeat(times, 1, 1)
        vec = self.vec.to(device, dtype).repeat(times, 1)
        guidance = None
        if self.guidance is not None:
            # In the compute dtype on purpose, see layers.timestep_embedding.
            guidance = torch.full((batch,), float(self.guidance), device=device, dtype=dtype)
        return txt, vec, guidance


def classifier_free(positive: Tensor, negative: Tensor, cfg: float) -> Tensor:
    """negative + cfg * (positive - negative), element by element (Ho and Salimans 2022)."""
    return negative + cfg * (positive - negative)
