"""What travels on MODEL, CLIP and VAE sockets: the core's networks behind ComfyUI's own faces.

CLIP and VAE answer the calls that ComfyUI's nodes make (CLIP Text Encode, VAE Encode, VAE Decode,
tiled ones too). MODEL is understood by this pack's sampler; anything else that is asked of it says so.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ..kontext_core.errors import KontextError, ShapeError
from .host import Managed, get_host, manage

if TYPE_CHECKING:
    from torch import Tensor

    from ..kontext_core.lora.load import Lora
    from ..kontext_core.lora.report import LoraReport
    from ..kontext_core.models.autoencoder import AutoEncoder
    from ..kontext_core.models.flux import Flux
    from ..kontext_core.models.text import TextEncoder
    from ..kontext_core.text.pair import FluxTextEncoders

__all__ = ["KontextClip", "KontextModel", "KontextVAE", "NotNativeError", "require_model"]

# Rows of (id, weight) or (id, weight, word).
Tokens = dict[str, list[list[tuple[Any, ...]]]]
# Pixels a side, when a tiled call of the VAE names no size; ComfyUI's own default.
DEFAULT_TILE = 512


class NotNativeError(KontextError, AttributeError):
    """A node of the host asked our MODEL for something it does not offer."""


class KontextModel:
    """A FLUX.1 Kontext transformer on a MODEL socket, with the LoRAs that belong to this MODEL.

    Several MODELs may share one network: each sets its own LoRAs on it when it is loaded for a run.
    """

    def __init__(self, flux: Flux, name: str) -> None:
        self.name = name
        self.latent_format = flux.latent_format
        self.resolutions = flux.resolutions
        self.loras: tuple[tuple[Lora, float], ...] = ()
        self._managed: Managed = manage(flux)

    def load(self) -> Flux:
        """The network, on the host's device, with this MODEL's LoRAs on it and no others."""
        from ..kontext_core.lora.apply import set_loras

        set_loras(self._managed.network, self.loras)
        return self._managed.load()  # type: ignore[return-value]

    def with_lora(self, lora: Lora, strength: float) -> tuple[KontextModel, LoraReport]:
        """A MODEL of the same network with one more LoRA, and what of it matched. This one is not
        changed.

        Raises:
            CheckpointError: the LoRA does not fit the network.
        """
        from ..kontext_core.lora.apply import set_loras

        other = copy.copy(self)
        other.loras = (*self.loras, (lora, strength))
        return other, set_loras(self._managed.network, other.loras).loras[-1]

    def merged(self, lora: Lora, strength: float) -> tuple[KontextModel, LoraReport]:
        """A MODEL of a network of its own with the LoRA in its weights, and what of it matched.

        Weights that the LoRA leaves alone share their memory with this MODEL's.

        Raises:
            CheckpointError: the LoRA does not fit the network.
            InputError: the weights are packed (GGUF, scaled fp8), and nothing can be added.
        """
        from ..kontext_core.lora.apply import merge_lora, set_loras

        set_loras(self._managed.network, ())
        network: Any = _twin(self._managed.network)
        report = merge_lora(network, [(lora, strength)])
        other = copy.copy(self)
        other._managed = manage(network)
        return other, report.loras[-1]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise NotNativeError(
            f"the MODEL {self.name!r} was loaded by Kontext: Load Model, and the node that asked "
            f"it for {name!r} is one of the host's. Connect it to Kontext: Sampler, or load the "
            "file with the host's Load Diffusion Model for KSampler"
        )

    def __repr__(self) -> str:
        return f"KontextModel({self.name!r})"


def _twin(network: Any) -> Any:
    """A copy of a network without LoRAs whose tensors are new ones over the same memory."""
    import torch

    known: dict[int, Any] = {}
    for parameter in network.parameters():
        known[id(parameter)] = torch.nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in network.buffers():
        known[id(buffer)] = buffer.detach()
    return copy.deepcopy(network, known)


def require_model(model: Any) -> KontextModel:
    """Return `model` if it came from our loader.

    Raises:
        KontextError: it is a MODEL of the host's.
    """
    # By name: two copies of the pack under different folder names may meet in one host.
    if isinstance(model, KontextModel) or type(model).__name__ == "KontextModel":
        return model
    raise KontextError(
        f"this MODEL is a {type(model).__name__} of the host's, not one from Kontext: Load Model. "
        "Load it there, or sample it with KSampler: references stitched by Kontext: Stitch work "
        "in KSampler too"
    )


class KontextClip:
    """Text encoders on a CLIP socket.

    Tokens are ComfyUI's shape, {"l": [[(id, weight), ...]], "t5xxl": ...}: the token features come
    from the "t5xxl" half, the pooled feature from the "l" half. FLUX.1's pair reads weights in
    brackets as ComfyUI does; the embedded encoder, which is both halves, takes texts literally.
    """

    def __init__(self, encoder: TextEncoder | FluxTextEncoders, name: str) -> None:
        self.name = name
        self.tokenizer_options: dict[str, Any] = {}
        self._managed: Managed = manage(encoder)

    @property
    def encoder(self) -> TextEncoder | FluxTextEncoders:
        """The network, wherever it is."""
        return self._managed.network  # type: ignore[return-value]

    def tokenize(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Tokens:
        """One text to tokens; with `return_word_ids`, each carries the number of its word too."""
        encoder: Any = self.encoder
        if hasattr(encoder, "halves"):
            options = {**self.tokenizer_options, **kwargs.get("tokenizer_options", {})}
            halves = encoder.halves(text, options=options)
        else:
            row = [(int(i), 1.0, 0) for i in encoder.tokenize([text])[0]]
            halves = {"l": [row], "t5xxl": [row]}
        length = 3 if return_word_ids else 2
        return {
            half: [[tuple(token)[:length] for token in row] for row in rows]
            for half, rows in halves.items()
        }

    def set_tokenizer_option(self, name: str, value: Any) -> None:
        """What ComfyUI's T5TokenizerOptions sets, `t5xxl_min_length` and `t5xxl_min_padding`."""
        self.tokenizer_options[name] = value

    def encode_tokens(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Tokens to features [1, l, c] and pooled feature [1, v], float32 on the CPU."""
        import torch

        encoder: Any = self._managed.load()
        with torch.no_grad():
            if hasattr(encoder, "encode_halves"):
                features, pooled = encoder.encode_halves(tokens)
            else:
                ids = {
                    half: torch.tensor([[token[0] for token in row] for row in rows])
                    for half, rows in tokens.items()
                }
                features = encoder(ids["t5xxl"].to(encoder.device))[0]
                pooled = encoder(ids["l"].to(encoder.device))[1]
        return features.float().cpu(), pooled.float().cpu()

    def encode_from_tokens(
        self, tokens: Tokens, return_pooled: bool | str = False, return_dict: bool = False
    ) -> Any:
        """ComfyUI's older call: features, (features, pooled) or a dict of both."""
        features, pooled = self.encode_tokens(tokens)
        if return_dict:
            return {"cond": features, "pooled_output": pooled}
        return (features, pooled) if return_pooled else features

    def encode_from_tokens_scheduled(
        self,
        tokens: Tokens,
        unprojected: bool = False,
        add_dict: dict[str, Any] | None = None,
        show_pbar: bool = True,
    ) -> list[list[Any]]:
        """What CLIP Text Encode calls: a CONDITIONING with the pooled feature in it."""
        features, pooled = self.encode_tokens(tokens)
        return [[features, {"pooled_output": pooled, **(add_dict or {})}]]

    def encode(self, text: str) -> Tensor:
        """Features of a text, as ComfyUI's CLIP offers it."""
        return self.encode_from_tokens(self.tokenize(text))

    def clone(self) -> KontextClip:
        """A CLIP of the same network with tokenizer options of its own."""
        other = copy.copy(self)
        other.tokenizer_options = dict(self.tokenizer_options)
        return other

    def __repr__(self) -> str:
        return f"KontextClip({self.name!r})"


class KontextVAE:
    """An autoencoder on a VAE socket: IMAGE [b, h, w, 3] in 0..1 and raw LATENT [b, 16, h/8, w/8]."""

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
    def first_stage_model(self) -> AutoEncoder:
        """The network, wherever it is."""
        return self._managed.network  # type: ignore[return-value]

    def encode(self, pixels: Tensor) -> Tensor:
        """IMAGE to raw latent, float32 on the CPU. Alpha is dropped, sides are cropped to a
        multiple of 8 around the middle, as ComfyUI's own VAE does.

        Raises:
            InputError, ShapeError: a picture that can't be used.
        """
        return self._encode(pixels, None)

    def _encode(self, pixels: Tensor, tile: int | None) -> Tensor:
        import torch

        from ..kontext_core.images import check_image, to_model

        pixels = check_image(pixels[..., :3], "the picture to encode")
        unit = self.downscale_ratio
        height, width = pixels.shape[1] // unit * unit, pixels.shape[2] // unit * unit
        top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
        pixels = pixels[:, top : top + height, left : left + width]
        network = self._load(height, width, tile, decode=False)
        options = {"tile": tile, "tick": get_host().check_interrupt}
        with torch.no_grad():
            latents = [network.encode(to_model(one[None]), **options) for one in pixels]
            return torch.cat(latents).float().cpu()

    def decode(self, samples: Tensor, *_: Any, **__: Any) -> Tensor:
        """Raw latent to IMAGE, float32 on the CPU.

        Raises:
            ShapeError: not a 16-channel latent.
        """
        return self._decode(samples, None)

    def _decode(self, samples: Tensor, tile: int | None) -> Tensor:
        import torch

        from ..kontext_core.images import to_picture

        if samples.ndim != 4 or samples.shape[1] != self.latent_channels:
            raise ShapeError(
                f"the latent to decode has shape {tuple(samples.shape)}; expected "
                f"[batch, {self.latent_channels}, height, width]. It belongs to another kind of "
                "model: decode it with that model's VAE"
            )
        height, width = (side * self.downscale_ratio for side in samples.shape[2:])
        network = self._load(height, width, tile, decode=True)
        options = {"tile": tile, "tick": get_host().check_interrupt}
        with torch.no_grad():
            pictures = [to_picture(network.decode(one[None], **options)) for one in samples]
            return torch.cat(pictures).cpu()

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

    def _load(self, height: int, width: int, tile: int | None, *, decode: bool) -> Any:
        """The network, after the host made room for it and for what it works in."""
        if tile is not None:
            height, width = min(height, tile), min(width, tile)
        memory = self.first_stage_model.working_memory(height, width, decode=decode)
        return self._managed.load(memory)

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

    def __repr__(self) -> str:
        return f"KontextVAE({self.name!r})"
