"""Normalized attention guidance: a negative text steers inside the attention, at near single cost.

Chen et al. 2025, arXiv 2505.21179. In every block the image tokens attend twice to what they share, once
beside the negative text and once beside the instruction, and what comes out is pushed away from the former
and held to a length. A distilled model has no use for classifier-free guidance; this works on it.

Both texts travel as one, the negative first. What the image tokens share, themselves and the references,
is attended to once, and the parts of a softmax are put together by their sums of exponentials.
Shapes: b batch, h heads, m queries, n keys, d head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..guidance import Nag
from .attention import AUTO, HALF, softmax_attention

# (result [b, h, m, d], log of the sum of exponentials [b, h, m] in float32)
Partial = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class NagTexts:
    """Guidance and the lengths of both texts, the negative one first."""

    nag: Nag
    negative: int
    positive: int


def guided_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    texts: NagTexts,
    backend: str = AUTO,
    first: int | None = None,
) -> Tensor:
    """Attention with rotated q and k, every text beside the image, the image beside both.

    Args:
        q: [b, h, m, d], either of texts and image or of m image tokens alone.
        k, v: [b, h, n, d] of [negative, positive, image], of which the last may have no queries, or
            of [those m, negative, positive, other image tokens].
        bias: None, or [b or 1, n] added to the logits of every key.
        backend: see `attention.choose`; for what one plain softmax computes.
        first: image tokens that stand before the texts, m or 0; None takes it to be m where there are
            fewer queries than keys.

    Returns:
        [b, m, h * d].
    """
    start = first
    if start is None:
        start = 0 if q.shape[2] == k.shape[2] else q.shape[2]
    middle, stop = start + texts.negative, start + texts.negative + texts.positive
    run = _partial_of(q, bias)
    if run is None:
        return _twice(q, k, v, bias, texts, (start, middle, stop), backend)

    def part(queries: Tensor, first: int, end: int) -> Partial:
        some = None if bias is None else bias[:, first:end]
        return run(queries, k[:, :, first:end], v[:, :, first:end], some)

    shared = [part(q, first, end) for first, end in ((0, start), (stop, k.shape[2])) if end > first]
    # With all tokens the first queries are the texts' own.
    negative, positive = (texts.negative, texts.positive) if start == 0 else (0, 0)
    image = slice(negative + positive, None)
    beside_negative = part(q, start, middle)
    beside_positive = part(q, middle, stop)

    def joined(rows: slice, text: Partial) -> Tensor:
        return _joined([(out[:, :, rows], log[:, :, rows]) for out, log in (*shared, text)])

    made = texts.nag.mixed(joined(image, beside_positive), joined(image, beside_negative))
    if start:
        return made
    rows = slice(0, negative), slice(negative, negative + positive)
    return torch.cat(
        [joined(rows[0], beside_negative), joined(rows[1], beside_positive), made], dim=1
    )


def _joined(parts: list[Partial]) -> Tensor:
    """Softmax over all keys, [b, m, h * d], from results over disjoint sets of them."""
    logs = torch.stack([log for _, log in parts])
    weights = torch.softmax(logs, 0)[..., None]
    total = torch.zeros_like(parts[0][0])
    for (out, _), weight in zip(parts, weights, strict=True):
        total = torch.addcmul(total, out, weight.to(out.dtype))
    return total.transpose(1, 2).flatten(2)


def _twice(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    texts: NagTexts,
    places: tuple[int, int, int],
    backend: str,
) -> Tensor:
    """The plain twin: whole softmaxes, without the other text's keys."""
    start, middle, stop = places
    without_positive = [slice(0, middle), slice(stop, None)]
    without_negative = [slice(0, start), slice(middle, None)]

    def over(queries: Tensor, keep: list[slice]) -> Tensor:
        keys, values = (torch.cat([x[:, :, s] for s in keep], 2) for x in (k, v))
        some = None if bias is None else torch.cat([bias[:, s] for s in keep], 1)
        return softmax_attention(queries, keys, values, some, backend)

    if start:
        return texts.nag.mixed(over(q, without_negative), over(q, without_positive))
    # The texts' own rows stand first, as their keys do.
    image = q[:, :, stop:]
    beside_negative = over(torch.cat([q[:, :, :middle], image], 2), without_positive)
    beside_positive = over(q[:, :, middle:], without_negative)
    made = texts.nag.mixed(
        beside_positive[:, texts.positive :], beside_negative[:, texts.negative :]
    )
    return torch.cat(
        [beside_negative[:, : texts.negative], beside_positive[:, : texts.positive], made], 1
    )


def _partial_of(
    q: Tensor, bias: Tensor | None
) -> Callable[[Tensor, Tensor, Tensor, Tensor | None], Partial] | None:
    """A kernel that gives sums of exponentials too, None where there is none for this."""
    kernels = torch.ops.aten
    if torch.is_grad_enabled():
        return None
    if q.device.type == "cpu" and hasattr(kernels, "_scaled_dot_product_flash_attention_for_cpu"):
        return _on_cpu
    if q.device.type == "cuda" and q.dtype in HALF and bias is None:
        return _on_cuda
    return None


def _on_cpu(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Partial:
    mask = None if bias is None else bias[:, None, None, :].to(q.dtype)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask)


def _on_cuda(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Partial:
    out, log, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)
    return out, log
