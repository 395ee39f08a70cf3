"""Has the transformer's large layers multiply 8-bit numbers, and says how far off that makes each.

Those of the blocks only: first, last and embedding layers stay as they are, and so do the modulation
layers, which work on one row a step. What is done to quality is the model's own matter, so it can be
measured on any of them: `layer_errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..models.flux import Flux
from ..models.layers import Modulation
from ..quant.eight_bit import STORED, best_products, check_products, quantize_rows
from ..quant.linear import QuantLinear, ScaledLinear, plain_weight
from ..quant.types import BLOCK_TYPES

CHOICES = ("off", "auto", "int8", "fp8")
Packed = QuantLinear | ScaledLinear


def use_eight_bit(
    model: Flux, products: str | None, device: torch.device | str | None = None
) -> int:
    """Turn 8-bit products on or off in every large layer of the blocks, in place.

    Plain layers, and packed ones that take a byte a weight or more, are rounded once, row by row, and
    keep a byte a weight: off again then means that these are multiplied as wider numbers. Smaller
    packed ones (Q4_K) stay as they are and have their rows rounded while they are used.

    Args:
        model: without LoRAs, which belong on the layers that this makes.
        products: "int8", "fp8", "auto" for what the device is fast at, "off" or None.
        device: that the model will run on; its own by default.

    Returns:
        How many layers multiply so.

    Raises:
        InputError: unknown products, not on this device, or LoRAs on the model.
    """
    place = torch.device(device) if device is not None else model.device
    if products == "auto":
        products = best_products(place)
    if products in (None, "off"):
        for _, layer in packed_layers(model):
            layer.products = None
        return 0
    check_products(products, place)
    found = list(large_layers(model))
    hooked = [name for name, layer in found if layer._forward_hooks or layer._forward_pre_hooks]
    if hooked:
        raise InputError(
            f"{hooked[0]} carries a LoRA or another hook; choose 8-bit products before LoRAs are put on"
        )
    for name, layer in found:
        made = _in_bytes(layer, products)
        made.products = products
        if made is not layer:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, made)
    return len(found)


def large_layers(model: Flux) -> Iterator[tuple[str, nn.Linear | Packed]]:
    """The linear layers of the blocks, without those of modulations, with their names."""
    for stack in ("double_blocks", "single_blocks"):
        for name, module in getattr(model, stack).named_modules(prefix=stack):
            inside = model.get_submodule(name.rpartition(".")[0])
            if isinstance(module, nn.Linear | Packed) and not isinstance(inside, Modulation):
                yield name, module


def packed_layers(model: nn.Module) -> Iterator[tuple[str, Packed]]:
    """Layers that can multiply 8-bit numbers, with their names."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Packed))


def layer_errors(model: Flux, run: Callable[[], Any]) -> dict[str, float]:
    """What 8-bit products change of each layer's output, alone: the mean squared difference to the
    same layer's decoded product on the same input, over the mean square of that, as a root.

    Args:
        model: with 8-bit products on.
        run: calls the model, once or more often.

    Returns:
        Layer's name to its relative error over all calls; layers that were not called are missing.
    """
    sums: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: Packed, args: tuple[Tensor, ...], out: Tensor) -> None:
            products, layer.products = layer.products, None
            try:
                plain = layer.multiply(args[0], layer.weight, layer.bias).float()
            finally:
                layer.products = products
            wrong, whole = sums.get(name, (0.0, 0.0))
            wrong += float((out.float() - plain).square().sum())
            sums[name] = wrong, whole + float(plain.square().sum())

        return hook

    hooks = [
        layer.register_forward_hook(watch(name))
        for name, layer in packed_layers(model)
        if layer.products is not None
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (wrong / max(whole, 1e-30)) ** 0.5 for name, (wrong, whole) in sums.items()}


def _in_bytes(layer: nn.Linear | Packed, products: str) -> Packed:
    """The layer with a byte a weight; itself where it is smaller already, or of that type."""
    if isinstance(layer, QuantLinear):
        kind = BLOCK_TYPES[layer.kind]
        if kind.type_size < kind.block_size:
            return layer
    elif isinstance(layer, ScaledLinear) and layer.weight.dtype == STORED[products]:
        return layer
    numbers, scale = quantize_rows(plain_weight(layer), products)
    return ScaledLinear(numbers, None if layer.bias is None else layer.bias.data, scale)
