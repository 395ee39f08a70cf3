"""References with all we know about them, as ComfyUI's samplers carry conditioning to a model.

Only where `comfy` can be imported.
"""

from __future__ import annotations

from typing import Any

import comfy.conds


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
