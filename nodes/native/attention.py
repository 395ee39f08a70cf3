"""Attention of our transformer inside ComfyUI: by the host's own kernels, through the host's hooks.

Shapes: b batch, h heads, n tokens, d head size. Positions travel as our complex table, and as the 2x2
rotations of ComfyUI's Flux where somebody else's patch is to see them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kontext_core.models.nag import NagTexts, guided_attention
from ...kontext_core.models.rope import apply_rope
from .oom import attention_in_parts


def rotations(table: Tensor) -> Tensor:
    """Our table [b, 1, n, d/2] complex as ComfyUI's `pe` [b, 1, n, d/2, 2, 2] float32: for each
    channel pair the matrix ((cos, -sin), (sin, cos))."""
    cos, sin = table.real, table.imag
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))


def table_of(pe: Tensor) -> Tensor:
    """Our complex table from either form."""
    return pe if pe.is_complex() else torch.complex(pe[..., 0, 0].float(), pe[..., 1, 0].float())


def joined_mask(mask: Tensor | None, bias: Tensor | None, length: int) -> Tensor | None:
    """One mask to add to the attention logits, or None.

    Args:
        mask: None, or the conditioning's: [n, n], [b, n, n] or [b, h or 1, n or 1, n], true or 0
            where attention is allowed. Made without references, it is shorter than the sequence;
            they may be looked at by all.
        bias: None, or [b or 1, length] of our references' strengths.
        length: of the sequence.
    """
    if mask is not None:
        while mask.ndim < 4:
            mask = mask.unsqueeze(0 if mask.ndim == 2 else 1)
        if mask.dtype == torch.bool and (bias is not None or mask.shape[-1] < length):
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -torch.inf)
        if mask.shape[-1] < length:
            rows = 0 if mask.shape[-2] == 1 else length - mask.shape[-2]
            mask = F.pad(mask, (0, length - mask.shape[-1], 0, rows))
    if bias is None:
        return mask
    bias = bias[:, None, None, :]
    return bias if mask is None else mask + bias.to(mask.device)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pe: Tensor | None,
    mask: Tensor | None,
    options: dict[str, Any],
    text: int,
    table: Tensor | None = None,
    texts: NagTexts | None = None,
) -> Tensor:
    """Joint attention of one block.

    Args:
        q, k, v: [b, h, n, d], the first `text` tokens being the text's.
        pe: positions of all tokens in either form; None turns nothing.
        mask: from `joined_mask`.
        options: the host's transformer_options with `block_index` and `block_type` set. Its
            patches attn1_patch and attn1_output_patch are called as ComfyUI's Flux calls them.
        table: `pe` as our table, where the caller has it.
        texts: None, or guidance by a negative text, which stands first; by our own kernels then.

    Returns:
        [b, n, h * d].
    """
    import comfy.ldm.modules.attention

    patches = options.get("patches", {})
    extra = {**options, "img_slice": [text, q.shape[2]]}
    for patch in patches.get("attn1_patch", ()):
        shown = rotations(pe) if pe is not None and pe.is_complex() else pe
        out = patch(q, k, v, pe=shown, attn_mask=mask, extra_options=extra)
        q, k, v = out.get("q", q), out.get("k", k), out.get("v", v)
        mask = out.get("attn_mask", mask)
        if out.get("pe", shown) is not shown:
            pe, table = out["pe"], None
    if pe is not None:
        table = table_of(pe) if table is None else table
        # A patch may have left tokens away, or put keys of earlier steps behind.
        q = apply_rope(q, table[:, :, : q.shape[2]])
        k = apply_rope(k, table[:, :, : k.shape[2]])
    if mask is not None:
        mask = mask[..., : q.shape[2], : k.shape[2]]
        if mask.dtype != torch.bool:
            mask = mask.to(q.device, q.dtype)

    def attention(queries: Tensor, rows: Tensor | None) -> Tensor:
        return comfy.ldm.modules.attention.optimized_attention(
            queries, k, v, q.shape[1], mask=rows, skip_reshape=True, transformer_options=options
        )

    if texts is None:
        result = attention_in_parts(attention, q, mask)
    else:
        # A mask is our references' strengths here, [b or 1, 1, 1, n].
        result = guided_attention(q, k, v, None if mask is None else mask[:, 0, 0], texts)
    for patch in patches.get("attn1_output_patch", ()):
        result = patch(result, extra)
    return result
