"""Pretraining of the embedded text encoder: say what a sentence means, slot by slot.

Published text encoders learned language elsewhere before an image model used them; this one
learns the language of edits by answering, for every sentence, a fixed list of questions ("which
colour is the second thing?"). The answers must be readable from the token features by attention
with one fixed query each, and from the pooled vector by a linear map: the two ways in which the
transformer looks at text. The readout itself is thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def answers(meanings: Sequence[Mapping[str, str]], slots: Mapping[str, Sequence[str]]) -> Tensor:
    """Right answers [b, slots] int64 as places in each slot's list of values."""
    places = {slot: {value: i for i, value in enumerate(values)} for slot, values in slots.items()}
    return torch.tensor([
        [places[slot][meaning[slot]] for slot in slots] for meaning in meanings
    ])  # fmt: skip


class SlotReadout(nn.Module):
    """Answers to every slot's question, once from tokens and once from the pooled vector.

    Args:
        slots: values of each slot.
        width: of the token features.
        vec_width: of the pooled vector.
    """

    impossible: Tensor

    def __init__(self, slots: Mapping[str, Sequence[str]], width: int, vec_width: int) -> None:
        super().__init__()
        sizes = torch.tensor([len(values) for values in slots.values()])
        most = int(sizes.max())
        self.queries = nn.Parameter(torch.randn(len(slots), width) / width**0.5)
        self.norm = nn.LayerNorm(width)
        self.token_out = nn.Parameter(torch.randn(len(slots), width, most) * 0.02)
        self.pooled_out = nn.Linear(vec_width, len(slots) * most)
        # Slots have different numbers of values; the rest can never be the answer.
        self.register_buffer("impossible", torch.arange(most)[None] >= sizes[:, None])

    def forward(self, txt: Tensor, vec: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [b, slots, values] from tokens and from the pooled vector.

        Args:
            txt: [b, l, width] token features.
            vec: [b, vec_width].
            real: [b, l] bool, False on padding.
        """
        logits = torch.einsum("blc,sc->bsl", txt, self.queries)
        logits = logits.masked_fill(~real[:, None], float("-inf"))
        found = self.norm(logits.softmax(-1) @ txt)
        by_token = torch.einsum("bsc,scv->bsv", found, self.token_out)
        by_vec = self.pooled_out(vec).view(len(vec), *self.impossible.shape)
        return tuple(x.masked_fill(self.impossible, float("-inf")) for x in (by_token, by_vec))  # type: ignore[return-value]

    def loss(self, txt: Tensor, vec: Tensor, real: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy over slots and samples of each readout; `right` is [b, slots]."""
        by_token, by_vec = self(txt, vec, real)
        flat = right.flatten()
        return (
            F.cross_entropy(by_token.flatten(0, 1), flat),
            F.cross_entropy(by_vec.flatten(0, 1), flat),
        )
