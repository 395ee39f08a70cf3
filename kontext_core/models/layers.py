"""Building blocks of the FLUX transformer, with the published attribute names (BFL src/flux/modules).

Every Linear comes from `ops`, anything with a `Linear` like `torch.nn`: quantized layers and a
host's memory-managed layers meet the same blocks. Shapes: b batch, n tokens, h heads, d head
size, c hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention import Attend, attention
from .joint import Joint, Part
from .products import is_plain, product, project, usable


def timestep_embedding(t: Tensor, dim: int = 256, max_period: float = 10_000.0) -> Tensor:
    """Sinusoids of a scalar in 0..1 (timestep) or of the guidance value.

    Args:
        t: [b]. The factor 1000 is applied in its own dtype, as BFL, diffusers and ComfyUI do
            (in bfloat16, guidance 2.5 becomes 2496); the angles are float32.

    Returns:
        [b, dim] float32, cosines first.
    """
    scaled = (t * 1000.0).float()
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    freqs = torch.exp(-math.log(max_period) * steps / half)
    angles = scaled[:, None] * freqs[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def layer_norm(x: Tensor) -> Tensor:
    """LayerNorm over channels without learned scale, eps 1e-6."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def scaled_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm of x [b, n, c], times 1 + scale, plus shift, [b or 1, 1, c] each.

    One picture's scale and shift are a LayerNorm's own weights, which saves two passes.
    """
    plain = torch.is_grad_enabled() or not x.dtype == scale.dtype == shift.dtype
    if plain:
        return (1 + scale) * layer_norm(x) + shift
    if len(scale) == len(shift) == 1:
        return F.layer_norm(x, x.shape[-1:], 1 + scale[0, 0], shift[0, 0], eps=1e-6)
    return torch.addcmul(shift, layer_norm(x), 1 + scale)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the head size; computed in float32, scaled in the input's dtype."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim, **factory))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x.float(), x.shape[-1:], eps=1e-6)
        # A host may leave this small parameter on another device than the layers around it.
        return normed.to(x.dtype) * self.scale.to(x.device, x.dtype)

    @property
    def gain(self) -> Tensor:
        """[d]: the scale as forward hooks of LoRAs change it, for those who norm without this module."""
        gain = self.scale
        for hook in self._forward_hooks.values():
            change = getattr(hook, "change_gain", None)
            if change is not None:
                gain = change(gain)
        return gain


class QKNorm(nn.Module):
    """RMS norms of queries and keys."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__()
        self.query_norm = RMSNorm(dim, **factory)
        self.key_norm = RMSNorm(dim, **factory)

    @property
    def scales(self) -> tuple[Tensor, Tensor]:
        """Of queries and keys, [d] each, LoRAs included."""
        return self.query_norm.gain, self.key_norm.gain

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.query_norm(q).to(v.dtype), self.key_norm(k).to(v.dtype)


class MLPEmbedder(nn.Module):
    """Linear, SiLU, Linear: embeds timestep, guidance or pooled text to the hidden size."""

    def __init__(self, in_dim: int, hidden_dim: int, ops: Any, **factory: Any) -> None:
        super().__init__()
        self.in_layer = ops.Linear(in_dim, hidden_dim, bias=True, **factory)
        self.out_layer = ops.Linear(hidden_dim, hidden_dim, bias=True, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


@dataclass(frozen=True)
class ModulationOut:
    """Shift, scale and gate, each [b, 1, c]."""

    shift: Tensor
    scale: Tensor
    gate: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Normalise `x` [b, n, c], then scale and shift it."""
        return scaled_norm(x, self.scale, self.shift)

    def onto(self, x: Tensor, add: Tensor) -> Tensor:
        """`x` [b, n, c] and the gate times `add`, in one pass."""
        if torch.is_grad_enabled() or add.dtype != self.gate.dtype:
            return x + self.gate * add
        return torch.addcmul(x, self.gate, add)


@dataclass(frozen=True)
class SplitRows:
    """Modulation rows of a sequence whose later tokens live at another timestep.

    Attributes:
        first, rest: [b, sets, 3, c] each, as from `Modulation`.
        at: the token from which `rest` holds.
    """

    first: Tensor
    rest: Tensor
    at: int


@dataclass(frozen=True)
class SplitModulationOut:
    """As ModulationOut, one for the tokens before `at` and one for those from there on."""

    first: ModulationOut
    rest: ModulationOut
    at: int

    def apply(self, x: Tensor) -> Tensor:
        """Normalise `x` [b, n, c], then scale and shift both parts."""
        return torch.cat(
            [self.first.apply(x[:, : self.at]), self.rest.apply(x[:, self.at :])], dim=1
        )

    def onto(self, x: Tensor, add: Tensor) -> Tensor:
        """`x` [b, n, c] and the gates times `add`."""
        (x1, x2), (add1, add2) = ((each[:, : self.at], each[:, self.at :]) for each in (x, add))
        return torch.cat([self.first.onto(x1, add1), self.rest.onto(x2, add2)], dim=1)


def split_rows(rows: Tensor | SplitRows) -> Sequence[ModulationOut | SplitModulationOut]:
    """One (single) or two (double) sets of shift, scale and gate.

    Args:
        rows: [b, sets, 3, c], from `Modulation`; b may be 1 for any batch.
    """
    if isinstance(rows, SplitRows):
        both = zip(_sets(rows.first), _sets(rows.rest), strict=True)
        return [SplitModulationOut(first, rest, rows.at) for first, rest in both]
    return _sets(rows)


def _sets(rows: Tensor) -> list[ModulationOut]:
    return [ModulationOut(*one[:, :, None].unbind(1)) for one in rows.unbind(1)]


class Modulation(nn.Module):
    """Turns the conditioning vector [b, c] into rows [b, sets, 3, c], 3 for shift, scale, gate."""

    def __init__(self, dim: int, double: bool, ops: Any, **factory: Any) -> None:
        super().__init__()
        self.sets = 2 if double else 1
        self.lin = ops.Linear(dim, self.sets * 3 * dim, bias=True, **factory)

    def forward(self, vec: Tensor) -> Tensor:
        return self.lin(F.silu(vec)).unflatten(-1, (self.sets, 3, -1))


class SelfAttention(nn.Module):
    """Holds one stream's qkv, norms and output projection; the attention itself is joint."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, ops: Any, **factory: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = ops.Linear(dim, dim * 3, bias=qkv_bias, **factory)
        self.norm = QKNorm(dim // num_heads, **factory)
        self.proj = ops.Linear(dim, dim, bias=True, **factory)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[b, n, c] to normed q, k and plain v, each [b, h, n, d]."""
        q, k, v = rearrange(self.qkv(x), "b n (s h d) -> s b h n d", s=3, h=self.num_heads)
        q, k = self.norm(q, k, v)
        return q, k, v

    def part(self, x: Tensor) -> Part:
        """[b, n, c] as a part of the joint attention."""
        qkv = project(self.qkv, x)
        q, k, v = rearrange(qkv, "b n (s h d) -> s b n h d", s=3, h=self.num_heads)
        return Part(q, k, v, *self.norm.scales)


class DoubleStreamBlock(nn.Module):
    """Text and image keep their own weights and meet in one attention."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        ops: Any,
        **factory: Any,
    ) -> None:
        super().__init__()
        mlp_hidden = int(hidden_size * mlp_ratio)

        def mlp() -> nn.Sequential:
            return nn.Sequential(
                ops.Linear(hidden_size, mlp_hidden, bias=True, **factory),
                nn.GELU(approximate="tanh"),
                ops.Linear(mlp_hidden, hidden_size, bias=True, **factory),
            )

        self.img_mod = Modulation(hidden_size, True, ops, **factory)
        self.img_attn = SelfAttention(hidden_size, num_heads, qkv_bias, ops, **factory)
        self.img_mlp = mlp()
        self.txt_mod = Modulation(hidden_size, True, ops, **factory)
        self.txt_attn = SelfAttention(hidden_size, num_heads, qkv_bias, ops, **factory)
        self.txt_mlp = mlp()

    def modulate(self, vec: Tensor) -> tuple[Tensor, Tensor]:
        """Modulation rows of image and text, [b, 2, 3, c] each, from vec [b, c]."""
        return self.img_mod(vec), self.txt_mod(vec)

    def forward(
        self,
        img: Tensor,
        txt: Tensor,
        rows: tuple[Tensor | SplitRows, Tensor],
        pe: Tensor,
        bias: Tensor | None = None,
        attend: Attend | Joint = attention,
    ) -> tuple[Tensor, Tensor]:
        """img [b, n_img, c], txt [b, n_txt, c], rows from `modulate`, pe over text then image.

        `attend` is given queries, keys and values of the text, then of the image, with pe and bias
        as they came, and does what `attention.attention` does; a `Joint` does so with less work.
        """
        img_mod1, img_mod2 = split_rows(rows[0])
        txt_mod1, txt_mod2 = split_rows(rows[1])
        normed = img_mod1.apply(img), txt_mod1.apply(txt)
        if isinstance(attend, Joint):
            parts = self.txt_attn.part(normed[1]), self.img_attn.part(normed[0])
            attn = attend(parts, pe, bias)
        else:
            img_q, img_k, img_v = self.img_attn.project(normed[0])
            txt_q, txt_k, txt_v = self.txt_attn.project(normed[1])
            q = torch.cat([txt_q, img_q], dim=2)
            k = torch.cat([txt_k, img_k], dim=2)
            v = torch.cat([txt_v, img_v], dim=2)
            attn = attend(q, k, v, pe, bias)
        del normed
        txt_attn, img_attn = attn[:, : txt.shape[1]], attn[:, txt.shape[1] :]
        img = img_mod1.onto(img, project(self.img_attn.proj, img_attn))
        img = img_mod2.onto(img, _mlp(self.img_mlp, img_mod2.apply(img)))
        txt = txt_mod1.onto(txt, project(self.txt_attn.proj, txt_attn))
        txt = txt_mod2.onto(txt, _mlp(self.txt_mlp, txt_mod2.apply(txt)))
        return img, txt


def _mlp(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Linear, GELU, Linear; the first two in one where nobody watches between them."""
    watched = (layers, layers[1])
    if any(each._forward_hooks or each._forward_pre_hooks for each in watched):
        return layers(x)
    return project(layers[2], project(layers[0], x, gelu=True))


class SingleStreamBlock(nn.Module):
    """Text and image as one sequence; attention and MLP side by side from one projection."""

    def __init__(
        self, hidden_size: int, num_heads: int, mlp_ratio: float, ops: Any, **factory: Any
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.hidden_size = hidden_size
        self.mlp_hidden = int(hidden_size * mlp_ratio)
        self.linear1 = ops.Linear(hidden_size, hidden_size * 3 + self.mlp_hidden, **factory)
        self.linear2 = ops.Linear(hidden_size + self.mlp_hidden, hidden_size, **factory)
        self.norm = QKNorm(hidden_size // num_heads, **factory)
        self.modulation = Modulation(hidden_size, False, ops, **factory)

    def modulate(self, vec: Tensor) -> Tensor:
        """Modulation rows [b, 1, 3, c] from vec [b, c]."""
        return self.modulation(vec)

    def forward(
        self,
        x: Tensor,
        rows: Tensor | SplitRows,
        pe: Tensor,
        bias: Tensor | None = None,
        attend: Attend | Joint = attention,
        keep: int | None = None,
    ) -> Tensor:
        """x [b, n, c] (text first), rows from `modulate`, attend as for the double block.

        `keep`: only the first so many tokens come out, the same numbers for less work; `attend` is
        given their queries, and the keys and values of all.
        """
        (mod,) = split_rows(rows)
        few = slice(None, keep)
        q, k, v, mlp = self._projected(mod.apply(x), few)
        if isinstance(attend, Joint):
            attn = attend([Part(q, k, v, *self.norm.scales)], pe, bias)
        else:
            q, k, v = (each.transpose(1, 2) for each in (q, k, v))
            q, k = self.norm(q, k, v)
            attn = attend(q, k, v, pe, bias)
        out = project(self.linear2, torch.cat([attn, mlp], dim=-1))
        return mod.onto(x[:, few], out)

    def _projected(self, x: Tensor, few: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of x [b, n, c]: queries [b, m, h, d] of `few`, keys and values [b, n, h, d], and the
        MLP's hidden layer [b, m, mlp] of `few`."""
        c = self.hidden_size
        if is_plain(self.linear1) and (few.stop is not None or usable(x, self.linear1.weight)):
            sizes = [3 * c, self.mlp_hidden] if few.stop is None else [c, 2 * c, self.mlp_hidden]
            weights, biases = self.linear1.weight.split(sizes), self.linear1.bias.split(sizes)
            mlp = product(x[:, few], weights[-1], biases[-1], gelu=True)
            if few.stop is None:
                q, k, v = product(x, weights[0], biases[0]).chunk(3, -1)
            else:
                q = product(x[:, few], weights[0], biases[0])
                k, v = product(x, weights[1], biases[1]).chunk(2, -1)
        else:
            qkv, mlp = self.linear1(x).split([3 * c, self.mlp_hidden], dim=-1)
            q, k, v = qkv.chunk(3, -1)
            q, mlp = q[:, few], F.gelu(mlp[:, few], approximate="tanh")
        q, k, v = (each.unflatten(-1, (self.num_heads, -1)) for each in (q, k, v))
        return q, k, v, mlp


class LastLayer(nn.Module):
    """Modulated norm and projection to the token channels. Chunk order: shift, then scale."""

    def __init__(self, hidden_size: int, out_channels: int, ops: Any, **factory: Any) -> None:
        super().__init__()
        self.linear = ops.Linear(hidden_size, out_channels, bias=True, **factory)
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), ops.Linear(hidden_size, 2 * hidden_size, bias=True, **factory)
        )

    def modulate(self, vec: Tensor) -> Tensor:
        """Rows [b, 2, c], 2 for shift and scale, from vec [b, c]."""
        return self.adaLN_modulation(vec).unflatten(-1, (2, -1))

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """x [b, n, c], rows from `modulate`."""
        shift, scale = rows[:, :, None].unbind(1)
        return project(self.linear, scaled_norm(x, scale, shift))
