"""Fills a network with weights from a file, keeping packed ones packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..quant.decode import dequantize
from ..quant.linear import QuantEmbedding, QuantLinear, ScaledEmbedding, ScaledLinear
from ..quant.types import BLOCK_TYPES, is_packed
from .fit import left_over

if TYPE_CHECKING:
    from .state import Weight

# Told how many tensors are done, of how many.
Progress = Callable[[int, int], None]
# Above this many parameters half-precision weights stay mapped instead of being cast at once.
LARGE = 1_000_000_000


def default_dtype(device: torch.device | str) -> torch.dtype:
    """float32 on the CPU, bfloat16 elsewhere."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16


def install(
    network: nn.Module,
    state: Mapping[str, Weight],
    source: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    pack: bool | None = None,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Put stored weights into a network built on the meta device.

    A Linear or Embedding whose weight is stored in blocks or in float8 is replaced by its packed
    twin. Everything else becomes a plain parameter of `dtype`, one tensor at a time.

    Args:
        network: on the meta device; `network.keep_plain`, if there is one, names layers (with all
            below them) that never stay packed.
        state: weights by parameter name.
        source: the file they come from, for messages.
        dtype: of plain parameters, and the one to compute in.
        device: where everything goes.
        pack: whether Linear and Embedding weights in another number type than `dtype` stay as
            stored too and are cast when used, and whether those of the same type stay mapped
            from the file, which is read-only. None: only in networks of 1e9 parameters and more.
        progress: called with (tensors done, tensors in all) after each one.

    Returns:
        Names in `state` that the network has no use for; they are kept as `network.left_over` too.

    Raises:
        CheckpointError: missing or misshapen tensors, or numbers of a type that weights don't have; the first few
            are named.
    """
    surplus = left_over(network, state, source)
    total = len(network.state_dict())
    if pack is None:
        pack = sum(value.numel() for value in network.state_dict().values()) >= LARGE
    keep_plain = tuple(getattr(network, "keep_plain", ()))
    done = 0
    for prefix, module in list(network.named_modules()):
        names = [name for name, value in _own(module).items() if value is not None]
        name = f"{prefix}." if prefix else ""
        twin = None
        if "weight" in names and not _under(prefix, keep_plain):
            twin = _twin(module, state, name, dtype, device, pack)
        if twin is not None:
            _replace(network, prefix, twin)
        else:
            for own in names:
                _set(module, own, plain(state[name + own], dtype).to(device))
        done += len(names)
        if progress is not None and names:
            progress(done, total)
    network.requires_grad_(False).eval()
    network.left_over = surplus  # pyright: ignore[reportArgumentType]
    return surplus


def plain(weight: Weight, dtype: torch.dtype) -> Tensor:
    """A stored weight as an own tensor of its logical shape; numbers cast to `dtype`.

    float8 with a scale is multiplied in float32 and rounded once.
    """
    data = weight.data()
    if weight.kind in BLOCK_TYPES and data.dtype == torch.uint8 and weight.kind != "U8":
        # Rows may have been reshaped when the file was made, so blocks are taken as they lie.
        whole = data.reshape(-1)
        return dequantize(whole, weight.kind, dtype=dtype).reshape(weight.shape)
    data = data.reshape(weight.shape)
    if weight.scale is not None:
        scale = weight.scale.float()
        if scale.numel() > 1:
            scale = scale.reshape(-1, *[1] * (data.ndim - 1))
        return (data.float() * scale).to(dtype)
    if not data.is_floating_point():
        return data.clone()
    cast = data.to(dtype)
    # The file is mapped read-only: a parameter that may be written to must not lie in it.
    return cast.clone() if cast.data_ptr() == data.data_ptr() else cast


def _twin(
    module: nn.Module,
    state: Mapping[str, Weight],
    name: str,
    dtype: torch.dtype,
    device: torch.device | str,
    pack: bool,
) -> nn.Module | None:
    """The packed layer that takes this one's place, or None if it becomes a plain one."""
    if type(module) not in (nn.Linear, nn.Embedding):
        return None
    weight = state[name + "weight"]
    data = weight.data()
    blocks = is_packed(weight.kind) and data.ndim == 2 and data.shape[0] == weight.shape[0]
    small = data.is_floating_point() and data.element_size() == 1
    if not (blocks or small or weight.scale is not None or (pack and data.is_floating_point())):
        return None
    data = data.to(device)
    scale = None if weight.scale is None else weight.scale.to(device)
    if isinstance(module, nn.Embedding):
        if blocks:
            return QuantEmbedding(data, weight.kind, weight.shape[1], dtype)
        return ScaledEmbedding(data, scale, dtype)
    bias: Tensor | None = None
    if module.bias is not None:
        bias = plain(state[name + "bias"], dtype).to(device)
    if blocks:
        return QuantLinear(data, weight.kind, weight.shape[1], bias)
    if scale is None and data.dtype == dtype:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        layer.weight = nn.Parameter(data, requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias, requires_grad=False)
        return layer
    return ScaledLinear(data, bias, scale)


def _own(module: nn.Module) -> dict[str, Tensor | None]:
    """Parameters and saved buffers of the module itself."""
    buffers = {
        name: value
        for name, value in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }
    return {**dict(module.named_parameters(recurse=False)), **buffers}


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    if isinstance(getattr(module, name), nn.Parameter):
        setattr(module, name, nn.Parameter(value, requires_grad=False))
    else:
        setattr(module, name, value)


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def _under(path: str, layers: tuple[str, ...]) -> bool:
    return any(path == layer or path.startswith(layer + ".") for layer in layers)
