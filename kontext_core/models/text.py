"""The embedded text encoder: small, takes any text, and tells the transformer the word order.

FLUX gives every text token the position (0, 0, 0), so inside the transformer a text is a set:
all order has to be in the token features. A convolution over neighbouring words and absolute
positions put it there outright. Shapes: b texts, l tokens, c channels.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import TextEncoderParams
from ..errors import CheckpointError, InputError

log = logging.getLogger(__name__)

PAD, END = 0, 1
FIRST_BYTE = 2
FIRST_WORD = FIRST_BYTE + 256


class Tokenizer:
    """Lower-case words of a fixed list; any other word is spelled in UTF-8 bytes.

    Ids: 0 padding, 1 end of text, 2..257 bytes, then the words in the order given.
    """

    def __init__(self, words: Sequence[str]) -> None:
        if len(set(words)) != len(words):
            raise CheckpointError("the vocabulary lists a word twice; every word needs one id")
        self.words = list(words)
        self._ids = {word: FIRST_WORD + i for i, word in enumerate(words)}

    def __len__(self) -> int:
        return FIRST_WORD + len(self.words)

    def ids(self, text: str) -> list[int]:
        """Token ids of one text, with the end token, of any length."""
        out: list[int] = []
        for piece in re.findall(r"\w+|[^\w\s]", text.lower()):
            known = self._ids.get(piece)
            # Half a surrogate pair is no Unicode text, but JSON and file names can carry one.
            spelled = piece.encode("utf-8", "surrogatepass")
            out.extend([known] if known is not None else [FIRST_BYTE + b for b in spelled])
        return [*out, END]


class TextBlock(nn.Module):
    """Pre-norm self-attention and MLP; padding is not attended to."""

    def __init__(self, width: int, num_heads: int, **factory: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width, **factory)
        self.qkv = nn.Linear(width, 3 * width, **factory)
        self.proj = nn.Linear(width, width, **factory)
        self.norm2 = nn.LayerNorm(width, **factory)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, **factory),
            nn.GELU(),
            nn.Linear(4 * width, width, **factory),
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = rearrange(
            self.qkv(self.norm1(x)), "b l (s h d) -> s b h l d", s=3, h=self.num_heads
        )
        attn = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.proj(rearrange(attn, "b h l d -> b l (h d)"))
        return x + self.mlp(self.norm2(x))


class TextEncoder(nn.Module):
    """Text to token features and a pooled vector, in the shapes the transformer takes.

    Args:
        params: sizes.
        words: the vocabulary; `params.vocab_size` must be 258 plus its length.
        device, dtype: for the parameters.
    """

    def __init__(
        self,
        params: TextEncoderParams,
        words: Sequence[str],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.params = params
        self.tokenizer = Tokenizer(words)
        if len(self.tokenizer) != params.vocab_size:
            raise CheckpointError(
                f"the text encoder's vocab_size is {params.vocab_size}, but its vocabulary makes "
                f"{len(self.tokenizer)} ids; config and vocabulary must belong together"
            )
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        width = params.width
        self.embed = nn.Embedding(params.vocab_size, width, **factory)
        self.conv = nn.Conv1d(width, width, 3, padding=1, **factory)
        # Starts as sinusoids so that positions beyond the trained ones still differ sensibly.
        self.position = nn.Parameter(
            sinusoids(params.max_length, width).mul(0.4).to(device=device, dtype=dtype)
        )
        self.blocks = nn.ModuleList(
            TextBlock(width, params.num_heads, **factory) for _ in range(params.depth)
        )
        self.norm = nn.LayerNorm(width, **factory)
        self.out = nn.Linear(width, params.out_dim, **factory)
        self.pool = nn.Linear(width, params.vec_dim, **factory)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.embed.weight.device

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Ids [b, l] int64, l = at least `min_length` and the longest text, cut at `max_length`.

        Raises:
            InputError: `texts` is a bare string or empty.
        """
        if isinstance(texts, str) or not texts:
            raise InputError(f"expected a list of texts, got {texts!r}; wrap one text in a list")
        limit = self.params.max_length
        rows = []
        for text in texts:
            ids = self.tokenizer.ids(text)
            if len(ids) > limit:
                log.warning("text of %d tokens cut to the encoder's %d", len(ids), limit)
                ids = [*ids[: limit - 1], END]
            rows.append(ids)
        length = max(self.params.min_length, *(len(row) for row in rows))
        return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])

    def lost(self, text: str) -> int:
        """How many tokens of a text `tokenize` cuts off."""
        return max(0, len(self.tokenizer.ids(text)) - self.params.max_length)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [b, l] to features txt [b, l, out_dim] and pooled vec [b, vec_dim]."""
        real = ids != PAD
        # One padding token more: the last word has the same neighbour whatever else is in the batch.
        words = self.embed(F.pad(ids, (0, 1), value=PAD))
        near = F.gelu(self.conv(words.transpose(1, 2))).transpose(1, 2)[:, :-1]
        # A host that is short of memory may have left so small a weight on the CPU.
        x = words[:, :-1] + near + self.position[: ids.shape[1]].to(words.device)
        mask = real[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        weights = real.to(x.dtype)[..., None]
        pooled = (x * weights).sum(1) / weights.sum(1)
        return self.out(x), self.pool(pooled)

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """`tokenize`, then `forward`, without gradients."""
        with torch.no_grad():
            return self(self.tokenize(texts).to(self.device))


def sinusoids(length: int, width: int) -> Tensor:
    """Position table [length, width] of sines and cosines (Vaswani et al. 2017)."""
    angles = torch.arange(length)[:, None] * torch.exp(
        torch.arange(0, width, 2) * (-math.log(10_000.0) / width)
    )
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
