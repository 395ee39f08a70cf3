"""A MODEL's network to train on: the core's own layers over the very tensors that the host has loaded.

Hosts run nodes in inference mode, and what is made there can't take part in gradients; tensors of our own
over the same memory can. The host's layers are left alone: nothing is copied, nothing is written to.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ...kontext_core.errors import InputError
from .model import KontextModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...kontext_core.models.flux import Flux

# Beside the weights, for what the blocks of a step compute.
WORKING_MEMORY = 4 << 30


def training_network(model: Any) -> Flux:
    """The transformer of a MODEL from `check_model`, on the host's device, with the MODEL's LoRAs of
    this pack on it.

    Raises:
        InputError: one that the host has loaded by itself, or one with LoRAs of the host's.
    """
    import torch

    from ...kontext_core.lora.apply import set_loras
    from ...kontext_core.models.flux import Flux
    from ..host import get_host

    if isinstance(model, KontextModel) or type(model).__name__ == "KontextModel":
        network, loras = model.load(), model.loras
    else:
        import comfy.model_management

        from .patcher import loras_of, network_of

        network = network_of(model)
        if not isinstance(network, Flux):
            raise InputError(
                "this MODEL was loaded by ComfyUI itself; training needs the weights as they are "
                "stored: load the file with Kontext: Load Model"
            )
        if model.patches:
            raise InputError(
                "this MODEL carries a LoRA or another change of ComfyUI's own nodes, which training "
                "can't go through. Connect the MODEL as Kontext: Load Model gives it, or put the LoRA "
                "on with Kontext: Load LoRA"
            )
        comfy.model_management.load_models_gpu(
            [model], memory_required=WORKING_MEMORY, force_full_load=True
        )
        loras = loras_of(model)
    with torch.inference_mode(False):
        twin = plain_twin(network).to(get_host().device())
        set_loras(twin, loras)
    return twin


def plain_twin(network: Flux) -> Flux:
    """A network of the core's layers over the tensors of one of a host's."""
    import torch

    from ...kontext_core.config import FluxParams
    from ...kontext_core.models.flux import Flux
    from ...kontext_core.weights.unchanged import guard_alike

    params = {field.name: getattr(network.params, field.name) for field in fields(FluxParams)}
    with torch.device("meta"):
        twin = Flux(
            FluxParams(**params),
            latent_format=network.latent_format,
            resolutions=network.resolutions,
        )
    for name, layer in network.named_modules():
        made = _layer(layer)
        if made is not None:
            parent, _, leaf = name.rpartition(".")
            setattr(twin.get_submodule(parent), leaf, made)
    guard_alike(twin, network)
    return twin.eval().requires_grad_(False)


def _layer(layer: nn.Module) -> nn.Module | None:
    """A layer of the core's over the tensors of this one; None where it has none of its own."""
    from torch import nn

    from ...kontext_core.models.layers import RMSNorm
    from ...kontext_core.quant.linear import QuantLinear, ScaledLinear

    own: Any = layer
    if isinstance(layer, RMSNorm):
        norm = RMSNorm(1, device="meta")
        norm.scale = nn.Parameter(_over(own.scale), requires_grad=False)
        return norm
    if not hasattr(layer, "in_features"):
        return None
    bias = None if own.bias is None else _over(own.bias)
    if isinstance(layer, QuantLinear):
        return QuantLinear(_over(own.weight), own.kind, own.in_features, bias)
    if isinstance(layer, ScaledLinear):
        return ScaledLinear(
            _over(own.weight), bias, None if own.scale is None else _over(own.scale)
        )
    plain = nn.Linear(own.in_features, own.out_features, bias=bias is not None, device="meta")
    plain.weight = nn.Parameter(_over(own.weight), requires_grad=False)
    plain.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)  # type: ignore[assignment]
    return plain


def _over(tensor: Tensor) -> Tensor:
    """Another tensor over the same memory, outside inference mode."""
    import torch

    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return empty.set_(
        tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
    )
