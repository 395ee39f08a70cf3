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


class RMSNorm(nn.Module):
    """Root-mean-square norm over the head size; computed in float32, scaled in the input's dtype."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim, **factory))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x.float(), x.shape[-1:], eps=1e-6)
        # A host may leave this small parameter on another device than the layers around it.
        return normed.to(x.dtype) * self.scale.to(x.device, x.dtype)


class QKNorm(nn.Module):
    """RMS norms of queries and keys."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__()
        self.query_norm = RMSNorm(dim, **factory)
        self.key_norm = RMSNorm(dim, **factory)

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
        return (1 + self.scale) * layer_norm(x) + self.shift

    def gated(self, x: Tensor) -> Tensor:
        """`x` [b, n, c] times the gate."""
        return self.gate * x


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

    def gated(self, x: Tensor) -> Tensor:
        """`x` [b, n, c] times the gates."""
        return torch.cat(
            [self.first.gated(x[:, : self.at]), self.rest.gated(x[:, self.at :])], dim=1
        )


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
        attend: Attend = attention,
    ) -> tuple[Tensor, Tensor]:
        """img [b, n_img, c], txt [b, n_txt, c], rows from `modulate`, pe over text then image.

        `attend` is given queries, keys and values of the text, then of the image, with pe and bias
        as they came, and does what `attention.attention` does.
        """
        img_mod1, img_mod2 = split_rows(rows[0])
        txt_mod1, txt_mod2 = split_rows(rows[1])
        img_q, img_k, img_v = self.img_attn.project(img_mod1.apply(img))
        txt_q, txt_k, txt_v = self.txt_attn.project(txt_mod1.apply(txt))
        q = torch.cat([txt_q, img_q], dim=2)
        k = torch.cat([txt_k, img_k], dim=2)
        v = torch.cat([txt_v, img_v], dim=2)
        attn = attend(q, k, v, pe, bias)
        txt_attn, img_attn = attn[:, : txt.shape[1]], attn[:, txt.shape[1] :]
        img = img + img_mod1.gated(self.img_attn.proj(img_attn))
        img = img + img_mod2.gated(self.img_mlp(img_mod2.apply(img)))
        txt = txt + txt_mod1.gated(self.txt_attn.proj(txt_attn))
        txt = txt + txt_mod2.gated(self.txt_mlp(txt_mod2.apply(txt)))
        return img, txt


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
        attend: Attend = attention,
        keep: int | None = None,
    ) -> Tensor:
        """x [b, n, c] (text first), rows from `modulate`, attend as for the double block.

        `keep`: only the first so many tokens come out, the same numbers for less work; `attend` is
        given their queries, and the keys and values of all.
        """
        (mod,) = split_rows(rows)
        if keep is not None:
            return self._kept(x, mod, pe, bias, attend, keep)
        qkv, mlp = self.linear1(mod.apply(x)).split([3 * self.hidden_size, self.mlp_hidden], dim=-1)
        q, k, v = rearrange(qkv, "b n (s h d) -> s b h n d", s=3, h=self.num_heads)
        q, k = self.norm(q, k, v)
        attn = attend(q, k, v, pe, bias)
        out = self.linear2(torch.cat([attn, F.gelu(mlp, approximate="tanh")], dim=-1))
        return x + mod.gated(out)

    def _kept(
        self,
        x: Tensor,
        mod: ModulationOut | SplitModulationOut,
        pe: Tensor,
        bias: Tensor | None,
        attend: Attend,
        keep: int,
    ) -> Tensor:
        """`forward` for the first tokens: the others give keys and values, and nothing else."""
        c, normed = self.hidden_size, mod.apply(x)
        sizes = [c, 2 * c, self.mlp_hidden]
        if is_plain(self.linear1):
            weights = self.linear1.weight.split(sizes)
            biases = self.linear1.bias.split(sizes)
            few = normed[:, :keep]
            q, kv, mlp = (
                F.linear(each, weight, add)
                for each, weight, add in zip((few, normed, few), weights, biases, strict=True)
            )
        else:
            q, kv, mlp = self.linear1(normed).split(sizes, dim=-1)
            q, mlp = q[:, :keep], mlp[:, :keep]
        q = rearrange(q, "b n (h d) -> b h n d", h=self.num_heads)
        k, v = rearrange(kv, "b n (s h d) -> s b h n d", s=2, h=self.num_heads)
        q, k = self.norm(q, k, v)
        attn = attend(q, k, v, pe, bias)
        out = self.linear2(torch.cat([attn, F.gelu(mlp, approximate="tanh")], dim=-1))
        return x[:, :keep] + mod.gated(out)


def is_plain(layer: nn.Module) -> bool:
    """Whether this layer is a product with its weight and nothing else: no packed blocks, no LoRA,
    no host's casting, no hook."""
    return type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks)


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
        return self.linear((1 + scale) * layer_norm(x) + shift)
