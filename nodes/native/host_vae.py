"""The core's autoencoder as a `comfy.sd.VAE`. Import only where comfy is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch

from .vae import VaeCalls

if TYPE_CHECKING:
    from torch import Tensor

    from ...kontext_core.models.autoencoder import AutoEncoder


class FirstStage(torch.nn.Module):
    """What ComfyUI's patcher manages and other packs call: the autoencoder's parts under their
    published names, and a `device` that may be written to, which the core's network has not."""

    def __init__(self, autoencoder: AutoEncoder) -> None:
        super().__init__()
        self.encoder, self.decoder = autoencoder.encoder, autoencoder.decoder
        # In a tuple, or its weights would be counted a second time.
        self._whole = (autoencoder,)
        self.device: torch.device | None = None

    @property
    def core(self) -> AutoEncoder:
        """The core's network, over the same layers."""
        return self._whole[0]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.core.dtype

    def encode(self, x: Tensor, **options: Any) -> Tensor:
        """[b, 3, H, W] in -1..1 to the raw mean; `options` as the core's."""
        return self.core.encode(x, **options)

    def decode(self, z: Tensor, **options: Any) -> Tensor:
        """A raw latent to [b, 3, 8h, 8w], about -1..1; `options` as the core's."""
        return self.core.decode(z, **options)

    def working_memory(self, height: int, width: int, *, decode: bool) -> int:
        """As the core's."""
        return self.core.working_memory(height, width, decode=decode)


class HostVAE(VaeCalls, comfy.sd.VAE):
    """ComfyUI's VAE with the core's network: its nodes' calls are answered by `VaeCalls`.

    The constructor of ComfyUI's class, which detects files, is not run; all that it sets is set
    here, so that whatever else reads a VAE finds it.
    """

    def __init__(
        self, autoencoder: AutoEncoder, name: str, resolutions: tuple[tuple[int, int], ...]
    ) -> None:
        management = comfy.model_management
        self.name = name
        self.resolutions = resolutions
        self.first_stage_model = FirstStage(autoencoder).eval()
        params = autoencoder.params
        self.downscale_ratio = self.upscale_ratio = params.downscale
        self.latent_channels = params.z_channels
        self.output_channels = params.out_ch
        self.latent_dim = 2
        self.process_input = _to_model
        self.process_output = _to_picture
        self.vae_dtype = autoencoder.dtype
        self.working_dtypes = [self.vae_dtype]
        # The layers are plain ones, 168 MB in bfloat16: all or nothing.
        self.disable_offload = True
        self.not_video = False
        self.downscale_index_formula = self.upscale_index_formula = None
        self.extra_1d_channel = None
        self.crop_input = True
        self.pad_channel_value = None
        self.handles_tiling = False
        self.format_encoded = None
        self.audio_sample_rate = 44100
        self.device = management.vae_device()
        self.output_device = management.intermediate_device()
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model,
            load_device=self.device,
            offload_device=management.vae_offload_device(),
        )
        self.size = management.module_size(self.first_stage_model)

    def memory_used_encode(self, shape: Any, dtype: torch.dtype) -> int:
        """Bytes for one picture [b, 3, H, W], beside the weights."""
        return self.first_stage_model.working_memory(shape[2], shape[3], decode=False)

    def memory_used_decode(self, shape: Any, dtype: torch.dtype) -> int:
        """Bytes for one latent [b, 16, h, w], beside the weights."""
        height, width = (side * self.downscale_ratio for side in shape[2:4])
        return self.first_stage_model.working_memory(height, width, decode=True)

    def load_network(self, memory: int) -> AutoEncoder:
        """See `VaeCalls`."""
        comfy.model_management.load_models_gpu(
            [self.patcher], memory_required=memory, force_full_load=True
        )
        return self.first_stage_model.core

    def hand_out(self, made: Tensor) -> Tensor:
        """On the device and, since 0.17, of the dtype that ComfyUI was started with."""
        wanted = getattr(self, "vae_output_dtype", None)
        return made.to(self.output_device, torch.float32 if wanted is None else wanted())

    def __repr__(self) -> str:
        return f"HostVAE({self.name!r})"


def _to_model(image: Tensor) -> Tensor:
    return image * 2.0 - 1.0


def _to_picture(image: Tensor) -> Tensor:
    # In place: since 0.18 ComfyUI's own decode ignores what this returns.
    return image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)


def host_vae(
    autoencoder: AutoEncoder, name: str, resolutions: tuple[tuple[int, int], ...]
) -> HostVAE:
    """As `make_vae`."""
    return HostVAE(autoencoder, name, resolutions)
