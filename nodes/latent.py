"""LATENT at the edge: the dict of ComfyUI's sockets to the tensors the core takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kontext_core.errors import ShapeError
from ..kontext_core.latents import FLUX_LATENT, LatentFormat

if TYPE_CHECKING:
    from torch import Tensor


def target_samples(latent: dict[str, Any], latent_format: LatentFormat = FLUX_LATENT) -> Tensor:
    """The samples of a LATENT to paint on, [b, c, h, w].

    An empty latent made for another kind of model (4 channels, say) becomes an empty one with the
    right number of channels, as in ComfyUI.

    Raises:
        ShapeError: not a latent of this kind of model.
    """
    import torch

    samples = latent.get("samples")
    if not isinstance(samples, torch.Tensor) or samples.ndim != 4:
        found = type(samples).__name__ if samples is None else getattr(samples, "shape", samples)
        raise ShapeError(
            f"the latent holds {found}; expected a picture latent [batch, "
            f"{latent_format.channels}, height, width], for example from Empty SD3 Latent Image"
        )
    if samples.shape[1] != latent_format.channels:
        if bool(torch.count_nonzero(samples)):
            raise ShapeError(
                f"the latent has {samples.shape[1]} channels, this model {latent_format.channels}; "
                "it was made by another kind of model. Encode the picture with this model's VAE"
            )
        shape = (len(samples), latent_format.channels, *samples.shape[2:])
        return samples.new_zeros(shape, dtype=torch.float32)
    return samples


def noise_for(seed: int, samples: Tensor, batch_index: list[int] | None) -> Tensor:
    """Noise equal to ComfyUI's for this seed; `batch_index` picks pictures out of a larger batch."""
    import torch

    from ..kontext_core.sampling import make_noise

    if batch_index is None:
        return make_noise(seed, samples.shape)
    # One draw a picture, in order, as ComfyUI does: a single large draw gives other numbers.
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, *samples.shape[1:])
    drawn = [torch.randn(shape, generator=generator) for _ in range(max(batch_index) + 1)]
    return torch.cat([drawn[index] for index in batch_index])
