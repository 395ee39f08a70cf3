"""What steers a run: text conditioning with its guidance value, and true classifier-free guidance.

FLUX.1 Kontext [dev] is guidance-distilled: one pass takes the guidance value as an input. True
CFG with a negative prompt is a second pass on top, off at 1; normalized attention guidance does its work
within the attention (`models/nag.py`). Shapes: b batch, l text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_number
from .errors import InputError, ShapeError


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


@dataclass(frozen=True)
class Nag:
    """Normalized attention guidance (Chen et al. 2025, arXiv 2505.21179): how strongly.

    Attributes:
        scale: 1 .. 100; 1 is off.
        tau: 1 .. 100: a token's result is at most so many times as long (L1) as without guidance.
        alpha: 0 .. 1: share of the guided result, the rest is the unguided one.
    """

    scale: float = 5.0
    tau: float = 2.5
    alpha: float = 0.25

    def __post_init__(self) -> None:
        check_number(self.scale, "nag scale", 1, 100, "1 is off")
        check_number(self.tau, "nag tau", 1, 100)
        check_number(self.alpha, "nag alpha", 0, 1)

    def mixed(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Of attention results [b, n, c] beside the instruction and beside the negative text:
        alpha * g + (1 - alpha) * positive, g = scale * positive - (scale - 1) * negative with its
        L1 norm cut to tau times that of `positive`."""
        wide, other = positive.float(), negative.float()
        guided = self.scale * wide - (self.scale - 1) * other
        lengths = (each.abs().sum(-1, keepdim=True) for each in (guided, wide))
        guided_length, length = lengths
        guided = guided * (self.tau * length / guided_length.clamp_min(1e-12)).clamp_max(1)
        return torch.lerp(wide, guided, self.alpha).to(positive.dtype)


def as_nag(nag: float | Nag | None, negative: bool) -> Nag | None:
    """A scale or None (off) as a `Nag` or None; `negative` says whether there is a text for it.

    Raises:
        InputError: no number, one out of range, or no negative text.
    """
    if nag is None:
        return None
    made = nag if isinstance(nag, Nag) else Nag(check_number(nag, "nag", 1, 100, "1 is off"))
    if made.scale == 1:
        return None
    if not negative:
        raise InputError(
            f"nag is {made.scale:g} but there is no negative text to steer away from; give one, or "
            "leave nag out"
        )
    return made


def classifier_free(positive: Tensor, negative: Tensor, cfg: float) -> Tensor:
    """negative + cfg * (positive - negative), element by element (Ho and Salimans 2022)."""
    return negative + cfg * (positive - negative)
