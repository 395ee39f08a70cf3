"""References with all we know about them, and guidance by a negative text, as ComfyUI's samplers carry
conditioning to a model.

Only where `comfy` can be imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.conds

if TYPE_CHECKING:
    from torch import Tensor

    from ...kontext_core.guidance import Nag


class CONDReferences(comfy.conds.CONDConstant):
    """A ReferenceChain: the same for every picture of a batch. Two conditionings are sampled in one
    call only when theirs are equal."""

    def can_concat(self, other: Any) -> bool:
        return isinstance(other, CONDReferences) and self.cond == other.cond

    def concat(self, others: Any) -> Any:
        return self.cond

    def size(self) -> list[int]:
        # The latents are counted where they travel, as ComfyUI's own `ref_latents`.
        return [1]


@dataclass(frozen=True, eq=False)
class NagCond:
    """What the model needs for guidance within its attention.

    Attributes:
        nag: how strongly.
        txt: [1 or b, l, context_in_dim] features of the negative text.
    """

    nag: Nag
    txt: Tensor


class CONDNag(comfy.conds.CONDConstant):
    """A NagCond: the same for every picture of a batch, and in one call with itself only."""

    def can_concat(self, other: Any) -> bool:
        return isinstance(other, CONDNag) and self.cond is other.cond

    def concat(self, others: Any) -> Any:
        return self.cond

    def size(self) -> list[int]:
        return [1]
