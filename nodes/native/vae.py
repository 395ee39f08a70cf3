"""VAE: an autoencoder of the core's behind ComfyUI's own face, and on ComfyUI as one of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...kontext_core.errors import InputError, ShapeError
from ..host import Managed, get_host, manage

if TYPE_CHECKING:
    from torch import Tensor

    from ...kontext_core.models.autoencoder import AutoEncoder

# Pixels a side, when a tiled call of the VAE names no size; ComfyUI's own default.
DEFAULT_TILE = 512


class VaeCalls:
    """ComfyUI's calls of a VAE, on the core's autoencoder: IMAGE [b, h, w, 3] in 0..1 and raw
    LATENT [b, 16, h/8, w/8].

    Pictures of a batch go one by one, so memory is that of one.
    """

    # As in ComfyUI's own VAE.
    downscale_ratio: Any
    latent_channels: int
    first_stage_model: Any

    def load_network(self, memory: int) -> AutoEncoder:
        """The network, after the host made room for it and for so many bytes beside it."""
        raise NotImplementedError

    def hand_out(self, made: Tensor) -> Tensor:
        """A result as the host takes it."""
        return made.float().cpu()

    def encode(self, pixels: Tensor) -> Tensor:
        """IMAGE to raw latent, float32 on the CPU unless the host wants it otherwise. Alpha is
        dropped, sides are cropped to a multiple of 8 around the middle, as ComfyUI's own VAE does.

        Raises:
            InputError, ShapeError: a picture that can't be used.
        """
        return self._encode(pixels, None)

    def _encode(self, pixels: Tensor, tile: int | None) -> Tensor:
        import torch

        from ...kontext_core.images import check_image, to_model

        pixels = check_image(pixels[..., :3], "the picture to encode")
        unit = self.downscale_ratio
        height, width = pixels.shape[1] // unit * unit, pixels.shape[2] // unit * unit
        top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
        pixels = pixels[:, top : top + height, left : left + width]
        network = self._load(height, width, tile, decode=False)
        tick = get_host().check_interrupt
        latents = []
        with torch.no_grad():
            for one in pixels:
                tick()
                latents.append(network.encode(to_model(one[None]), tile=tile, tick=tick))
            return self.hand_out(torch.cat(latents))

    def decode(self, samples: Tensor, *_: Any, **__: Any) -> Tensor:
        """Raw latent to IMAGE, float32 on the CPU unless the host wants it otherwise.

        Raises:
            ShapeError: not a 16-channel latent.
        """
        return self._decode(samples, None)

    def _decode(self, samples: Tensor, tile: int | None) -> Tensor:
        import torch

        from ...kontext_core.images import to_picture

        if samples.ndim == 5 and samples.shape[2] == 1:
            # One still of a video, as nodes for several kinds of models hand it over.
            samples = samples[:, :, 0]
        if samples.ndim != 4 or samples.shape[1] != self.latent_channels:
            raise ShapeError(
                f"the latent to decode has shape {tuple(samples.shape)}; expected "
                f"[batch, {self.latent_channels}, height, width]. It belongs to another kind of "
                "model: decode it with that model's VAE"
            )
        height, width = (side * self.downscale_ratio for side in samples.shape[2:])
        network = self._load(height, width, tile, decode=True)
        tick = get_host().check_interrupt
        pictures = []
        with torch.no_grad():
            for one in samples:
                tick()
                pictures.append(to_picture(network.decode(one[None], tile=tile, tick=tick)))
            return self.hand_out(torch.cat(pictures))

    def encode_tiled(
        self,
        pixels: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        **_: Any,
    ) -> Tensor:
        """`encode` with the memory of one tile, in pixels, and the same numbers to rounding: the
        layers run tile by tile, each part once. So there is no overlap to choose."""
        return self._encode(pixels, self._tile(tile_x, tile_y, 1))

    def decode_tiled(
        self,
        samples: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        **_: Any,
    ) -> Tensor:
        """`decode` with the memory of one tile, here in latent cells; otherwise as above."""
        return self._decode(samples, self._tile(tile_x, tile_y, self.downscale_ratio))

    def _load(self, height: int, width: int, tile: int | None, *, decode: bool) -> AutoEncoder:
        """The network, and room for what it works in."""
        if tile is not None:
            height, width = min(height, tile), min(width, tile)
        memory = self.first_stage_model.working_memory(height, width, decode=decode)
        return self.load_network(memory)

    def _tile(self, tile_x: int | None, tile_y: int | None, scale: int) -> int:
        """Side of tiles in pixels, the smaller of both; 512 when nothing is asked for."""
        sides = [side * scale for side in (tile_x, tile_y) if side is not None]
        return max(min(sides, default=DEFAULT_TILE), self.downscale_ratio)

    def spacial_compression_encode(self) -> int:
        """Pixels per latent cell, under ComfyUI's name."""
        return self.downscale_ratio

    def spacial_compression_decode(self) -> int:
        """Pixels per latent cell, under ComfyUI's name."""
        return self.downscale_ratio

    def temporal_compression_decode(self) -> None:
        """Not a video model."""
        return None


class KontextVAE(VaeCalls):
    """An autoencoder on a VAE socket of a host that has no VAE class of its own."""

    latent_channels = 16
    latent_dim = 2
    output_channels = 3

    def __init__(
        self, autoencoder: AutoEncoder, name: str, resolutions: tuple[tuple[int, int], ...]
    ) -> None:
        self.name = name
        self.resolutions = resolutions
        self.downscale_ratio = self.upscale_ratio = autoencoder.params.downscale
        self._managed: Managed = manage(autoencoder)

    @property
    def first_stage_model(self) -> AutoEncoder:  # type: ignore[override]
        """The network, wherever it is."""
        return self._managed.network  # type: ignore[return-value]

    def load_network(self, memory: int) -> AutoEncoder:
        """See `VaeCalls`."""
        return self._managed.load(memory)  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"KontextVAE({self.name!r})"


def require_vae(vae: Any) -> Any:
    """`vae`, ours or the host's own, if its latents can be FLUX.1's.

    Raises:
        InputError: it belongs to another kind of model.
    """
    # What says nothing of itself is tried: the shape of its latents is looked at later.
    channels, sides = getattr(vae, "latent_channels", 16), getattr(vae, "latent_dim", 2)
    if (channels, sides) != (16, 2):
        raise InputError(
            f"this VAE makes latents of {channels} channels and {sides} dimensions; FLUX.1's have "
            "16 channels and 2. Load FLUX.1's ae.safetensors, with Kontext: Load VAE or ComfyUI's "
            "Load VAE"
        )
    return vae
