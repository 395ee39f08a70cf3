"""Joint attention of text and image tokens: one function, so that backends can be exchanged.

Shapes: b batch, h heads, n tokens, d head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .rope import apply_rope

# (q, k, v, table, bias) -> result, as `attention` below; what the blocks are given to call.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, "Tensor | None"], Tensor]


def attention(q: Tensor, k: Tensor, v: Tensor, table: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention with rotary positions.

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
    mask = None if bias is None else bias[:, None, None, :].to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return rearrange(out, "b h n d -> b n (h d)")
