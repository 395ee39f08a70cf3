"""The core's layers as ones that ComfyUI's memory management understands, over the same tensors.

ComfyUI streams the weights of layers that don't fit on the device: it sets `comfy_cast_weights` on
them and leaves their weight on the CPU, and such a layer brings it over for the time of one product.
Plain layers become ComfyUI's own. Packed ones move their stored bytes the same way and decode them on
the device; what LoRAs change of them is kept beside the bytes (`changes`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kontext_core.models.layers import RMSNorm
from ...kontext_core.quant.linear import (
    QuantEmbedding,
    QuantLinear,
    ScaledEmbedding,
    ScaledLinear,
)
from .changes import Change


class HostPacked:
    """What the packed layers of a host have in common.

    Attributes:
        changes: what LoRAs, merges and hooks do to the weight, by who set it; see `patcher`.
        changed_by: the host's number of the patches that the changes were made for.
    """

    comfy_cast_weights = False
    weight_function: list[Any]
    bias_function: list[Any]
    changes: dict[str, Change]
    changed_by: Any

    def forward(self: Any, x: Tensor) -> Tensor:
        """x [..., in_features] to [..., out_features]; an interrupt of the host's ends it."""
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()
        changes = list(self.changes.values())
        # A weight that has to be made whole for one change is changed by all of them in turn.
        whole = [] if all(change.branch for change in changes) else [c.weight for c in changes]
        functions = [*self.weight_function, *whole]
        with _lent(self, x) as (weight, bias):
            if functions:
                weight = self.decoded(weight)
                for function in functions:
                    weight = function(weight)
                bias = None if bias is None else bias.to(x.dtype)
                out = F.linear(x, weight.to(x.dtype), bias)
            else:
                out = self.multiply(x, weight, bias)
        if not whole:
            for change in changes:
                if change.branch is not None:
                    out = change.branch(self, (x,), out)
        return out


class HostQuantLinear(HostPacked, QuantLinear):
    """`QuantLinear` under the host's memory management."""


class HostScaledLinear(HostPacked, ScaledLinear):
    """`ScaledLinear` under the host's memory management."""


def is_packed(module: nn.Module) -> bool:
    """Whether a layer's weight can't be written to: blocks and float8, not numbers that are only
    cast when they are used, which the host may patch as its own."""
    if not isinstance(module, HostPacked):
        return False
    if not isinstance(module, ScaledLinear) or module.scale is not None:
        return True
    return module.weight.element_size() == 1


class _HostTable:
    """A table of vectors that stays where it is: only the rows asked for travel."""

    comfy_cast_weights = False
    weight_function: list[Any]
    bias_function: list[Any]
    bias: None

    def forward(self: Any, ids: Tensor) -> Tensor:
        """Integer ids [...] to vectors [..., embedding_dim], on the device of the ids."""
        rows = super().forward(ids.to(self.weight.device))  # type: ignore[misc]
        return rows.to(ids.device)


class HostQuantEmbedding(_HostTable, QuantEmbedding):
    """`QuantEmbedding` under the host's memory management."""


class HostScaledEmbedding(_HostTable, ScaledEmbedding):
    """`ScaledEmbedding` under the host's memory management."""


class HostRMSNorm(RMSNorm):
    """`RMSNorm` whose gain is called `weight`, as in the Flux of later hosts: by names, LoRAs and
    merges find what they change."""

    weight: nn.Parameter

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        """The gain under its published name."""
        return self.weight


@contextmanager
def _lent(layer: Any, x: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The layer's stored weight and its bias on the device of x, by the host's own transfer."""
    if not (layer.comfy_cast_weights or layer.bias_function):
        yield layer.weight, layer.bias
        return
    import comfy.ops

    # The host would call these on stored bytes.
    functions, layer.weight_function = layer.weight_function, []
    try:
        more = {"offloadable": True} if _streams() else {}
        weight, bias, *stream = comfy.ops.cast_bias_weight(
            layer, None, layer.weight.dtype, x.device, x.dtype, **more
        )
    finally:
        layer.weight_function = functions
    try:
        yield weight, bias
    finally:
        if stream:
            comfy.ops.uncast_bias_weight(layer, weight, bias, *stream)


@functools.cache
def _streams() -> bool:
    """Whether the host wants to be told when a weight is no longer needed (0.3.68 and later)."""
    import comfy.ops

    return "offloadable" in inspect.signature(comfy.ops.cast_bias_weight).parameters


@functools.cache
def _norm_name() -> str:
    """What the host's own Flux calls the gain of its norms: `scale`, from 0.13 on `weight`."""
    import comfy.ldm.flux.layers
    import comfy.ops

    norm = comfy.ldm.flux.layers.QKNorm(2, operations=comfy.ops.disable_weight_init)
    return next(iter(norm.query_norm.state_dict()))


@functools.cache
def _twins() -> dict[type, type]:
    """Class of ours (or torch's) to the class that takes its place."""
    import comfy.ops

    host: Any = comfy.ops.disable_weight_init

    # ComfyUI's own would bring the whole table to the device for some words.
    class Embedding(_HostTable, host.Embedding):
        pass

    class Linear(host.Linear):
        @property
        def is_product(self: Any) -> bool:
            """Nothing is brought over, patched on the way or, as bypassed LoRAs do, put in front."""
            moved = self.comfy_cast_weights or self.weight_function or self.bias_function
            return not moved and "forward" not in vars(self)

    twins: dict[type, type] = {
        nn.Linear: Linear,
        nn.Conv1d: host.Conv1d,
        nn.Conv2d: host.Conv2d,
        nn.GroupNorm: host.GroupNorm,
        nn.LayerNorm: host.LayerNorm,
        nn.Embedding: Embedding,
        QuantLinear: HostQuantLinear,
        ScaledLinear: HostScaledLinear,
        QuantEmbedding: HostQuantEmbedding,
        ScaledEmbedding: HostScaledEmbedding,
    }
    return twins | ({RMSNorm: HostRMSNorm} if _norm_name() == "weight" else {})


def decoding_memory(network: nn.Module, dtype: torch.dtype) -> int:
    """Bytes that a network's packed layers work in beside their stored weights: the largest weight,
    decoded to the dtype computed in."""
    layers = (m for m in network.modules() if isinstance(m, HostQuantLinear | HostScaledLinear))
    return max((m.out_features * m.in_features for m in layers), default=0) * dtype.itemsize


def host_layers(network: nn.Module) -> None:
    """Turn every layer of a network into its twin under ComfyUI's memory management, in place.

    The layers stay the same objects over the same tensors; nothing is copied, and what is done
    already is left alone. Only where `comfy` can be imported.
    """
    twins = _twins()
    for module in network.modules():
        twin = twins.get(type(module))
        if twin is None:
            continue
        module.__class__ = twin
        layer: Any = module
        if twin is HostRMSNorm:
            layer.weight = layer._parameters.pop("scale")
            continue
        layer.weight_function, layer.bias_function = [], []
        if isinstance(module, HostPacked):
            layer.changes, layer.changed_by = {}, None
        if isinstance(module, _HostTable):
            layer.bias = None
        if isinstance(module, ScaledLinear | ScaledEmbedding):
            # To the host every key of the state dict is a weight that LoRAs and merges may change.
            layer._non_persistent_buffers_set.add("scale")
