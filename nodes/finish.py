"""Kontext: Finish: latent to picture, and the untouched pixels of the original back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.errors import InputError, ShapeError
from ..kontext_core.images import check_image, resize
from .native.vae import require_vae
from .schema import make

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KontextFinish", "composite", "soften"]


def soften(mask: Tensor, feather: int) -> Tensor:
    """Fade the inside of a mask [b, h, w] over about `feather` pixels; outside stays exactly 0."""
    import torch
    import torch.nn.functional as F

    if feather <= 0:
        return mask
    radius = feather
    grid = torch.arange(-radius, radius + 1, dtype=torch.float32, device=mask.device)
    kernel = torch.exp(-0.5 * (grid / (feather / 2)) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    x = mask.float()[:, None]
    x = F.pad(x, (radius, radius, radius, radius), mode="replicate")
    x = F.conv2d(F.conv2d(x, kernel[..., None, :]), kernel[..., :, None])[:, 0]
    # At an edge the blur is one half: from there it rises inwards, so nothing leaks outwards.
    return torch.minimum(mask.float(), (2 * x - 1).clamp(0, 1))


def composite(result: Tensor, original: Tensor, mask: Tensor | None, feather: int) -> Tensor:
    """The result in the original's size, laid over it where the mask is white.

    Args:
        result: [b, h, w, 3].
        original: [1 or b, H, W, 3].
        mask: None, or [1 or b, h, w] at any size; 1 = from the result.
        feather: pixels over which the result fades in.

    Raises:
        ShapeError: batches that don't fit each other.
    """
    import torch.nn.functional as F

    height, width = original.shape[1:3]
    result = resize(result, width, height)
    if mask is None:
        return result
    if mask.ndim == 2:
        mask = mask[None]
    if mask.shape[1:] != (height, width):
        mask = F.interpolate(mask[:, None].float(), size=(height, width), mode="bilinear")[:, 0]
    for name, tensor in (("original", original), ("mask", mask)):
        if len(tensor) not in (1, len(result)):
            raise ShapeError(
                f"{name} is a batch of {len(tensor)}, the result one of {len(result)}; give one, "
                "or as many"
            )
    weight = soften(mask, feather)[..., None].to(result)
    original = original.to(result)
    blended = original + weight * (result - original)
    # Exact where nothing was to change: no rounding from the sum.
    return original.expand_as(blended).where(weight == 0, blended)


class KontextFinish(io.ComfyNode):
    """LATENT to IMAGE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextFinish",
            display_name="Kontext: Finish",
            description="Decodes the result. With an original it comes out in the original's size, "
            "and with a mask too, every pixel outside the mask is the original's own.",
            search_aliases=["kontext", "vae decode", "composite", "paste back", "keep background"],
            inputs=[
                io.Latent.Input("samples", tooltip="From Kontext: Sampler."),
                io.Vae.Input("vae", tooltip="From Kontext: Load VAE, or ComfyUI's own Load VAE."),
                io.Image.Input(
                    "original",
                    optional=True,
                    tooltip="The picture that was edited. Gives the result its size.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White is taken from the result, black from the original, pixel by "
                    "pixel. Needs the original.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Pixels inside the mask's edge over which the result fades in. 0 is a "
                    "hard edge.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="IMAGE", tooltip="The finished picture.")
            ],
        )

    @classmethod
    def execute(
        cls,
        samples: dict[str, Any],
        vae: Any,
        feather: int,
        original: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        if mask is not None and original is None:
            raise InputError(
                "Kontext: Finish got a mask but no original to keep pixels of; connect the edited "
                "picture to original, or take the mask away"
            )
        image = require_vae(vae).decode(samples["samples"])
        if original is not None:
            image = composite(image, check_image(original[..., :3], "original"), mask, feather)
        return io.NodeOutput(image)
