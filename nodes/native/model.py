"""MODEL: ComfyUI's own wrapper and patcher around our transformer, or outside ComfyUI a class that
holds it and the LoRAs that belong to it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ...kontext_core.errors import KontextError
from ...kontext_core.resolutions import KONTEXT_RESOLUTIONS
from ..host import Managed, manage

if TYPE_CHECKING:
    from ...kontext_core.lora.load import Lora
    from ...kontext_core.lora.report import LoraReport
    from ...kontext_core.models.flux import Flux


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
        # For samplers, see `carried`.
        self.carried: dict[str, Any] = {}
        self._managed: Managed = manage(flux)

    def load(self) -> Flux:
        """The network, on the host's device, with this MODEL's LoRAs on it and no others."""
        from ...kontext_core.lora.apply import set_loras

        set_loras(self._managed.network, self.loras)
        return self._managed.load()  # type: ignore[return-value]

    def with_lora(self, lora: Lora, strength: float) -> tuple[KontextModel, LoraReport]:
        """A MODEL of the same network with one more LoRA, and what of it matched. This one is not
        changed.

        Raises:
            CheckpointError: the LoRA does not fit the network.
        """
        from ...kontext_core.lora.apply import set_loras

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
        from ...kontext_core.lora.apply import merge_lora, set_loras

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


def resolutions_of(model: Any) -> tuple[tuple[int, int], ...]:
    """(width, height) in pixels that a MODEL was trained at; the published ones where it is not
    one of ours."""
    network = getattr(getattr(model, "model", None), "diffusion_model", None)
    for holder in (network, model):
        sizes = getattr(holder, "resolutions", None)
        if sizes:
            return sizes
    return KONTEXT_RESOLUTIONS
