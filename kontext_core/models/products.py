"""Products of layers on the CPU by oneDNN: `x @ weight.T + bias`, with GELU in the same pass.

What PyTorch calls for float32 on a CPU is made for another maker's processors and runs at half of oneDNN's
speed on some; in bfloat16 the GELU behind a product costs a fifth of it when it is a pass of its own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Below so many rows the product is as good as reading the weight once, which oneDNN does twice.
ROWS = 64


def is_plain(layer: nn.Module) -> bool:
    """Whether this layer is a product with its weight and nothing else: no packed blocks, no LoRA,
    no host's casting, no hook. A host's layer says by itself, as `is_product`, when it is one."""
    known = type(layer) is nn.Linear or getattr(layer, "is_product", False)
    return known and not (layer._forward_hooks or layer._forward_pre_hooks)


@lru_cache
def _call(dtype: torch.dtype) -> Any:
    """oneDNN's product for a dtype, or None. PyTorch's own compiler calls it by this name."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return None
    try:
        call = torch.ops.mkldnn._linear_pointwise
        # Some processors have no bfloat16, some builds not this form.
        call(torch.ones(1, 2, dtype=dtype), torch.ones(2, 2, dtype=dtype), None, "gelu", [], "tanh")
    except (AttributeError, RuntimeError):
        return None
    return call


def available(dtype: torch.dtype) -> bool:
    """Whether this processor and PyTorch multiply this dtype by oneDNN, and nobody turned it off."""
    return torch.backends.mkldnn.enabled and _call(dtype) is not None


def usable(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN takes these, and nobody asks for gradients, which it does not give."""
    return (
        not torch.is_grad_enabled()
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and not torch.compiler.is_compiling()
        and x.numel() >= ROWS * x.shape[-1]
        and weight.is_contiguous()
        and available(x.dtype)
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """x @ weight.T + bias, and tanh-GELU of that if asked for.

    Args:
        x: [..., i]. weight: [o, i]. bias: [o] or None. All of one dtype.

    Returns:
        [..., o], a tensor of its own.
    """
    if usable(x, weight):
        return _call(x.dtype)(
            x, weight, bias, *(("gelu", [], "tanh") if gelu else ("none", [], ""))
        )
    return _gelu(F.linear(x, weight, bias)) if gelu else F.linear(x, weight, bias)


def project(layer: nn.Module, x: Tensor, *, gelu: bool = False) -> Tensor:
    """A layer's output for x [..., i], and its GELU if asked for; whatever kind of layer it is."""
    if is_plain(layer):
        return product(x, layer.weight, layer.bias, gelu=gelu)  # type: ignore[arg-type]
    return _gelu(layer(x)) if gelu else layer(x)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")
