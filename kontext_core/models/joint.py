"""How blocks attend when nobody asks for gradients: norm, rotation and attention with few passes.

The plain twin is `attention.attention` on what `QKNorm` gives; blocks use it for training and for
whoever brings an attention of their own. Shapes: b batch, h heads, n tokens, d head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import AUTO, softmax_attention
from .kept import KeptContext
from .nag import NagTexts, guided_attention
from .stored import Pair

# Tokens at a time on a CPU, so that the float32 numbers in between stay in its cache.
TOKENS = 128
# Queries that references are ranked by, evenly spread over the target.
RANKING = 64


class Part(NamedTuple):
    """Tokens that share their norms: q [b, m, h, d] of the first m of n, k and v [b, n, h, d], and
    the norms' scales [d]."""

    q: Tensor
    k: Tensor
    v: Tensor
    query_scale: Tensor
    key_scale: Tensor


class Joint:
    """Attention of the blocks of one forward.

    Args:
        backend: of `attention.BACKENDS`, or "auto".
        kept: None, or where keys and values are kept, or read from as it says; tokens whose keys and
            values are read are not among the parts.
        target: number of the target's tokens that are computed; they follow the text.
        references: number of reference tokens that are computed, the last ones.
        guided: None, or by how much image tokens are pushed away from a negative text, which stands
            before the instruction.
    """

    def __init__(
        self,
        backend: str = AUTO,
        kept: KeptContext | None = None,
        target: int = 0,
        references: int = 0,
        guided: NagTexts | None = None,
    ) -> None:
        self.backend = backend
        self.guided = guided
        self.kept = kept
        self.target, self.references = target, references
        nothing: Iterator[list[Pair]] = iter(())
        self.reading = nothing if kept is None else kept.read()
        if kept is not None:
            kept.begin()

    def __call__(self, parts: Sequence[Part], table: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention over all parts.

        Args:
            parts: in the order of the sequence; where a part has fewer queries than keys it is the
                only one.
            table: from `rope.rope_table`, of all tokens.
            bias: None, or [b or 1, n].

        Returns:
            [b, m, h * d] for all queries.
        """
        first = parts[0].k
        b, _, h, d = first.shape
        m, n = (sum(getattr(part, name).shape[1] for part in parts) for name in "qk")
        behind = next(self.reading, [])
        whole = n + sum(keys.shape[2] for keys, _ in behind)
        q, k = first.new_empty(b, h, m, d), first.new_empty(b, h, whole, d)
        joined = bool(behind) or len(parts) > 1
        v = first.new_empty(b, h, whole, d) if joined else parts[0].v.transpose(1, 2)
        start = 0
        for part in parts:
            here, asked = slice(start, start + part.k.shape[1]), part.q.shape[1]
            some = slice(start, start + asked)
            turned(part.q, part.query_scale, table[:, :, some], q[:, :, some])
            turned(part.k, part.key_scale, table[:, :, here], k[:, :, here])
            if joined:
                v[:, :, here] = part.v.transpose(1, 2)
            start = here.stop
        for keys, values in behind:
            here = slice(start, start + keys.shape[2])
            k[:, :, here], v[:, :, here] = keys, values
            start = here.stop
        if self.kept is not None:
            self._keep(self.kept, q, k[:, :, :n], v[:, :, :n], bias)
        if self.guided is not None:
            return guided_attention(q, k, v, bias, self.guided, self.backend, m if m < n else 0)
        return self.softmax(q, k, v, bias)

    def softmax(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """What is left when norm and rotation are done: see `attention.softmax_attention`. A host
        puts its own here."""
        return softmax_attention(q, k, v, bias, self.backend)

    def _keep(
        self, kept: KeptContext, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None
    ) -> None:
        """Keep what this block computed, and rank references if that is wanted."""
        n, count = k.shape[2], self.references
        # With fewer queries than keys it is those of the target, which stands first then.
        first = 0 if q.shape[2] < n else n - count - self.target
        of_target = slice(first, first + self.target)
        target = (k[:, :, of_target], v[:, :, of_target]) if self.target else None
        references = (k[:, :, n - count :], v[:, :, n - count :]) if count else None
        kept.keep(target, references)
        if kept.ranking and count:
            kept.score(attention_to(q[:, :, of_target], k, bias, count))


@cache
def leave_uncompiled() -> None:
    """Keep `torch.compile` out of the attention: what is kept and read changes from step to step. Not a
    decorator, which would import the compiler with the pack."""
    Joint.__call__ = torch.compiler.disable(Joint.__call__)  # type: ignore[method-assign]


def attention_to(q: Tensor, k: Tensor, bias: Tensor | None, last: int) -> Tensor:
    """The attention that the last keys get, a mean over batch, heads and up to `RANKING` queries.

    Args:
        q: [b, h, m, d].
        k: [b, h, n, d].
        bias: None, or [b or 1, n] added to the logits.
        last: number of keys.

    Returns:
        [last] float32.
    """
    some = q[:, :, :: max(1, q.shape[2] // RANKING)] * q.shape[-1] ** -0.5
    total = k.new_zeros(last, dtype=torch.float32)
    for index in range(k.shape[1]):
        logits = (some[:, index] @ k[:, index].transpose(-2, -1)).float()
        weights = (logits if bias is None else logits + bias[:, None, : k.shape[2]]).softmax(-1)
        total += weights[..., -last:].mean((0, 1))
    return total / k.shape[1]


def turned(x: Tensor, scale: Tensor, table: Tensor, out: Tensor) -> None:
    """Norm and rotate x into `out`, in float32 between.

    Args:
        x: [b, n, h, d].
        scale: [d] of the norm.
        table: [b or 1, 1, n, d/2] complex64.
        out: [b, h, n, d], of the dtype of x.
    """
    scale = scale.to(x.device, torch.float32)
    angles = table.transpose(1, 2)
    rows = TOKENS if x.device.type == "cpu" else max(x.shape[1], 1)
    for start in range(0, x.shape[1], rows):
        here = slice(start, start + rows)
        some = x[:, here].to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        inverse = torch.linalg.vector_norm(some, dim=-1, keepdim=True)
        inverse = inverse.square_().div_(x.shape[-1]).add_(1e-6).rsqrt_()
        some.mul_(inverse).mul_(scale)
        torch.view_as_complex(some.unflatten(-1, (-1, 2))).mul_(angles[:, here])
        out[:, :, here] = some.transpose(1, 2)
