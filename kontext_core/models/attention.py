"""Joint attention of text and image tokens, and the table of kernels that compute it.

Shapes: b batch, h heads, m queries, n keys, d head size.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
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
# Queries and keys that kernels are measured with, how often, and what counts as faster.
PROBE = (2 * BLOCK, 8 * BLOCK)
ROUNDS = 3
CLEARLY = 0.9


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
    float32 on some processors at half of oneDNN's. Softmax in float32 changes nothing where logits are bfloat16: the
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


@lru_cache
def chunked_is_faster(dtype: torch.dtype, d: int, threads: int) -> bool:
    """Whether `_chunked` beats PyTorch's kernel clearly, for heads of size d and so many threads, which
    are to be those set: about 0.1 s, once a process, so that a run's steps are all computed alike.

    In float32 one maker's processors say yes and another's no (1.5 and 0.65 of PyTorch's time at 2,304
    keys and d = 128), whatever the number of keys; in bfloat16 all that were tried say yes (0.53 to
    0.78).
    """
    q, k = (torch.linspace(-2, 2, n * d * 2).sin().reshape(1, 2, n, d).to(dtype) for n in PROBE)
    least: dict[str, float] = {}
    with torch.no_grad():
        for _ in range(ROUNDS):
            for name, run in (("sdpa", _sdpa), ("chunked", _chunked)):
                start = time.perf_counter()
                run(q, k, k, None)
                taken = time.perf_counter() - start
                least[name] = min(taken, least.get(name, taken))
    return least["chunked"] < CLEARLY * least["sdpa"]


def _measured(q: Tensor) -> bool:
    # A compiler can't trace a clock; what PyTorch has is known to it.
    if torch.compiler.is_compiling():
        return False
    return chunked_is_faster(q.dtype, q.shape[-1], torch.get_num_threads())


def choose(name: str, q: Tensor, mask: Tensor | None) -> Backend:
    """The kernel to use.

    Args:
        name: of `BACKENDS`, or "auto": on a CPU "chunked" where it is the faster one, as measured
            once a process (`chunked_is_faster`), else "sdpa". Sage rounds to 8 bits, so it is never chosen unasked.

    Raises:
        InputError: an unknown name, or a kernel that can't compute this here.
    """
    if name == AUTO:
        dear = q.device.type == "cpu" and q.shape[2] >= BLOCK and not torch.is_grad_enabled()
        dear = dear and available(q.dtype)
        name = "chunked" if dear and _measured(q) else "sdpa"
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
