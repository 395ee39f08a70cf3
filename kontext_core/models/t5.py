"""The T5 v1.1 encoder (XXL for FLUX.1), with Hugging Face's key names.

Sources: Raffel et al. 2020, "Exploring the Limits of Transfer Learning" (relative positions, RMS
norm, no biases, no scaling of the attention logits) and Shazeer 2020, "GLU Variants" (gated GELU,
v1.1). Every layer is a plain `nn.Linear` or `nn.Embedding`, so that `weights.install` can replace it.
Shapes: b texts, l tokens, h heads, d head size, c model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import Shaped
from ..errors import CheckpointError


@dataclass(frozen=True)
class T5Params:
    """Sizes of the encoder; the defaults are T5 v1.1 XXL."""

    vocab_size: int = 32128
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    num_buckets: int = 32
    max_distance: int = 128


FIRST_BLOCK = "encoder.block.0.layer.0.SelfAttention."
BIAS = "relative_attention_bias.weight"


def count_layers(state: Mapping[str, Shaped], start: str, source: str | Path) -> int:
    """How many numbered layers follow `start`.

    Raises:
        CheckpointError: a layer has no number, or numbers are left out.
    """
    parts = {key[len(start) :].partition(".")[0] for key in state if key.startswith(start)}
    for part in sorted(parts):
        if not (part.isascii() and part.isdecimal()) or int(part[:9]) >= len(parts):
            raise CheckpointError(
                f"{source}: a tensor is named {start + part[:40]!a}, but there are {len(parts)} such "
                f"layers; expected numbers from 0 to {len(parts) - 1}. Download the file again"
            )
    return len(parts)


def t5_params(state: Mapping[str, Shaped], source: str | Path) -> T5Params:
    """Sizes read off the shapes of the tensors.

    Raises:
        CheckpointError: not a gated T5 v1.1 encoder; names `source` and the tensor.
    """
    needed = {
        "words": "shared.weight",
        "query": f"{FIRST_BLOCK}q.weight",
        "bias": f"{FIRST_BLOCK}{BIAS}",
        "mlp": "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
    }
    shapes = {}
    for role, key in needed.items():
        if key not in state or len(state[key].shape) != 2 or 0 in state[key].shape:
            found = f"of shape {tuple(state[key].shape)}" if key in state else "missing"
            raise CheckpointError(
                f"{source}: tensor {key} is {found}; expected the encoder of T5 v1.1 XXL. "
                "Use t5xxl_fp16.safetensors, an fp8 form of it, or a GGUF of it"
            )
        shapes[role] = tuple(state[key].shape)
    layers = count_layers(state, "encoder.block.", source)
    # UMT5 (for Wan and others) has relative positions of its own in every block.
    umt5 = sorted(k for k in state if k.endswith(BIAS) and not k.startswith(FIRST_BLOCK))
    if umt5:
        raise CheckpointError(
            f"{source}: tensor {umt5[0]} makes this a UMT5 encoder, which FLUX.1 does not use. "
            "Use t5xxl_fp16.safetensors, an fp8 form of it, or a GGUF of it"
        )
    buckets, heads = shapes["bias"]
    inner = shapes["query"][0]
    if inner % heads:
        raise CheckpointError(
            f"{source}: tensor {needed['query']} has {inner} rows, which do not divide into the "
            f"{heads} heads of {needed['bias']}; the file is damaged, download it again"
        )
    return T5Params(
        vocab_size=shapes["words"][0],
        d_model=shapes["words"][1],
        d_kv=inner // heads,
        d_ff=shapes["mlp"][0],
        num_layers=layers,
        num_heads=heads,
        num_buckets=buckets,
    )


def position_buckets(length: int, buckets: int, max_distance: int, device: Any = None) -> Tensor:
    """Bucket of every (query, key) pair, int64 [length, length].

    Half of the buckets is for keys after the query. In each half, one half is for one distance
    each, and the rest grows with the logarithm of the distance up to `max_distance`.
    """
    half = buckets // 2
    exact = half // 2
    place = torch.arange(length, device=device)
    offset = place[None, :] - place[:, None]
    distance = offset.abs()
    # float32, and this order of operations, decide what falls on an edge: 16 is in bucket 10.
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(distance < exact, distance, far) + half * (offset > 0)


def empty_table(rows: int, columns: int, **factory: Any) -> nn.Embedding:
    """An `nn.Embedding` that is not filled with random numbers.

    Filling one on the meta device makes torch import its compiler, which takes seconds.
    """
    return nn.Embedding.from_pretrained(torch.empty(rows, columns, **factory), freeze=False)


class T5LayerNorm(nn.Module):
    """Root-mean-square norm without bias; the mean is taken in float32."""

    def __init__(self, width: int, eps: float = 1e-6, **factory: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, **factory))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps)
        # A host that is short of memory may have left so small a weight on the CPU.
        return normed.to(x.dtype) * self.weight.to(x)


class T5Attention(nn.Module):
    """Attention without scaling of the logits; block 0 also holds the bias for all blocks."""

    def __init__(self, params: T5Params, has_bias: bool, **factory: Any) -> None:
        super().__init__()
        self.num_heads = params.num_heads
        inner = params.num_heads * params.d_kv
        self.q = nn.Linear(params.d_model, inner, bias=False, **factory)
        self.k = nn.Linear(params.d_model, inner, bias=False, **factory)
        self.v = nn.Linear(params.d_model, inner, bias=False, **factory)
        self.o = nn.Linear(inner, params.d_model, bias=False, **factory)
        if has_bias:
            self.relative_attention_bias = empty_table(
                params.num_buckets, params.num_heads, **factory
            )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            rearrange(layer(x), "b l (h d) -> b h l d", h=self.num_heads)
            for layer in (self.q, self.k, self.v)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.o(rearrange(out, "b h l d -> b l (h d)"))


class GatedMLP(nn.Module):
    """gelu(x W0) * (x W1), then back; the GELU is the tanh form."""

    def __init__(self, params: T5Params, **factory: Any) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(params.d_model, params.d_ff, bias=False, **factory)
        self.wi_1 = nn.Linear(params.d_model, params.d_ff, bias=False, **factory)
        self.wo = nn.Linear(params.d_ff, params.d_model, bias=False, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class AttentionLayer(nn.Module):
    """Pre-norm attention with its residual."""

    def __init__(self, params: T5Params, has_bias: bool, **factory: Any) -> None:
        super().__init__()
        self.SelfAttention = T5Attention(params, has_bias, **factory)
        self.layer_norm = T5LayerNorm(params.d_model, **factory)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + self.SelfAttention(self.layer_norm(x), bias)


class MLPLayer(nn.Module):
    """Pre-norm MLP with its residual."""

    def __init__(self, params: T5Params, **factory: Any) -> None:
        super().__init__()
        self.DenseReluDense = GatedMLP(params, **factory)
        self.layer_norm = T5LayerNorm(params.d_model, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class Block(nn.Module):
    """Attention, then MLP, under the published names layer.0 and layer.1."""

    def __init__(self, params: T5Params, has_bias: bool, **factory: Any) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            [AttentionLayer(params, has_bias, **factory), MLPLayer(params, **factory)]
        )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.layer[1](self.layer[0](x, bias))


class Stack(nn.Module):
    """All blocks and the last norm."""

    def __init__(self, params: T5Params, **factory: Any) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            Block(params, index == 0, **factory) for index in range(params.num_layers)
        )
        self.final_layer_norm = T5LayerNorm(params.d_model, **factory)


class T5Encoder(nn.Module):
    """Token ids to features. There is no attention mask: FLUX.1 was trained with the padding.

    Args:
        params: sizes.
        device, dtype: for the parameters.
    """

    # Never stored packed in published files, and too small to be worth it.
    keep_plain = ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias",)

    def __init__(
        self,
        params: T5Params,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.params = params
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.shared = empty_table(params.vocab_size, params.d_model, **factory)
        self.encoder = Stack(params, **factory)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.shared.weight.device

    def attention_bias(self, length: int, device: torch.device | None = None) -> Tensor:
        """The relative positions' part of the logits, [1, h, length, length]; None takes the
        device of the weights."""
        params = self.params
        table: Any = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias  # type: ignore[union-attr]
        device = self.device if device is None else device
        places = position_buckets(length, params.num_buckets, params.max_distance, device)
        return rearrange(table(places), "q k h -> 1 h q k").contiguous()

    def forward(
        self, ids: Tensor, *, layer: int | None = None, tick: Callable[[], None] | None = None
    ) -> Tensor:
        """Ids [b, l] int64 to features [b, l, d_model] in the compute dtype.

        Args:
            ids: on the device to compute on.
            layer: stop after this block, counted from 0, or from -1 for the last; None takes all.
                The final norm is applied in any case, as ComfyUI's "CLIP Set Last Layer" has it.
            tick: called before every block; may raise to stop.
        """
        x = self.shared(ids)
        bias = self.attention_bias(ids.shape[1], ids.device).to(x.dtype)
        blocks = self.encoder.block
        for block in blocks if layer is None else blocks[: layer % len(blocks) + 1]:
            if tick is not None:
                tick()
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)
