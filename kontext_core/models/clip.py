"""The text half of CLIP ViT-L/14, with Hugging Face's key names (`text_model....`).

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision": pre-norm blocks, causal attention, quick GELU x * sigmoid(1.702 x); the pooled feature
is the final norm's output at the end token. FLUX.1 uses the pooled feature as it is, without
`text_projection`. Shapes: b texts, l tokens, h heads, d head size, c width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import Shaped
from ..errors import CheckpointError
from .t5 import count_layers, empty_table

END_OF_TEXT = 49407


@dataclass(frozen=True)
class ClipParams:
    """Sizes of the text model; the defaults are CLIP-L. `max_positions` is 248 for Long-CLIP."""

    vocab_size: int = 49408
    width: int = 768
    mlp: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    max_positions: int = 77

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.width % self.num_heads:
            raise CheckpointError(
                f"CLIP: width {self.width} does not divide into {self.num_heads} heads; "
                "give num_heads a divisor of the width"
            )


def clip_params(
    state: Mapping[str, Shaped], source: str | Path, *, num_heads: int | None = None
) -> ClipParams:
    """Sizes read off the shapes of the tensors.

    Args:
        state: tensors under `text_model....` names.
        source: the file, for messages.
        num_heads: None takes heads of 64 channels, as every published CLIP has; the number of
            heads leaves no trace in the tensors.

    Raises:
        CheckpointError: not a CLIP text model; names `source` and the tensor.
    """
    words, places, mlp = (
        "text_model.embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
        "text_model.encoder.layers.0.mlp.fc1.weight",
    )
    for key in (words, places, mlp):
        if key not in state or len(state[key].shape) != 2 or 0 in state[key].shape:
            found = f"of shape {tuple(state[key].shape)}" if key in state else "missing"
            raise CheckpointError(
                f"{source}: tensor {key} is {found}; expected the text model of CLIP ViT-L/14. "
                "Use clip_l.safetensors"
            )
    vocab, width = state[words].shape
    return ClipParams(
        vocab_size=vocab,
        width=width,
        mlp=state[mlp].shape[0],
        num_layers=count_layers(state, "text_model.encoder.layers.", source),
        num_heads=num_heads or max(1, width // 64),
        max_positions=state[places].shape[0],
    )


class ClipAttention(nn.Module):
    """Causal attention."""

    def __init__(self, params: ClipParams, **factory: Any) -> None:
        super().__init__()
        self.num_heads = params.num_heads
        self.q_proj = nn.Linear(params.width, params.width, **factory)
        self.k_proj = nn.Linear(params.width, params.width, **factory)
        self.v_proj = nn.Linear(params.width, params.width, **factory)
        self.out_proj = nn.Linear(params.width, params.width, **factory)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            rearrange(layer(x), "b l (h d) -> b h l d", h=self.num_heads)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(rearrange(out, "b h l d -> b l (h d)"))


class MLP(nn.Module):
    """Two layers with quick GELU between them."""

    def __init__(self, params: ClipParams, **factory: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(params.width, params.mlp, **factory)
        self.fc2 = nn.Linear(params.mlp, params.width, **factory)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class ClipLayer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, params: ClipParams, **factory: Any) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(params.width, **factory)
        self.self_attn = ClipAttention(params, **factory)
        self.layer_norm2 = nn.LayerNorm(params.width, **factory)
        self.mlp = MLP(params, **factory)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Embeddings(nn.Module):
    """Words plus places."""

    def __init__(self, params: ClipParams, **factory: Any) -> None:
        super().__init__()
        self.token_embedding = empty_table(params.vocab_size, params.width, **factory)
        self.position_embedding = empty_table(params.max_positions, params.width, **factory)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.token_embedding(ids) + self.position_embedding(places)


class ClipEncoder(nn.Module):
    """All layers."""

    def __init__(self, params: ClipParams, **factory: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ClipLayer(params, **factory) for _ in range(params.num_layers))


class TextTransformer(nn.Module):
    """Embeddings, layers and the final norm."""

    def __init__(self, params: ClipParams, **factory: Any) -> None:
        super().__init__()
        self.embeddings = Embeddings(params, **factory)
        self.encoder = ClipEncoder(params, **factory)
        self.final_layer_norm = nn.LayerNorm(params.width, **factory)


class ClipTextModel(nn.Module):
    """Token ids to features and a pooled feature.

    Args:
        params: sizes.
        device, dtype: for the parameters.
    """

    def __init__(
        self,
        params: ClipParams,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.params = params
        self.text_model = TextTransformer(params, device=device, dtype=dtype)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.text_model.embeddings.token_embedding.weight.device

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [b, l <= max_positions] int64 to features [b, l, c] and the pooled feature [b, c].

        Pooled is the feature at the first end token (49407), or at the last token without one.
        """
        x = self.text_model.embeddings(ids)
        for layer in self.text_model.encoder.layers:
            x = layer(x)
        x = self.text_model.final_layer_norm(x)
        ends = ids == END_OF_TEXT
        place = torch.where(ends.any(1), ends.int().argmax(1), ids.shape[1] - 1)
        return x, x[torch.arange(len(ids), device=ids.device), place]
