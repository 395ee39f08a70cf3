"""What stands between people's pictures and words and the numbers a transformer learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..images import to_model, to_picture
from ..pipeline import Pipeline


@dataclass(frozen=True)
class Codecs:
    """Three functions, of a pipeline or of whatever a host has.

    Attributes:
        encode: a picture [1, h, w, 3] in 0..1, sides multiples of 16, to a RAW latent [1, c, h, w].
        decode: a RAW latent to a picture [1, h, w, 3] in 0..1.
        text: an instruction to features [1, l, c] and a pooled feature [1, v].
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    text: Callable[[str], tuple[Tensor, Tensor]]


def codecs_of(pipeline: Pipeline) -> Codecs:
    """Those of a pipeline's networks, without gradients."""
    autoencoder, encoder = pipeline.autoencoder, pipeline.text_encoder

    @torch.no_grad()
    def encode(picture: Tensor) -> Tensor:
        return autoencoder.encode(to_model(picture)).float().cpu()

    @torch.no_grad()
    def decode(latent: Tensor) -> Tensor:
        return to_picture(autoencoder.decode(latent.to(autoencoder.device))).float().cpu()

    @torch.no_grad()
    def text(words: str) -> tuple[Tensor, Tensor]:
        txt, vec = encoder.encode([words])
        return txt.float().cpu(), vec.float().cpu()

    return Codecs(encode, decode, text)
