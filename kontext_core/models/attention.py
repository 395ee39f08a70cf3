"""Joint attention of text and image tokens, and the table of kernels that compute it.

Shapes: b batch, h heads, m queries, n keys, d head size.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import InputError
from .products import available, product
from .rope import apply_rope

# (q, k, v, table, bias) -> result, as `attention` below; what the blocks are given to call.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, "Tensor | None"], Tensor]

AUTO = "auto"
# Queries at a time: their logits over ten thousand keys stay in a core's second cache, or near it.
BLOCK = 256
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Backend:
    """A kernel.

    Attributes:
        run: (q [b, h, m, d], k, v [b, h, n, d], mask) to [b, h, m, d] of any strides; mask is None
            or [b or 1, 1, 1, n] float32 to add to the logits.
        fits: (q, mask) to whether it can compute this here.
    """

    run: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    fits: Callable[[Tensor, Tensor | None], bool]


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, None if mask is None else mask.to(q.dtype))


def _chunked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Two products and a softmax for `BLOCK` queries of one head at a time, in the dtype of q.

    PyTorch's own kernel on the CPU multiplies bfloat16 at a quarter of the speed of its layers, and
    float32 at half of oneDNN's. Softmax in float32 changes nothing where logits are bfloat16: the
    error against float64 stays 4.6e-3, PyTorch's own is 2.3e-3.
    """
    b, h, m, d = q.shape
    out = q.new_empty(b, m, h, d).transpose(1, 2)
    # As a layer's product, which knows a way around PyTorch's; in 16 bits the plain one is as good.
    scale, single = d**-0.5, q.dtype == torch.float32
    for item in range(b):
        added = None if mask is None else mask[item if len(mask) > 1 else 0, 0]
        for head in range(h):
            keys, values = k[item, head].contiguous(), v[item, head]
            if single:
                values = values.t().contiguous()
            queries = q[item, head] * scale
            for start in range(0, m, BLOCK):
                some = queries[start : start + BLOCK]
                logits = product(some, keys) if single else some @ keys.t()
                weights = torch.softmax(logits if added is None else logits + added, -1).to(q.dtype)
                result = product(weights, values) if single else weights @ values
                out[item, head, start : start + BLOCK] = result
    return out


def _flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    call: Any = importlib.import_module("flash_attn").flash_attn_func
    return call(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def _sage(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    call: Any = importlib.import_module("sageattention").sageattn
    return call(q, k, v, tensor_layout="HND", is_causal=False)


def _on_gpu(package: str) -> Callable[[Tensor, Tensor | None], bool]:
    def fits(q: Tensor, mask: Tensor | None) -> bool:
        suits = q.device.type == "cuda" and q.dtype in HALF and mask is None
        return suits and importlib.util.find_spec(package) is not None

    return fits


BACKENDS: dict[str, Backend] = {
    "sdpa": Backend(_sdpa, lambda q, mask: True),
    "chunked": Backend(_chunked, lambda q, mask: not torch.is_grad_enabled()),
    "flash": Backend(_flash, _on_gpu("flash_attn")),
    "sage": Backend(_sage, _on_gpu("sageattention")),
}


def choose(name: str, q: Tensor, mask: Tensor | None) -> Backend:
    """The kernel to use.

    Args:
        name: of `BACKENDS`, or "auto": on a CPU "chunked" where it is the faster one, else "sdpa".
            Sage rounds to 8 bits, so it is never chosen unasked.

    Raises:
        InputError: an unknown name, or a kernel that can't compute this here.
    """
    if name == AUTO:
        dear = q.device.type == "cpu" and q.shape[2] >= BLOCK and not torch.is_grad_enabled()
        name = "chunked" if dear and available(q.dtype) else "sdpa"
    if name not in BACKENDS:
        raise InputError(f"attention is {name!r}; expected one of {', '.join((AUTO, *BACKENDS))}")
    backend = BACKENDS[name]
    if not backend.fits(q, mask):
        with_bias = ", with strengths of references" if mask is not None else ""
        raise InputError(
            f"attention {name!r} can't compute {q.dtype} on {q.device.type}{with_bias} here; "
            f'install its package, or choose "{AUTO}"'
        )
    return backend


def softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, backend: str = AUTO
) -> Tensor:
    """Softmax attention of what has its positions already.

    Args:
        q: [b, h, m, d].
        k, v: [b, h, n, d].
        bias: None, or [b or 1, n] added to the logits of every key.
        backend: see `choose`.

    Returns:
        [b, m, h * d].

    Raises:
        InputError: as `choose`.
    """
    mask = None if bias is None else bias[:, None, None, :].float()
    out = choose(backend, q, mask).run(q, k, v, mask)
    return rearrange(out, "b h n d -> b n (h d)")


def attention(q: Tensor, k: Tensor, v: Tensor, table: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention with rotary positions, the plain way: by PyTorch's own kernel.

    Args:
        q: [b, h, m, d], of the first m tokens.
        k, v: [b, h, n, d].
        table: from `rope.rope_table`, of all n.
        bias: None, or [b or 1, n] added to the logits of every key (the log of a reference's
            strength). None keeps the fused kernels.

    Returns:
        [b, m, h * d].
    """
    q, k = apply_rope(q, table[:, :, : q.shape[2]]), apply_rope(k, table)
    return softmax_attention(q, k, v, bias, "sdpa")
