"""Linear latents: scaled principal components of 8x8 patches, which anchor the small autoencoder.

An encoder that regresses these needs no adversary and no KL term, the transformer can train on
them from the first minute, and a linear map back gives the preview. Model space, unit variance
over all channels together. Shapes: b pictures, h and w latent cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

SIDE = 8


@dataclass(frozen=True)
class PatchPCA:
    """`mean` [192], `components` [16, 192] orthonormal rows, `scale` [16]; pictures in -1..1."""

    mean: Tensor
    components: Tensor
    scale: Tensor

    def encode(self, pictures: Tensor) -> Tensor:
        """[b, 3, 8h, 8w] in -1..1 to model-space latents [b, 16, h, w]."""
        patches = rearrange(pictures, "b c (h p) (w q) -> b h w (c p q)", p=SIDE, q=SIDE)
        latent = ((patches - self.mean) @ self.components.T) * self.scale
        return latent.permute(0, 3, 1, 2).contiguous()

    def decode(self, latent: Tensor) -> Tensor:
        """The best linear picture of a latent, not clamped."""
        patches = (latent.permute(0, 2, 3, 1) / self.scale) @ self.components + self.mean
        return rearrange(patches, "b h w (c p q) -> b c (h p) (w q)", p=SIDE, q=SIDE, c=3)

    def preview(self) -> tuple[list[list[float]], list[float]]:
        """`rgb_factors` [16][3] and `rgb_bias` [3]: a cell's mean colour in 0..1 from its latent."""
        rows = rearrange(self.components, "k (c n) -> k c n", c=3).mean(-1) / self.scale[:, None]
        bias = rearrange(self.mean, "(c n) -> c n", c=3).mean(-1)
        return (rows / 2).tolist(), ((bias + 1) / 2).tolist()

    def state_dict(self) -> dict[str, Tensor]:
        """For a file."""
        return {"mean": self.mean, "components": self.components, "scale": self.scale}


def fit_patch_pca(pictures: Tensor, channels: int = 16, power: float = 0.5) -> PatchPCA:
    """Fit on pictures [b, 3, H, W] in -1..1.

    Args:
        channels: components kept.
        power: the scale of component k is std_k ** -power, times one number that makes the mean
            variance 1. 1 would whiten, so that a loss spends as much on faint detail as on
            colour; 0 would leave nearly everything to the first few components.
    """
    patches = rearrange(pictures, "b c (h p) (w q) -> (b h w) (c p q)", p=SIDE, q=SIDE).double()
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    std = values.flip(0)[:channels].clamp(min=1e-12).sqrt()
    scale = std**-power
    scale = scale / (std * scale).square().mean().sqrt()
    components = vectors.flip(1)[:, :channels].T.contiguous()
    return PatchPCA(mean.float(), components.float(), scale.float())
